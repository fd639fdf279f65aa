//! An embeddings request as types, and its answer in OpenAI's grammar, for the wires that are not OpenAI's.
//! Fields follow <https://platform.openai.com/docs/api-reference/embeddings/create>.
//! It must not know any particular wire.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::base64;
use crate::call::{Answer, Call};
use crate::error::{Class, Refusal, UpstreamError};
use crate::unsaid::Unsaid;
use crate::usage::Usage;

/// An embeddings request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Embeddings {
    input: Value,
    encoding_format: Option<String>,
    /// How many numbers each vector should have.
    pub(crate) dimensions: Option<u64>,
    user: Option<String>,
    /// Everything else the client sent.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

impl Embeddings {
    /// The request of `call` as types.
    ///
    /// # Errors
    /// A [`Refusal`] that names what is of the wrong type.
    pub(crate) fn parse(call: &Call<'_>) -> Result<Self, Refusal> {
        let request: Self = serde_json::from_slice(call.request.raw()).map_err(|fault| Refusal {
            message: format!("the request is not an embeddings request: {fault}"),
            param: None,
            code: "invalid_type",
        })?;
        match request.encoding_format.as_deref() {
            None | Some("float" | "base64") => Ok(request),
            Some(other) => {
                let message = format!("unknown encoding format `{other}`: it must be `float` or `base64`");
                Err(Refusal::field("encoding_format", "invalid_value", message))
            }
        }
    }

    /// The texts to embed, in order.
    ///
    /// # Errors
    /// A [`Refusal`] for tokens, which mean something to OpenAI's models only, and for what is no text.
    pub(crate) fn texts(&self, kind: &str) -> Result<Vec<&str>, Refusal> {
        let texts: Option<Vec<&str>> = match &self.input {
            Value::String(text) => Some(vec![text]),
            Value::Array(items) if !items.is_empty() => items.iter().map(Value::as_str).collect(),
            _ => None,
        };
        texts.ok_or_else(|| {
            let message = format!("`input` must be a text or a list of texts for {kind}; lists of tokens are OpenAI's own");
            Refusal::field("input", "unsupported_value", message)
        })
    }

    /// Leaves out the fields that no foreign wire has, beside those it has `said`.
    ///
    /// # Errors
    /// A [`Refusal`] that names one which the account does not let be left out.
    pub(crate) fn leave_out(&self, unsaid: &mut Unsaid, said: &[&str]) -> Result<(), Refusal> {
        unsaid.hint("user", self.user.is_some())?;
        unsaid.meaning("dimensions", self.dimensions.is_some() && !said.contains(&"dimensions"))?;
        let unknown = |name: &String| name != "model" && !said.contains(&name.as_str());
        unsaid.hint("unknown fields", self.other.keys().any(unknown))
    }
}

/// Writes the answer.
#[derive(Debug)]
pub(crate) struct Writer {
    model: String,
    as_base64: bool,
}

impl Writer {
    /// For the answer to `call`, in the encoding it asked for.
    pub(crate) fn new(call: &Call<'_>) -> Self {
        let as_base64 = call.request.field("encoding_format") == Some(b"\"base64\"");
        Self { model: call.model.to_owned(), as_base64 }
    }

    /// The answer with these vectors, each a JSON list of numbers, in the order of the texts.
    ///
    /// # Errors
    /// An [`UpstreamError`] when one is no list of numbers.
    pub(crate) fn answer(&self, vectors: &[Box<RawValue>], usage: Option<Usage>) -> Result<Answer, UpstreamError> {
        let mut body = String::from("{\"object\":\"list\",\"data\":[");
        for (index, vector) in vectors.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let vector = self.encoded(vector.get())?;
            body.push_str(&format!("{comma}{{\"object\":\"embedding\",\"index\":{index},\"embedding\":{vector}}}"));
        }
        body.push_str(&format!("],\"model\":{}", Value::from(self.model.as_str())));
        if let Some(Usage { input, .. }) = usage {
            body.push_str(&format!(",\"usage\":{{\"prompt_tokens\":{input},\"total_tokens\":{input}}}"));
        }
        body.push('}');
        Ok(Answer { body: Bytes::from(body), usage, text: String::new(), tool_calls: 0 })
    }

    /// The numbers as the provider wrote them, without white space; or the base64 of their little-endian
    /// 32-bit floats.
    fn encoded(&self, vector: &str) -> Result<String, UpstreamError> {
        if !vector.starts_with('[') {
            return Err(no_vector());
        }
        if !self.as_base64 {
            return Ok(vector.chars().filter(|c| !c.is_ascii_whitespace()).collect());
        }
        let numbers: Vec<f32> = serde_json::from_str(vector).map_err(|_| no_vector())?;
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Ok(format!("\"{}\"", base64::encode(&bytes)))
    }
}

fn no_vector() -> UpstreamError {
    UpstreamError::new(Class::Server, "the provider's answer holds an embedding that is no list of numbers")
}
