//! Gemini on Google Cloud's Vertex AI: the same bodies as AI Studio under addresses with a project
//! and a location, and embeddings by `predict`.
//! Reference: <https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest>.
//! It must not know where an access token comes from.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::Provider;
use crate::call::{Account, Answer, Auth, Call, Endpoint, StreamTranslator, UpstreamRequest};
use crate::embeddings::{Embeddings, Writer};
use crate::error::{Refusal, UpstreamError};
use crate::frames::Framing;
use crate::gemini::{bare_name, error, reply, request};
use crate::segment;
use crate::unsaid::Unsaid;
use crate::usage::Usage;

/// The version of the API, unless the account names one; the one Google's own SDK uses.
const API_VERSION: &str = "v1beta1";

/// The location that needs no region.
const EVERYWHERE: &str = "global";

/// Vertex AI.
pub(crate) struct Vertex;

impl Provider for Vertex {
    fn kind(&self) -> &'static str {
        "vertex"
    }

    fn base_url(&self, account: &Account) -> Option<String> {
        Some(match account.region.as_deref() {
            None | Some(EVERYWHERE) => "https://aiplatform.googleapis.com".to_owned(),
            Some(region) => format!("https://{region}-aiplatform.googleapis.com"),
        })
    }

    fn auth(&self) -> Auth {
        Auth::Google
    }

    fn key_variable(&self) -> Option<&'static str> {
        None
    }

    fn serves(&self, endpoint: Endpoint) -> bool {
        matches!(endpoint, Endpoint::Chat | Endpoint::Embeddings)
    }

    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal> {
        let model = resource(call)?;
        let (action, (body, dropped)) = match call.endpoint {
            Endpoint::Chat => (request::action(call), request::body(call, self.kind())?),
            Endpoint::Embeddings => ("predict", predict(call, self.kind())?),
        };
        Ok(UpstreamRequest {
            method: Method::POST,
            path: format!("{model}:{action}"),
            headers: Vec::new(),
            body: Bytes::from(body.to_string()),
            framing: Framing::Sse,
            dropped,
        })
    }

    fn answer(&self, call: &Call<'_>, _headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
        match call.endpoint {
            Endpoint::Chat => reply::answer(call, &body),
            Endpoint::Embeddings => predicted(call, &body),
        }
    }

    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
        error::read(status, headers, body)
    }

    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator> {
        Box::new(reply::Translator::new(call))
    }
}

/// The model's address: one of Google's, or a deployed endpoint (`endpoints/123`).
fn resource(call: &Call<'_>) -> Result<String, Refusal> {
    let account = call.account;
    let Some(project) = account.project.as_deref() else {
        return Err(Refusal {
            message: "this Vertex AI account names no Google Cloud project".to_owned(),
            param: None,
            code: "provider_misconfigured",
        });
    };
    let version = account.api_version.as_deref().unwrap_or(API_VERSION);
    let location = segment::percent_encoded(account.region.as_deref().unwrap_or(EVERYWHERE));
    let place = format!("/{version}/projects/{}/locations/{location}", segment::percent_encoded(project));
    let name = bare_name(call.model);
    match name.strip_prefix("endpoints/") {
        Some(endpoint) => Ok(format!("{place}/endpoints/{}", segment::of_model(endpoint)?)),
        None => {
            let model = segment::of_model(name.strip_prefix("google/").unwrap_or(name))?;
            Ok(format!("{place}/publishers/google/models/{model}"))
        }
    }
}

fn predict(call: &Call<'_>, kind: &'static str) -> Result<(Value, Vec<&'static str>), Refusal> {
    let request = Embeddings::parse(call)?;
    let mut unsaid = Unsaid::new(kind, call.account.unsupported);
    let instance = |text: &str| {
        let mut instance = json!({"content": text});
        if let Some(task) = request.other.get("task_type") {
            instance["task_type"] = task.clone();
        }
        instance
    };
    let instances: Vec<Value> = request.texts(kind)?.into_iter().map(instance).collect();
    let mut body = json!({"instances": instances});
    if let Some(dimensions) = request.dimensions {
        body["parameters"] = json!({"outputDimensionality": dimensions});
    }
    request.leave_out(&mut unsaid, &["dimensions", "task_type"])?;
    Ok((body, unsaid.dropped()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Predicted {
    predictions: Vec<Prediction>,
}

#[derive(Debug, Deserialize)]
struct Prediction {
    embeddings: Embedding,
}

#[derive(Debug, Deserialize)]
struct Embedding {
    values: Box<RawValue>,
    #[serde(default)]
    statistics: Statistics,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Statistics {
    /// A whole number, though some versions write it as `10.0`.
    token_count: Option<f64>,
}

fn predicted(call: &Call<'_>, body: &[u8]) -> Result<Answer, UpstreamError> {
    let predicted: Predicted = serde_json::from_slice(body).map_err(|fault| error::unreadable(&fault))?;
    let counts = predicted.predictions.iter().map(|one| one.embeddings.statistics.token_count.map(|count| count as u64));
    let counted: Option<u64> = counts.sum();
    let vectors: Vec<Box<RawValue>> = predicted.predictions.into_iter().map(|one| one.embeddings.values).collect();
    Writer::new(call).answer(&vectors, counted.map(|input| Usage { input, ..Usage::default() }))
}
