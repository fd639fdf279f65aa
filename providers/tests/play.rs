//! Plays a provider's answer through an adapter, cut in any way, and writes down what came out.
//! It must not know any particular wire.

use bytes::Bytes;
use providers::frames::{Decoder, Frame, Framing};
use providers::{Account, Call, ChatRequest, Endpoint, Event, Kind, Provider, UpstreamError, Usage};
use serde_json::Value;

use crate::aws;

/// Everything a stream said, in a form that can be compared.
#[derive(Debug, Default, PartialEq)]
pub struct Played {
    /// The client's bytes.
    pub bytes: String,
    /// Generated text, in order.
    pub text: String,
    /// The last usage told.
    pub usage: Option<Usage>,
    /// The error in mid-stream, if any.
    pub error: Option<UpstreamError>,
    /// How many choices finished.
    pub finished: usize,
    /// How many tools they called.
    pub tool_calls: usize,
    /// Frames skipped.
    pub malformed: usize,
    /// Whether the answer was complete.
    pub done: bool,
}

impl Played {
    fn hear(&mut self, event: &Event<'_>) {
        self.bytes.push_str(std::str::from_utf8(event.bytes).unwrap());
        match &event.kind {
            Kind::Open => {}
            Kind::Delta(text) => self.text.push_str(text),
            Kind::Finish { tool_calls } => {
                self.finished += 1;
                self.tool_calls += tool_calls;
            }
            Kind::Usage(usage) => self.usage = Some(*usage),
            Kind::Error(error) => self.error = Some(error.clone()),
            Kind::Malformed => self.malformed += 1,
            Kind::Done => self.done = true,
        }
    }

    /// The JSON of every data line the client got, `[DONE]` left out.
    pub fn chunks(&self) -> Vec<Value> {
        let data = self.bytes.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

/// A chat request from its JSON.
pub fn chat(body: &Value) -> ChatRequest {
    ChatRequest::parse(Bytes::from(body.to_string()), Endpoint::Chat).unwrap()
}

/// A call with fixed id and time.
pub fn call<'a>(request: &'a ChatRequest, model: &'a str, account: &'a Account) -> Call<'a> {
    Call { endpoint: Endpoint::Chat, request, model, account, id: "chatcmpl-test", created: 1_700_000_000, ask_usage: true }
}

/// The frames in `pieces`, each a network read.
pub fn frames(framing: Framing, pieces: &[&[u8]]) -> Vec<Frame> {
    let mut decoder = Decoder::new(framing);
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        frames.extend(std::iter::from_fn(|| decoder.next_frame().unwrap()));
    }
    frames.extend(std::iter::from_fn(|| decoder.finish().unwrap()));
    frames
}

/// One event of a golden case on the wire: `data` under the event's name, its `type`.
pub fn framed(framing: Framing, event: &Value) -> Vec<u8> {
    match framing {
        Framing::Sse => match event["type"].as_str() {
            Some(name) => format!("event: {name}\ndata: {event}\n\n").into_bytes(),
            None => format!("data: {event}\n\n").into_bytes(),
        },
        Framing::JsonLines => format!("{event}\n").into_bytes(),
        Framing::AwsEventStream => aws_message(event),
        Framing::Pieces => event.to_string().into_bytes(),
    }
}

/// AWS's binary message: `exception` or `event` names it, `payload` is what it carries.
fn aws_message(event: &Value) -> Vec<u8> {
    let kind = if event["exception"].is_string() { "exception" } else { "event" };
    aws::message(kind, event[kind].as_str().unwrap(), &event["payload"])
}

/// Plays `pieces` as network reads, then a clean end.
pub fn stream(provider: &dyn Provider, call: &Call<'_>, framing: Framing, pieces: &[&[u8]]) -> Played {
    let mut played = Played::default();
    let mut decoder = Decoder::new(framing);
    let mut translator = provider.stream(call);
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(frame) = decoder.next_frame().unwrap() {
            translator.frame(&frame, &mut |event| played.hear(&event));
        }
    }
    while let Some(frame) = decoder.finish().unwrap() {
        translator.frame(&frame, &mut |event| played.hear(&event));
    }
    translator.end(&mut |event| played.hear(&event));
    played
}

/// Plays `body` whole, byte by byte, and cut in two at every byte (at most about 600 cuts, spread
/// evenly, of a long one); all must say the same.
pub fn stream_every_way(provider: &dyn Provider, call: &Call<'_>, framing: Framing, body: &[u8]) -> Played {
    stream_cut(provider, call, framing, (body, 600))
}

/// As [`stream_every_way`], with about as many cuts as asked for.
pub fn stream_cut(provider: &dyn Provider, call: &Call<'_>, framing: Framing, (body, cuts): (&[u8], usize)) -> Played {
    let whole = stream(provider, call, framing, &[body]);
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(whole, stream(provider, call, framing, &bytes), "byte by byte differs from whole");
    let step = (body.len() / cuts).max(1);
    for cut in (0..=body.len()).step_by(step) {
        let (head, tail) = body.split_at(cut);
        assert_eq!(whole, stream(provider, call, framing, &[head, tail]), "cut at byte {cut} differs from whole");
    }
    whole
}
