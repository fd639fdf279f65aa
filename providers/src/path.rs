//! Names in URLs: percent-encoding of one path segment.
//! It must not know any particular wire.

use crate::error::Refusal;

/// `name` as one segment of a URL path: everything but RFC 3986's unreserved characters is encoded.
///
/// # Errors
/// A [`Refusal`] of `model` for names that no encoding keeps in their segment: empty, `.` and `..`.
pub(crate) fn segment(name: &str) -> Result<String, Refusal> {
    if matches!(name, "" | "." | "..") {
        return Err(Refusal::field("model", "model_not_found", format!("`{name}` is not the name of a model")));
    }
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(digit), 16).map_or('0', |digit| digit.to_ascii_uppercase()));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn no_name_leaves_its_segment() {
        for (name, expected) in [
            ("gpt-4o_mini.1~a", Some("gpt-4o_mini.1~a")),
            ("../../v1/keys", Some("..%2F..%2Fv1%2Fkeys")),
            ("a?b=c#d", Some("a%3Fb%3Dc%23d")),
            ("a%2fb", Some("a%252fb")),
            ("a\r\nHost: x", Some("a%0D%0AHost%3A%20x")),
            ("模", Some("%E6%A8%A1")),
            ("\\..\\", Some("%5C..%5C")),
            ("", None),
            (".", None),
            ("..", None),
        ] {
            assert_eq!(segment(name).ok().as_deref(), expected, "{name}");
        }
    }
}
