//! One question to a token service, and the small files that tokens are got with: bounded in time and size.
//! It must not know any service.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use reqwest::{Client, Method, Url};
use serde::Deserialize;
use tokio::time::timeout;

use super::lease::Trouble;
use crate::config::Secret;

/// Until the connection to a service stands that is on this machine or next to it.
const CONNECT_NEAR: Duration = Duration::from_secs(1);
/// Until the connection to any other service stands.
const CONNECT: Duration = Duration::from_secs(5);
/// The whole of one question.
const TOTAL: Duration = Duration::from_secs(8);
/// The largest answer, and the largest file.
const MAX_BYTES: usize = 256 * 1024;
/// The longest error code that is repeated.
const MAX_CODE: usize = 64;

/// A question.
pub(super) struct Question<'a> {
    /// Who is asked, for messages.
    pub(super) whom: &'static str,
    pub(super) method: Method,
    pub(super) url: &'a str,
    pub(super) headers: HeaderMap,
    /// A form to send.
    pub(super) form: &'a [(&'a str, &'a str)],
    /// On this machine or next to it: no proxy on the way, and a short wait.
    pub(super) is_near: bool,
}

/// The body of an answer with status 200.
pub(super) async fn ask(question: Question<'_>) -> Result<Bytes, Trouble> {
    let whom = question.whom;
    let answered = timeout(TOTAL, send(question)).await;
    let (status, body) = answered.map_err(|_| Trouble::passing(format!("{whom} did not answer in time")))??;
    if status == StatusCode::OK {
        return Ok(body);
    }
    let code = error_code(&body).map(|code| format!(" ({code})")).unwrap_or_default();
    let message = format!("{whom} answered {}{code}", status.as_u16());
    let is_passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    Err(Trouble { message, is_passing })
}

async fn send(question: Question<'_>) -> Result<(StatusCode, Bytes), Trouble> {
    let whom = question.whom;
    let wrong = |what: &str| Trouble::lasting(format!("{whom}: {what}"));
    let url = Url::parse(question.url).map_err(|_| wrong("its address is none"))?;
    // Asked once an hour: a client of its own costs less than connections that are kept for that long.
    let builder = Client::builder().redirect(reqwest::redirect::Policy::none()).referer(false);
    let builder =
        if question.is_near { builder.no_proxy().connect_timeout(CONNECT_NEAR) } else { builder.connect_timeout(CONNECT) };
    let client = builder.build().map_err(|_| wrong("no HTTP client"))?;
    let mut request = client.request(question.method, url).headers(question.headers);
    if !question.form.is_empty() {
        request = request.header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form(question.form)?);
    }
    // The error's own text may hold the address with what stands in it.
    let mut answer = request.send().await.map_err(|error| {
        Trouble::passing(format!("{whom} {}", if error.is_connect() { "cannot be reached" } else { "broke the connection" }))
    })?;
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(|_| Trouble::passing(format!("{whom} broke the connection")))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BYTES {
            return Err(wrong("its answer is too large"));
        }
    }
    Ok((answer.status(), body.freeze()))
}

/// The pairs as a form or a query has them.
pub(super) fn form(pairs: &[(&str, &str)]) -> Result<String, Trouble> {
    let mut carrier = Url::parse("http://form/").map_err(|_| Trouble::lasting("no form"))?;
    carrier.query_pairs_mut().extend_pairs(pairs);
    Ok(carrier.query().unwrap_or_default().to_owned())
}

/// What a service calls its error: OAuth's `error` or the `Code` of AWS. Nothing else of its answer
/// is repeated; it may hold what was sent.
fn error_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct OAuth {
        error: String,
    }
    let text = std::str::from_utf8(body).ok()?;
    let code =
        serde_json::from_str::<OAuth>(text).ok().map(|said| said.error).or_else(|| tag(text, "Code").map(str::to_owned))?;
    let is_code = code.len() <= MAX_CODE && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
    is_code.then_some(code)
}

/// The text of the first such element; enough for values that never need escapes.
pub(super) fn tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(value, _)| value)
}

/// The text of a small file. `what` stands for it in the message: a path is nothing for a client to see.
pub(super) async fn read(path: &Path, what: &str) -> Result<String, Trouble> {
    let owned = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        std::fs::File::open(owned)?.take(MAX_BYTES as u64).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    });
    let read = reading.await.map_err(|_| Trouble::passing(format!("{what} cannot be read")))?;
    read.map_err(|error| Trouble::lasting(format!("{what} cannot be read: {}", error.kind())))
}

/// The time that AWS and others write as `2026-01-31T12:00:00Z`.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// The answer of an OAuth token endpoint and of a cloud's metadata service.
#[derive(Deserialize)]
struct Token {
    access_token: String,
    /// Seconds; a number, or text with Azure's services.
    expires_in: Option<serde_json::Value>,
    /// The same as seconds since 1970; Azure's hosted services give only this.
    expires_on: Option<serde_json::Value>,
}

/// The token in an answer, and when it ends.
pub(super) fn token(whom: &str, body: &[u8], now: SystemTime) -> Result<(Secret, SystemTime), Trouble> {
    let unreadable = || Trouble::passing(format!("{whom} answered without a token"));
    let token: Token = serde_json::from_slice(body).map_err(|_| unreadable())?;
    let seconds = |given: &serde_json::Value| match given {
        serde_json::Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    let from = |start: SystemTime, given: Option<&serde_json::Value>| {
        given.and_then(seconds).and_then(|seconds| start.checked_add(Duration::from_secs(seconds)))
    };
    let until = from(now, token.expires_in.as_ref()).or_else(|| from(SystemTime::UNIX_EPOCH, token.expires_on.as_ref()));
    let until = until.ok_or_else(unreadable)?;
    Ok((Secret::new(token.access_token), until))
}
