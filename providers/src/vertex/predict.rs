//! Embeddings on Vertex AI, by `predict`.
//! Reference: <https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api>.
//! It must not know addresses or credentials.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::embeddings::{Embeddings, Writer};
use crate::error::{Refusal, UpstreamError};
use crate::unsaid::Unsaid;
use crate::usage::Usage;

/// The body, and what it leaves out.
pub(super) fn request(call: &Call<'_>, kind: &'static str) -> Result<(Value, Vec<&'static str>), Refusal> {
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

/// The vectors of an answer.
pub(super) fn answer(call: &Call<'_>, body: &[u8]) -> Result<Answer, UpstreamError> {
    let predicted: Predicted = serde_json::from_slice(body).map_err(|fault| UpstreamError::unreadable(&fault))?;
    let counts = predicted.predictions.iter().map(|one| one.embeddings.statistics.token_count.map(|count| count as u64));
    let counted: Option<u64> = counts.sum();
    let vectors: Vec<Box<RawValue>> = predicted.predictions.into_iter().map(|one| one.embeddings.values).collect();
    Writer::new(call).answer(&vectors, counted.map(|input| Usage { input, ..Usage::default() }))
}
