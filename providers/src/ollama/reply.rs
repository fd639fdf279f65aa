//! Ollama's answers, whole and as JSON lines. A line holds what a whole answer holds, a bit at a
//! time, so one reader serves both.
//! It must not know requests or addresses.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::told;
use crate::call::{Answer, Call, StreamTranslator};
use crate::embeddings::Writer;
use crate::error::{Class, UpstreamError};
use crate::event::{Event, Kind};
use crate::frames::Frame;
use crate::reply::{AnswerWriter, ChunkWriter, Piece};
use crate::usage::Usage;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    model: Option<String>,
    message: Option<Message>,
    logprobs: Option<Vec<Value>>,
    done: bool,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    content: Option<String>,
    thinking: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToolCall {
    id: Option<String>,
    function: Function,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Function {
    name: String,
    arguments: Option<Value>,
}

impl Line {
    /// What was counted. Without the prompt's count (old versions leave it out when the whole prompt
    /// was cached) nothing is told: an estimate is nearer than a zero.
    fn usage(&self) -> Option<Usage> {
        Some(Usage { input: self.prompt_eval_count?, output: self.eval_count.unwrap_or(0), ..Usage::default() })
    }
}

/// Reads the lines of one answer in order.
#[derive(Debug, Default)]
struct Reader {
    calls: usize,
    done: bool,
}

impl Reader {
    fn read(&mut self, line: Line, say: &mut dyn FnMut(Piece)) {
        let message = line.message.unwrap_or_default();
        if let Some(text) = message.thinking.filter(|text| !text.is_empty()) {
            say(Piece::Reasoning(text));
        }
        if let Some(text) = message.content.filter(|text| !text.is_empty()) {
            say(Piece::Text(text));
        }
        for call in message.tool_calls.into_iter().flatten() {
            let index = self.calls;
            self.calls += 1;
            say(Piece::ToolStart { id: call.id.unwrap_or_default(), name: call.function.name, extra: Map::new() });
            say(Piece::ToolArguments { index, text: arguments(call.function.arguments) });
        }
        if let Some(tokens) = line.logprobs.filter(|tokens| !tokens.is_empty()) {
            say(Piece::Logprobs(tokens));
        }
        if line.done {
            self.done = true;
            say(Piece::Finish(match line.done_reason.as_deref() {
                Some("length") => "length",
                _ if self.calls > 0 => "tool_calls",
                _ => "stop",
            }));
        }
    }
}

/// Arguments are an object; some builds wrote the object as text.
fn arguments(arguments: Option<Value>) -> String {
    match arguments {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(text)) => text,
        Some(value) => value.to_string(),
    }
}

/// A whole answer.
pub(super) fn answer(call: &Call<'_>, body: &[u8]) -> Result<Answer, UpstreamError> {
    let line: Line = serde_json::from_slice(body).map_err(|fault| UpstreamError::unreadable(&fault))?;
    if let Some(error) = &line.error {
        return Err(told(error, None));
    }
    if !line.done {
        return Err(UpstreamError::new(Class::Server, "the provider's answer is not complete"));
    }
    let mut writer = AnswerWriter::new(call);
    writer.identify(None, line.model.as_deref());
    let usage = line.usage();
    Reader::default().read(line, &mut |piece| writer.piece(0, piece));
    Ok(writer.finish(usage))
}

/// A streamed answer.
pub(super) struct Translator {
    reader: Reader,
    writer: ChunkWriter,
    failed: bool,
}

impl Translator {
    /// For the answer to `call`.
    pub(super) fn new(call: &Call<'_>) -> Self {
        Self { reader: Reader::default(), writer: ChunkWriter::new(call), failed: false }
    }
}

impl StreamTranslator for Translator {
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        if self.reader.done || self.failed {
            return;
        }
        let Ok(line) = serde_json::from_slice::<Line>(&frame.data) else {
            emit(Event { bytes: b"", kind: Kind::Malformed });
            return;
        };
        if let Some(error) = &line.error {
            self.failed = true;
            emit(Event { bytes: b"", kind: Kind::Error(told(error, None)) });
            return;
        }
        self.writer.identify(None, line.model.as_deref());
        if let Some(usage) = line.usage() {
            self.writer.usage(usage, emit);
        }
        let writer = &mut self.writer;
        self.reader.read(line, &mut |piece| writer.piece(0, piece, emit));
        if self.reader.done {
            self.writer.done(emit);
        }
    }

    /// The last line says that it is the last; a stream without one was cut.
    fn end(&mut self, _emit: &mut dyn FnMut(Event<'_>)) {}
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Embedded {
    embeddings: Vec<Box<RawValue>>,
    /// The only one, from servers that know but the older `/api/embeddings`.
    embedding: Option<Box<RawValue>>,
    prompt_eval_count: Option<u64>,
    error: Option<Value>,
}

/// The vectors of `/api/embed`.
pub(super) fn embedded(call: &Call<'_>, body: &[u8]) -> Result<Answer, UpstreamError> {
    let embedded: Embedded = serde_json::from_slice(body).map_err(|fault| UpstreamError::unreadable(&fault))?;
    if let Some(error) = &embedded.error {
        return Err(told(error, None));
    }
    let usage = embedded.prompt_eval_count.map(|input| Usage { input, ..Usage::default() });
    let vectors: Vec<Box<RawValue>> = embedded.embeddings.into_iter().chain(embedded.embedding).collect();
    Writer::new(call).answer(&vectors, usage)
}
