//! Answers of the older completions API, whole and streamed, as they are:
//! <https://platform.openai.com/docs/api-reference/completions>.
//! It must not know requests.

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{if_json, read, unreadable, write_event};
use crate::call::{Answer, Call, StreamTranslator};
use crate::error::UpstreamError;
use crate::event::{Event, Kind};
use crate::failure;
use crate::frames::Frame;
use crate::grammar::{Ending, usage};
use crate::usage::Usage;

/// An answer, whole or a chunk of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Completion<'a> {
    choices: Option<Vec<Choice>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    index: Option<Value>,
    text: Option<Value>,
    finish_reason: Option<Value>,
}

impl Choice {
    fn index(&self) -> u64 {
        self.index.as_ref().and_then(Value::as_u64).unwrap_or(0)
    }

    fn text(&self) -> &str {
        self.text.as_ref().and_then(Value::as_str).unwrap_or_default()
    }

    fn has_finished(&self) -> bool {
        self.finish_reason.as_ref().is_some_and(Value::is_string)
    }
}

impl Completion<'_> {
    fn usage(&self) -> Option<Usage> {
        usage::read(self.usage?.get().as_bytes()).map(|reported| reported.usage)
    }

    fn failure(&self) -> Option<UpstreamError> {
        self.error.as_ref().filter(|error| !error.is_null()).map(failure::from_value)
    }
}

/// A whole completion.
///
/// # Errors
/// An [`UpstreamError`] when the body is an error or no completion.
pub(crate) fn answer(headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
    let completion: Completion<'_> = read(headers, &body)?;
    if let Some(error) = completion.failure() {
        return Err(error);
    }
    let Some(choices) = &completion.choices else { return Err(unreadable(headers, &body)) };
    let usage = completion.usage();
    let said = choices.iter().map(Choice::text).filter(|_| usage.is_none());
    let text = said.collect();
    Ok(Answer { body, usage, text, tool_calls: 0 })
}

/// Listens to one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    wants_usage: bool,
    ending: Ending,
    /// The choices that have begun, and whether they have finished.
    choices: Vec<(u64, bool)>,
    has_usage: bool,
    is_over: bool,
    out: Vec<u8>,
}

impl Stream {
    /// A listener to the answer to `call`.
    pub(crate) fn new(call: &Call<'_>, ending: Ending) -> Self {
        let wants_usage = call.request.wants_usage();
        Self { wants_usage, ending, choices: Vec::new(), has_usage: false, is_over: false, out: Vec::with_capacity(512) }
    }

    /// A choice that was not there yet, or has finished now; whether it finished before.
    fn note(&mut self, choice: &Choice) -> bool {
        let finishes = choice.has_finished();
        match self.choices.iter_mut().find(|(index, _)| *index == choice.index()) {
            Some((_, finished)) => std::mem::replace(finished, *finished || finishes),
            None => {
                self.choices.push((choice.index(), finishes));
                false
            }
        }
    }

    fn hear(&mut self, completion: &Completion<'_>, emit: &mut dyn FnMut(Event<'_>)) {
        let choices = completion.choices.as_deref().unwrap_or_default();
        let mut finished = 0;
        let mut text = String::new();
        for choice in choices {
            let had_finished = self.note(choice);
            finished += usize::from(choice.has_finished() && !had_finished);
            text.push_str(choice.text());
        }
        // The chunk that has nothing but the bill is for those who asked for it.
        let is_bill = choices.is_empty() && completion.usage.is_some();
        let bytes: &[u8] = if is_bill && !self.wants_usage { b"" } else { &self.out };
        let kind = if text.is_empty() { Kind::Open } else { Kind::Delta(&text) };
        emit(Event { bytes, kind });
        if let Some(usage) = completion.usage() {
            self.has_usage = true;
            emit(Event { bytes: b"", kind: Kind::Usage(usage) });
        }
        for _ in 0..finished {
            emit(Event { bytes: b"", kind: Kind::Finish { tool_calls: 0 } });
        }
    }

    fn close(&mut self, is_marked: bool, emit: &mut dyn FnMut(Event<'_>)) {
        self.is_over = true;
        let all_finished = !self.choices.is_empty() && self.choices.iter().all(|(_, finished)| *finished);
        // Who sent both the bill and the end has said everything.
        let is_complete = all_finished || (is_marked && self.has_usage && !self.choices.is_empty());
        if is_complete && (is_marked || self.ending == Ending::Either) {
            emit(Event { bytes: b"data: [DONE]\n\n", kind: Kind::Done });
        }
    }
}

impl StreamTranslator for Stream {
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        if self.is_over {
            return;
        }
        if frame.data.trim_ascii() == b"[DONE]" {
            return self.close(true, emit);
        }
        write_event(&mut self.out, frame);
        let Ok(completion) = serde_json::from_slice::<Completion<'_>>(&frame.data) else {
            return emit(Event { bytes: if_json(&frame.data, &self.out), kind: Kind::Malformed });
        };
        if let Some(error) = completion.failure() {
            self.is_over = true;
            return emit(Event { bytes: b"", kind: Kind::Error(error) });
        }
        self.hear(&completion, emit);
    }

    fn end(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        if !self.is_over {
            self.close(false, emit);
        }
    }
}
