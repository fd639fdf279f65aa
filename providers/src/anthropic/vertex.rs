//! Claude on Vertex AI: Anthropic's messages under Google's paths and tokens.
//! It must not know how a token is got.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::answer::{self, MessageStream};
use super::error;
use super::request::{self, Host};
use crate::Provider;
use crate::call::{Account, Answer, Auth, Call, Endpoint, StreamTranslator, UpstreamRequest};
use crate::error::{Refusal, UpstreamError};
use crate::frames::Framing;
use crate::segment::{is_host_label, of_model, percent_encoded};

/// The location that is served everywhere.
const GLOBAL: &str = "global";

/// Claude models on Vertex AI, <https://cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude>.
#[derive(Debug)]
pub struct ClaudeOnVertex;

impl Provider for ClaudeOnVertex {
    fn kind(&self) -> &'static str {
        "vertex-anthropic"
    }

    fn base_url(&self, account: &Account) -> Option<String> {
        match account.region.as_deref().unwrap_or(GLOBAL) {
            GLOBAL => Some("https://aiplatform.googleapis.com".to_owned()),
            region => is_host_label(region).then(|| format!("https://{region}-aiplatform.googleapis.com")),
        }
    }

    fn auth(&self) -> Auth {
        Auth::Google
    }

    fn key_variable(&self) -> Option<&'static str> {
        None
    }

    fn serves(&self, endpoint: Endpoint) -> bool {
        endpoint == Endpoint::Chat
    }

    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal> {
        let said = request::say(call, Host::Vertex)?;
        Ok(UpstreamRequest {
            method: Method::POST,
            path: path(call)?,
            headers: super::beta_header(&said.betas).into_iter().collect(),
            body: Bytes::from(Value::Object(said.body).to_string()),
            framing: Framing::Sse,
            dropped: said.dropped,
        })
    }

    fn answer(&self, call: &Call<'_>, _headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
        answer::whole(call, &body)
    }

    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
        error::read(status, headers, body)
    }

    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator> {
        Box::new(MessageStream::new(call))
    }
}

fn path(call: &Call<'_>) -> Result<String, Refusal> {
    let Some(project) = call.account.project.as_deref() else {
        return Err(Refusal::field("project", "invalid_value", "the account names no Google Cloud project"));
    };
    let region = call.account.region.as_deref().unwrap_or(GLOBAL);
    let verb = if call.request.stream { "streamRawPredict" } else { "rawPredict" };
    Ok(format!(
        "/v1/projects/{}/locations/{}/publishers/anthropic/models/{}:{verb}",
        percent_encoded(project),
        percent_encoded(region),
        of_model(call.model)?,
    ))
}
