//! Names as parts of a URL: of its path or its host.
//! It must not know whose names they are.

use std::fmt::Write as _;

use crate::error::Refusal;

/// A model's name as one segment of a path.
///
/// # Errors
/// A [`Refusal`] of the names that no encoding keeps in their segment: URL parsers take `%2E%2E` for a walk
/// through the path as well.
pub(crate) fn of_model(name: &str) -> Result<String, Refusal> {
    if matches!(name, "" | "." | "..") {
        return Err(Refusal::field("model", "model_not_found", format!("`{name}` is not the name of a model")));
    }
    Ok(percent_encoded(name))
}

/// The name with every byte but letters, digits, `-`, `_`, `.` and `~` percent-encoded (RFC 3986's
/// unreserved characters, as AWS's signatures want it), so that it stays one segment. `.` and `..`
/// would be taken for a walk through the path, and are encoded whole.
pub(crate) fn percent_encoded(name: &str) -> String {
    let is_walk = name == "." || name == "..";
    let mut segment = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        if is_plain && !is_walk {
            segment.push(char::from(byte));
        } else {
            let _ = write!(segment, "%{byte:02X}");
        }
    }
    segment
}

/// Whether a name can stand as one label of a host: lower case letters, digits and inner hyphens.
pub(crate) fn is_host_label(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() < 64 && name.bytes().all(is_plain) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment() {
        for (name, segment) in [
            ("claude-3-7-sonnet@20250219", "claude-3-7-sonnet%4020250219"),
            ("us.amazon.nova-lite-v1:0", "us.amazon.nova-lite-v1%3A0"),
            ("arn:aws:bedrock:eu-west-1:1:p/x", "arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ap%2Fx"),
            ("../../invoke", "..%2F..%2Finvoke"),
            ("..", "%2E%2E"),
            ("a?b#c%2f d\\é", "a%3Fb%23c%252f%20d%5C%C3%A9"),
        ] {
            assert_eq!(percent_encoded(name), segment);
        }
    }

    #[test]
    fn a_region_cannot_name_another_host() {
        assert!(is_host_label("us-east-1") && is_host_label("europe-west4"));
        for name in ["", "-a", "a-", "evil.com/", "a.b", "a@b", "a:1", "a#", "A", "é", "a b", "a\n"] {
            assert!(!is_host_label(name), "{name}");
        }
    }
}
