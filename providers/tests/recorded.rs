//! Recorded provider traffic, found through the environment variable WIRE_RECORDINGS: loading it,
//! playing it through an adapter, and comparing what came out with what the recording itself says.
//! It must not know any particular wire, nor use the crate's own reading of one.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use providers::frames::Framing;
use providers::{Account, Call, ChatRequest, Class, Endpoint, Provider, UpstreamError, Usage};
use serde_json::{Value, json};

use crate::play;

/// One recorded call.
pub struct Recording {
    pub name: String,
    pub url: String,
    pub request: Value,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Where the recordings are, if anywhere; says so when a test skips.
pub fn root() -> Option<PathBuf> {
    let root = std::env::var_os("WIRE_RECORDINGS").map(PathBuf::from);
    if root.is_none() {
        println!("skipped: WIRE_RECORDINGS is not set");
    }
    root
}

/// Every recording of a provider, by name.
pub fn of(root: &Path, kind: &str) -> Vec<Recording> {
    let folder = root.join("recordings").join(kind);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    paths.iter().map(|path| load(path)).collect()
}

/// One recording.
pub fn load(path: &Path) -> Recording {
    let case: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let response = &case["response"];
    let pairs = response["headers"].as_object().into_iter().flatten();
    let headers =
        pairs.filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, value.as_str()?.parse::<HeaderValue>().ok()?)));
    let body = match (&response["body"], response["body_base64"].as_str()) {
        (_, Some(base64)) => unbase64(base64),
        (Value::String(text), None) => text.clone().into_bytes(),
        (Value::Null, None) => Vec::new(),
        (json, None) => json.to_string().into_bytes(),
    };
    let request = match &case["request"]["body"] {
        Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        json => json.clone(),
    };
    Recording {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        url: case["request"]["url"].as_str().unwrap_or_default().to_owned(),
        request,
        status: u16::try_from(response["status"].as_u64().unwrap()).unwrap(),
        headers: headers.collect(),
        body,
    }
}

/// A recording of nothing, to be filled.
pub fn empty() -> Recording {
    let (name, url) = (String::new(), String::new());
    Recording { name, url, request: Value::Null, status: 200, headers: HeaderMap::new(), body: Vec::new() }
}

fn unbase64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|&c| c == byte);
    let digits: Vec<u32> = text.bytes().filter_map(digit).map(|digit| u32::try_from(digit).unwrap()).collect();
    let mut out = Vec::new();
    for group in digits.chunks(4) {
        let word = group.iter().fold(0, |word, digit| word << 6 | digit) << (6 * (4 - group.len()));
        out.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    out
}

/// What an answer says, in whatever words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    pub choices: Vec<SaidChoice>,
    /// Input, output, cached input, reasoning.
    pub usage: Option<[u64; 4]>,
    /// Status and class of a failure.
    pub error: Option<(u16, Class)>,
}

/// One choice of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SaidChoice {
    pub text: String,
    pub reasoning: String,
    /// Name and parsed arguments, in order.
    pub calls: Vec<(String, Value)>,
    pub finish: String,
}

impl Said {
    /// A failure.
    pub fn failed(status: u16, class: Class) -> Self {
        Self { error: Some((status, class)), ..Self::default() }
    }

    fn of_error(error: &UpstreamError) -> Self {
        assert!(!error.message.is_empty() && !error.type_name.is_empty(), "an error without words: {error:?}");
        Self::failed(error.status.as_u16(), error.class)
    }

    /// An answer in OpenAI's grammar.
    pub fn of_completion(body: &Value, usage: Option<Usage>) -> Self {
        let choices = body["choices"].as_array().unwrap().iter().map(|choice| {
            let message = &choice["message"];
            let calls = message["tool_calls"].as_array().into_iter().flatten();
            SaidChoice {
                text: message["content"].as_str().unwrap_or_default().to_owned(),
                reasoning: message["reasoning_content"].as_str().unwrap_or_default().to_owned(),
                calls: calls.map(call_of).collect(),
                finish: choice["finish_reason"].as_str().unwrap_or_default().to_owned(),
            }
        });
        Self { choices: choices.collect(), usage: usage.map(|usage| counts(&usage)), error: None }
    }

