//! The tokens of a request, from the client's own JSON, for prompts whose bill never came.
//! It must not know prices, and embedded files are never counted as text.

use providers::chat::{Chat, Content, File, ImageUrl, JsonSchema, Message, Part, ResponseFormat, Tool, ToolChoice};
use serde_json::Value;

use super::{Counter, Estimate, PER_CALL, PER_MESSAGE, REPLY, declarations};

/// A name before a message.
const PER_NAME: u64 = 1;
/// The message that holds the tool declarations.
const TOOLS_MESSAGE: u64 = 7;
/// What that message saves when the request has a system message of its own: they share a frame.
const SHARED_FRAME: u64 = 3;
/// An image at `detail: low`; OpenAI's guide "Images and vision".
const IMAGE_LOW: u64 = 85;
/// Any other image: 85 and four tiles of 170, which is 1024 × 1024; the pixels are not looked at.
const IMAGE_HIGH: u64 = 765;
/// Bytes of base64 for a token of sound: a tenth of a second of 16-bit mono at 16 kHz.
const BASE64_PER_AUDIO_TOKEN: u64 = 4_267;
/// A document of one page, text and picture, where its size says nothing.
const FILE: u64 = 1_000;

/// A careful count of a request's prompt, from the client's JSON body: chat completions (messages,
/// tools, schemas, files), `input` and `prompt` of the other endpoints, else every text in it.
/// It follows OpenAI's way of counting; for other tokenizers and hidden prompts what was learned corrects it.
#[must_use]
pub fn input(body: &[u8]) -> Estimate {
    let mut counter = Counter::new();
    match serde_json::from_slice::<Chat>(body) {
        Ok(chat) if chat.messages.is_empty() => {
            tools(&mut counter, &chat);
            for prompt in ["instructions", "input", "prompt"].iter().filter_map(|field| chat.other.get(*field)) {
                texts(&mut counter, prompt);
            }
        }
        Ok(chat) => request(&mut counter, &chat),
        Err(_) => {
            if let Ok(value) = serde_json::from_slice::<Value>(body) {
                foreign(&mut counter, &value);
            }
        }
    }
    counter.estimate()
}

/// A request in the words of another API: its messages in their frames, its tools as a chat would declare them,
/// and every other text in it.
fn foreign(counter: &mut Counter, body: &Value) {
    let list = |name: &str| body.get(name).and_then(Value::as_array);
    if let Some(messages) = list("messages") {
        // The role of each is among the texts.
        counter.fixed(REPLY + (PER_MESSAGE - 1) * messages.len() as u64);
    }
    let mut declared = String::new();
    list("tools").into_iter().flatten().for_each(|tool| declare(&mut declared, tool));
    declaration(counter, &declared, false);
    match body {
        Value::Object(fields) => {
            fields
                .iter()
                .filter(|(name, _)| !["model", "tools"].contains(&name.as_str()))
                .for_each(|(_, value)| texts(counter, value));
        }
        other => texts(counter, other),
    }
}

fn request(counter: &mut Counter, chat: &Chat) {
    counter.fixed(REPLY);
    if let Some(system) = chat.other.get("system") {
        texts(counter, system);
    }
    for message in &chat.messages {
        one_message(counter, message);
    }
    tools(counter, chat);
    if let Some(ResponseFormat::JsonSchema { json_schema }) = &chat.response_format {
        schema(counter, json_schema);
    }
}

fn one_message(counter: &mut Counter, message: &Message) {
    counter.fixed(PER_MESSAGE);
    if let Some(name) = &message.name {
        counter.fixed(PER_NAME);
        counter.text(name);
    }
    match &message.content {
        Some(Content::Text(text)) => counter.text(text),
        Some(Content::Parts(parts)) => parts.iter().for_each(|part| one_part(counter, part)),
        None => {}
    }
    if let Some(refusal) = &message.refusal {
        counter.text(refusal);
    }
    for call in message.tool_calls.iter().flatten() {
        counter.fixed(PER_CALL);
        counter.text(&call.function.name);
        counter.text(&call.function.arguments);
    }
    for words in ["function_call", "reasoning_content", "reasoning"].iter().filter_map(|field| message.other.get(*field)) {
        texts(counter, words);
    }
}

