//! Calls of Anthropic's Messages API in Anthropic's own words, <https://docs.anthropic.com/en/api/messages>:
//! the body in the frame that a host wants, the answer as it is. What an answer means is heard by the same
//! ear that hears it for chat completions.
//! It must not know how a call travels.

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

use super::{read, unreadable, write_event};
use crate::anthropic::answer::{self, Listener, MessageStream};
use crate::anthropic::request::Host;
use crate::call::{Answer, Call, StreamTranslator};
use crate::error::{Refusal, UpstreamError};
use crate::event::{Event, Kind};
use crate::frames::Frame;
use crate::request::Edit;

/// The body as this host wants it.
///
/// # Errors
/// A [`Refusal`] of betas that are no names.
pub(crate) fn body(call: &Call<'_>, host: Host) -> Result<Bytes, Refusal> {
    let version = host.version().map(|version| Value::from(version).to_string());
    let model = Value::from(call.model).to_string();
    let betas = Value::from(betas(call)?).to_string();
    let mut edits = match host {
        Host::Anthropic => vec![Edit::Set("model", model.as_bytes())],
        Host::Vertex => vec![Edit::Remove("model")],
        Host::Bedrock => vec![Edit::Remove("model"), Edit::Remove("stream")],
    };
    edits.extend(version.as_deref().map(|version| Edit::Set("anthropic_version", version.as_bytes())));
    if host == Host::Bedrock && betas != "[]" {
        edits.push(Edit::Set("anthropic_beta", betas.as_bytes()));
    }
    Ok(call.request.edited(&edits))
}

/// The betas that the client's header names.
fn betas(call: &Call<'_>) -> Result<Vec<String>, Refusal> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let given = call.request.headers.iter().filter(|(name, _)| name == "anthropic-beta");
    let mut betas = Vec::new();
    for name in given.flat_map(|(_, value)| value.to_str().unwrap_or(" ").split(',')) {
        let name = name.trim();
        if !is_name(name) {
            return Err(Refusal::field(
                "anthropic-beta",
                "invalid_value",
                "`anthropic-beta` must name betas, with commas between",
            ));
        }
        betas.push(name.to_owned());
    }
    Ok(betas)
}

/// A whole message.
///
/// # Errors
/// An [`UpstreamError`] when the body is an error or no message.
pub(crate) fn answer(call: &Call<'_>, body: Bytes) -> Result<Answer, UpstreamError> {
    let heard = answer::whole(call, &body)?;
    Ok(Answer { body, ..heard })
}

/// A count of tokens.
///
/// # Errors
/// An [`UpstreamError`] when the body is none.
pub(crate) fn count(headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
    #[derive(Deserialize)]
    struct Count {
        input_tokens: Option<u64>,
    }
    let count: Count = read(headers, &body)?;
    if count.input_tokens.is_none() {
        return Err(unreadable(headers, &body));
    }
    Ok(Answer { body, usage: None, text: String::new(), tool_calls: 0 })
}

/// Listens to one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    heard: MessageStream,
    is_over: bool,
    out: Vec<u8>,
}

impl Stream {
    /// A listener to the answer to `call`.
    pub(crate) fn new(call: &Call<'_>) -> Self {
        Self { heard: MessageStream::new(call), is_over: false, out: Vec::with_capacity(512) }
    }

    /// Lets the client have what is in `out`, once, and tells what `hear` hears.
    fn pass(&mut self, hear: impl FnOnce(&mut MessageStream, &mut dyn FnMut(Event<'_>)), emit: &mut dyn FnMut(Event<'_>)) {
        let Self { heard, is_over, out } = self;
        if *is_over {
            return;
        }
        let mut bytes: &[u8] = out;
        let mut is_heard = false;
        hear(heard, &mut |event| {
            is_heard = true;
            *is_over |= matches!(event.kind, Kind::Error(_) | Kind::Done);
            let is_for_client = !matches!(event.kind, Kind::Error(_) | Kind::Malformed);
            let bytes = if is_for_client { std::mem::take(&mut bytes) } else { b"" };
            emit(Event { bytes, kind: event.kind });
        });
        if !is_heard && !bytes.is_empty() {
            emit(Event { bytes, kind: Kind::Open });
        }
    }
}

impl Listener for Stream {
    fn event(&mut self, data: &Bytes, emit: &mut dyn FnMut(Event<'_>)) {
        #[derive(Deserialize)]
        struct Named {
            #[serde(rename = "type")]
            kind: String,
        }
        let name = serde_json::from_slice::<Named>(data).ok().map(|named| Bytes::from(named.kind));
        write_event(&mut self.out, &Frame { name, data: data.clone() });
        self.pass(|heard, emit| heard.event(data, emit), emit);
    }
}

impl StreamTranslator for Stream {
    /// Servers that imitate Anthropic end with OpenAI's `[DONE]`, which these clients do not know.
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        if frame.data.trim_ascii() != b"[DONE]" {
            write_event(&mut self.out, frame);
            self.pass(|heard, emit| heard.event(&frame.data, emit), emit);
        }
    }

    /// Nothing but `message_stop` ends a message.
    fn end(&mut self, _emit: &mut dyn FnMut(Event<'_>)) {}
}
