//! Endpoints whose answers go to the client as they came: recorded ones, cut in every way and broken off
//! at every byte. The client has the events of the recording and no others; what they used, said and called
//! is what a plain reading of the recording says; and nothing but its own end ends a stream.
//! It must not use the crate's own reading of these answers.

use std::path::Path;

use providers::frames::Framing;
use providers::{Account, Call, Endpoint, Provider, Usage};
use serde_json::Value;

use crate::chance::Chance;
use crate::dialects::bend;
use crate::play::{self, Played};
use crate::recorded::{self, Recording, Tally};

/// The folders that have recordings of these endpoints, and the kinds that speak those wires.
const FOLDERS: [(&str, &str); 9] = [
    ("openai", "openai"),
    ("azure", "azure"),
    ("deepseek", "deepseek"),
    ("openrouter", "openrouter"),
    ("xai", "xai"),
    ("vllm", "vllm"),
    ("bedrock_mantle", "openai-compatible"),
    ("anthropic", "anthropic"),
    ("bedrock", "bedrock-anthropic"),
];

/// What is heard otherwise than it stands there, and why; it matters only where a bill does not come.
const EXCUSED: [(&str, &str); 2] = [
    ("messages-stream-reasoning-8d5a56", "what the provider asks its own tools is not counted as words of the answer"),
    ("messages-stream-toolcall-reasoning-ff3d1d", "a call without arguments is heard as one with the arguments `{}`"),
];

/// At how many places, about, a stream is cut in two, and is broken off.
const CUTS: usize = 200;

fn endpoint(recording: &Recording) -> Option<Endpoint> {
    let path = recording.url.split('?').next().unwrap_or_default();
    let is_message = |recording: &Recording| recording.headers.get("x-amzn-requestid").is_some() && is_anthropics(recording);
    match path.rsplit('/').next()? {
        "responses" => Some(Endpoint::Responses),
        "completions" if !path.ends_with("/chat/completions") => Some(Endpoint::Completions),
        "messages" => Some(Endpoint::Messages),
        "count_tokens" => Some(Endpoint::CountTokens),
        "invoke" | "invoke-with-response-stream" if is_message(recording) => Some(Endpoint::Messages),
        _ => None,
    }
}

/// Whether a call of Bedrock was in Anthropic's words.
fn is_anthropics(recording: &Recording) -> bool {
    recording.request.get("anthropic_version").is_some()
}

#[test]
fn recorded_answers_go_through_as_they_are_and_are_understood() {
    let Some(root) = recorded::root() else { return };
    for (folder, kind) in FOLDERS {
        let provider = providers::provider(kind).unwrap();
        let mut tally = Tally::new(folder);
        for recording in recorded::of(&root, folder) {
            let Some(endpoint) = endpoint(&recording) else { continue };
            assert!(provider.serves(endpoint), "{kind} does not serve {endpoint:?}");
            check(provider, endpoint, &recording, &mut tally);
        }
        tally.end(&EXCUSED);
    }
}

/// The events of a golden stream.
fn golden(case: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
    let case: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    match case["response"]["events"].as_array() {
        Some(events) => events.clone(),
        None => data(case["response"]["text"].as_str().unwrap()),
    }
}

