//! Recorded Cohere traffic: what the adapter makes of each answer against what the recorded bytes
//! say, read here with code of its own.
//! It must not use the crate's reading of Cohere's grammar.

use http::StatusCode;
use providers::frames::Framing;
use providers::{Account, Class, Endpoint};
use serde_json::{Value, json};

use crate::play;
use crate::recorded::{self, Recording, Said, SaidChoice, Tally};

/// Where the second opinion differs, and who is right.
const OPINIONS: [(&str, &str); 10] = [
    ("v2_chat-stream-cache-truncated-ffd0cf", CANNOT_READ),
    ("v2_chat-stream-mm-cache-e6e1e1", CANNOT_READ),
    ("v2_chat-stream-reasoning-cache-dea802", CANNOT_READ),
    ("v2_chat-stream-toolcall-toolresult-cache-e341ac", CANNOT_READ),
    ("v2_chat-sync-reasoning-cache-d9f9a7", SAYS_LESS),
    ("v2_chat-sync-schema-cache-6034a5", SAYS_LESS),
    ("v2_chat-sync-toolcall-7e72a9", ENDS_WRONG),
    ("v2_chat-sync-toolcall-reasoning-cache-898d9a", ENDS_WRONG),
    ("v2_chat-sync-toolcall-toolresult-cache-e45892", ENDS_WRONG),
    ("v2_chat-sync-toolresult-reasoning-mm-cache-85dc3b", SAYS_LESS),
];

const CANNOT_READ: &str = "it fails on the `[DONE]` that ends Cohere's streams; the recording holds a whole answer";
const SAYS_LESS: &str = "it leaves out thinking, and cached and reasoning tokens, which the recording holds";
const ENDS_WRONG: &str = "it says `stop` where the recording says TOOL_CALL, and leaves out the plan and the cached tokens";

