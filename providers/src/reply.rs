//! Writes answers in OpenAI's grammar for the wires that are not OpenAI's. An adapter says what the
//! model said, piece by piece ([`Piece`]); whether that becomes stream chunks or one whole answer is
//! decided here, so that the two cannot differ.
//! It must not know any particular wire.

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::call::{Answer, Call};
use crate::event::{Event, Kind};
use crate::usage::Usage;

/// One piece of what a model said, for the choice with this index.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Visible text.
    Text(String),
    /// Thought, where the provider shows it.
    Reasoning(String),
    /// A tool call begins. Calls are numbered from 0 in the order they begin.
    ToolStart {
        /// The call's id; empty where the wire gives none.
        id: String,
        /// The function's name.
        name: String,
        /// Further members of the call (`extra_content`, …).
        extra: Map<String, Value>,
    },
    /// More of the arguments, as JSON text, of the call with this number.
    ToolArguments {
        /// The call's number.
        index: usize,
        /// JSON text.
        text: String,
    },
    /// A further member of the message beyond OpenAI's (`thinking_blocks`, `citations`, …). On a
    /// stream it goes into a delta as it is; in a whole answer arrays are joined, others replaced.
    Extra(&'static str, Value),
    /// Log probabilities of the text so far, as OpenAI's `logprobs.content` lists them.
    Logprobs(Vec<Value>),
    /// The choice ends: OpenAI's finish reason.
    Finish(&'static str),
}

/// The piece made of `text`, unless there is none.
pub(crate) fn say_text(text: Option<String>, piece: impl FnOnce(String) -> Piece, say: &mut dyn FnMut(Piece)) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        say(piece(text));
    }
}

/// Under what an answer goes out.
#[derive(Debug)]
struct Name {
    /// The gateway's own id, from which call ids are made.
    own_id: String,
    id: String,
    created: u64,
    model: String,
}

impl Name {
    /// The call's, until the wire tells its own.
    fn new(call: &Call<'_>) -> Self {
        Self { own_id: call.id.to_owned(), id: call.id.to_owned(), created: call.created, model: call.model.to_owned() }
    }

    fn identify(&mut self, id: Option<&str>, model: Option<&str>) {
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            id.clone_into(&mut self.id);
        }
        if let Some(model) = model.filter(|model| !model.is_empty()) {
            model.clone_into(&mut self.model);
        }
    }
}

const DONE: &[u8] = b"data: [DONE]\n\n";

/// Writes a streamed answer.
#[derive(Debug)]
pub struct ChunkWriter {
    name: Name,
    wants_usage: bool,
    usage: Option<Usage>,
    choices: Vec<Choice>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that come before the choices: they are the same in every chunk of a stream, and
    /// stay. 0 before the first chunk.
    head: usize,
}

#[derive(Clone, Debug, Default)]
struct Choice {
    opened: bool,
    finished: bool,
    /// The ids of the calls so far.
    calls: Vec<String>,
    /// Whether each call had any arguments.
    arguments_seen: Vec<bool>,
}

/// What every chunk begins with, in the order in which OpenAI writes it.
#[derive(Serialize)]
struct Head<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
}

/// What a chunk says of one choice.
#[derive(Serialize)]
struct Part<D> {
    index: usize,
    delta: D,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
}

/// More of the arguments of a call.
#[derive(Serialize)]
struct MoreArguments<'a> {
    index: usize,
    function: Only<&'a str>,
}

/// An object with one member.
struct Only<V>(&'static str, V);

impl<V: Serialize> Serialize for Only<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.0, &self.1)])
    }
}

/// A delta with nothing in it.
#[derive(Serialize)]
struct Nothing {}

impl ChunkWriter {
    /// A writer for the answer to `call`, under its id, time and model until the wire tells its own.
    #[must_use]
    pub fn new(call: &Call<'_>) -> Self {
        Self {
            name: Name::new(call),
            wants_usage: call.request.wants_usage(),
            usage: None,
            choices: Vec::new(),
            buffer: Vec::with_capacity(256),
            head: 0,
        }
    }

