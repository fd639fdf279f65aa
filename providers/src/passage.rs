//! A call to a path of OpenAI's API that is passed on as it is: where it goes below a base URL, and what its
//! body is. What clients write here becomes part of an address, so little is allowed.
//! It must not know what any path is for.

use std::ops::Range;

use http::{HeaderValue, Method};

use crate::error::Refusal;

/// A path with its method, its query and the type of its body.
#[derive(Clone, Debug)]
pub struct Passage {
    /// GET, POST or DELETE.
    pub method: Method,
    /// Path and query below a base URL that stands for `/v1`.
    pub path: String,
    /// The type of the body, when the client said.
    pub content_type: Option<HeaderValue>,
    /// Where the model's name stands in the body, when that is a form.
    pub(crate) model_at: Option<Range<usize>>,
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form<'a> {
    Json,
    /// `multipart/form-data` with this boundary.
    Multipart(&'a str),
}

/// The longest path and query, in bytes.
const MAX_PATH: usize = 4096;
/// The longest boundary: RFC 2046.
const MAX_BOUNDARY: usize = 70;

impl Passage {
    /// The passage to `path`, which starts with a slash, with `query` as the client wrote it.
    ///
    /// # Errors
    /// A [`Refusal`] of another method, and of a path that could lead anywhere but where it seems to.
    pub fn new(method: &Method, path: &str, query: Option<&str>, content_type: Option<&HeaderValue>) -> Result<Self, Refusal> {
        if ![Method::GET, Method::POST, Method::DELETE].contains(method) {
            return Err(refusal("only GET, POST and DELETE are passed on"));
        }
        let is_sound = path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment));
        let query_is_sound = query.is_none_or(|query| query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
        let whole = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        if !is_sound || !query_is_sound || whole.len() > MAX_PATH {
            return Err(refusal("the path is not one that can be passed on"));
        }
        Ok(Self { method: method.clone(), path: whole, content_type: content_type.cloned(), model_at: None })
    }

    /// What the body is; a body that says nothing of itself is JSON.
    pub(crate) fn form(&self) -> Result<Form<'_>, Refusal> {
        let Some(given) = &self.content_type else { return Ok(Form::Json) };
        let said = given.to_str().map_err(|_| refusal("the content type cannot be read"))?;
        let (kind, more) = said.split_once(';').unwrap_or((said, ""));
        match kind.trim().to_ascii_lowercase().as_str() {
            "application/json" => Ok(Form::Json),
            "multipart/form-data" => boundary(more).map(Form::Multipart).ok_or_else(|| refusal("the boundary cannot be read")),
            _ => Err(refusal("the body must be JSON or multipart/form-data")),
        }
    }
}

fn refusal(message: &str) -> Refusal {
    Refusal { message: message.to_owned(), param: None, code: "invalid_request" }
}

/// Letters, digits and a few signs of ids: nothing that escapes, walks or separates.
fn is_segment(segment: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~:@+=,".contains(&byte);
    !segment.is_empty() && segment.bytes().all(is_plain) && !segment.bytes().all(|byte| byte == b'.')
}

/// The boundary, if it is the only thing that is said.
fn boundary(parameters: &str) -> Option<&str> {
    let (name, value) = parameters.trim().split_once('=')?;
    let value = value.strip_prefix('"').map_or(Some(value), |inner| inner.strip_suffix('"'))?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    let is_sound = !value.is_empty() && value.len() <= MAX_BOUNDARY && value.bytes().all(is_plain);
    (name.trim().eq_ignore_ascii_case("boundary") && is_sound).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_where_it_seems_to_go_or_nowhere() {
        let passed = |path: &str, query| Passage::new(&Method::GET, path, query, None).map(|passage| passage.path);
        for (path, query, sent) in [
            ("/files", None, "/files"),
            ("/files/file-abc123/content", Some("limit=1&after=x%2Fy"), "/files/file-abc123/content?limit=1&after=x%2Fy"),
            ("/fine_tuning/jobs/ft:gpt-4o:acme::7/events", None, "/fine_tuning/jobs/ft:gpt-4o:acme::7/events"),
        ] {
            assert_eq!(passed(path, query).as_deref(), Ok(sent));
        }
        for path in [
            "",
            "files",
            "/",
            "/files/",
            "//evil.com/a",
            "/files//a",
            "/files/../admin",
            "/files/.",
            "/files/...",
            "/a%2f..%2fb",
            "/a%2e%2e",
            "/a\\b",
            "/a b",
            "/a;b",
            "/a?b",
            "/a#b",
            "/é",
            "/a\u{0}",
            "/a\r\nx: y",
            "/a|b",
            "/a{b}",
        ] {
            assert!(passed(path, None).is_err(), "{path:?}");
        }
        for query in ["a b", "a#b", "a\r\nx: y", "é"] {
            assert!(passed("/files", Some(query)).is_err(), "{query:?}");
        }
        assert!(passed("/files", Some(&"a".repeat(5000))).is_err(), "too long");
        for method in [Method::PUT, Method::PATCH, Method::HEAD, Method::OPTIONS, Method::CONNECT] {
            assert!(Passage::new(&method, "/files", None, None).is_err(), "{method}");
        }
    }

    #[test]
    fn a_body_is_json_or_a_form_with_one_boundary() {
        let form = |kind: &'static str| {
            let passage = Passage::new(&Method::POST, "/files", None, Some(&HeaderValue::from_static(kind))).unwrap();
            passage.form().map(|form| match form {
                Form::Json => "json".to_owned(),
                Form::Multipart(boundary) => boundary.to_owned(),
            })
        };
        assert_eq!(form("application/json; charset=utf-8").as_deref(), Ok("json"));
        assert_eq!(form("multipart/form-data; boundary=a1-b2").as_deref(), Ok("a1-b2"));
        assert_eq!(form("Multipart/Form-Data; Boundary=\"a1'b2\"").as_deref(), Ok("a1'b2"));
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/mixed; boundary=a",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=a b",
            "multipart/form-data; boundary=\"a",
        ] {
            assert!(form(kind).is_err(), "{kind}");
        }
    }
}