#[test]
fn recordings_of_cohere_are_read_as_they_say() {
    let Some(root) = recorded::root() else { return };
    let provider = providers::provider("cohere").unwrap();
    let mut tally = Tally::new("cohere");
    let mut disagreements = Vec::new();
    let without_request = recorded::of(&root, "_response_only/cohere");
    for recording in recorded::of(&root, "cohere").into_iter().chain(without_request) {
        let name = &recording.name;
        let is_embedding = String::from_utf8_lossy(&recording.body).contains("\"embeddings\"");
        if recording.url.ends_with("/v2/chat") || (recording.url.is_empty() && !is_embedding) {
            let expected = expected(&recording);
            if is_stream(&recording) {
                tally.check(name, &expected, || recorded::streamed(provider, Framing::Sse, &recording, &recording.body));
            } else {
                tally.check(name, &expected, || recorded::whole(provider, &recording));
                if recording.status == 200 {
                    let events = as_events(&recording);
                    let as_stream = format!("{name} as a stream");
                    tally.check(&as_stream, &expected, || recorded::streamed(provider, Framing::Sse, &recording, &events));
                }
            }
            disagreements.extend(recorded::compare_opinion(&root, "cohere", name, &expected, &OPINIONS));
        } else if is_embedding || recording.url.ends_with("/embed") {
            embeddings(&recording, &mut tally);
        }
    }
    tally.end(&[]);
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

fn is_stream(recording: &Recording) -> bool {
    recording.body.starts_with(b"event:")
}

fn expected(recording: &Recording) -> Said {
    if recording.status != 200 {
        return Said::failed(recording.status, Class::from_status(StatusCode::from_u16(recording.status).unwrap()));
    }
    let mut choice = SaidChoice::default();
    let mut texts: Vec<(String, String)> = Vec::new();
    let mut counts = Value::Null;
    let mut reason = String::new();
    if is_stream(recording) {
        let text = std::str::from_utf8(&recording.body).unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
        for event in data.map(|data| serde_json::from_str::<Value>(data).unwrap()) {
            let message = &event["delta"]["message"];
            choice.text.push_str(message["content"]["text"].as_str().unwrap_or_default());
            choice.reasoning.push_str(message["content"]["thinking"].as_str().unwrap_or_default());
            if event["type"] == "tool-plan-delta" {
                choice.reasoning.push_str(message["tool_plan"].as_str().unwrap());
            }
            let function = &message["tool_calls"]["function"];
            if event["type"] == "tool-call-start" {
                texts.push((function["name"].as_str().unwrap().to_owned(), String::new()));
            }
            if let Some(text) = function["arguments"].as_str() {
                texts.last_mut().unwrap().1.push_str(text);
            }
            if event["type"] == "message-end" {
                counts = event["delta"]["usage"].clone();
                event["delta"]["finish_reason"].as_str().unwrap().clone_into(&mut reason);
            }
        }
    } else {
        let body: Value = serde_json::from_slice(&recording.body).unwrap();
        choice.reasoning.push_str(body["message"]["tool_plan"].as_str().unwrap_or_default());
        for block in body["message"]["content"].as_array().into_iter().flatten() {
            choice.text.push_str(block["text"].as_str().unwrap_or_default());
            choice.reasoning.push_str(block["thinking"].as_str().unwrap_or_default());
        }
        for call in body["message"]["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            texts.push((function["name"].as_str().unwrap().to_owned(), function["arguments"].as_str().unwrap().to_owned()));
        }
        counts = body["usage"].clone();
        body["finish_reason"].as_str().unwrap().clone_into(&mut reason);
    }
    // `null` is how a call without arguments is told now and then.
    let arguments = |text: &str| if text.is_empty() || text == "null" { json!({}) } else { serde_json::from_str(text).unwrap() };
    choice.calls = texts.iter().map(|(name, text)| (name.clone(), arguments(text))).collect();
    let finish = match reason.as_str() {
        "COMPLETE" | "STOP_SEQUENCE" => "stop",
        "MAX_TOKENS" => "length",
        "TOOL_CALL" => "tool_calls",
        _ => return Said::failed(502, Class::Server),
    };
    finish.clone_into(&mut choice.finish);
    let count = |path: &str| counts.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let usage = [
        count("/tokens/input_tokens"),
        count("/tokens/output_tokens"),
        count("/cached_tokens"),
        count("/tokens/reasoning_tokens"),
    ];
    Said { choices: vec![choice], usage: Some(usage), error: None }
}

/// The events in which Cohere would have streamed a whole answer.
fn as_events(recording: &Recording) -> Vec<u8> {
    let body: Value = serde_json::from_slice(&recording.body).unwrap();
    let mut events = vec![
        json!({"type": "message-start", "id": body["id"], "delta": {"message": {"content": [], "tool_calls": [], "tool_plan": "", "citations": []}}}),
    ];
    if let Some(plan) = body["message"]["tool_plan"].as_str() {
        events.push(json!({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": plan}}}));
    }
    for (index, block) in body["message"]["content"].as_array().into_iter().flatten().enumerate() {
        let mut opening = block.clone();
        for name in ["text", "thinking"] {
            if !opening[name].is_null() {
                opening[name] = Value::from("");
            }
        }
        opening.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let mut rest = block.clone();
        rest.as_object_mut().unwrap().remove("type");
        events.push(json!({"type": "content-start", "index": index, "delta": {"message": {"content": opening}}}));
        events.push(json!({"type": "content-delta", "index": index, "delta": {"message": {"content": rest}}}));
        events.push(json!({"type": "content-end", "index": index}));
    }
    for (index, call) in body["message"]["tool_calls"].as_array().into_iter().flatten().enumerate() {
        let mut opening = call.clone();
        opening["function"]["arguments"] = Value::from("");
        let arguments = &call["function"]["arguments"];
        events.push(json!({"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": opening}}}));
        events.push(json!({"type": "tool-call-delta", "index": index, "delta": {"message": {"tool_calls": {"function": {"arguments": arguments}}}}}));
        events.push(json!({"type": "tool-call-end", "index": index}));
    }
    events.push(json!({"type": "message-end", "delta": {"finish_reason": body["finish_reason"], "usage": body["usage"]}}));
    let named = events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()));
    (named.collect::<String>() + "data: [DONE]\n\n").into_bytes()
}

fn embeddings(recording: &Recording, tally: &mut Tally) {
    let provider = providers::provider("cohere").unwrap();
    let (request, account) = (recorded::client(Endpoint::Embeddings, false), Account::default());
    let mut call = play::call(&request, "m", &account);
    call.endpoint = Endpoint::Embeddings;
    let got = recorded::vectors(provider, recording, &call);
    if recording.status != 200 {
        tally.assert(&recording.name, got.is_err_and(|said| said.error.unwrap().0 == recording.status), "another status");
        return;
    }
    let body: Value = serde_json::from_slice(&recording.body).unwrap();
    let numbers = |list: &Value| list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect::<Vec<f64>>();
    let expected: Vec<Vec<f64>> = body["embeddings"]["float"].as_array().unwrap().iter().map(numbers).collect();
    let (vectors, usage) = got.unwrap();
    tally.assert(&recording.name, vectors == expected, "other vectors");
    let billed = body["meta"]["billed_units"]["input_tokens"].as_u64();
    tally.assert(&recording.name, usage.map(|usage| usage.input) == billed, "other usage");
}
