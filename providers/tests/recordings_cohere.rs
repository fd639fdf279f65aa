//! Recorded Cohere traffic: what the adapter makes of each answer against what the recorded bytes
//! say, read here with code of its own.
//! It must not use the crate's reading of Cohere's grammar.

use providers::Class;
use serde_json::{Value, json};

use crate::recorded::{self, Recording, Said, SaidChoice, Tally};

#[test]
fn recordings_of_cohere_are_read_as_they_say() {
    let Some(root) = recorded::root() else { return };
    let provider = providers::provider("cohere").unwrap();
    let mut tally = Tally::new("cohere");
    for recording in recorded::of(&root, "cohere").into_iter().chain(recorded::of(&root, "_response_only/cohere")) {
        let is_embedding = String::from_utf8_lossy(&recording.body).contains("\"embeddings\"");
        if recording.url.ends_with("/v2/chat") || (recording.url.is_empty() && !is_embedding) {
            tally.hear(provider, &recording, expected);
            if recording.status == 200 && !recording.is_stream {
                tally.hear(provider, &recording.with("as a stream", as_events(&recording), true), expected);
            }
        } else if is_embedding || recording.url.ends_with("/embed") {
            embeddings(&recording, &mut tally);
        }
    }
    tally.end(&[]);
}

fn expected(recording: &Recording) -> Said {
    if recording.status != 200 {
        return Said::refused(recording.status);
    }
    let mut choice = SaidChoice::default();
    let mut texts: Vec<(String, String)> = Vec::new();
    let mut counts = Value::Null;
    let mut reason = String::new();
    if recording.is_stream {
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
        let body = recording.json();
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
        0,
        count("/tokens/reasoning_tokens"),
    ];
    Said::one(choice, Some(usage))
}

/// The events in which Cohere would have streamed a whole answer.
fn as_events(recording: &Recording) -> Vec<u8> {
    let body = recording.json();
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
    let got = recorded::vectors(providers::provider("cohere").unwrap(), recording);
    if recording.status != 200 {
        tally.assert(&recording.name, got == Err(recording.status.as_u16()), "another status");
        return;
    }
    let body = recording.json();
    let expected = body["embeddings"]["float"].as_array().unwrap().iter().map(recorded::numbers).collect();
    let billed = body["meta"]["billed_units"]["input_tokens"].as_u64();
    tally.assert(&recording.name, got == Ok((expected, billed)), "other vectors, or another usage");
}
