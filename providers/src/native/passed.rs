//! Calls that are passed on, and their answers: JSON, events, or bytes of any kind. Listened to only for
//! what they say they used.
//! It must not know what any path is for, but where pictures are made.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use http::Method;
use http::header::CONTENT_TYPE;

use super::write_event;
use crate::call::{Answer, Call, StreamTranslator, UpstreamRequest};
use crate::event::{Event, Kind};
use crate::failure;
use crate::frames::{Frame, Framing};
use crate::grammar::usage;
use crate::passage::Passage;
use crate::usage::Usage;

/// Where pictures are made: what is generated there is theirs, also where the parts are not told.
const PICTURES: &str = "/images/";

/// The call as it came, with its model's name at the provider.
pub(crate) fn request(call: &Call<'_>) -> UpstreamRequest {
    let request = call.request;
    let body = request.for_model(call.model);
    let mut headers = request.headers.clone();
    let (method, path) = match &request.passage {
        Some(passage) => {
            let kind = passage.content_type.clone().filter(|_| !body.is_empty());
            headers.extend(kind.map(|kind| (CONTENT_TYPE, kind)));
            (passage.method.clone(), passage.path.clone())
        }
        None => (Method::POST, call.endpoint.path().to_owned()),
    };
    UpstreamRequest { method, headers, ..UpstreamRequest::carry(path, body, Framing::Sse) }
}

/// A whole answer in JSON. What is read again later was paid for before.
pub(crate) fn answer(call: &Call<'_>, body: Bytes) -> Answer {
    let passage = call.request.passage.as_deref();
    let usage = passage.filter(|passage| passage.method == Method::POST).and_then(|passage| told(passage, &body));
    Answer { body, usage, text: String::new(), tool_calls: 0 }
}

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    error: Option<Value>,
    #[serde(rename = "type")]
    kind: Option<Value>,
}

fn told(passage: &Passage, data: &[u8]) -> Option<Usage> {
    let told: Told<'_> = serde_json::from_slice(data).ok()?;
    usage_of(&told, passage)
}

fn usage_of(told: &Told<'_>, passage: &Passage) -> Option<Usage> {
    let object = told.usage.map(|usage| usage.get()).filter(|usage| usage.starts_with('{'))?;
    let mut usage = usage::read(object.as_bytes())?.usage;
    if passage.path.starts_with(PICTURES) && usage.image_out == 0 {
        usage.image_out = usage.output;
    }
    Some(usage)
}

/// Listens to the events of one answer.
#[derive(Debug)]
pub(crate) struct Stream {
    passage: Option<Passage>,
    is_over: bool,
    out: Vec<u8>,
}

impl Stream {
    /// A listener to the answer to `call`.
    pub(crate) fn new(call: &Call<'_>) -> Self {
        Self { passage: call.request.passage.as_deref().cloned(), is_over: false, out: Vec::new() }
    }
}

impl StreamTranslator for Stream {
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        if self.is_over {
            return;
        }
        write_event(&mut self.out, frame);
        if frame.data.trim_ascii() == b"[DONE]" {
            self.is_over = true;
            return emit(Event { bytes: &self.out, kind: Kind::Done });
        }
        let told = serde_json::from_slice::<Told<'_>>(&frame.data).ok();
        if let Some(Told { error, kind, .. }) = &told {
            let given = error.as_ref().filter(|error| !error.is_null());
            if given.is_some() || kind.as_ref().is_some_and(|kind| kind == "error") {
                self.is_over = true;
                let whole = serde_json::from_slice(&frame.data).unwrap_or_default();
                let failed = failure::from_value(given.unwrap_or(&whole));
                return emit(Event { bytes: &self.out, kind: Kind::Error(failed) });
            }
        }
        emit(Event { bytes: &self.out, kind: Kind::Delta("") });
        let usage = told.as_ref().zip(self.passage.as_ref()).and_then(|(told, passage)| usage_of(told, passage));
        if let Some(usage) = usage {
            emit(Event { bytes: b"", kind: Kind::Usage(usage) });
        }
    }

    /// Nobody knows how such a stream ends: when its bytes do, it is complete.
    fn end(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        if !self.is_over {
            self.is_over = true;
            emit(Event { bytes: b"", kind: Kind::Done });
        }
    }
}

/// Passes bytes of any kind: sound, a file, text.
#[derive(Debug, Default)]
pub struct Plain;

impl StreamTranslator for Plain {
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        emit(Event { bytes: &frame.data, kind: Kind::Delta("") });
    }

    fn end(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        emit(Event { bytes: b"", kind: Kind::Done });
    }
}