    /// The provider's own id and model; only before the first piece, so that a stream has one id.
    pub fn identify(&mut self, id: Option<&str>, model: Option<&str>) {
        if self.choices.iter().any(|choice| choice.opened) {
            return;
        }
        self.name.identify(id, model);
    }

    /// What the provider has counted so far; a later one replaces an earlier one.
    pub fn usage(&mut self, usage: Usage, emit: &mut dyn FnMut(Event<'_>)) {
        self.usage = Some(usage);
        emit(Event { bytes: b"", kind: Kind::Usage(usage) });
    }

    /// The answer has begun: the chunk with the role, once per choice.
    pub fn open(&mut self, choice: usize, emit: &mut dyn FnMut(Event<'_>)) {
        if self.choice(choice).opened {
            return;
        }
        self.choice(choice).opened = true;
        let delta = json!({"role": "assistant", "content": ""});
        self.write(&[Part { index: choice, delta, logprobs: None, finish_reason: None }], None);
        emit(Event { bytes: &self.buffer, kind: Kind::Open });
    }

    /// One piece; nothing is written after a choice has finished.
    pub fn piece(&mut self, choice: usize, piece: Piece, emit: &mut dyn FnMut(Event<'_>)) {
        if self.choice(choice).finished {
            return;
        }
        self.open(choice, emit);
        match piece {
            Piece::Text(text) => self.delta(choice, Only("content", &text), &text, emit),
            Piece::Reasoning(text) => self.delta(choice, Only("reasoning_content", &text), &text, emit),
            Piece::ToolStart { id, name, extra } => self.tool_start(choice, (id, name, extra), emit),
            Piece::ToolArguments { index, text } => self.tool_arguments(choice, index, &text, emit),
            Piece::Extra(key, value) => self.delta(choice, Only(key, value), "", emit),
            Piece::Logprobs(tokens) => self.logprobs(choice, tokens, emit),
            Piece::Finish(reason) => self.finish(choice, reason, emit),
        }
    }

    /// The answer is complete: the usage chunk if the client asked, then `[DONE]`.
    pub fn done(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        let Some(usage) = self.usage.filter(|_| self.wants_usage) else {
            emit(Event { bytes: DONE, kind: Kind::Done });
            return;
        };
        self.write::<Nothing>(&[], Some(openai_usage(&usage)));
        self.buffer.extend_from_slice(DONE);
        emit(Event { bytes: &self.buffer, kind: Kind::Done });
    }

    /// Whether every choice that began has finished, and at least one did.
    #[must_use]
    pub fn all_finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.iter().all(|choice| choice.finished)
    }

    fn tool_start(
        &mut self,
        choice: usize,
        (id, name, extra): (String, String, Map<String, Value>),
        emit: &mut dyn FnMut(Event<'_>),
    ) {
        let index = self.choice(choice).calls.len();
        let id = call_id(id, &self.choices[choice].calls, (&self.name.own_id, choice));
        self.choice(choice).calls.push(id.clone());
        self.choice(choice).arguments_seen.push(false);
        let mut call = json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}});
        if let Some(members) = call.as_object_mut() {
            members.extend(extra);
        }
        self.delta(choice, Only("tool_calls", [call]), &name, emit);
    }