    /// A stream in OpenAI's grammar, which it must obey.
    pub fn of_chunks(chunks: &[Value], usage: Option<Usage>) -> Self {
        let mut choices: Vec<(SaidChoice, Vec<(Value, String)>)> = Vec::new();
        let ids: std::collections::BTreeSet<&str> = chunks.iter().map(|chunk| chunk["id"].as_str().unwrap()).collect();
        assert!(ids.len() <= 1, "one id per stream: {ids:?}");
        for chunk in chunks {
            assert_eq!(chunk["object"], "chat.completion.chunk");
            for choice in chunk["choices"].as_array().unwrap() {
                let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
                if choices.len() <= index {
                    choices.resize(index + 1, Default::default());
                }
                let (said, calls) = &mut choices[index];
                assert!(said.finish.is_empty(), "nothing after a finish reason");
                said.text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
                said.reasoning.push_str(choice["delta"]["reasoning_content"].as_str().unwrap_or_default());
                for part in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                    let number = usize::try_from(part["index"].as_u64().unwrap()).unwrap();
                    assert!(number <= calls.len(), "calls are numbered in order");
                    if number == calls.len() {
                        assert!(!part["id"].as_str().unwrap().is_empty() && part["type"] == "function", "{part}");
                        calls.push((part.clone(), String::new()));
                    }
                    calls[number].1.push_str(part["function"]["arguments"].as_str().unwrap_or_default());
                }
                said.finish = choice["finish_reason"].as_str().unwrap_or_default().to_owned();
            }
        }
        let finished = choices.into_iter().map(|(mut said, calls)| {
            let ids: std::collections::BTreeSet<String> = calls.iter().map(|(call, _)| call["id"].to_string()).collect();
            assert_eq!(ids.len(), calls.len(), "every call has its own id");
            said.calls = calls.iter().map(|(call, text)| (name_of(call), serde_json::from_str(text).unwrap())).collect();
            said
        });
        Self { choices: finished.collect(), usage: usage.map(|usage| counts(&usage)), error: None }
    }
}

fn counts(usage: &Usage) -> [u64; 4] {
    [usage.input, usage.output, usage.cache_read, usage.reasoning]
}

fn name_of(call: &Value) -> String {
    call["function"]["name"].as_str().unwrap().to_owned()
}

fn call_of(call: &Value) -> (String, Value) {
    assert!(!call["id"].as_str().unwrap().is_empty(), "{call}");
    (name_of(call), serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap())
}

/// The client's side of a replay; what it asks does not matter, only whether it streams.
pub fn client(endpoint: Endpoint, stream: bool) -> ChatRequest {
    let body = match endpoint {
        Endpoint::Chat => {
            json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream, "stream_options": {"include_usage": true}})
        }
        Endpoint::Embeddings => json!({"model": "m", "input": ["hi"]}),
    };
    ChatRequest::parse(Bytes::from(body.to_string()), endpoint).unwrap()
}

/// Plays a whole answer.
pub fn whole(provider: &dyn Provider, recording: &Recording) -> Said {
    let (request, account) = (client(Endpoint::Chat, false), Account::default());
    let call = play::call(&request, "m", &account);
    let status = StatusCode::from_u16(recording.status).unwrap();
    if !status.is_success() {
        return Said::of_error(&provider.error(status, &recording.headers, &recording.body));
    }
    match provider.answer(&call, &recording.headers, recording.body.clone().into()) {
        Ok(answer) => {
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            if let Some(usage) = answer.usage {
                assert_eq!(body["usage"]["prompt_tokens"], usage.input);
                assert_eq!(body["usage"]["completion_tokens"], usage.output);
            }
            Said::of_completion(&body, answer.usage)
        }
        Err(error) => Said::of_error(&error),
    }
}

/// Plays a streamed answer, cut every way.
pub fn streamed(provider: &dyn Provider, framing: Framing, recording: &Recording, body: &[u8]) -> Said {
    let (request, account) = (client(Endpoint::Chat, true), Account::default());
    let call = play::call(&request, "m", &account);
    let status = StatusCode::from_u16(recording.status).unwrap();
    if !status.is_success() {
        return Said::of_error(&provider.error(status, &recording.headers, body));
    }
    let played = play::stream_every_way(provider, &call, framing, body);
    if let Some(error) = &played.error {
        assert!(!played.done, "an error and yet complete");
        return Said::of_error(error);
    }
    assert!(played.done, "not complete: {played:?}");
    assert_eq!(played.malformed, 0);
    let chunks = played.chunks();
    let told = chunks.last().map(|chunk| &chunk["usage"]["prompt_tokens"]);
    assert_eq!(told.and_then(Value::as_u64), played.usage.map(|usage| usage.input), "the usage chunk is last");
    Said::of_chunks(&chunks, played.usage)
}

