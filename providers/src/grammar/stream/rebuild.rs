//! The rebuilding path of the stream translator: one event of a dialect, taken apart and said again
//! in OpenAI's grammar. Nothing that was said is lost.
//! It must not know which provider speaks, nor how a stream ends.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Ending, Finished, MAX_CHOICES, State, Stream, minted_id};
use crate::error::{Class, UpstreamError};
use crate::event::{Event, Kind};
use crate::failure;
use crate::grammar::mend::{self, Finish};
use crate::usage::Tier;

impl Stream {
    pub(super) fn rebuild(&mut self, text: &str, is_error: bool, emit: &mut dyn FnMut(Event<'_>)) {
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

fn failure_of(choice: &Map<String, Value>, class: Class) -> UpstreamError {
    match choice.get("error").filter(|error| !error.is_null()) {
        Some(error) => failure::from_value(error),
        None => {
            let reason = choice.get("finish_reason").and_then(Value::as_str).unwrap_or_default();
            UpstreamError::new(class, format!("the provider ended the answer with the reason `{reason}`"))
        }
    }
}
