//! Google's Gemini API as AI Studio serves it: `generateContent`, its stream, and embeddings.
//! Reference: <https://ai.google.dev/api/generate-content>. The body's grammar, which Vertex AI shares,
//! stands in `contents`, `request`, `reply` and `error`.
//! It must not know projects, regions or OAuth: that is Vertex AI's.

mod contents;
pub(crate) mod embeddings;
pub(crate) mod error;
mod partial;
pub(crate) mod reply;
pub(crate) mod request;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::call::{Answer, Auth, Call, Endpoint, Facts, StreamTranslator, UpstreamRequest};
use crate::error::{Refusal, UpstreamError};
use crate::frames::Framing;
use crate::segment;
use crate::{Provider, embeddings as openai};

/// The version of the API, unless the account names one; fields such as `parametersJsonSchema` and
/// `thinkingConfig` are in no stable version.
const API_VERSION: &str = "v1beta";

/// Gemini on AI Studio.
pub(crate) struct Gemini;

impl Provider for Gemini {
    fn facts(&self) -> Facts {
        Facts {
            kind: "gemini",
            base_url: Some("https://generativelanguage.googleapis.com"),
            auth: Auth::Header("x-goog-api-key"),
            key_variable: Some("GEMINI_API_KEY"),
            serves: &[Endpoint::Embeddings],
            health_path: "/v1beta/models",
        }
    }

    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal> {
        let version = segment::percent_encoded(call.account.api_version.as_deref().unwrap_or(API_VERSION));
        let model = segment::of_model(bare_name(call.model))?;
        let (action, (body, dropped)) = match call.endpoint {
            Endpoint::Chat => (request::action(call), request::body(call, self.kind())?),
            Endpoint::Embeddings => ("batchEmbedContents", embeddings::batch(call, self.kind())?),
            other => return Err(Refusal::unserved(self.kind(), other)),
        };
        Ok(UpstreamRequest::post(format!("/{version}/models/{model}:{action}"), &body, Framing::Sse, dropped))
    }

    fn answer(&self, call: &Call<'_>, _headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
        match call.endpoint {
            Endpoint::Embeddings => embeddings::batch_answer(&openai::Writer::new(call), &body),
            _ => reply::answer(call, &body),
        }
    }

    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
        error::read(status, headers, body)
    }

    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator> {
        Box::new(reply::Translator::new(call))
    }
}

/// The model's name without the resource prefix that Google's own lists write before it.
pub(crate) fn bare_name(model: &str) -> &str {
    model.strip_prefix("models/").unwrap_or(model)
}