    fn tool_arguments(&mut self, choice: usize, index: usize, text: &str, emit: &mut dyn FnMut(Event<'_>)) {
        if let Some(seen) = self.choice(choice).arguments_seen.get_mut(index) {
            *seen |= !text.is_empty();
        }
        let more = MoreArguments { index, function: Only("arguments", text) };
        self.delta(choice, Only("tool_calls", [more]), text, emit);
    }

    /// A call that never got arguments has the arguments `{}`.
    fn finish(&mut self, choice: usize, reason: &'static str, emit: &mut dyn FnMut(Event<'_>)) {
        let without: Vec<usize> =
            self.choice(choice).arguments_seen.iter().enumerate().filter(|(_, seen)| !**seen).map(|(index, _)| index).collect();
        for index in without {
            self.tool_arguments(choice, index, "{}", emit);
        }
        self.choice(choice).finished = true;
        let tool_calls = self.choice(choice).calls.len();
        self.write(&[Part { index: choice, delta: Nothing {}, logprobs: None, finish_reason: Some(reason) }], None);
        emit(Event { bytes: &self.buffer, kind: Kind::Finish { tool_calls } });
    }

    fn delta(&mut self, choice: usize, delta: impl Serialize, text: &str, emit: &mut dyn FnMut(Event<'_>)) {
        self.write(&[Part { index: choice, delta, logprobs: None, finish_reason: None }], None);
        emit(Event { bytes: &self.buffer, kind: Kind::Delta(text) });
    }

    /// A chunk of its own, with nothing new in its delta.
    fn logprobs(&mut self, choice: usize, tokens: Vec<Value>, emit: &mut dyn FnMut(Event<'_>)) {
        let logprobs = Some(json!({"content": tokens, "refusal": null}));
        self.write(&[Part { index: choice, delta: Nothing {}, logprobs, finish_reason: None }], None);
        emit(Event { bytes: &self.buffer, kind: Kind::Delta("") });
    }

    fn choice(&mut self, index: usize) -> &mut Choice {
        if self.choices.len() <= index {
            self.choices.resize(index + 1, Choice::default());
        }
        &mut self.choices[index]
    }

    fn write<D: Serialize>(&mut self, choices: &[Part<D>], usage: Option<Value>) {
        if self.head == 0 {
            self.write_head();
        }
        self.buffer.truncate(self.head);
        write_json(&mut self.buffer, choices);
        if let Some(usage) = usage {
            self.buffer.extend_from_slice(b",\"usage\":");
            write_json(&mut self.buffer, &usage);
        }
        self.buffer.extend_from_slice(b"}\n\n");
    }

    fn write_head(&mut self) {
        let Name { id, created, model, .. } = &self.name;
        self.buffer.extend_from_slice(b"data: ");
        write_json(&mut self.buffer, &Head { id, object: "chat.completion.chunk", created: *created, model });
        // The object goes on with the choices.
        self.buffer.pop();
        self.buffer.extend_from_slice(b",\"choices\":");
        self.head = self.buffer.len();
    }
}

/// The id under which a call goes to the client: the wire's own, or, where that is empty or was given
/// to an earlier call of the choice, one made from the answer's id and the call's place. So it is the same
/// however the answer is cut, and no two calls share one.
fn call_id(given: String, taken: &[String], place: (&str, usize)) -> String {
    if !given.is_empty() && !taken.contains(&given) {
        return given;
    }
    let (answer_id, choice) = place;
    let stem = answer_id.strip_prefix("chatcmpl-").unwrap_or(answer_id);
    format!("call_{stem}_{choice}_{}", taken.len())
}

/// One SSE data line and its blank line.
pub(crate) fn write_sse(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(b"data: ");
    write_json(out, value);
    out.extend_from_slice(b"\n\n");
}

fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Neither memory nor what is written here can refuse.
    let _ = serde_json::to_writer(out, value);
}

/// Writes a whole answer.
#[derive(Debug)]
pub struct AnswerWriter {
    name: Name,
    choices: Vec<Message>,
    text: String,
}

#[derive(Clone, Debug, Default)]
struct Message {
    content: Option<String>,
    reasoning: Option<String>,
    calls: Vec<(Value, String)>,
    call_ids: Vec<String>,
    extra: Map<String, Value>,
    logprobs: Vec<Value>,
    finish: Option<&'static str>,
}

impl AnswerWriter {
    /// A writer for the answer to `call`.
    #[must_use]
    pub fn new(call: &Call<'_>) -> Self {
        Self { name: Name::new(call), choices: Vec::new(), text: String::new() }
    }