/// Plays an embeddings answer: its vectors, or the failure.
pub fn vectors(provider: &dyn Provider, recording: &Recording, call: &Call<'_>) -> Result<(Vec<Vec<f64>>, Option<Usage>), Said> {
    let status = StatusCode::from_u16(recording.status).unwrap();
    if !status.is_success() {
        return Err(Said::of_error(&provider.error(status, &recording.headers, &recording.body)));
    }
    let answer =
        provider.answer(call, &recording.headers, recording.body.clone().into()).map_err(|error| Said::of_error(&error))?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let data = body["data"].as_array().unwrap().iter().enumerate().map(|(position, item)| {
        assert_eq!(item["index"], position);
        item["embedding"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    });
    Ok((data.collect(), answer.usage))
}

/// Counts what held and lists what did not.
#[derive(Default)]
pub struct Tally {
    kind: &'static str,
    passed: usize,
    failed: Vec<String>,
}

impl Tally {
    pub fn new(kind: &'static str) -> Self {
        Self { kind, ..Self::default() }
    }

    /// One comparison; a difference or a panic is a failure.
    pub fn check(&mut self, name: &str, expected: &Said, play: impl FnOnce() -> Said) {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(play)) {
            Ok(got) if got == *expected => self.passed += 1,
            Ok(got) => self.failed.push(format!("{name}:\n  recorded {expected:?}\n  adapter  {got:?}")),
            Err(_) => self.failed.push(format!("{name}: panicked")),
        }
    }

    /// Another kind of comparison.
    pub fn assert(&mut self, name: &str, holds: bool, why: &str) {
        if holds {
            self.passed += 1;
        } else {
            self.failed.push(format!("{name}: {why}"));
        }
    }

    /// Prints the pass rate; fails for whatever is not in the list of differences with a reason.
    pub fn end(self, excused: &[(&str, &str)]) {
        let total = self.passed + self.failed.len();
        println!("{}: {} of {total} comparisons with recordings hold", self.kind, self.passed);
        let (known, new): (Vec<String>, Vec<String>) =
            self.failed.into_iter().partition(|failure| excused.iter().any(|(name, _)| failure.starts_with(name)));
        for failure in known {
            let reason = excused.iter().find(|(name, _)| failure.starts_with(name)).unwrap().1;
            println!("  differs: {failure}\n  because {reason}");
        }
        assert!(new.is_empty(), "{}", new.join("\n"));
    }
}

/// The second opinion on a recording, where there is one.
pub fn second_opinion(root: &Path, kind: &str, name: &str) -> Option<Said> {
    let path = root.join("oracle/expected").join(kind).join(format!("{name}.json"));
    let case: Value = serde_json::from_slice(&std::fs::read(path).ok()?).unwrap();
    let result = &case["result"];
    if let Some(status) = result["status_code"].as_u64() {
        let status = u16::try_from(status).unwrap();
        return Some(Said::failed(status, Class::from_status(StatusCode::from_u16(status).unwrap())));
    }
    match result {
        Value::Array(chunks) => Some(opinion_of_chunks(chunks)),
        Value::Object(_) if result["choices"].is_array() => {
            let mut said = std::panic::catch_unwind(|| Said::of_completion(result, None)).ok()?;
            said.usage = opinion_of_usage(&result["usage"]);
            Some(said)
        }
        _ => None,
    }
}

/// Leniently: the second opinion breaks the grammar here and there.
fn opinion_of_chunks(chunks: &[Value]) -> Said {
    let mut said = Said::default();
    let mut calls: Vec<(u64, String, String)> = Vec::new();
    let mut choice = SaidChoice::default();
    for chunk in chunks {
        for part in chunk["choices"].as_array().into_iter().flatten() {
            choice.text.push_str(part["delta"]["content"].as_str().unwrap_or_default());
            choice.reasoning.push_str(part["delta"]["reasoning_content"].as_str().unwrap_or_default());
            for call in part["delta"]["tool_calls"].as_array().into_iter().flatten() {
                if let Some(name) = call["function"]["name"].as_str() {
                    calls.push((call["index"].as_u64().unwrap_or(0), name.to_owned(), String::new()));
                }
                if let Some((.., arguments)) = calls.last_mut() {
                    arguments.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
                }
            }
            if let Some(finish) = part["finish_reason"].as_str() {
                finish.clone_into(&mut choice.finish);
            }
        }
        said.usage = opinion_of_usage(&chunk["usage"]).or(said.usage);
    }
    choice.calls = calls.into_iter().map(|(_, name, text)| (name, serde_json::from_str(&text).unwrap_or(Value::Null))).collect();
    said.choices = vec![choice];
    said
}

fn opinion_of_usage(usage: &Value) -> Option<[u64; 4]> {
    let part = |path: &str| usage.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    Some([
        usage["prompt_tokens"].as_u64()?,
        usage["completion_tokens"].as_u64()?,
        part("/prompt_tokens_details/cached_tokens"),
        part("/completion_tokens_details/reasoning_tokens"),
    ])
}

/// Prints where the second opinion differs from `ours`, and why; a difference without a reason fails.
pub fn compare_opinion(root: &Path, kind: &str, name: &str, ours: &Said, reasons: &[(&str, &str)]) -> Option<String> {
    let theirs = second_opinion(root, kind, name)?;
    let same = match (ours.error, theirs.error) {
        (Some((status, _)), Some((theirs, _))) => status == theirs,
        (None, None) => *ours == theirs,
        _ => false,
    };
    let reason = reasons.iter().find(|(known, _)| *known == name);
    if same {
        return reason.map(|_| format!("{kind}/{name}: is listed as different and is not"));
    }
    match reason {
        Some((_, reason)) => {
            println!("  second opinion on {kind}/{name} differs: {reason}");
            None
        }
        None => Some(format!("{kind}/{name}: no reason for\n  ours   {ours:?}\n  theirs {theirs:?}")),
    }
}
