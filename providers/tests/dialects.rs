//! Streams in dialects that no list foresaw: chunks of known ones, bent at random. Whatever comes
//! in, what goes out is OpenAI's grammar, and what was said is told.
//! It must not know how the adapter works.

use providers::frames::Framing;
use providers::{Account, ChatRequest};
use serde_json::{Map, Value, json};

use crate::chance::Chance;
use crate::play;
use crate::strict;

/// How many tries; `ROUNDS` asks for more.
fn rounds() -> u64 {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4_000)
}

/// Whole streams to start from.
fn known() -> Vec<Vec<Value>> {
    let chunk =
        |choices: Value| json!({"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": choices});
    let delta = |delta: Value, finish: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]));
    let usage = |mut chunk: Value| {
        chunk["usage"] = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
        chunk
    };
    let call = |call: Value| delta(json!({"tool_calls": [call]}), Value::Null);
    vec![
        vec![
            delta(json!({"role": "assistant", "content": ""}), Value::Null),
            delta(json!({"content": "Hel"}), Value::Null),
            delta(json!({"content": "lo"}), Value::Null),
            delta(json!({}), json!("stop")),
            usage(chunk(json!([]))),
        ],
        vec![
            call(json!({"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}})),
            call(json!({"index": 0, "function": {"arguments": "{\"x\":"}})),
            call(json!({"index": 0, "function": {"arguments": "1}"}})),
            call(json!({"index": 1, "id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}})),
            usage(delta(json!({}), json!("tool_calls"))),
        ],
        vec![
            delta(json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}), Value::Null),
            delta(json!({"reasoning": "so", "reasoning_details": [{"type": "reasoning.text", "text": "so"}]}), Value::Null),
            chunk(
                json!([{"index": 0, "delta": {"content": "a"}, "finish_reason": null}, {"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]),
            ),
            chunk(json!([{"index": 0, "delta": {"content": "c"}, "message": {"content": "ac"}, "finish_reason": "stop"}])),
        ],
    ]
}

/// Changes one thing somewhere in the value.
pub fn bend(value: &mut Value, chance: &mut Chance) {
    let odd = [
        json!(null),
        json!(""),
        json!("x"),
        json!("stop"),
        json!("error"),
        json!(0),
        json!(1),
        json!(-1),
        json!(2.5),
        json!(99_999),
        json!([]),
        json!({}),
        json!(true),
        json!([{}]),
        json!([null]),
        json!({"index": 0}),
        json!({"text": "t"}),
    ];
    let size = match value {
        Value::Object(members) => members.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    if size == 0 || chance.below(6) == 0 {
        *value = chance.pick(&odd);
        return;
    }
    let at = chance.below(size);
    match value {
        Value::Object(members) => {
            let key = members.keys().nth(at).unwrap().clone();
            match chance.below(8) {
                0 => drop(members.shift_remove(&key)),
                1 => drop(members.insert(
                    chance.pick(&["message", "error", "usage", "text", "custom", "delta", "function"]).to_owned(),
                    chance.pick(&odd),
                )),
                2 => *members = std::mem::take(members).into_iter().collect::<Vec<_>>().into_iter().rev().collect::<Map<_, _>>(),
                _ => bend(&mut members[&key], chance),
            }
        }
        Value::Array(items) => match chance.below(5) {
            0 => drop(items.remove(at)),
            1 => items.push(items[at].clone()),
            _ => bend(&mut items[at], chance),
        },
        _ => {}
    }
}

#[test]
fn whatever_a_dialect_does_the_client_gets_openais_grammar() {
    let row = providers::provider("openai-compatible").unwrap();
    let account = Account::default();
    let requests: Vec<ChatRequest> = [true, false]
        .map(|asked| {
            play::chat(&json!({"model": "m", "messages": [], "stream": true, "stream_options": {"include_usage": asked}}))
        })
        .into();
    let mut chance = Chance(0x5eed);
    for round in 0..rounds() {
        let mut chunks = chance.pick(&known());
        for _ in 0..=chance.below(4) {
            let at = chance.below(chunks.len());
            match chance.below(12) {
                0 => chunks.insert(at, chunks[at].clone()),
                1 if chunks.len() > 1 => drop(chunks.remove(at)),
                _ => bend(&mut chunks[at], &mut chance),
            }
        }
        let mut body: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
        if chance.below(3) > 0 {
            body.push_str("data: [DONE]\n\n");
        }
        let wants_usage = chance.below(2) == 0;
        let call = play::call(&requests[usize::from(!wants_usage)], "m", &account);
        let played = play::stream(row, &call, Framing::Sse, &[body.as_bytes()]);
        if let Err(fault) = strict::grammar(&played.bytes, wants_usage) {
            panic!("round {round}: {fault}\nfrom:\n{body}\ngot:\n{}", played.bytes);
        }
        assert!(!(played.done && played.error.is_some()), "round {round}: complete and failed at once\n{body}");
    }
}

#[test]
fn what_is_in_grammar_already_goes_out_byte_for_byte() {
    let row = providers::provider("openai").unwrap();
    let request = play::chat(&json!({"model": "m", "messages": [], "stream": true, "stream_options": {"include_usage": true}}));
    let account = Account::default();
    for chunks in known().into_iter().take(1) {
        let body: String =
            chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).chain(["data: [DONE]\n\n".to_owned()]).collect();
        // Bytes that a rebuilding would not reproduce: spaces, an escape, a number's spelling.
        let body = body
            .replace("\"created\":7", "\"created\" : 7")
            .replace("Hel", "H\\u0065l")
            .replace("\"model\":\"m\"", "\"model\":\"m\",\"x\":1.50e3");
        let played = play::stream_every_way(row, &play::call(&request, "m", &account), Framing::Sse, body.as_bytes());
        assert_eq!(played.bytes, body);
        assert_eq!(played.text, "Hello");
    }
}

#[test]
fn whatever_a_whole_answer_looks_like_the_client_gets_openais_grammar() {
    let row = providers::provider("openai-compatible").unwrap();
    let request = play::chat(&json!({"model": "m", "messages": []}));
    let account = Account::default();
    let call = play::call(&request, "m", &account);
    let known = [
        json!({"id": "c1", "object": "chat.completion", "created": 7, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}),
        json!({"id": "c1", "object": "chat.completion", "created": 7, "model": "m", "choices": [{"index": 0, "finish_reason": "tool_calls",
            "message": {"role": "assistant", "content": null, "reasoning": "hm",
                "tool_calls": [{"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}}]}),
    ];
    let mut chance = Chance(0xa11);
    for round in 0..rounds() {
        let mut body = chance.pick(&known);
        for _ in 0..chance.below(4) {
            bend(&mut body, &mut chance);
        }
        let given = body.to_string();
        let Ok(answer) = row.answer(&call, &http::HeaderMap::new(), given.clone().into()) else { continue };
        let got = serde_json::from_slice(&answer.body).unwrap();
        if let Err(fault) = strict::whole_grammar(&got) {
            panic!("round {round}: {fault}\nfrom {given}");
        }
        assert!(answer.usage.is_none() || answer.text.is_empty(), "round {round}: text beside usage\n{given}");
    }
}

#[test]
fn broken_bytes_never_panic_and_never_break_the_grammar() {
    let row = providers::provider("openai-compatible").unwrap();
    let account = Account::default();
    let request = play::chat(&json!({"model": "m", "messages": [], "stream": true}));
    let call = play::call(&request, "m", &account);
    let mut chance = Chance(0xb17e5);
    for round in 0..rounds() {
        let chunks = chance.pick(&known());
        let mut body: Vec<u8> = chunks.iter().flat_map(|chunk| format!("data: {chunk}\n\n").into_bytes()).collect();
        for _ in 0..=chance.below(5) {
            let at = chance.below(body.len());
            if body.is_empty() {
                break;
            }
            match chance.below(4) {
                0 => body.truncate(at),
                1 => drop(body.remove(at)),
                2 => body.insert(at, chance.pick(b"\"\\{}[]:,\r\n\0u\xff\xed ")),
                _ => body[at] = chance.pick(b"\"\\{}[]:,\r\n\0u\xff\xed "),
            }
        }
        let played = play::stream(row, &call, Framing::Sse, &[&body]);
        if let Err(fault) = strict::grammar(&played.bytes, false) {
            panic!("round {round}: {fault}\nfrom:\n{}", String::from_utf8_lossy(&body));
        }
    }
}