#[test]
fn bent_streams_go_through_and_only_their_own_end_ends_them() {
    let known = [
        ("openai", Endpoint::Responses, golden("openai/responses-stream.json")),
        ("openai", Endpoint::Responses, golden("openai/responses-stream-failed.json")),
        ("openai", Endpoint::Completions, golden("openai/completions-stream-usage-asked.json")),
        ("anthropic", Endpoint::Messages, golden("anthropic/messages-stream.json")),
    ];
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4_000);
    let mut chance = Chance(0xd00d);
    for round in 0..rounds {
        let (kind, endpoint, mut frames) = chance.pick(&known);
        for _ in 0..=chance.below(3) {
            let at = chance.below(frames.len());
            match chance.below(8) {
                0 => frames.insert(at, frames[at].clone()),
                1 if frames.len() > 1 => drop(frames.remove(at)),
                _ => bend(&mut frames[at], &mut chance),
            }
        }
        let mut text: String = frames.iter().map(|frame| format!("data: {frame}\n\n")).collect();
        let is_marked = endpoint == Endpoint::Completions;
        text.push_str(if is_marked { "data: [DONE]\n\n" } else { "" });
        let provider = providers::provider(kind).unwrap();
        let (request, account) = (recorded::client(endpoint, true), Account::default());
        let call = Call { endpoint, ..play::call(&request, "m", &account) };
        let played = play::stream_cut(provider, &call, Framing::Sse, (text.as_bytes(), 8));
        assert!(!(played.done && played.error.is_some()), "round {round}: complete and failed at once\n{text}");
        let got = events(&played);
        assert!(frames.starts_with(&got), "round {round}: not what came\n{text}\ngot:\n{}", played.bytes);
        let is_all = got.len() == frames.len() || played.done || played.error.is_some();
        assert!(is_all, "round {round}: something did not go through\n{text}\ngot:\n{}", played.bytes);
        let is_end = |event: &Value| {
            let ends = ["response.completed", "response.incomplete", "response.cancelled", "message_stop"];
            ends.iter().any(|end| event["type"] == *end)
        };
        let has_ended = if is_marked { played.bytes.ends_with("data: [DONE]\n\n") } else { got.last().is_some_and(is_end) };
        assert_eq!(played.done, has_ended, "round {round}: complete without its end, or not with it\n{text}");
    }
}

fn check(provider: &dyn Provider, endpoint: Endpoint, recording: &Recording, tally: &mut Tally) {
    let status = recording.status;
    if !status.is_success() {
        let error = provider.error(status, &recording.headers, &recording.body);
        tally.assert(&recording.name, error.status == status && !error.message.is_empty(), &format!("{error:?}"));
        return;
    }
    let is_stream = recording.name.contains("-stream-");
    let (request, account) = (recorded::client(endpoint, is_stream), Account::default());
    let call = Call { endpoint, ..play::call(&request, "m", &account) };
    if is_stream {
        streamed(provider, &call, recording, tally);
    } else {
        whole(provider, &call, recording, tally);
    }
}

fn whole(provider: &dyn Provider, call: &Call<'_>, recording: &Recording, tally: &mut Tally) {
    let answer = provider.answer(call, &recording.headers, recording.body.clone().into());
    let body: Value = serde_json::from_slice(&recording.body).unwrap();
    match answer {
        Ok(answer) => {
            tally.assert(&recording.name, answer.body == recording.body, "another body");
            let counts = answer.usage.map(|usage| counts(&usage));
            tally.assert(&recording.name, counts == billed(&body["usage"]), &format!("booked {counts:?} of {}", body["usage"]));
            let calls = items(&body).filter(|item| is_call(item)).count();
            tally.assert(&recording.name, answer.tool_calls == calls, &format!("{} calls of {calls}", answer.tool_calls));
        }
        Err(error) => tally.assert(&recording.name, body["error"].is_object(), &format!("{error:?}")),
    }
}

fn streamed(provider: &dyn Provider, call: &Call<'_>, recording: &Recording, tally: &mut Tally) {
    let is_aws = recording.headers.get("content-type").is_some_and(|kind| kind.as_bytes().contains(&b'.'));
    let framing = if is_aws { Framing::AwsEventStream } else { Framing::Sse };
    let played = play::stream_cut(provider, call, framing, (&recording.body, CUTS));
    let got = events(&played);
    if framing == Framing::Sse {
        let came: Vec<Value> = data(&String::from_utf8_lossy(&recording.body));
        tally.assert(&recording.name, got == came, &format!("{} events of {}", got.len(), came.len()));
    }
    tally.assert(&recording.name, played.done && played.malformed == 0, "not complete");
    let (wished, calls) = (text(&got), got.iter().filter(|event| begins_call(event)).count());
    tally.assert(&recording.name, played.text == wished, &format!("heard {:?} of {wished:?}", played.text));
    tally.assert(&recording.name, played.tool_calls == calls, &format!("{} calls of {calls}", played.tool_calls));
    let counts = played.usage.map(|usage| counts(&usage));
    let bill = bill(&got);
    tally.assert(&recording.name, counts == bill, &format!("booked {counts:?} of {bill:?}"));
    broken_off(provider, call, framing, recording, tally);
}

