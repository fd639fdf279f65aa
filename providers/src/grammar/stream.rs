//! The stream translator for OpenAI's wire. Each event is looked at once; what is in grammar goes
//! out as it came, anything else is rebuilt. Finish reasons and usage are held to the end, because
//! dialects repeat them, send them early, or go on after them.
//! It must not know which provider speaks.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::calls::Calls;
use super::glance::{Glance, Span, glance};
use super::mend::{self, Finish};
use super::usage;
use crate::call::{Call, StreamTranslator};
use crate::error::{Class, UpstreamError};
use crate::event::{Event, Kind};
use crate::failure;
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
        let says_something = !self.text.is_empty() || choice.tool.is_some() || choice.has_other || choice.details.is_some();
        emit(Event { bytes: &self.out, kind: if says_something { Kind::Delta(&self.text) } else { Kind::Open } });
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

/// The rebuilding path.
impl Stream {
    fn rebuild(&mut self, text: &str, is_error: bool, emit: &mut dyn FnMut(Event<'_>)) {
        match mend::parse(text) {
            Some(Value::Object(chunk)) if is_error || failure::is_failure(&chunk) => self.failed_chunk(chunk, emit),
            Some(Value::Object(chunk)) => self.chunk(chunk, emit),
            Some(Value::Array(items)) if items.iter().any(|item| item.get("error").is_some()) => {
                self.fail(failure::from_value(&Value::Array(items)), emit);
            }
            Some(value) if is_error => self.fail(failure::from_value(&value), emit),
            None if is_error => self.fail(failure::from_value(&Value::from(text)), emit),
            _ => emit(Event { bytes: b"", kind: Kind::Malformed }),
        }
    }

    /// An error, perhaps beside a last piece of text and the usage.
    fn failed_chunk(&mut self, mut chunk: Map<String, Value>, emit: &mut dyn FnMut(Event<'_>)) {
        let error = failure::from_value(&Value::Object(chunk.clone()));
        chunk.shift_remove("error");
        self.chunk(chunk, emit);
        self.fail(error, emit);
    }

    fn fail(&mut self, error: UpstreamError, emit: &mut dyn FnMut(Event<'_>)) {
        if self.state == State::Running {
            self.state = State::Failed;
            emit(Event { bytes: b"", kind: Kind::Error(error) });
        }
    }

    fn chunk(&mut self, mut chunk: Map<String, Value>, emit: &mut dyn FnMut(Event<'_>)) {
        if let Some(tier) = chunk.get("service_tier").and_then(Value::as_str).filter(|tier| !tier.is_empty()) {
            self.tier = Tier::from_name(tier);
        }
        let groq = chunk.get("x_groq").and_then(|own| own.get("usage")).cloned();
        let told = chunk.shift_remove("usage").filter(|usage| !usage.is_null()).or(groq);
        let choices = chunk.shift_remove("choices");
        if self.state == State::Running
            && let Some(Value::Array(choices)) = choices.filter(|choices| choices.as_array().is_some_and(|c| !c.is_empty()))
        {
            self.envelope(&mut chunk);
            self.chunk_choices(chunk, choices, emit);
        } else if told.is_none() && self.state == State::Running {
            emit(Event { bytes: b"", kind: Kind::Open });
        }
        if let Some(usage @ Value::Object(_)) = told {
            self.hear_usage(&usage.to_string(), None, emit);
        }
    }

    fn chunk_choices(&mut self, mut chunk: Map<String, Value>, choices: Vec<Value>, emit: &mut dyn FnMut(Event<'_>)) {
        self.text.clear();
        let (mut kept, mut says_something, mut failure) = (Vec::new(), false, None);
        for choice in choices {
            let Value::Object(choice) = choice else { continue };
            let Mended { open, end, error } = self.choice(choice, &mut says_something);
            kept.extend(open);
            failure = failure.or(error);
            if let Some((finished, end)) = end {
                chunk.insert("choices".to_owned(), Value::Array(vec![end]));
                let data = Bytes::from(Value::Object(chunk.clone()).to_string());
                self.finishes.push(Finished { data, ..finished });
            }
        }
        if !kept.is_empty() {
            chunk.insert("choices".to_owned(), Value::Array(kept));
            self.out.clear();
            crate::reply::write_sse(&mut self.out, &Value::Object(chunk));
            emit(Event { bytes: &self.out, kind: if says_something { Kind::Delta(&self.text) } else { Kind::Open } });
        }
        if let Some(error) = failure {
            self.fail(error, emit);
        }
    }

    /// One choice: what goes out now, and what is held as its end.
    fn choice(&mut self, mut choice: Map<String, Value>, says_something: &mut bool) -> Mended {
        let index = choice.get("index").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok()).unwrap_or(0);
        if index >= MAX_CHOICES {
            return Mended::default();
        }
        let mut delta = self.delta_of(&mut choice, index);
        self.begin(index);
        mend::flatten_content(&mut delta);
        mend::only_text(&mut delta);
        mend::drop_hollow(&mut delta);
        self.place_calls(&mut delta, index);
        let speaks = mend::spoken(&delta, &mut self.text);
        *says_something |= speaks;
        let finish = mend::finish(choice.get("finish_reason"));
        let error = match finish {
            Finish::Failure(class) => Some(failure_of(&choice, class)),
            _ => choice.get("error").filter(|error| error.is_object()).map(failure::from_value),
        };
        choice.shift_remove("error");
        choice.insert("index".to_owned(), Value::from(index));
        choice.insert("finish_reason".to_owned(), Value::Null);
        let before = self.finishes.iter().position(|finished| finished.choice == index);
        let Finish::Reason(reason) = finish else {
            choice.insert("delta".to_owned(), Value::Object(delta));
            let is_kept = speaks || (before.is_none() && error.is_none());
            return Mended { open: is_kept.then_some(Value::Object(choice)), end: None, error };
        };
        let mut end = choice.clone();
        end.insert("finish_reason".to_owned(), Value::from(reason));
        let open = speaks.then(|| {
            choice.insert("delta".to_owned(), Value::Object(std::mem::take(&mut delta)));
            end.shift_remove("logprobs");
            Value::Object(choice)
        });
        end.insert("delta".to_owned(), Value::Object(delta));
        let is_plain_stop = reason == "stop";
        match before {
            Some(at) if self.finishes[at].is_plain_stop && !is_plain_stop => drop(self.finishes.remove(at)),
            Some(_) => return Mended { open, end: None, error },
            None => {}
        }
        Mended { open, end: Some((Finished { choice: index, is_plain_stop, data: Bytes::new() }, Value::Object(end))), error }
    }

    /// The delta; for dialects that send a whole message or plain text instead, that. A message
    /// beside the delta, or after it, only repeats what was said.
    fn delta_of(&mut self, choice: &mut Map<String, Value>, index: usize) -> Map<String, Value> {
        let has_begun = self.choices.get(index).is_some_and(|choice| choice.has_begun);
        let message = choice.shift_remove("message");
        let delta = choice.get_mut("delta").map(Value::take);
        match (delta, message, choice.get("text")) {
            (Some(Value::Object(delta)), ..) => delta,
            (_, Some(Value::Object(message)), _) if !has_begun => {
                // A whole answer where a stream was asked for: there will be no `[DONE]`.
                self.ending = Ending::Either;
                message
            }
            (_, _, Some(text @ Value::String(_))) => Map::from_iter([("content".to_owned(), text.clone())]),
            _ => Map::new(),
        }
    }

    fn place_calls(&mut self, delta: &mut Map<String, Value>, index: usize) {
        let fragments = match delta.get_mut("tool_calls") {
            Some(Value::Array(fragments)) => std::mem::take(fragments),
            Some(Value::Object(only)) => vec![Value::Object(std::mem::take(only))],
            Some(Value::Null) | None => return,
            Some(_) => Vec::new(),
        };
        let choice = &mut self.choices[index];
        let id = &self.id;
        let mut placed = Vec::new();
        for fragment in fragments {
            let Value::Object(mut fragment) = fragment else { continue };
            if choice.calls.place(&mut fragment, |number| minted_id(id, index, number)) {
                choice.has_calls = true;
                placed.push(Value::Object(fragment));
            }
        }
        if placed.is_empty() {
            delta.shift_remove("tool_calls");
        } else {
            delta.insert("tool_calls".to_owned(), Value::Array(placed));
        }
    }

    /// The members of a chunk that OpenAI always writes.
    fn envelope(&mut self, chunk: &mut Map<String, Value>) {
        let given =
            |chunk: &Map<String, Value>, name: &str| chunk.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (id, model) = (given(chunk, "id"), given(chunk, "model"));
        if !self.has_own_id && !id.is_empty() {
            self.id = id;
        }
        chunk.shift_remove("error");
        // Whatever the first chunk goes out under stays the stream's id.
        self.has_own_id = true;
        if !self.has_own_model && !model.is_empty() {
            self.model.clone_from(&model);
            self.has_own_model = true;
        }
        let created = chunk.get("created").and_then(mend::whole_seconds);
        self.created = self.created.or(created);
        chunk.insert("id".to_owned(), Value::from(self.id.as_str()));
        chunk.insert("object".to_owned(), Value::from("chat.completion.chunk"));
        chunk.insert("created".to_owned(), Value::from(created.or(self.created).unwrap_or(self.fallback_created)));
        if model.is_empty() {
            chunk.insert("model".to_owned(), Value::from(self.model.as_str()));
        }
    }
}

/// What becomes of one choice of a chunk.
#[derive(Default)]
struct Mended {
    open: Option<Value>,
    end: Option<(Finished, Value)>,
    error: Option<UpstreamError>,
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
            emit(Event { bytes: &self.out, kind: Kind::Finish });
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

fn failure_of(choice: &Map<String, Value>, class: Class) -> UpstreamError {
    match choice.get("error").filter(|error| !error.is_null()) {
        Some(error) => failure::from_value(error),
        None => {
            let reason = choice.get("finish_reason").and_then(Value::as_str).unwrap_or_default();
            UpstreamError::new(class, format!("the provider ended the answer with the reason `{reason}`"))
        }
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
