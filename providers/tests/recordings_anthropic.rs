//! Recorded Anthropic answers, from its own API and from Vertex AI: what the adapter says must be what
//! the bytes say, read here a second time by the simplest code.
//! It must not know how the adapter works.

use std::collections::BTreeMap;

use providers::Class;
use serde_json::{Value, json};

use crate::recorded::{self, Recording, Said, SaidChoice, Tally};

/// A model of Anthropic's, by whose name Vertex AI knows the words.
pub const MODEL: &str = "claude-sonnet-4-5";

/// Why a recording is not one answer.
const REASONS: [(&str, &str); 2] = [
    ("vercel-anthropic-programmatic-tool-calling.1-stream", "the file holds several answers, one after another; a call has one"),
    ("vercel-anthropic-tool-search-regex.1-stream", "the file holds several answers, one after another; a call has one"),
];

#[test]
fn recorded_answers_are_heard_as_they_were_given() {
    let Some(root) = recorded::root() else { return };
    for (place, kind) in [("anthropic", "anthropic"), ("_response_only/anthropic", "anthropic"), ("vertex", "vertex")] {
        let provider = providers::provider(kind).unwrap();
        let mut tally = Tally::new(place);
        for recording in recorded::of(&root, place) {
            let is_chat = !recording.url.contains("count_tokens") && (place != "vertex" || recording.url.contains("/anthropic/"));
            if is_chat {
                tally.hear_of(provider, MODEL, &recording, expected);
            }
        }
        tally.end(&REASONS);
    }
}

/// What the bytes of a recording say.
fn expected(recording: &Recording) -> Said {
    if recording.status != 200 {
        return expected_error(recording.status.as_u16(), &recording.json());
    }
    if recording.is_stream { assembled(events(recording)) } else { expected_message(&recording.json()) }
}

/// Errors built from documentation, one cut stream among them.
#[test]
fn documented_errors_keep_their_class() {
    let Some(root) = recorded::root() else { return };
    let provider = providers::provider("anthropic").unwrap();
    let mut tally = Tally::new("documented errors of Anthropic");
    for recording in recorded::documented(&root, "anthropic") {
        tally.hear(provider, &recording, expected);
    }
    tally.end(&[]);
}

/// A streamed answer and the same answer given whole are heard alike.
#[test]
fn streamed_and_whole_answers_agree() {
    let Some(root) = recorded::root() else { return };
    let provider = providers::provider("anthropic").unwrap();
    let mut tally = Tally::new("Anthropic's streams as whole answers");
    for recording in recorded::of(&root, "anthropic") {
        if recording.is_stream && recording.status == 200 {
            let mut message = message_of(events(&recording)).unwrap();
            message["type"] = "message".into();
            let whole = recording.with("as a whole answer", message.to_string().into_bytes(), false);
            tally.hear(provider, &whole, expected);
        }
    }
    tally.end(&[]);
}

fn events(recording: &Recording) -> impl Iterator<Item = Value> {
    let text = String::from_utf8(recording.body.clone()).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data:")).filter(|data| data.trim() != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap()).collect::<Vec<Value>>().into_iter()
}

/// What a message is heard as when it is put together from its events.
pub fn assembled(events: impl Iterator<Item = Value>) -> Said {
    match message_of(events) {
        Ok(message) if message["stop_reason"].is_null() => Said::cut(),
        Ok(message) => expected_message(&message),
        Err(error) => expected_error(502, &error),
    }
}

/// A message put together from its events; an error where they hold one.
fn message_of(events: impl Iterator<Item = Value>) -> Result<Value, Value> {
    let mut message = json!({"usage": {}});
    let mut blocks: BTreeMap<u64, Value> = BTreeMap::new();
    for event in events {
        let index = event["index"].as_u64().unwrap_or(0);
        match event["type"].as_str().unwrap() {
            "message_start" => overwrite(&mut message["usage"], &event["message"]["usage"]),
            "content_block_start" => {
                blocks.insert(index, event["content_block"].clone());
            }
            "content_block_delta" => add(blocks.get_mut(&index).unwrap(), &event["delta"]),
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                overwrite(&mut message["usage"], &event["usage"]);
            }
            "error" => return Err(event),
            _ => {}
        }
    }
    for block in blocks.values_mut() {
        if let Some(text) = block["partial"].as_str().filter(|text| !text.is_empty()) {
            block["input"] = recorded::arguments(text);
        }
    }
    message["content"] = blocks.into_values().collect();
    Ok(message)
}

fn overwrite(usage: &mut Value, later: &Value) {
    for (name, value) in later.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        usage[name] = value.clone();
    }
}

fn add(block: &mut Value, delta: &Value) {
    for (from, to) in [("text", "text"), ("thinking", "thinking"), ("partial_json", "partial")] {
        if let Some(more) = delta[from].as_str() {
            block[to] = Value::from(block[to].as_str().unwrap_or_default().to_owned() + more);
        }
    }
}

pub fn expected_message(message: &Value) -> Said {
    let blocks = message["content"].as_array().unwrap();
    let joined =
        |kind: &str| blocks.iter().filter(|block| block["type"] == kind).filter_map(|block| block[kind].as_str()).collect();
    let calls = blocks.iter().filter(|block| block["type"] == "tool_use");
    let calls: Vec<_> = calls.map(|call| (call["name"].as_str().unwrap().to_owned(), call["input"].clone())).collect();
    let usage = &message["usage"];
    let runs = usage["iterations"].as_array().into_iter().flatten().filter(|run| run["type"] == "compaction");
    let billed: Vec<&Value> = runs.chain([usage]).collect();
    let count = |pointer: &str| billed.iter().filter_map(|run| run.pointer(pointer)?.as_u64()).sum::<u64>();
    let (read, written) = (count("/cache_read_input_tokens"), count("/cache_creation_input_tokens"));
    let input = count("/input_tokens") + read + written;
    let finish = match message["stop_reason"].as_str().unwrap() {
        "end_turn" | "stop_sequence" | "pause_turn" => "stop",
        "max_tokens" | "model_context_window_exceeded" => "length",
        "refusal" => "content_filter",
        "tool_use" if calls.is_empty() => "stop",
        "tool_use" => "tool_calls",
        other => panic!("no expectation for {other}"),
    };
    let usage = usage
        .as_object()
        .map(|_| [input, count("/output_tokens"), read, written, count("/output_tokens_details/thinking_tokens")]);
    Said::one(SaidChoice { text: joined("text"), reasoning: joined("thinking"), calls, finish: finish.to_owned() }, usage)
}

fn expected_error(status: u16, body: &Value) -> Said {
    let message = body["error"]["message"].as_str().unwrap_or_default();
    let (status, class) = match body["error"]["type"].as_str().unwrap_or_default() {
        _ if message.contains("credit balance") => (429, Class::Quota),
        _ if message.contains("prompt is too long") => (400, Class::ContextOverflow),
        "authentication_error" => (401, Class::Authentication),
        "billing_error" => (429, Class::Quota),
        "permission_error" => (403, Class::Permission),
        "not_found_error" => (404, Class::NotFound),
        "rate_limit_error" => (429, Class::RateLimited),
        "overloaded_error" => (503, Class::Overloaded),
        "timeout_error" => (504, Class::Timeout),
        "api_error" => (status, Class::Server),
        _ => (status, Class::Invalid),
    };
    Said::failed(status, class)
}
