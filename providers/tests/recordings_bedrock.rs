//! Recorded Bedrock answers, of Converse and of `InvokeModel`: what the adapters say must be what the bytes
//! say, read here a second time by the simplest code.
//! It must not know how the adapters work.

use providers::Class;
use providers::frames::Framing;
use serde_json::{Value, json};

use crate::play;
use crate::recorded::{self, Recording, Said, SaidChoice, Tally};
use crate::recordings_anthropic::{MODEL, assembled, expected_message};

/// Why a recording is not read.
const UNSPOKEN: &str = "InvokeModel in a maker's own older wire";
const REASONS: [(&str, &str); 1] = [(UNSPOKEN, "every such model speaks Converse, in which the gateway asks")];

#[test]
fn recorded_answers_are_heard_as_they_were_given() {
    let Some(root) = recorded::root() else { return };
    for place in ["bedrock", "_response_only/bedrock"] {
        let mut tally = Tally::new(place);
        for recording in recorded::of(&root, place).into_iter().map(framed) {
            match kind(&recording) {
                Some(kind) => tally.hear_of(providers::provider(kind).unwrap(), MODEL, &recording, expected),
                None => tally.assert(&recording.name, false, UNSPOKEN),
            }
        }
        tally.end(&REASONS);
    }
}

/// Errors built from documentation, in frames of a stream too.
#[test]
fn documented_errors_keep_their_class() {
    let Some(root) = recorded::root() else { return };
    let mut tally = Tally::new("documented errors of Bedrock");
    for recording in recorded::documented(&root, "bedrock") {
        tally.hear_of(providers::provider("bedrock").unwrap(), MODEL, &recording, expected);
    }
    tally.end(&[]);
}

/// A streamed answer and the same answer given whole are heard alike.
#[test]
fn streamed_and_whole_answers_agree() {
    let Some(root) = recorded::root() else { return };
    let mut tally = Tally::new("Bedrock's streams as whole answers");
    for recording in recorded::of(&root, "bedrock") {
        if recording.is_stream && recording.status == 200 && kind(&recording) == Some("bedrock") {
            let body = put_together(&events(&recording.body)).to_string().into_bytes();
            let whole = recording.with("as a whole answer", body, false);
            tally.hear_of(providers::provider("bedrock").unwrap(), MODEL, &whole, expected);
        }
    }
    tally.end(&[]);
}

/// Some streams were recorded as lines of JSON, each event under its name: they get their frames back.
fn framed(mut recording: Recording) -> Recording {
    let lines = String::from_utf8(recording.body.clone()).unwrap_or_default();
    let events: Result<Vec<Value>, _> = lines.lines().map(serde_json::from_str).collect();
    if let Ok(events) = events
        && events.len() > 1
    {
        let event = |event: &Value| {
            let (name, payload) = event.as_object().unwrap().iter().next().unwrap();
            play::framed(Framing::AwsEventStream, &json!({"event": name, "payload": payload}))
        };
        recording.body = events.iter().flat_map(event).collect();
        recording.is_stream = true;
    }
    recording
}

/// The wire of a recording; by what it says, for the address tells only how it was asked.
fn kind(recording: &Recording) -> Option<&'static str> {
    if recording.url.is_empty() || recording.url.contains("/converse") || recording.status != 200 {
        return Some("bedrock");
    }
    let first = if recording.is_stream { events(&recording.body).remove(0).1 } else { recording.json() };
    match (first["type"].as_str(), first["output"].is_object()) {
        (Some("message" | "message_start"), _) => Some("bedrock-anthropic"),
        (_, true) => Some("bedrock"),
        _ => None,
    }
}

/// The events of a stream: name (an exception's too) and payload; of `chunk` what it carries.
fn events(body: &[u8]) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let length = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
        let (total, headers) = (length(0), length(4));
        let payload: Value = serde_json::from_slice(&rest[12 + headers..total - 4]).unwrap();
        let name = name(&rest[12..12 + headers]);
        let payload = match payload["bytes"].as_str() {
            Some(base64) => serde_json::from_slice(&recorded::base64_bytes(base64)).unwrap(),
            None => payload,
        };
        events.push((name, payload));
        rest = &rest[total..];
    }
    events
}

/// The value of `:event-type` or `:exception-type`; all headers recorded are strings.
fn name(mut headers: &[u8]) -> String {
    let mut found = String::new();
    while !headers.is_empty() {
        let name_end = 1 + usize::from(headers[0]);
        let value_bytes = usize::from(u16::from_be_bytes([headers[name_end + 1], headers[name_end + 2]]));
        let value = &headers[name_end + 3..name_end + 3 + value_bytes];
        if [&b":event-type"[..], b":exception-type"].contains(&&headers[1..name_end]) {
            found = String::from_utf8(value.to_vec()).unwrap();
        }
        headers = &headers[name_end + 3 + value_bytes..];
    }
    found
}

