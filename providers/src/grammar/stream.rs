//! The stream translator for OpenAI's wire. Each event is looked at once; what is in grammar goes
//! out as it came, anything else is rebuilt. Finish reasons and usage are held to the end, because
//! dialects repeat them, send them early, or go on after them.
//! It must not know which provider speaks.

mod rebuild;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::calls::Calls;
use super::glance::{Glance, Span, glance};
use super::mend;
use super::mould::Mould;
use super::usage;
use crate::call::{Call, StreamTranslator};
use crate::event::{Event, Kind};
use crate::frames::Frame;
use crate::json::append_text;
use crate::usage::Tier;

/// The most choices a stream may have; OpenAI's own limit for `n`.
const MAX_CHOICES: usize = 128;

/// What ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// `[DONE]`; a stream that ends without it was cut.
    Marked,
    /// `[DONE]`, or the end of the bytes once every choice has finished.
    Either,
}

/// Translates one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    id: String,
    has_own_id: bool,
    model: String,
    has_own_model: bool,
    created: Option<u64>,
    fallback_created: u64,
    wants_usage: bool,
    ending: Ending,
    choices: Vec<Choice>,
    finishes: Vec<Finished>,
    usage: Option<HeldUsage>,
    has_usage: bool,
    tier: Tier,
    state: State,
    mould: Mould,
    text: String,
    out: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// The provider reported an error; only usage is still heard.
    Failed,
    Over,
}

#[derive(Debug, Default)]
struct Choice {
    has_begun: bool,
    calls: Calls,
    has_calls: bool,
}

/// The end of one choice, held until the stream is over.
#[derive(Debug)]
struct Finished {
    choice: usize,
    is_plain_stop: bool,
    data: Bytes,
}

#[derive(Debug)]
enum HeldUsage {
    /// A usage chunk that is as OpenAI writes it.
    Chunk(Bytes),
    /// A `usage` object.
    Object(Map<String, Value>),
}

impl Stream {
    /// A translator for the answer to `call`.
    pub fn new(call: &Call<'_>, ending: Ending) -> Self {
        Self {
            id: call.id.to_owned(),
            has_own_id: false,
            model: call.model.to_owned(),
            has_own_model: false,
            created: None,
            fallback_created: call.created,
            wants_usage: call.request.wants_usage(),
            ending,
            choices: Vec::new(),
            finishes: Vec::new(),
            usage: None,
            has_usage: false,
            tier: Tier::default(),
            state: State::Running,
            mould: Mould::default(),
            text: String::new(),
            out: Vec::with_capacity(512),
        }
    }
}

impl StreamTranslator for Stream {
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        if self.state == State::Over {
            return;
        }
        let data = frame.data.slice_ref(frame.data.trim_ascii());
        if *data == *b"[DONE]" {
            return self.close(true, emit);
        }
        let is_error = frame.name.as_deref() == Some(b"error");
        if !is_error
            && self.state == State::Running
            && let Some(quoted) = self.mould.text(&data)
        {
            return self.again(quoted, &data, emit);
        }
        let Ok(text) = std::str::from_utf8(&data) else {
            return self.rebuild(&String::from_utf8_lossy(&data), is_error, emit);
        };
        match glance(&data) {
            Ok(seen) if !is_error && self.state == State::Running && self.is_in_grammar(&seen, text) => {
                self.pass(&seen, text, &data, emit);
            }
            _ => self.rebuild(text, is_error, emit),
        }
    }

    fn end(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        if self.state == State::Running {
            self.close(false, emit);
        }
    }
}

/// The untouched path.
impl Stream {
    fn is_in_grammar(&self, seen: &Glance, text: &str) -> bool {
        let is_same_id = || seen.id.as_ref().is_some_and(|id| !self.has_own_id || unquoted(text, id) == self.id);
        if seen.is_foreign || !is_same_id() || memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_some() {
            return false;
        }
        let choice = &seen.choice;
        if seen.choices == 0 {
            return seen.usage.is_some() && !seen.lacks_object;
        }
        if seen.choices > 1 || seen.usage.is_some() || choice.index >= MAX_CHOICES {
            return false;
        }
        let says_something =
            choice.text.iter().any(Option::is_some) || choice.tool.is_some() || choice.has_other || choice.details.is_some();
        let is_finished = !self.finishes.is_empty() && self.finishes.iter().any(|finished| finished.choice == choice.index);
        let has_known_calls = match (&choice.tool, self.choices.get(choice.index)) {
            (None, _) => true,
            (Some(tool), Some(known)) => known.calls.fits(tool, text),
            (Some(tool), None) => Calls::default().fits(tool, text),
        };
        has_known_calls && if choice.finish.is_some() { !says_something && !is_finished } else { says_something || !is_finished }
    }

