//! Ollama's own API: `/api/chat` with its stream of JSON lines, and `/api/embed`.
//! Reference: <https://github.com/ollama/ollama/blob/main/docs/api.md>.
//! It must not know Ollama's OpenAI-compatible endpoint: that is a row of the compatible providers.

mod reply;
mod request;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::Provider;
use crate::call::{Answer, Auth, Call, Endpoint, Facts, StreamTranslator, UpstreamRequest};
use crate::error::{Class, Refusal, UpstreamError};
use crate::failure;
use crate::frames::Framing;
use crate::retry::retry_after;

/// Ollama, on one's own machine or in its cloud.
pub(crate) struct Ollama;

impl Provider for Ollama {
    fn facts(&self) -> Facts {
        Facts {
            kind: "ollama",
            base_url: Some("http://localhost:11434"),
            // Ollama's cloud wants a key; one's own machine has none.
            auth: Auth::Bearer,
            key_variable: Some("OLLAMA_API_KEY"),
            serves: &[Endpoint::Embeddings],
            health_path: "/api/tags",
        }
    }

    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal> {
        let (path, (body, dropped)) = match call.endpoint {
            Endpoint::Chat => ("/api/chat", request::chat(call, self.kind())?),
            Endpoint::Embeddings => ("/api/embed", request::embed(call, self.kind())?),
            other => return Err(Refusal::unserved(self.kind(), other)),
        };
        Ok(UpstreamRequest::post(path.to_owned(), &body, Framing::JsonLines, dropped))
    }

    fn answer(&self, call: &Call<'_>, _headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
        match call.endpoint {
            Endpoint::Embeddings => reply::embedded(call, &body),
            _ => reply::answer(call, &body),
        }
    }

    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
        let value = serde_json::from_slice::<Value>(body).unwrap_or_default();
        let mut error = match value.get("error") {
            Some(error) => told(error, Some(status)),
            None => failure::from_answer(status, headers, body),
        };
        error.retry_after = retry_after(headers);
        error
    }

    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator> {
        Box::new(reply::Translator::new(call))
    }
}

/// The error that Ollama words as one string (and its cloud, now and then, as an object).
fn told(error: &Value, status: Option<StatusCode>) -> UpstreamError {
    let words = error.as_str().or_else(|| error.get("message")?.as_str());
    let message = words.map_or_else(|| error.to_string(), str::to_owned);
    let lower = message.to_lowercase();
    let by_status = status.map(Class::from_status);
    let class = if ["context length", "prompt too long", "context window"].iter().any(|words| lower.contains(words)) {
        Class::ContextOverflow
    } else if lower.contains("maximum pending requests") {
        Class::Overloaded
    } else if by_status.is_none() && lower.contains("not found") {
        Class::NotFound
    } else {
        by_status.unwrap_or(Class::Server)
    };
    UpstreamError::at(status, class, message)
}
