//! Azure OpenAI: OpenAI's bodies under addresses that name a deployment, or under `/openai/v1`.
//! Reference: <https://learn.microsoft.com/azure/ai-services/openai/reference>.
//! It must not know OpenAI's grammar: that is the compatible providers'.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::Provider;
use crate::call::{Answer, Auth, Call, Endpoint, Facts, StreamTranslator, UpstreamRequest};
use crate::compatible;
use crate::error::{Refusal, UpstreamError};
use crate::segment;

/// Azure OpenAI. A model is a deployment's name. An account with an API version speaks by
/// deployment addresses, one without by the version that needs none.
pub(crate) struct Azure;

impl Provider for Azure {
    fn facts(&self) -> Facts {
        Facts {
            kind: "azure",
            // Every resource has its own, `https://NAME.openai.azure.com`.
            base_url: None,
            auth: Auth::Header("api-key"),
            key_variable: Some("AZURE_OPENAI_API_KEY"),
            serves: &[Endpoint::Embeddings, Endpoint::Completions, Endpoint::Responses, Endpoint::Passed, Endpoint::Account],
            health_path: "/openai/v1/models",
        }
    }

    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal> {
        let upstream = compatible::USUAL.request(call)?;
        let sign = if upstream.path.contains('?') { '&' } else { '?' };
        let path = match call.account.api_version.as_deref() {
            // Responses are the resource's and not a deployment's; the body names that. So is all that names none.
            Some(version) if matches!(call.endpoint, Endpoint::Responses | Endpoint::Account) => {
                format!("/openai{}{sign}api-version={}", upstream.path, segment::percent_encoded(version))
            }
            Some(version) => {
                let (deployment, version) = (segment::of_model(call.model)?, segment::percent_encoded(version));
                format!("/openai/deployments/{deployment}{}{sign}api-version={version}", upstream.path)
            }
            None => format!("/openai/v1{}", upstream.path),
        };
        Ok(UpstreamRequest { path, ..upstream })
    }

    fn answer(&self, call: &Call<'_>, headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
        compatible::USUAL.answer(call, headers, body)
    }

    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
        compatible::USUAL.error(status, headers, body)
    }

    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator> {
        compatible::USUAL.stream(call)
    }
}