/// Broken off anywhere, a stream is complete only where all of it has come.
fn broken_off(provider: &dyn Provider, call: &Call<'_>, framing: Framing, recording: &Recording, tally: &mut Tally) {
    let step = (recording.body.len() / CUTS).max(1);
    let all = play::stream(provider, call, framing, &[&recording.body]);
    for end in (0..recording.body.len()).step_by(step) {
        let played = play::stream(provider, call, framing, &[&recording.body[..end]]);
        if played.done && !same_end(&played, &all) {
            tally.assert(&recording.name, false, &format!("complete although broken off at byte {end}"));
        }
    }
}

fn same_end(played: &Played, all: &Played) -> bool {
    let last = |played: &Played| events(played).last().cloned();
    played.text == all.text && last(played) == last(all)
}

fn events(played: &Played) -> Vec<Value> {
    data(&played.bytes)
}

/// The data of every event but the mark of the end.
fn data(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
    lines.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// Input, output, cached and reasoning, as the gateway means them, by plain arithmetic.
fn billed(usage: &Value) -> Option<[u64; 4]> {
    let count = |path: &str| usage.pointer(path).and_then(Value::as_u64);
    let first = |paths: &[&str]| paths.iter().find_map(|path| count(path));
    let input = first(&["/input_tokens", "/prompt_tokens"])?;
    let output = first(&["/output_tokens", "/completion_tokens"])?;
    let reasoning = first(&["/output_tokens_details/reasoning_tokens", "/output_tokens_details/thinking_tokens"]);
    let read = count("/cache_read_input_tokens");
    let cached = read.or(count("/input_tokens_details/cached_tokens")).unwrap_or(0);
    let beside = read.unwrap_or(0) + count("/cache_creation_input_tokens").unwrap_or(0);
    Some([input + beside, output, cached, reasoning.unwrap_or(0)])
}

fn counts(usage: &Usage) -> [u64; 4] {
    [usage.input, usage.output, usage.cache_read, usage.reasoning]
}

/// The bill of a stream: the last one told, with what an earlier one said of the prompt.
fn bill(events: &[Value]) -> Option<[u64; 4]> {
    let mut usage = Value::Null;
    for event in events {
        for told in [&event["usage"], &event["response"]["usage"], &event["message"]["usage"]] {
            for (name, value) in told.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
                usage[name] = value.clone();
            }
        }
    }
    billed(&usage)
}

/// All that the model said in a stream's events: text, thoughts, names and arguments of tools.
fn text(events: &[Value]) -> String {
    let said = events.iter().flat_map(|event| match event["type"].as_str() {
        Some("response.output_item.added") => vec![&event["item"]["name"]],
        Some(kind) if kind.ends_with(".delta") => vec![&event["delta"]],
        Some("content_block_start") if is_call(&event["content_block"]) => vec![&event["content_block"]["name"]],
        Some("content_block_delta") => ["text", "thinking", "partial_json"].map(|name| &event["delta"][name]).to_vec(),
        _ => event["choices"].as_array().into_iter().flatten().map(|choice| &choice["text"]).collect(),
    });
    said.filter_map(Value::as_str).collect()
}

fn items(body: &Value) -> impl Iterator<Item = &Value> {
    [&body["output"], &body["content"]].into_iter().filter_map(Value::as_array).flatten()
}

fn is_call(item: &Value) -> bool {
    ["function_call", "custom_tool_call", "tool_use"].iter().any(|kind| item["type"] == *kind)
}

fn begins_call(event: &Value) -> bool {
    match event["type"].as_str() {
        Some("response.output_item.added") => is_call(&event["item"]),
        Some("content_block_start") => is_call(&event["content_block"]),
        _ => false,
    }
}