    fn pass(&mut self, seen: &Glance, text: &str, data: &Bytes, emit: &mut dyn FnMut(Event<'_>)) {
        self.adopt(seen, text);
        if let Some(tier) = &seen.tier {
            self.tier = Tier::from_name(unquoted(text, tier));
        }
        if let Some(span) = &seen.usage {
            return self.hear_usage(&text[span.clone()], Some(data), emit);
        }
        if let Some(span) = &seen.groq_usage {
            self.hear_usage(&text[span.clone()], None, emit);
        }
        self.out.clear();
        write_mended(&mut self.out, seen, text);
        let choice = &seen.choice;
        self.begin(choice.index);
        if let Some(reason) = &choice.finish {
            let is_plain_stop = unquoted(text, reason) == "stop";
            let is_untouched = !seen.lacks_object;
            let data = if is_untouched { data.clone() } else { Bytes::copy_from_slice(sse_data(&self.out)) };
            self.finishes.push(Finished { choice: choice.index, is_plain_stop, data });
            return;
        }
        self.hear_text(seen, text);
        self.mould.take(seen, data);
        let says_something = !self.text.is_empty() || choice.tool.is_some() || choice.has_other || choice.details.is_some();
        emit(Event { bytes: &self.out, kind: if says_something { Kind::Delta(&self.text) } else { Kind::Open } });
    }

    /// A chunk that passed before, with another text: all that it changed then is as it was.
    fn again(&mut self, quoted: &str, data: &[u8], emit: &mut dyn FnMut(Event<'_>)) {
        self.out.clear();
        write_data(&mut self.out, data);
        self.text.clear();
        append_text(quoted, &mut self.text);
        emit(Event { bytes: &self.out, kind: Kind::Delta(&self.text) });
    }

    /// The first chunk's id, model and time are the stream's.
    fn adopt(&mut self, seen: &Glance, text: &str) {
        if let (false, Some(id)) = (self.has_own_id, &seen.id) {
            unquoted(text, id).clone_into(&mut self.id);
            self.has_own_id = true;
        }
        if let (false, Some(model)) = (self.has_own_model, &seen.model) {
            self.model.clear();
            append_text(&text[model.clone()], &mut self.model);
            self.has_own_model = true;
        }
        if let (None, Some(created)) = (self.created, &seen.created) {
            self.created = text[created.clone()].parse().ok();
        }
    }

    /// Collects what was generated, each text once.
    fn hear_text(&mut self, seen: &Glance, text: &str) {
        self.text.clear();
        let [content, reasoning, other_reasoning, refusal, name, arguments] = &seen.choice.text;
        let thought = reasoning.as_ref().or(other_reasoning.as_ref());
        for span in [content.as_ref(), thought, refusal.as_ref(), name.as_ref(), arguments.as_ref()].into_iter().flatten() {
            append_text(&text[span.clone()], &mut self.text);
        }
        if let (None, Some(details)) = (thought, &seen.choice.details)
            && let Some(details) = mend::parse(&text[details.clone()])
        {
            mend::details_text(&details, &mut self.text);
        }
        if let Some(tool) = &seen.choice.tool {
            let mut append = |span: &Option<Span>| span.iter().for_each(|span| append_text(&text[span.clone()], &mut self.text));
            append(&tool.name);
            let arguments_at = self.text.len();
            tool.arguments.iter().for_each(|span| append_text(&text[span.clone()], &mut self.text));
            let choice = &mut self.choices[seen.choice.index];
            choice.has_calls = true;
            choice.calls.note(tool, text, &self.text[arguments_at..]);
        }
    }
}

/// What both paths share, and the end.
impl Stream {
    fn begin(&mut self, index: usize) {
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Choice::default);
        }
        self.choices[index].has_begun = true;
    }

