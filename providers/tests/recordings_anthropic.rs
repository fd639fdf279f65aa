//! Recorded Anthropic answers, from its own API and from Vertex AI: what the adapter says must be what
//! the bytes say, read here a second time by the simplest code.
//! It must not know how the adapter works.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::heard::{self, Heard, Recording, Tally};

/// Who is right, and why, where a recording fails or LiteLLM hears otherwise.
const REASONS: [(&str, &str); 3] = [
    ("messages-stream-reasoning-8d5a56", "we: the searches ran at Anthropic and are no calls for the client to answer"),
    ("vercel-anthropic-programmatic-tool-calling.1-stream", "the file holds several answers, one after another; a call has one"),
    ("vercel-anthropic-tool-search-regex.1-stream", "the file holds several answers, one after another; a call has one"),
];

#[test]
fn recorded_answers_are_heard_as_they_were_given() {
    let Some(folder) = heard::folder() else { return };
    for (place, kind) in [("anthropic", "anthropic"), ("_response_only/anthropic", "anthropic"), ("vertex", "vertex")] {
        let provider = providers::provider(kind).unwrap();
        let mut tally = Tally::default();
        for recording in heard::recordings(&folder, place) {
            let is_chat = !recording.url.contains("count_tokens") && (place != "vertex" || recording.url.contains("/anthropic/"));
            if is_chat {
                tally.play(provider, &recording, expected);
            }
        }
        tally.settle(place, &REASONS);
    }
}

/// What the bytes of a recording say.
fn expected(recording: &Recording) -> Heard {
    let text = String::from_utf8(recording.body.clone()).unwrap();
    if recording.status != 200 {
        return expected_error(recording.status, &serde_json::from_str(&text).unwrap());
    }
    if !recording.is_stream {
        return expected_message(&serde_json::from_str(&text).unwrap());
    }
    assembled(events(recording))
}

/// Errors built from documentation, one cut stream among them.
#[test]
fn documented_errors_keep_their_class() {
    let Some(folder) = heard::folder() else { return };
    let provider = providers::provider("anthropic").unwrap();
    let mut tally = Tally::default();
    for recording in heard::documented(&folder, "anthropic") {
        tally.play(provider, &recording, expected);
    }
    tally.settle(
        "documented anthropic errors",
        &[("anthropic-200-truncated-connection", "a cut stream must not end: the walk says so")],
    );
}

/// A streamed answer and the same answer given whole are heard alike.
#[test]
fn streamed_and_whole_answers_agree() {
    let Some(folder) = heard::folder() else { return };
    let provider = providers::provider("anthropic").unwrap();
    let mut tally = Tally::default();
    for mut recording in heard::recordings(&folder, "anthropic") {
        if recording.is_stream && recording.status == 200 {
            let mut message = message_of(events(&recording)).unwrap();
            message["type"] = "message".into();
            recording.body = message.to_string().into_bytes();
            recording.is_stream = false;
            recording.second_opinion = None;
            tally.play(provider, &recording, expected);
        }
    }
    tally.settle("anthropic streams as whole answers", &[]);
}

fn events(recording: &Recording) -> impl Iterator<Item = Value> {
    let text = String::from_utf8(recording.body.clone()).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data:")).filter(|data| data.trim() != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap()).collect::<Vec<Value>>().into_iter()
}

/// What a message is heard as when it is put together from its events.
pub fn assembled(events: impl Iterator<Item = Value>) -> Heard {
    match message_of(events) {
        Ok(message) if message["stop_reason"].is_null() => Heard::cut(),
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
            block["input"] = heard::arguments(text);
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

pub fn expected_message(message: &Value) -> Heard {
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
    Heard {
        text: joined("text"),
        reasoning: joined("thinking"),
        calls,
        finish: finish.to_owned(),
        usage: usage
            .as_object()
            .map(|_| [input, count("/output_tokens"), read, written, count("/output_tokens_details/thinking_tokens")]),
        error: None,
    }
}

fn expected_error(status: u16, body: &Value) -> Heard {
    let message = body["error"]["message"].as_str().unwrap_or_default();
    let (kind, code, status) = match body["error"]["type"].as_str().unwrap_or_default() {
        _ if message.contains("credit balance") => ("insufficient_quota", "insufficient_quota", 429),
        _ if message.contains("prompt is too long") => ("invalid_request_error", "context_length_exceeded", 400),
        "authentication_error" => ("authentication_error", "invalid_api_key", 401),
        "billing_error" => ("insufficient_quota", "insufficient_quota", 429),
        "permission_error" => ("permission_error", "", 403),
        "not_found_error" => ("invalid_request_error", "model_not_found", 404),
        "rate_limit_error" => ("rate_limit_error", "rate_limit_exceeded", 429),
        "overloaded_error" => ("server_error", "", 503),
        "timeout_error" => ("timeout_error", "", 504),
        "api_error" => ("server_error", "", status),
        _ => ("invalid_request_error", "", status),
    };
    Heard { error: Some((kind.to_owned(), code.to_owned(), status)), ..Heard::default() }
}
