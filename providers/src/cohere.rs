//! Cohere's second API: `/v2/chat` with its event stream, and `/v2/embed`.
//! Reference: <https://docs.cohere.com/reference/chat>.
//! It must not know Cohere's first API, nor its OpenAI-compatible endpoint.

pub(crate) mod reply;
pub(crate) mod request;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::Provider;
use crate::call::{Answer, Auth, Call, Endpoint, Facts, StreamTranslator, UpstreamRequest};
use crate::error::{Class, Refusal, UpstreamError};
use crate::failure;
use crate::frames::Framing;
use crate::retry::retry_after;

/// Cohere.
pub(crate) struct Cohere;

impl Provider for Cohere {
    fn facts(&self) -> Facts {
        Facts {
            kind: "cohere",
            base_url: Some("https://api.cohere.com"),
            auth: Auth::Bearer,
            key_variable: Some("COHERE_API_KEY"),
            serves: &[Endpoint::Embeddings],
            health_path: "/v1/models",
        }
    }

    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal> {
        let (path, (body, dropped)) = match call.endpoint {
            Endpoint::Chat => ("/v2/chat", request::chat(call, self.kind())?),
            Endpoint::Embeddings => ("/v2/embed", request::embed(call, self.kind())?),
            other => return Err(Refusal::unserved(self.kind(), other)),
        };
        Ok(UpstreamRequest::post(path.to_owned(), &body, Framing::Sse, dropped))
    }

    fn answer(&self, call: &Call<'_>, _headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
        match call.endpoint {
            Endpoint::Embeddings => reply::embedded(call, &body),
            _ => reply::answer(call, &body),
        }
    }

    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
        let mut error = match serde_json::from_slice::<Failure>(body) {
            Ok(failure) => failure.told(Some(status)),
            Err(_) => failure::from_answer(status, headers, body),
        };
        error.retry_after = retry_after(headers);
        error
    }

    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator> {
        Box::new(reply::Translator::new(call))
    }
}

/// Cohere's error: a message and, for some, a type.
#[derive(Debug, Deserialize)]
struct Failure {
    message: String,
    #[serde(default)]
    error_type: Option<String>,
}

impl Failure {
    fn told(self, status: Option<StatusCode>) -> UpstreamError {
        let lower = self.message.to_lowercase();
        let code = status.map_or(0, |status| status.as_u16());
        let is_too_long = self.error_type.as_deref() == Some("TOO_MANY_TOKENS") || lower.starts_with("too many tokens");
        let class = match code {
            _ if is_too_long => Class::ContextOverflow,
            // Trial keys have a limit per minute and one per month.
            429 if lower.contains("month") => Class::Quota,
            // Cohere's own: an invalid token, and a request that it cancelled.
            498 => Class::Authentication,
            499 => Class::Timeout,
            0 => Class::Server,
            _ => status.map_or(Class::Server, Class::from_status),
        };
        UpstreamError::at(status, class, self.message)
    }
}