    /// `raw` is the object; `chunk` the usage chunk around it, if it can go out as it came.
    fn hear_usage(&mut self, raw: &str, chunk: Option<&Bytes>, emit: &mut dyn FnMut(Event<'_>)) {
        let Some(reported) = usage::read(raw.as_bytes()) else { return };
        self.has_usage = true;
        let mut told = reported.usage;
        told.tier = self.tier;
        if self.wants_usage {
            self.usage = match chunk {
                Some(chunk) if reported.is_plain => Some(HeldUsage::Chunk(chunk.clone())),
                _ => mend::parse(raw)
                    .and_then(|value| if let Value::Object(members) = value { Some(members) } else { None })
                    .map(|mut object| {
                        if !reported.is_plain {
                            usage::mend(&mut object, &told);
                        }
                        HeldUsage::Object(object)
                    }),
            };
        }
        emit(Event { bytes: b"", kind: Kind::Usage(told) });
    }

    /// The provider has ended the stream, with `[DONE]` or without.
    fn close(&mut self, is_marked: bool, emit: &mut dyn FnMut(Event<'_>)) {
        if self.state == State::Failed {
            self.state = State::Over;
            return;
        }
        self.state = State::Over;
        let open: Vec<usize> =
            (0..self.choices.len()).filter(|index| self.choices[*index].has_begun && !self.is_finished(*index)).collect();
        // A provider that sent both the bill and the end has said everything, even if it never
        // names a reason.
        let can_conclude = is_marked && self.has_usage && !self.choices.is_empty();
        if can_conclude {
            open.iter().for_each(|index| self.conclude(*index));
        }
        let is_complete =
            (open.is_empty() || can_conclude) && !self.finishes.is_empty() && (is_marked || self.ending == Ending::Either);
        for finished in std::mem::take(&mut self.finishes) {
            self.out.clear();
            write_data(&mut self.out, &finished.data);
            let tool_calls = self.choices.get(finished.choice).map_or(0, |choice| choice.calls.count());
            emit(Event { bytes: &self.out, kind: Kind::Finish { tool_calls } });
        }
        if is_complete {
            self.out.clear();
            self.write_usage();
            self.out.extend_from_slice(b"data: [DONE]\n\n");
            emit(Event { bytes: &self.out, kind: Kind::Done });
        }
    }

    fn is_finished(&self, choice: usize) -> bool {
        self.finishes.iter().any(|finished| finished.choice == choice)
    }

    fn conclude(&mut self, choice: usize) {
        let reason = mend::unsaid_finish(self.choices[choice].has_calls);
        let chunk = self.own_chunk(json!([{"index": choice, "delta": {}, "finish_reason": reason}]));
        let data = Bytes::from(Value::Object(chunk).to_string());
        self.finishes.push(Finished { choice, is_plain_stop: reason == "stop", data });
    }

    fn write_usage(&mut self) {
        match self.usage.take() {
            None => {}
            Some(HeldUsage::Chunk(data)) => write_data(&mut self.out, &data),
            Some(HeldUsage::Object(object)) => {
                let mut chunk = self.own_chunk(json!([]));
                chunk.insert("usage".to_owned(), Value::Object(object));
                crate::reply::write_sse(&mut self.out, &Value::Object(chunk));
            }
        }
    }

    fn own_chunk(&self, choices: Value) -> Map<String, Value> {
        let created = self.created.unwrap_or(self.fallback_created);
        let chunk = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": created, "model": self.model, "choices": choices,
        });
        if let Value::Object(members) = chunk { members } else { Map::new() }
    }
}

/// An id for a call that has none, unlike any other of this stream.
pub(super) fn minted_id(answer: &str, choice: usize, number: usize) -> String {
    let stem: String = answer.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("call_{stem}_{choice}_{number}")
}

fn unquoted<'a>(text: &'a str, quoted: &Span) -> &'a str {
    text.get(quoted.start + 1..quoted.end - 1).unwrap_or_default()
}

fn write_data(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

/// The data of the one event in `out`.
fn sse_data(out: &[u8]) -> &[u8] {
    out.strip_prefix(b"data: ").and_then(|data| data.strip_suffix(b"\n\n")).unwrap_or(out)
}

/// The chunk as it came, with the two members put in whose absence is no other fault.
fn write_mended(out: &mut Vec<u8>, seen: &Glance, text: &str) {
    let mut rest = text;
    out.extend_from_slice(b"data: ");
    let mut copied = 0;
    if seen.lacks_object {
        out.extend_from_slice(b"{\"object\":\"chat.completion.chunk\",");
        rest = rest.get(1..).unwrap_or_default();
        copied = 1;
    }
    if let Some((head, tail)) = seen.choice.lacks_finish_at.and_then(|at| rest.split_at_checked(at - copied)) {
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(b",\"finish_reason\":null");
        rest = tail;
    }
    out.extend_from_slice(rest.as_bytes());
    out.extend_from_slice(b"\n\n");
}