fn one_part(counter: &mut Counter, part: &Part) {
    match part {
        Part::Text { text, .. } => counter.text(text),
        Part::Refusal { refusal } => counter.text(refusal),
        Part::ImageUrl { image_url, .. } => counter.fixed(match image_url {
            ImageUrl::Object { detail: Some(detail), .. } if detail == "low" => IMAGE_LOW,
            _ => IMAGE_HIGH,
        }),
        Part::InputAudio { input_audio, .. } => {
            counter.fixed((input_audio.data.len() as u64).div_ceil(BASE64_PER_AUDIO_TOKEN));
        }
        Part::File { file: File { .. }, .. } => counter.fixed(FILE),
    }
}

fn tools(counter: &mut Counter, chat: &Chat) {
    let mut text = String::new();
    for tool in chat.tools.iter().flatten() {
        declared(&mut text, tool);
    }
    for function in chat.other.get("functions").and_then(Value::as_array).into_iter().flatten() {
        let word = |field: &str| function.get(field).and_then(Value::as_str);
        declarations::function(&mut text, word("name").unwrap_or_default(), word("description"), function.get("parameters"));
    }
    if text.is_empty() {
        return;
    }
    let has_system = chat.messages.iter().any(|message| matches!(message.role.as_str(), "system" | "developer"));
    declaration(counter, &text, has_system);
    if let Some(ToolChoice::Function(name)) = &chat.tool_choice {
        counter.fixed(PER_MESSAGE);
        counter.text(name);
    }
}

/// The message that holds these declarations, if there are any.
fn declaration(counter: &mut Counter, text: &str, has_system: bool) {
    if text.is_empty() {
        return;
    }
    counter.extras = 1;
    counter.fixed(if has_system { TOOLS_MESSAGE - SHARED_FRAME } else { TOOLS_MESSAGE });
    counter.text("namespace functions {\n\n");
    counter.text(text);
    counter.text("} // namespace functions");
}

fn declared(text: &mut String, tool: &Tool) {
    match &tool.function {
        Some(function) => {
            let parameters = function.parameters.as_ref();
            declarations::function(text, &function.name, function.description.as_deref(), parameters);
        }
        None => declare(text, &Value::Object(tool.other.clone())),
    }
}

/// A tool as the Responses and the Messages API declare it, or whatever else is one.
fn declare(text: &mut String, tool: &Value) {
    let function = tool.get("function").unwrap_or(tool);
    match function.get("name").and_then(Value::as_str) {
        Some(name) => {
            let parameters = function.get("parameters").or_else(|| function.get("input_schema"));
            declarations::function(text, name, function.get("description").and_then(Value::as_str), parameters);
        }
        None => text.push_str(&tool.to_string()),
    }
}

fn schema(counter: &mut Counter, wanted: &JsonSchema) {
    counter.text(&wanted.name);
    counter.text(wanted.description.as_deref().unwrap_or_default());
    if let Some(schema) = &wanted.schema {
        counter.text(&schema.to_string());
    }
}

/// Every text in a value, names of fields left out; a number is a token that is already made.
fn texts(counter: &mut Counter, value: &Value) {
    match value {
        Value::String(text) if is_embedded(text) => counter.fixed(FILE),
        Value::String(text) => counter.text(text),
        Value::Array(values) => values.iter().for_each(|value| texts(counter, value)),
        Value::Object(fields) => fields.values().for_each(|value| texts(counter, value)),
        Value::Number(_) => counter.fixed(1),
        Value::Null | Value::Bool(_) => {}
    }
}

/// Whether a string is a file: a `data:` URL, or so long without a blank that nobody wrote it.
fn is_embedded(text: &str) -> bool {
    const LONGEST_WORD: usize = 4_096;
    let head = text.as_bytes().get(..LONGEST_WORD);
    text.starts_with("data:") || head.is_some_and(|head| head.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'<'))
}
