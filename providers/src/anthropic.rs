//! The wire of Anthropic's Messages API, <https://docs.anthropic.com/en/api/messages>. Other hosts serve
//! the same messages in another frame; they use [`request::say`], [`answer`] and [`error`] from here.
//! It must not know keys or sockets.

pub(crate) mod answer;

pub(crate) mod error;
mod invoke;
pub(crate) mod model;
pub(crate) mod request;
pub(crate) mod thinking;
pub(crate) mod usage;
pub(crate) mod words;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use crate::Provider;
use crate::call::{Account, Answer, Auth, Call, Endpoint, Facts, StreamTranslator, UpstreamRequest};
use crate::error::{Refusal, UpstreamError};
use crate::frames::Framing;
use crate::native::messages;
use answer::MessageStream;
pub use invoke::ClaudeOnBedrock;
use request::Host;

/// The version of the API that is spoken, unless the account names another.
const VERSION: &str = "2023-06-01";
/// Where it is named.
const VERSION_HEADER: HeaderName = HeaderName::from_static("anthropic-version");

/// Anthropic's own API.
#[derive(Debug)]
pub struct Anthropic;

impl Provider for Anthropic {
    fn facts(&self) -> Facts {
        Facts {
            kind: "anthropic",
            base_url: Some("https://api.anthropic.com"),
            auth: Auth::Header("x-api-key"),
            key_variable: Some("ANTHROPIC_API_KEY"),
            serves: &[Endpoint::Messages, Endpoint::CountTokens],
            health_path: "/v1/models",
        }
    }

    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal> {
        if matches!(call.endpoint, Endpoint::Messages | Endpoint::CountTokens) {
            return carry(call, call.endpoint.route());
        }
        let said = request::say(call, Host::Anthropic)?;
        let headers = headers(call.account, &said.betas)?;
        let body = Value::Object(said.body);
        Ok(UpstreamRequest { headers, ..UpstreamRequest::post("/v1/messages".to_owned(), &body, Framing::Sse, said.dropped) })
    }

    fn answer(&self, call: &Call<'_>, headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
        match call.endpoint {
            Endpoint::Messages => messages::answer(call, body),
            Endpoint::CountTokens => messages::count(headers, body),
            _ => answer::whole(call, &body),
        }
    }

    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
        error::read(status, headers, body)
    }

    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator> {
        match call.endpoint {
            Endpoint::Messages => Box::new(messages::Stream::new(call)),
            _ => Box::new(MessageStream::new(call)),
        }
    }
}

/// A call in Anthropic's own words, with the client's own version and betas.
pub(crate) fn carry(call: &Call<'_>, path: &str) -> Result<UpstreamRequest, Refusal> {
    let mut headers = call.request.headers.clone();
    if headers.iter().all(|(name, _)| *name != VERSION_HEADER) {
        headers.extend(self::headers(call.account, &[])?);
    }
    let body = messages::body(call, Host::Anthropic)?;
    Ok(UpstreamRequest { headers, ..UpstreamRequest::carry(path.to_owned(), body, Framing::Sse) })
}

/// The version and the betas.
fn headers(account: &Account, betas: &[String]) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let version = account.api_version.as_deref().unwrap_or(VERSION);
    let version = HeaderValue::from_str(version)
        .map_err(|_| Refusal::field("api_version", "invalid_value", "the account's api_version cannot stand in a header"))?;
    let mut headers = vec![(VERSION_HEADER, version)];
    headers.extend(beta_header(betas));
    Ok(headers)
}

/// The betas as a header, if there are any. Their names are checked.
pub(crate) fn beta_header(betas: &[String]) -> Option<(HeaderName, HeaderValue)> {
    let value = HeaderValue::from_str(&betas.join(",")).ok().filter(|value| !value.is_empty())?;
    Some((HeaderName::from_static("anthropic-beta"), value))
}
