//! Calls of Anthropic's Messages API in Anthropic's own words, <https://docs.anthropic.com/en/api/messages>:
//! the body in the frame that a host wants, the answer as it is. What an answer means is heard by the same
//! ear that hears it for chat completions.
//! It must not know how a call travels.

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

use super::{if_json, read, type_of, unreadable, write_event};
use crate::anthropic::answer::{self, Listener, MessageStream};
use crate::anthropic::request::Host;
use crate::anthropic::usage::Counted;
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
    #[derive(Deserialize)]
    struct Message {
        #[serde(rename = "type")]
        kind: String,
        usage: Option<Counted>,
    }
    match answer::whole(call, &body) {
        Ok(heard) => Ok(Answer { body, ..heard }),
        // A message all the same, with something in it that is not known here.
        Err(error) => match serde_json::from_slice::<Message>(&body) {
            Ok(Message { kind, usage }) if kind == "message" => {
                let usage = usage.map(|counted| counted.usage());
                Ok(Answer { body, usage, text: String::new(), tool_calls: 0 })
            }
            _ => Err(error),
        },
    }
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

    /// Lets the client have the event that is in `out`, once, and tells what it means.
    fn pass(&mut self, data: &[u8], emit: &mut dyn FnMut(Event<'_>)) {
        let Self { heard, is_over, out } = self;
        if *is_over {
            return;
        }
        let mut bytes: &[u8] = out;
        let mut is_heard = false;
        heard.event(data, &mut |event| {
            if matches!(event.kind, Kind::Malformed) {
                return;
            }
            is_heard = true;
            *is_over |= matches!(event.kind, Kind::Error(_) | Kind::Done);
            let bytes = if matches!(event.kind, Kind::Error(_)) { b"" } else { std::mem::take(&mut bytes) };
            emit(Event { bytes, kind: event.kind });
        });
        if is_heard {
            return;
        }
        // Also a message that never said why it ends has ended when it says that it does.
        match type_of(data).as_deref() {
            Some("message_stop") => {
                *is_over = true;
                emit(Event { bytes, kind: Kind::Done });
            }
            Some(_) => emit(Event { bytes, kind: Kind::Open }),
            None => emit(Event { bytes: if_json(data, bytes), kind: Kind::Malformed }),
        }
    }
}

impl Listener for Stream {
    fn event(&mut self, data: &Bytes, emit: &mut dyn FnMut(Event<'_>)) {
        write_event(&mut self.out, &Frame { name: type_of(data).map(Bytes::from), data: data.clone() });
        self.pass(data, emit);
    }
}

impl StreamTranslator for Stream {
    /// Servers that imitate Anthropic end with OpenAI's `[DONE]`, which these clients do not know.
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        if frame.data.trim_ascii() != b"[DONE]" {
            write_event(&mut self.out, frame);
            self.pass(&frame.data, emit);
        }
    }

    /// Nothing but `message_stop` ends a message.
    fn end(&mut self, _emit: &mut dyn FnMut(Event<'_>)) {}
}