fn expected(recording: &Recording) -> Said {
    if recording.status != 200 {
        return expected_error(recording);
    }
    match (kind(recording), recording.is_stream) {
        (Some("bedrock-anthropic"), true) => assembled(events(&recording.body).into_iter().map(|(_, event)| event)),
        (Some("bedrock-anthropic"), false) => expected_message(&recording.json()),
        (_, true) => expected_stream(&events(&recording.body)),
        (_, false) => expected_converse(&recording.json()),
    }
}

fn expected_stream(events: &[(String, Value)]) -> Said {
    let (name, event) = events.last().unwrap();
    let (status, class) = match name.as_str() {
        "throttlingException" => (429, Class::RateLimited),
        "validationException" => (400, Class::Invalid),
        "serviceUnavailableException" => (503, Class::Overloaded),
        name if name.ends_with("Exception") => (502, Class::Server),
        _ => return expected_converse(&put_together(events)),
    };
    assert!(event["message"].is_string(), "an exception without words");
    Said::failed(status, class)
}

/// A whole answer put together from its events.
fn put_together(events: &[(String, Value)]) -> Value {
    let mut blocks: Vec<Value> = Vec::new();
    let mut answer = json!({});
    for (name, event) in events {
        let index = usize::try_from(event["contentBlockIndex"].as_u64().unwrap_or(0)).unwrap();
        blocks.resize(blocks.len().max(index + 1), json!({}));
        match name.as_str() {
            "contentBlockStart" => blocks[index]["toolUse"] = event["start"]["toolUse"].clone(),
            "contentBlockDelta" => add(&mut blocks[index], &event["delta"]),
            "messageStop" => answer["stopReason"] = event["stopReason"].clone(),
            "metadata" => answer["usage"] = event["usage"].clone(),
            _ => {}
        }
    }
    for block in &mut blocks {
        if let Some(text) = block["partial"].as_str().filter(|text| !text.is_empty()) {
            block["toolUse"]["input"] = recorded::arguments(text);
        }
    }
    answer["output"]["message"]["content"] = blocks.into();
    answer
}

fn add(block: &mut Value, delta: &Value) {
    let joined = |old: &Value, more: &str| Value::from(old.as_str().unwrap_or_default().to_owned() + more);
    if let Some(more) = delta["text"].as_str() {
        block["text"] = joined(&block["text"], more);
    }
    if let Some(more) = delta["toolUse"]["input"].as_str() {
        block["partial"] = joined(&block["partial"], more);
    }
    if let Some(more) = delta["reasoningContent"]["text"].as_str() {
        let thought = &mut block["reasoningContent"]["reasoningText"]["text"];
        *thought = joined(thought, more);
    }
}

fn expected_converse(answer: &Value) -> Said {
    let blocks = answer["output"]["message"]["content"].as_array().unwrap();
    let joined = |pointer: &str| blocks.iter().filter_map(|block| block.pointer(pointer)?.as_str()).collect::<String>();
    let calls = blocks.iter().map(|block| &block["toolUse"]).filter(|call| call["name"].is_string());
    let input = |call: &Value| if call["input"].is_null() { json!({}) } else { call["input"].clone() };
    let calls: Vec<_> = calls.map(|call| (call["name"].as_str().unwrap().to_owned(), input(call))).collect();
    let usage = &answer["usage"];
    let count = |name: &str| usage[name].as_u64().unwrap_or(0);
    let (read, written) = (count("cacheReadInputTokens"), count("cacheWriteInputTokens"));
    let finish = match answer["stopReason"].as_str().unwrap() {
        "end_turn" | "stop_sequence" | "malformed_model_output" | "malformed_tool_use" => "stop",
        "max_tokens" | "model_context_window_exceeded" => "length",
        "guardrail_intervened" | "content_filtered" => "content_filter",
        "tool_use" => "tool_calls",
        other => panic!("no expectation for {other}"),
    };
    let usage = usage.as_object().map(|_| [count("inputTokens") + read + written, count("outputTokens"), read, written, 0]);
    let reasoning = joined("/reasoningContent/reasoningText/text");
    Said::one(SaidChoice { text: joined("/text"), reasoning, calls, finish: finish.to_owned() }, usage)
}

fn expected_error(recording: &Recording) -> Said {
    let body = recording.json();
    let message = body["message"].as_str().or(body["Message"].as_str()).unwrap_or_default();
    let named = recording.headers.get("x-amzn-errortype").map_or("", |value| value.to_str().unwrap());
    let (status, class) = match (recording.status.as_u16(), named.split(':').next().unwrap()) {
        _ if message.contains("Input Tokens Exceeded") || message.contains("is too long") => (400, Class::ContextOverflow),
        (400, _) if message.contains("model identifier is invalid") => (400, Class::NotFound),
        (403, "UnrecognizedClientException" | "ExpiredTokenException") => (401, Class::Authentication),
        (403, _) => (403, Class::Permission),
        (404, _) => (404, Class::NotFound),
        (408, _) => (504, Class::Timeout),
        (424, _) => (502, Class::Server),
        (429, _) => (429, Class::RateLimited),
        (503, _) => (503, Class::Overloaded),
        (status @ 500.., _) => (status, Class::Server),
        (status, _) => (status, Class::Invalid),
    };
    Said::failed(status, class)
}
