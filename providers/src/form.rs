//! Finds the field `model` in a `multipart/form-data` body (RFC 7578). Whoever reads the body after us must
//! find the same one: what two readers could understand differently is refused.
//! It must not know what the other fields are for.

use std::ops::Range;

use memchr::memmem;

use crate::error::Refusal;

/// The longest head of a part, in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// Where the value of `model` stands, if there is one.
///
/// # Errors
/// A [`Refusal`] of a body that is not well formed, or names a model twice.
pub(crate) fn model(body: &[u8], boundary: &str) -> Result<Option<Range<usize>>, Refusal> {
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let opening = &delimiter.as_bytes()[2..];
    let mut at = if body.starts_with(opening) { opening.len() } else { return Err(malformed()) };
    let mut found = None;
    loop {
        let rest = body.get(at..).unwrap_or_default();
        if rest.starts_with(b"--") {
            return if matches!(&rest[2..], b"" | b"\r\n") { Ok(found) } else { Err(malformed()) };
        }
        let head = rest.strip_prefix(b"\r\n").ok_or_else(malformed)?;
        let head_end = memmem::find(&head[..head.len().min(MAX_HEAD)], b"\r\n\r\n").ok_or_else(malformed)?;
        let part = read_head(&head[..head_end])?;
        let start = at + 2 + head_end + 4;
        let end = start + finder.find(&body[start..]).ok_or_else(malformed)?;
        if part.name == b"model" && (part.is_file || part.is_encoded || found.replace(start..end).is_some()) {
            return Err(Refusal::field("model", "invalid_type", "`model` must be one field of plain text"));
        }
        at = end + delimiter.len();
    }
}

fn malformed() -> Refusal {
    Refusal { message: "the multipart body is not well formed".to_owned(), param: None, code: "invalid_multipart" }
}

/// What the head of a part says.
#[derive(Debug, Default)]
struct Part {
    name: Vec<u8>,
    is_file: bool,
    is_encoded: bool,
}

fn read_head(head: &[u8]) -> Result<Part, Refusal> {
    let mut part = None;
    let mut is_encoded = false;
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let colon = memchr::memchr(b':', line).ok_or_else(malformed)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // Neither a folded line nor a lone end of one.
        if !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') || value.contains(&b'\r') {
            return Err(malformed());
        }
        is_encoded |= name.eq_ignore_ascii_case(b"content-transfer-encoding");
        if name.eq_ignore_ascii_case(b"content-disposition") && part.replace(disposition(value)?).is_some() {
            return Err(malformed());
        }
    }
    part.map(|part| Part { is_encoded, ..part }).ok_or_else(malformed)
}

/// `form-data; name="…"`, perhaps with the name of a file.
fn disposition(value: &[u8]) -> Result<Part, Refusal> {
    let mut rest = value.strip_prefix(b"form-data").ok_or_else(malformed)?;
    let mut part = Part::default();
    let mut has_name = false;
    while !rest.is_empty() {
        rest = rest.strip_prefix(b";").ok_or_else(malformed)?.trim_ascii_start();
        let equals = memchr::memchr(b'=', rest).ok_or_else(malformed)?;
        let key = &rest[..equals];
        let (given, after) = parameter(&rest[equals + 1..])?;
        rest = after.trim_ascii_start();
        match key {
            b"name" if !has_name => (part.name, has_name) = (given, true),
            b"filename" | b"filename*" => part.is_file = true,
            _ => return Err(malformed()),
        }
    }
    if has_name { Ok(part) } else { Err(malformed()) }
}

/// A value, quoted or not, and what follows it.
fn parameter(text: &[u8]) -> Result<(Vec<u8>, &[u8]), Refusal> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = memchr::memchr2(b';', b' ', text).unwrap_or(text.len());
        return Ok((text[..end].to_vec(), &text[end..]));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Ok((value, &quoted[at + 1..])),
            b'\\' => value.extend(bytes.next().map(|(_, byte)| *byte)),
            _ => value.push(*byte),
        }
    }
    Err(malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parts: &[(&str, &str)]) -> String {
        let parts: String = parts.iter().map(|(head, value)| format!("--b\r\n{head}\r\n\r\n{value}\r\n")).collect();
        format!("{parts}--b--\r\n")
    }

    const FILE: (&str, &str) =
        ("Content-Disposition: form-data; name=\"file\"; filename=\"a;b\\\"c.mp3\"\r\nContent-Type: audio/mpeg", "\r\n--c\r\n");
    const MODEL: (&str, &str) = ("Content-Disposition: form-data; name=\"model\"", "whisper-1");

    #[test]
    fn the_model_is_found_before_and_after_a_file() {
        for parts in
            [vec![MODEL, FILE], vec![FILE, MODEL], vec![FILE, ("content-disposition: form-data; name=model", "whisper-1")]]
        {
            let body = body(&parts);
            let found = model(body.as_bytes(), "b").unwrap().unwrap();
            assert_eq!(&body[found], "whisper-1");
        }
        assert_eq!(model(body(&[FILE]).as_bytes(), "b"), Ok(None));
        let file = body(&[("Content-Disposition: form-data; name=\"mode\\l\"; filename=x", "y")]);
        assert!(model(file.as_bytes(), "b").is_err(), "a file is no name");
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let cases = [
            body(&[MODEL, MODEL]),
            body(&[MODEL, ("Content-Disposition: form-data; name=\"mod\\el\"", "secret")]),
            body(&[("Content-Disposition: form-data; name=\"x\"; name=\"model\"", "secret")]),
            body(&[("Content-Disposition: form-data; name=\"x\"\r\nContent-Disposition: form-data; name=\"model\"", "secret")]),
            body(&[("Content-Disposition: form-data; name*=UTF-8''model", "secret")]),
            body(&[("Content-Disposition: form-data;\r\n name=\"model\"", "secret")]),
            body(&[("Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: base64", "c2VjcmV0")]),
            body(&[("Content-Disposition: form-data; name=\"model\"; filename=\"m\"", "secret")]),
            body(&[("Content-Disposition: form-data; name=\"model", "secret")]),
            body(&[("Content-Type: text/plain", "secret")]),
            format!("preamble\r\n{}", body(&[MODEL])),
            format!("{}--b\r\n{}\r\n\r\nsecret\r\n--b--", body(&[MODEL]), MODEL.0),
            body(&[MODEL]).replace("\r\n", "\n"),
            body(&[MODEL]).replace("--b--", "--b --"),
            body(&[MODEL]).replace("--b--\r\n", ""),
            "--b".to_owned(),
            String::new(),
        ];
        for case in cases {
            assert!(model(case.as_bytes(), "b").is_err(), "{case:?}");
        }
    }

    #[test]
    fn cut_anywhere_it_is_refused_and_nothing_panics() {
        let whole = body(&[FILE, MODEL]);
        for end in 0..whole.len() - 2 {
            assert!(model(&whole.as_bytes()[..end], "b").is_err(), "{end}");
        }
    }
}
