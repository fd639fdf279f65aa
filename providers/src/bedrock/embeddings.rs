//! Embeddings on Bedrock, by `InvokeModel` in the words of the model's maker: Amazon's Titan and Cohere's.
//! Reference: <https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html>,
//! <https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-embed.html>.
//! It must not know addresses, keys or signatures.

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::cohere;
use crate::embeddings::{Embeddings, Writer};
use crate::error::{Refusal, UpstreamError};
use crate::unsaid::Unsaid;
use crate::usage::Usage;

/// Where Bedrock says how many tokens it read, whatever the model.
const INPUT_TOKENS: &str = "x-amzn-bedrock-input-token-count";

/// Whether this is one of Cohere's models; all others are asked in Titan's words.
fn is_cohere(model: &str) -> bool {
    model.contains("cohere.")
}

/// The body, and what it leaves out.
///
/// # Errors
/// A [`Refusal`] for several texts where the model takes one, and for what cannot be said.
pub(super) fn request(call: &Call<'_>, kind: &'static str) -> Result<(Value, Vec<&'static str>), Refusal> {
    if is_cohere(call.model) {
        let (mut body, dropped) = cohere::request::embed(call, kind)?;
        if let Some(members) = body.as_object_mut() {
            // The model stands in the address.
            members.shift_remove("model");
        }
        return Ok((body, dropped));
    }
    let request = Embeddings::parse(call)?;
    let mut unsaid = Unsaid::new(kind, call.account.unsupported);
    let [text] = request.texts(kind)?[..] else {
        let message = format!("`{}` takes one text a call: send each in a call of its own", call.model);
        return Err(Refusal::field("input", "unsupported_value", message));
    };
    let mut body = json!({"inputText": text});
    if let Some(dimensions) = request.dimensions {
        body["dimensions"] = dimensions.into();
    }
    if let Some(normalize) = request.other.get("normalize") {
        body["normalize"] = normalize.clone();
    }
    request.leave_out(&mut unsaid, &["dimensions", "normalize"])?;
    Ok((body, unsaid.dropped()))
}

#[derive(Debug, Deserialize)]
struct Titan {
    embedding: Box<RawValue>,
    #[serde(rename = "inputTextTokenCount")]
    tokens: Option<u64>,
}

/// The vectors; what was counted stands in a header, and in Titan's answer too.
///
/// # Errors
/// An [`UpstreamError`] when the body is no such answer.
pub(super) fn answer(call: &Call<'_>, headers: &HeaderMap, body: &Bytes) -> Result<Answer, UpstreamError> {
    let told = headers.get(INPUT_TOKENS).and_then(|value| value.to_str().ok()?.parse().ok());
    let usage = |input: u64| Usage { input, ..Usage::default() };
    if is_cohere(call.model) {
        let vectors = cohere::reply::vectors(body)?;
        return Writer::new(call).answer(&vectors, told.map(usage));
    }
    let titan: Titan = serde_json::from_slice(body).map_err(|fault| UpstreamError::unreadable(&fault))?;
    Writer::new(call).answer(&[titan.embedding], titan.tokens.or(told).map(usage))
}
