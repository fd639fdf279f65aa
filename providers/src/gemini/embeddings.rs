//! Embeddings in Gemini's words (`batchEmbedContents`).
//! Reference: <https://ai.google.dev/api/embeddings>.
//! It must not know addresses or credentials.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::bare_name;
use crate::call::{Answer, Call};
use crate::embeddings::{Embeddings, Writer};
use crate::error::{Refusal, UpstreamError};
use crate::unsaid::Unsaid;
use crate::usage::Usage;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Batch {
    embeddings: Vec<Embedding>,
    /// The only one, from servers that know but `embedContent`.
    embedding: Option<Embedding>,
    usage_metadata: Option<Counts>,
}

#[derive(Debug, Deserialize)]
struct Embedding {
    values: Box<RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Counts {
    prompt_token_count: Option<u64>,
}

/// The body of `batchEmbedContents`, and what it leaves out.
pub(crate) fn batch(call: &Call<'_>, kind: &'static str) -> Result<(Value, Vec<&'static str>), Refusal> {
    let request = Embeddings::parse(call)?;
    let mut unsaid = Unsaid::new(kind, call.account.unsupported);
    let model = format!("models/{}", bare_name(call.model));
    let mut requests = Vec::new();
    for text in request.texts(kind)? {
        let mut one = json!({"model": model, "content": {"parts": [{"text": text}]}});
        if let Some(dimensions) = request.dimensions {
            one["outputDimensionality"] = Value::from(dimensions);
        }
        if let Some(task) = request.other.get("task_type") {
            one["taskType"] = task.clone();
        }
        requests.push(one);
    }
    request.leave_out(&mut unsaid, &["dimensions", "task_type"])?;
    Ok((json!({"requests": requests}), unsaid.dropped()))
}

/// The vectors; usage only where Google counts it.
pub(crate) fn batch_answer(writer: &Writer, body: &[u8]) -> Result<Answer, UpstreamError> {
    let batch: Batch = serde_json::from_slice(body).map_err(|fault| UpstreamError::unreadable(&fault))?;
    let vectors: Vec<Box<RawValue>> =
        batch.embeddings.into_iter().chain(batch.embedding).map(|embedding| embedding.values).collect();
    let counted = batch.usage_metadata.and_then(|counts| counts.prompt_token_count);
    writer.answer(&vectors, counted.map(|input| Usage { input, ..Usage::default() }))
}