    /// The provider's own id and model.
    pub fn identify(&mut self, id: Option<&str>, model: Option<&str>) {
        self.name.identify(id, model);
    }

    /// One piece.
    pub fn piece(&mut self, choice: usize, piece: Piece) {
        if self.choices.len() <= choice {
            self.choices.resize(choice + 1, Message::default());
        }
        let message = &mut self.choices[choice];
        match piece {
            Piece::Text(text) => {
                self.text.push_str(&text);
                message.content.get_or_insert_default().push_str(&text);
            }
            Piece::Reasoning(text) => {
                self.text.push_str(&text);
                message.reasoning.get_or_insert_default().push_str(&text);
            }
            Piece::ToolStart { id, name, extra } => {
                self.text.push_str(&name);
                let id = call_id(id, &message.call_ids, (&self.name.own_id, choice));
                message.call_ids.push(id.clone());
                let mut call = json!({"id": id, "type": "function", "function": {"name": name}});
                if let Some(members) = call.as_object_mut() {
                    members.extend(extra);
                }
                message.calls.push((call, String::new()));
            }
            Piece::ToolArguments { index, text } => {
                self.text.push_str(&text);
                if let Some((_, arguments)) = message.calls.get_mut(index) {
                    arguments.push_str(&text);
                }
            }
            Piece::Extra(key, value) => join(&mut message.extra, key, value),
            Piece::Logprobs(tokens) => message.logprobs.extend(tokens),
            Piece::Finish(reason) => message.finish = Some(reason),
        }
    }

    /// The whole answer.
    #[must_use]
    pub fn finish(self, usage: Option<Usage>) -> Answer {
        let tool_calls = self.choices.iter().map(|message| message.calls.len()).sum();
        let choices: Vec<Value> =
            self.choices.into_iter().enumerate().map(|(index, message)| message.into_choice(index)).collect();
        let mut body = json!({
            "id": self.name.id, "object": "chat.completion", "created": self.name.created, "model": self.name.model, "choices": choices,
        });
        if let (Some(usage), Some(members)) = (&usage, body.as_object_mut()) {
            members.insert("usage".to_owned(), openai_usage(usage));
        }
        let text = if usage.is_some() { String::new() } else { self.text };
        Answer { body: Bytes::from(body.to_string()), usage, text, tool_calls }
    }
}

impl Message {
    fn into_choice(self, index: usize) -> Value {
        let mut message = json!({"role": "assistant", "content": self.content, "refusal": null});
        if let Some(members) = message.as_object_mut() {
            if let Some(reasoning) = self.reasoning {
                members.insert("reasoning_content".to_owned(), Value::from(reasoning));
            }
            if !self.calls.is_empty() {
                members.insert("tool_calls".to_owned(), self.calls.into_iter().map(with_arguments).collect());
            }
            members.extend(self.extra);
        }
        let logprobs = (!self.logprobs.is_empty()).then(|| json!({"content": self.logprobs, "refusal": null}));
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.finish})
    }
}

fn with_arguments((mut call, arguments): (Value, String)) -> Value {
    let arguments = if arguments.is_empty() { "{}".to_owned() } else { arguments };
    call["function"]["arguments"] = Value::from(arguments);
    call
}

fn join(extra: &mut Map<String, Value>, key: &str, value: Value) {
    match (extra.get_mut(key), value) {
        (Some(Value::Array(have)), Value::Array(more)) => have.extend(more),
        (_, value) => {
            extra.insert(key.to_owned(), value);
        }
    }
}

/// Usage as OpenAI writes it.
pub(crate) fn openai_usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input.saturating_add(usage.output),
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write.saturating_add(usage.cache_write_1h),
            "audio_tokens": usage.audio_in,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.audio_out,
        },
    })
}
