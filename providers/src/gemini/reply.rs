//! What Gemini answers, whole or streamed, as pieces of an OpenAI answer. A stream is a row of
//! whole answers that each hold a bit more, so one reader serves both.
//! Reference: <https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse>.
//! It must not know requests or addresses.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error;
use super::partial::{PartialArg, PartialCall};
use crate::call::{Answer, Call, StreamTranslator};
use crate::error::{Class, UpstreamError};
use crate::event::{Event, Kind};
use crate::frames::Frame;
use crate::reply::{AnswerWriter, ChunkWriter, Piece};
use crate::usage::{Tier, Usage};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Response {
    candidates: Option<Vec<Candidate>>,
    prompt_feedback: Option<PromptFeedback>,
    usage_metadata: Option<UsageMetadata>,
    model_version: Option<String>,
    response_id: Option<String>,
    error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Candidate {
    index: Option<usize>,
    content: Option<Content>,
    finish_reason: Option<Value>,
    finish_message: Option<String>,
    logprobs_result: Option<LogprobsResult>,
    grounding_metadata: Option<Value>,
    citation_metadata: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Content {
    parts: Option<Vec<Part>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Part {
    text: Option<String>,
    thought: Option<bool>,
    thought_signature: Option<String>,
    function_call: Option<FunctionCall>,
    inline_data: Option<InlineData>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FunctionCall {
    id: Option<String>,
    /// Left out in a further part of the call before.
    name: Option<String>,
    args: Option<Value>,
    partial_args: Option<Vec<PartialArg>>,
    will_continue: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct InlineData {
    mime_type: String,
    data: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PromptFeedback {
    block_reason: Option<Value>,
    block_reason_message: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LogprobsResult {
    top_candidates: Option<Vec<TopCandidates>>,
    chosen_candidates: Option<Vec<Token>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TopCandidates {
    candidates: Option<Vec<Token>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Token {
    token: String,
    log_probability: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct UsageMetadata {
    prompt_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
    tool_use_prompt_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
    total_token_count: Option<u64>,
    prompt_tokens_details: Option<Vec<ModalityCount>>,
    tool_use_prompt_tokens_details: Option<Vec<ModalityCount>>,
    candidates_tokens_details: Option<Vec<ModalityCount>>,
    service_tier: Option<Value>,
    traffic_type: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ModalityCount {
    modality: Value,
    token_count: u64,
}

impl Response {
    fn is_blocked(&self) -> bool {
        self.prompt_feedback.as_ref().is_some_and(|feedback| feedback.block_reason.is_some())
    }

    /// The counts, where there are any. Vertex AI puts an object without counts into every chunk but
    /// the last; with a blocked prompt it means that nothing was counted.
    fn usage(&self) -> Option<Usage> {
        let metadata = self.usage_metadata.as_ref()?;
        let counted = metadata.prompt_token_count.or(metadata.total_token_count).is_some();
        (counted || self.is_blocked()).then(|| metadata.usage())
    }
}

impl UsageMetadata {
    /// The counts in the gateway's meaning.
    fn usage(&self) -> Usage {
        let thoughts = self.thoughts_token_count.unwrap_or(0);
        let prompt = self.prompt_token_count.unwrap_or(0).saturating_add(self.tool_use_prompt_token_count.unwrap_or(0));
        Usage {
            input: prompt,
            output: self.candidates_token_count.unwrap_or(0).saturating_add(thoughts),
            cache_read: self.cached_content_token_count.unwrap_or(0).min(prompt),
            reasoning: thoughts,
            audio_in: self.of_prompt(AUDIO),
            audio_out: tokens_of(&self.candidates_tokens_details, AUDIO),
            image_in: self.of_prompt(IMAGE),
            image_out: tokens_of(&self.candidates_tokens_details, IMAGE),
            tier: self.tier(),
            ..Usage::default()
        }
    }

    fn of_prompt(&self, modality: Modality) -> u64 {
        let of_tools = tokens_of(&self.tool_use_prompt_tokens_details, modality);
        tokens_of(&self.prompt_tokens_details, modality).saturating_add(of_tools)
    }

    /// AI Studio names a tier, Vertex AI a kind of traffic (`ON_DEMAND_PRIORITY`).
    fn tier(&self) -> Tier {
        let named = self.service_tier.as_ref().or(self.traffic_type.as_ref()).and_then(Value::as_str);
        let name = named.unwrap_or_default().to_ascii_lowercase();
        Tier::from_name(name.rsplit('_').next().unwrap_or_default())
    }
}

/// A modality: its name, and its number for clients that ask for enums as numbers.
type Modality = (&'static str, u64);
const IMAGE: Modality = ("IMAGE", 2);
const AUDIO: Modality = ("AUDIO", 4);

/// The tokens of one modality in a breakdown.
fn tokens_of(details: &Option<Vec<ModalityCount>>, (name, number): Modality) -> u64 {
    let counts = details.iter().flatten().filter(|count| count.modality == name || count.modality == number);
    counts.map(|count| count.token_count).fold(0, u64::saturating_add)
}

/// Reads the answers of one call in order, keeping what must be known across them.
#[derive(Debug, Default)]
struct Reader {
    choices: Vec<Choice>,
}

#[derive(Clone, Debug, Default)]
struct Choice {
    calls: usize,
    /// The call whose arguments are still arriving.
    partial: Option<PartialCall>,
    finish: Option<&'static str>,
}

impl Reader {
    fn choice(&mut self, index: usize) -> &mut Choice {
        if self.choices.len() <= index {
            self.choices.resize(index + 1, Choice::default());
        }
        &mut self.choices[index]
    }

    /// Tells the pieces of one response to `say`. Finish reasons are kept: whether one is
    /// `tool_calls` is known only at the end.
    fn read(&mut self, response: Response, say: &mut dyn FnMut(usize, Piece)) {
        if response.is_blocked() {
            self.choice(0).finish = Some("content_filter");
            if let Some(message) = response.prompt_feedback.and_then(|feedback| feedback.block_reason_message) {
                say(0, Piece::Extra("refusal", Value::from(message)));
            }
        }
        for (position, candidate) in response.candidates.into_iter().flatten().enumerate() {
            let index = candidate.index.unwrap_or(position).min(MAX_CHOICES - 1);
            self.candidate(index, candidate, say);
        }
    }

    fn candidate(&mut self, index: usize, candidate: Candidate, say: &mut dyn FnMut(usize, Piece)) {
        let reason = candidate.finish_reason.as_ref().map(finish);
        self.choice(index);
        for part in candidate.content.and_then(|content| content.parts).into_iter().flatten() {
            self.part(index, part, say);
        }
        if let Some(logprobs) = candidate.logprobs_result.map(logprobs).filter(|tokens| !tokens.is_empty()) {
            say(index, Piece::Logprobs(logprobs));
        }
        for (name, value) in
            [("grounding_metadata", candidate.grounding_metadata), ("citation_metadata", candidate.citation_metadata)]
        {
            if let Some(value) = value {
                say(index, Piece::Extra(name, value));
            }
        }
        if let Some(reason) = reason {
            self.choice(index).finish = Some(reason);
            let is_withheld = reason == "content_filter" || (reason == FAILED_CALL && self.choice(index).calls == 0);
            if let Some(message) = candidate.finish_message.filter(|_| is_withheld) {
                say(index, Piece::Extra("refusal", Value::from(message)));
            }
        }
    }

    fn part(&mut self, index: usize, part: Part, say: &mut dyn FnMut(usize, Piece)) {
        let is_thought = part.thought == Some(true);
        if let Some(text) = part.text.filter(|text| !text.is_empty()) {
            say(index, if is_thought { Piece::Reasoning(text) } else { Piece::Text(text) });
        }
        let signature = part.thought_signature.map(|signature| json!({"google": {"thought_signature": signature}}));
        if let Some(file) = part.inline_data {
            let url = format!("data:{};base64,{}", file.mime_type, file.data);
            say(index, Piece::Extra("images", json!([{"type": "image_url", "image_url": {"url": url}}])));
        }
        if let Some(call) = part.function_call {
            self.call(index, call, signature, say);
        } else if let Some(signature) = signature {
            say(index, Piece::Extra("extra_content", signature));
        }
    }

    /// A function call, whole or the next part of one.
    fn call(&mut self, index: usize, call: FunctionCall, signature: Option<Value>, say: &mut dyn FnMut(usize, Piece)) {
        let parts = call.partial_args.unwrap_or_default();
        let goes_on = call.will_continue == Some(true);
        if let Some(name) = call.name.filter(|name| !name.is_empty()) {
            self.complete_call(index, say);
            let number = self.choice(index).calls;
            self.choice(index).calls += 1;
            let extra = signature.map(|signature| Map::from_iter([("extra_content".to_owned(), signature)]));
            say(index, Piece::ToolStart { id: call.id.unwrap_or_default(), name, extra: extra.unwrap_or_default() });
            if goes_on || !parts.is_empty() {
                self.choice(index).partial = Some(PartialCall::new(number));
            } else {
                let args = call.args.filter(Value::is_object).unwrap_or_else(|| json!({}));
                say(index, Piece::ToolArguments { index: number, text: args.to_string() });
            }
        }
        if let Some(partial) = &mut self.choice(index).partial {
            parts.into_iter().for_each(|part| partial.add(part));
        }
        if !goes_on {
            self.complete_call(index, say);
        }
    }

    fn complete_call(&mut self, index: usize, say: &mut dyn FnMut(usize, Piece)) {
        if let Some(partial) = self.choice(index).partial.take() {
            say(index, Piece::ToolArguments { index: partial.index, text: partial.text() });
        }
    }

    /// Whether something was answered and every choice that began has ended.
    fn is_complete(&self) -> bool {
        !self.choices.is_empty() && self.choices.iter().all(|choice| choice.finish.is_some())
    }

    /// Says how every choice ends.
    fn finish(&mut self, say: &mut dyn FnMut(usize, Piece)) {
        for index in 0..self.choices.len() {
            self.complete_call(index, say);
            let choice = &self.choices[index];
            let reason = match choice.finish {
                Some("stop" | FAILED_CALL) if choice.calls > 0 => Some("tool_calls"),
                Some(FAILED_CALL) => Some("content_filter"),
                reason => reason,
            };
            if let Some(reason) = reason {
                say(index, Piece::Finish(reason));
            }
        }
    }
}

/// Most choices that are kept apart; `candidateCount` goes to 8.
const MAX_CHOICES: usize = 128;

/// A call that Gemini could not finish or should not have made: its own word until it is known whether
/// the answer holds calls all the same.
const FAILED_CALL: &str = "failed_call";

/// OpenAI's word for a finish reason; numbers are those of the enum, for answers asked with
/// `enum-encoding=int`. What OpenAI has no word for is an answer withheld: `content_filter`, never a
/// `stop` that claims the answer is whole.
fn finish(reason: &Value) -> &'static str {
    match (reason.as_str(), reason.as_u64()) {
        (Some("STOP" | "FINISH_REASON_UNSPECIFIED"), _) | (_, Some(0 | 1)) => "stop",
        (Some("MAX_TOKENS" | "CONTINUATION"), _) | (_, Some(2)) => "length",
        (Some("MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" | "TOO_MANY_TOOL_CALLS"), _) => FAILED_CALL,
        _ => "content_filter",
    }
}

fn logprobs(result: LogprobsResult) -> Vec<Value> {
    let mut alternatives = result.top_candidates.unwrap_or_default().into_iter();
    let chosen = result.chosen_candidates.unwrap_or_default().into_iter();
    chosen
        .map(|token| {
            let top = alternatives.next().and_then(|top| top.candidates).unwrap_or_default();
            let mut said = logprob(&token);
            said["top_logprobs"] = top.iter().map(logprob).collect();
            said
        })
        .collect()
}

fn logprob(token: &Token) -> Value {
    json!({"token": token.token, "logprob": token.log_probability, "bytes": token.token.as_bytes()})
}

/// A whole answer; or all of a stream that came as one array, whose elements each hold a bit of it.
pub(crate) fn answer(call: &Call<'_>, body: &[u8]) -> Result<Answer, UpstreamError> {
    let is_array = body.trim_ascii_start().starts_with(b"[");
    let read = if is_array { serde_json::from_slice(body) } else { serde_json::from_slice(body).map(|one| vec![one]) };
    let responses: Vec<Response> = read.map_err(|fault| UpstreamError::unreadable(&fault))?;
    let mut reader = Reader::default();
    let mut writer = AnswerWriter::new(call);
    let mut usage = None;
    for mut response in responses {
        if let Some(error) = response.error.take() {
            return Err(error::in_band(&error));
        }
        writer.identify(response.response_id.as_deref(), response.model_version.as_deref());
        usage = response.usage().or(usage);
        reader.read(response, &mut |choice, piece| writer.piece(choice, piece));
    }
    if reader.choices.is_empty() {
        return Err(UpstreamError::new(Class::Server, "the provider answered without a candidate"));
    }
    for choice in &mut reader.choices {
        // A whole answer is at its end, whether it says so or not.
        choice.finish.get_or_insert("stop");
    }
    reader.finish(&mut |choice, piece| writer.piece(choice, piece));
    Ok(writer.finish(usage))
}

/// A streamed answer.
pub(crate) struct Translator {
    reader: Reader,
    writer: ChunkWriter,
    failed: bool,
}

impl Translator {
    /// For the answer to `call`.
    pub(crate) fn new(call: &Call<'_>) -> Self {
        Self { reader: Reader::default(), writer: ChunkWriter::new(call), failed: false }
    }
}

impl StreamTranslator for Translator {
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        let read = |data: &[u8]| serde_json::from_slice::<Response>(data).ok();
        if let Some(response) = read(&frame.data) {
            self.response(response, emit);
        } else if let Some(responses) = frame.data.split(|byte| *byte == b'\n').map(read).collect::<Option<Vec<_>>>() {
            // Who drops the blank lines between events makes one of many.
            responses.into_iter().for_each(|response| self.response(response, emit));
        } else if let Some(error) = error::in_array(&frame.data) {
            self.fail(error, emit);
        } else {
            emit(Event { bytes: b"", kind: Kind::Malformed });
        }
    }

    fn end(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        if self.failed || !self.reader.is_complete() {
            return;
        }
        let writer = &mut self.writer;
        self.reader.finish(&mut |choice, piece| writer.piece(choice, piece, emit));
        self.writer.done(emit);
    }
}

impl Translator {
    fn response(&mut self, mut response: Response, emit: &mut dyn FnMut(Event<'_>)) {
        if let Some(error) = response.error.take() {
            self.fail(error::in_band(&error), emit);
            return;
        }
        self.writer.identify(response.response_id.as_deref(), response.model_version.as_deref());
        if let Some(usage) = response.usage() {
            self.writer.usage(usage, emit);
        }
        let writer = &mut self.writer;
        self.reader.read(response, &mut |choice, piece| writer.piece(choice, piece, emit));
    }

    fn fail(&mut self, error: UpstreamError, emit: &mut dyn FnMut(Event<'_>)) {
        self.failed = true;
        emit(Event { bytes: b"", kind: Kind::Error(error) });
    }
}
