//! Claude on Bedrock by `InvokeModel`: Anthropic's messages under AWS's paths, signatures and frames. It
//! says more than Converse does (Anthropic's own tools, citations, context editing).
//! It must not know how a request is signed.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::answer::{self, Listener, MessageStream};
use super::request::{self, Host};
use crate::call::{Account, Answer, Call, Endpoint, Facts, StreamTranslator, UpstreamRequest};
use crate::error::{Refusal, UpstreamError};
use crate::event::{Event, Kind};
use crate::frames::{Frame, Framing};
use crate::native::messages;
use crate::segment::of_model;
use crate::{Provider, base64, bedrock};

/// Claude models on Bedrock in Anthropic's own words,
/// <https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html>.
#[derive(Debug)]
pub struct ClaudeOnBedrock;

impl Provider for ClaudeOnBedrock {
    /// The key of `bedrock` turns on that kind; this one is configured by name.
    fn facts(&self) -> Facts {
        Facts { kind: "bedrock-anthropic", key_variable: None, serves: &[Endpoint::Messages], ..bedrock::Bedrock.facts() }
    }

    fn base_url(&self, account: &Account) -> Option<String> {
        bedrock::Bedrock.base_url(account)
    }

    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal> {
        let verb = if call.request.stream { "invoke-with-response-stream" } else { "invoke" };
        let path = format!("/model/{}/{verb}", of_model(call.model)?);
        if call.endpoint == Endpoint::Messages {
            return Ok(UpstreamRequest::carry(path, messages::body(call, Host::Bedrock)?, Framing::AwsEventStream));
        }
        let mut said = request::say(call, Host::Bedrock)?;
        if !said.betas.is_empty() {
            said.body.insert("anthropic_beta".to_owned(), said.betas.into());
        }
        Ok(UpstreamRequest::post(path, &Value::Object(said.body), Framing::AwsEventStream, said.dropped))
    }

    fn answer(&self, call: &Call<'_>, _headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
        if call.endpoint == Endpoint::Messages { messages::answer(call, body) } else { answer::whole(call, &body) }
    }

    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
        bedrock::error::read(status, headers, body)
    }

    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator> {
        let messages: Box<dyn Listener> = match call.endpoint {
            Endpoint::Messages => Box::new(messages::Stream::new(call)),
            _ => Box::new(MessageStream::new(call)),
        };
        Box::new(ChunkStream { messages, has_failed: false })
    }
}

/// A part of the answer: one of Anthropic's events in base64.
#[derive(Deserialize)]
struct Chunk {
    bytes: String,
}

/// Reads Anthropic's events out of AWS's frames.
struct ChunkStream {
    messages: Box<dyn Listener>,
    has_failed: bool,
}

impl StreamTranslator for ChunkStream {
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        if self.has_failed {
            return;
        }
        let name = frame.name.as_deref().unwrap_or_default();
        if let Some(named) = name.strip_prefix(b"exception:") {
            self.has_failed = true;
            let error = bedrock::error::inside(&String::from_utf8_lossy(named), &frame.data);
            return emit(Event { bytes: b"", kind: Kind::Error(error) });
        }
        let chunk = serde_json::from_slice::<Chunk>(&frame.data).ok().and_then(|chunk| base64::decode(&chunk.bytes));
        match chunk {
            Some(event) => self.messages.event(&Bytes::from(event), emit),
            None => emit(Event { bytes: b"", kind: Kind::Malformed }),
        }
    }

    fn end(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        if !self.has_failed {
            self.messages.end(emit);
        }
    }
}
