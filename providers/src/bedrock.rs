//! The wire of AWS Bedrock: Converse and ConverseStream, and InvokeModel for embeddings,
//! <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html>.
//! It must not know keys, signatures or sockets.

mod answer;
mod embeddings;

pub(crate) mod error;
mod family;
mod request;
mod words;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::Provider;
use crate::call::{Account, Answer, Auth, Call, Endpoint, Facts, StreamTranslator, UpstreamRequest};
use crate::error::{Refusal, UpstreamError};
use crate::frames::Framing;
use crate::segment::{is_host_label, of_model};
use answer::ConverseStream;

/// AWS Bedrock, by its Converse API; embeddings have none, and are asked in their maker's words.
#[derive(Debug)]
pub struct Bedrock;

impl Provider for Bedrock {
    fn facts(&self) -> Facts {
        Facts {
            kind: "bedrock",
            base_url: None,
            auth: Auth::SigV4("bedrock"),
            key_variable: Some("AWS_ACCESS_KEY_ID"),
            serves: &[Endpoint::Embeddings],
            health_path: "/",
        }
    }

    fn base_url(&self, account: &Account) -> Option<String> {
        let region = account.region.as_deref().filter(|region| is_host_label(region))?;
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        Some(format!("https://bedrock-runtime.{region}.{domain}"))
    }

    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal> {
        let (verb, (body, dropped)) = match call.endpoint {
            Endpoint::Chat if call.request.stream => ("converse-stream", request::say(call)?),
            Endpoint::Chat => ("converse", request::say(call)?),
            Endpoint::Embeddings => ("invoke", embeddings::request(call, self.kind())?),
            other => return Err(Refusal::unserved(self.kind(), other)),
        };
        Ok(UpstreamRequest::post(format!("/model/{}/{verb}", of_model(call.model)?), &body, Framing::AwsEventStream, dropped))
    }

    fn answer(&self, call: &Call<'_>, headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
        match call.endpoint {
            Endpoint::Embeddings => embeddings::answer(call, headers, &body),
            _ => answer::whole(call, &body),
        }
    }

    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
        error::read(status, headers, body)
    }

    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator> {
        Box::new(ConverseStream::new(call))
    }
}
