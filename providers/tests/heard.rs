//! What a client heard of an answer, whole or streamed, in a form that can be compared; and the walk
//! over recorded traffic that `WIRE_RECORDINGS` names.
//! It must not know any particular wire.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use providers::{Account, Provider, UpstreamError};
use serde_json::{Value, json};

use crate::play;

/// Input, output, cache read, cache write (both lifetimes), reasoning.
pub type Counts = [u64; 5];

/// An answer's or an error's substance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    pub text: String,
    pub reasoning: String,
    /// Name and parsed arguments, in order.
    pub calls: Vec<(String, Value)>,
    pub finish: String,
    pub usage: Option<Counts>,
    /// `type`, `code` and status.
    pub error: Option<(String, String, u16)>,
}

impl Heard {
    /// From a whole answer in OpenAI's grammar.
    pub fn answer(body: &Value) -> Self {
        let choice = &body["choices"][0];
        let message = &choice["message"];
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        Self {
            text: string(&message["content"]),
            reasoning: string(&message["reasoning_content"]),
            calls: calls
                .map(|call| (string(&call["function"]["name"]), arguments(&string(&call["function"]["arguments"]))))
                .collect(),
            finish: string(&choice["finish_reason"]),
            usage: counts(&body["usage"]),
            error: None,
        }
    }

    /// From the chunks of a stream in OpenAI's grammar.
    pub fn chunks(chunks: &[Value]) -> Self {
        let mut heard = Self::default();
        let mut calls: Vec<(String, String)> = Vec::new();
        for chunk in chunks {
            heard.usage = counts(&chunk["usage"]).or(heard.usage);
            let Some(choice) = chunk["choices"].get(0) else { continue };
            let delta = &choice["delta"];
            heard.text.push_str(delta["content"].as_str().unwrap_or_default());
            heard.reasoning.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
                calls.resize(calls.len().max(index + 1), Default::default());
                calls[index].0.push_str(call["function"]["name"].as_str().unwrap_or_default());
                calls[index].1.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
            }
            if let Some(finish) = choice["finish_reason"].as_str() {
                heard.finish = finish.to_owned();
            }
        }
        heard.calls = calls.into_iter().map(|(name, text)| (name, arguments(&text))).collect();
        heard
    }

    /// A stream that broke off: no end is told.
    pub fn cut() -> Self {
        Self { error: Some(("cut".to_owned(), String::new(), 0)), ..Self::default() }
    }

    pub fn error(error: &UpstreamError) -> Self {
        let told = (error.type_name.clone(), error.code.clone().unwrap_or_default(), error.status.as_u16());
        Self { error: Some(told), ..Self::default() }
    }

    /// The first way in which `other` differs, in words.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let told = |name: &str, one: &dyn std::fmt::Debug, two: &dyn std::fmt::Debug| {
            let (one, two) = (format!("{one:?}"), format!("{two:?}"));
            let cut = |text: &str| text.chars().take(300).collect::<String>();
            (one != two).then(|| format!("{name}: {} ≠ {}", cut(&one), cut(&two)))
        };
        told("error", &self.error, &other.error)
            .or_else(|| told("text", &self.text, &other.text))
            .or_else(|| told("calls", &self.calls, &other.calls))
            .or_else(|| told("finish", &self.finish, &other.finish))
            .or_else(|| told("usage", &self.usage, &other.usage))
            .or_else(|| told("reasoning", &self.reasoning, &other.reasoning))
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Arguments as JSON; text that is none stays text (a call that was cut by the token limit).
pub fn arguments(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

fn counts(usage: &Value) -> Option<Counts> {
    let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    usage.as_object().map(|_| {
        [
            count("/prompt_tokens"),
            count("/completion_tokens"),
            count("/prompt_tokens_details/cached_tokens"),
            count("/prompt_tokens_details/cache_write_tokens"),
            count("/completion_tokens_details/reasoning_tokens"),
        ]
    })
}

/// Places at which a recorded stream is cut, beside byte by byte.
const CUTS: usize = 20;

/// One recorded call.
pub struct Recording {
    pub name: String,
    pub url: String,
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
    pub is_stream: bool,
    /// What LiteLLM made of it.
    pub second_opinion: Option<Heard>,
}

/// The folder of recordings, or `None` with a word that the test was skipped.
pub fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("WIRE_RECORDINGS").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: WIRE_RECORDINGS is not set");
    }
    folder
}

/// Every recording in `folder/recordings/<kind>`.
pub fn recordings(folder: &Path, kind: &str) -> Vec<Recording> {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(folder.join("recordings").join(kind)) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    };
    paths.sort();
    paths.iter().map(|path| recording(folder, kind, path)).collect()
}

/// Every error of `kind` in `folder/documented_errors`.
pub fn documented(folder: &Path, kind: &str) -> Vec<Recording> {
    let paths = std::fs::read_dir(folder.join("documented_errors")).unwrap().map(|entry| entry.unwrap().path());
    let is_of_kind = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{kind}-"));
    let mut paths: Vec<PathBuf> = paths.filter(is_of_kind).collect();
    paths.sort();
    paths.iter().map(|path| recording(folder, kind, path)).collect()
}

fn recording(folder: &Path, kind: &str, path: &Path) -> Recording {
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let response = &file["response"];
    let file_name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let opinion = std::fs::read(folder.join("oracle/expected").join(kind).join(&file_name));
    let opinion = opinion.ok().and_then(|bytes| opinion_of(&serde_json::from_slice(&bytes).unwrap()));
    let headers = response["headers"].as_object().into_iter().flatten().filter_map(|(name, value)| {
        let value = value.as_str().or_else(|| value[0].as_str())?;
        Some((name.parse::<http::HeaderName>().ok()?, value.parse::<http::HeaderValue>().ok()?))
    });
    let body = match (response["body_base64"].as_str(), response["body"].as_str()) {
        (Some(base64), _) => base64_bytes(base64),
        (None, Some(text)) => text.as_bytes().to_vec(),
        (None, None) => response["body"].to_string().into_bytes(),
    };
    let is_stream = response["body_base64"].is_string() || body.starts_with(b"event:") || body.starts_with(b"data:");
    Recording {
        name: file_name.trim_end_matches(".json").to_owned(),
        url: string(&file["request"]["url"]),
        status: u16::try_from(response["status"].as_u64().unwrap()).unwrap(),
        headers: headers.collect(),
        body,
        is_stream,
        second_opinion: opinion,
    }
}

fn opinion_of(file: &Value) -> Option<Heard> {
    match &file["result"] {
        Value::Array(chunks) if chunks.iter().all(|chunk| chunk["choices"].is_array()) => Some(Heard::chunks(chunks)),
        answer @ Value::Object(_) if answer["choices"].is_array() => Some(Heard::answer(answer)),
        error @ Value::Object(_) if error["status_code"].is_u64() => Some(Heard {
            error: Some((
                string(&error["exception"]),
                String::new(),
                u16::try_from(error["status_code"].as_u64().unwrap()).unwrap(),
            )),
            ..Heard::default()
        }),
        _ => None,
    }
}

/// Reads base64, by a table of its own: nothing of the crate under test is used here.
pub fn base64_bytes(text: &str) -> Vec<u8> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> = text.chars().filter_map(|c| alphabet.find(c)).map(|digit| u32::try_from(digit).unwrap()).collect();
    let group = |group: &[u32]| {
        let word = group.iter().fold(0, |word, digit| word << 6 | digit) << (6 * (4 - group.len()));
        word.to_be_bytes()[1..group.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

/// Plays a recording through `provider` as the answer to a plain question.
fn listen(provider: &dyn Provider, recording: &Recording) -> Heard {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "?"}]});
    if recording.is_stream {
        body["stream"] = Value::Bool(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    let request = play::chat(&body);
    let account = Account { project: Some("p".to_owned()), region: Some("us-east-1".to_owned()), ..Account::default() };
    let call = play::call(&request, "claude-sonnet-4-5", &account);
    let status = http::StatusCode::from_u16(recording.status).unwrap();
    if !status.is_success() {
        return Heard::error(&provider.error(status, &recording.headers, &recording.body));
    }
    if !recording.is_stream {
        return match provider.answer(&call, &recording.headers, recording.body.clone().into()) {
            Ok(answer) => Heard::answer(&serde_json::from_slice(&answer.body).unwrap()),
            Err(error) => Heard::error(&error),
        };
    }
    let framing = provider.request(&call).unwrap().framing;
    let played = play::stream_cut(provider, &call, framing, (&recording.body, CUTS));
    match &played.error {
        Some(error) => Heard::error(error),
        None if !played.done => Heard::cut(),
        None => {
            assert_eq!(played.malformed, 0, "{}: frames were skipped", recording.name);
            check_grammar(&recording.name, &played.chunks());
            Heard::chunks(&played.chunks())
        }
    }
}

/// OpenAI's grammar: one id, calls numbered from 0 without gaps, one finish reason, nothing but usage
/// after it.
fn check_grammar(name: &str, chunks: &[Value]) {
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]), "{name}: more than one id");
    let finish: Vec<usize> =
        (0..chunks.len()).filter(|at| chunks[*at].pointer("/choices/0/finish_reason").is_some_and(Value::is_string)).collect();
    assert_eq!(finish.len(), 1, "{name}: finish reasons");
    assert!(chunks[finish[0] + 1..].iter().all(|chunk| chunk["choices"] == json!([])), "{name}: words after the end");
    let mut calls = 0;
    for call in chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/tool_calls/0")) {
        let index = call["index"].as_u64().unwrap();
        if call["id"].is_string() {
            assert_eq!(index, calls, "{name}: a call out of order");
            calls += 1;
        }
        assert!(index < calls, "{name}: arguments before their call");
    }
}

/// What came of one wire's recordings.
#[derive(Default)]
pub struct Tally {
    passed: usize,
    failed: Vec<String>,
    unspoken: Vec<String>,
    differing: Vec<String>,
}

impl Tally {
    /// Holds what is heard through `provider` against what the recording says by `expected`, and notes
    /// where LiteLLM heard otherwise. A panic on either side is a failure of this recording alone.
    pub fn play(&mut self, provider: &'static dyn Provider, recording: &Recording, expected: fn(&Recording) -> Heard) {
        let both = std::panic::catch_unwind(AssertUnwindSafe(|| (expected(recording), listen(provider, recording))));
        let Ok((expected, heard)) = both else {
            self.failed.push(format!("{}: panicked (see above)", recording.name));
            return;
        };
        match expected.difference(&heard) {
            None => self.passed += 1,
            Some(difference) => self.failed.push(format!("{}: {difference}", recording.name)),
        }
        if let Some(difference) = recording.second_opinion.as_ref().and_then(|opinion| differs(opinion, &heard)) {
            self.differing.push(format!("{}: {difference}", recording.name));
        }
    }

    /// A recording that no adapter speaks.
    pub fn fail(&mut self, recording: &Recording, reason: &str) {
        self.unspoken.push(format!("{}: {reason}", recording.name));
    }

    /// Prints the pass rate and where LiteLLM differs; `reasons` say of a failure or a difference who is
    /// right and why, and every failure must have one.
    pub fn settle(self, wire: &str, reasons: &[(&str, &str)]) {
        let all = self.passed + self.failed.len() + self.unspoken.len();
        println!("{wire}: {} of {all} recordings pass", self.passed);
        for failure in &self.unspoken {
            println!("  not spoken: {failure}");
        }
        let reason = |line: &String| reasons.iter().find(|(name, _)| line.starts_with(name)).map(|(_, reason)| reason);
        for difference in &self.differing {
            println!("  LiteLLM differs (it ≠ we): {difference} ({})", reason(difference).unwrap_or(&"not looked into"));
        }
        for failure in &self.failed {
            println!("  fails: {failure} ({})", reason(failure).unwrap_or(&"no excuse"));
        }
        assert!(self.failed.iter().all(|failure| reason(failure).is_some()), "{wire}: recordings fail without a reason");
    }
}

/// Errors are compared by status alone: LiteLLM names its own exceptions. Where the provider counts no
/// reasoning tokens LiteLLM estimates them with a tokenizer; we tell what the provider counted.
fn differs(opinion: &Heard, heard: &Heard) -> Option<String> {
    let (mut opinion, mut heard) = (opinion.clone(), heard.clone());
    if let (Some([.., guessed]), Some([.., 0])) = (&mut opinion.usage, &heard.usage) {
        *guessed = 0;
    }
    for side in [&mut opinion, &mut heard] {
        side.error = side.error.take().map(|(_, _, status)| (String::new(), String::new(), status));
    }
    opinion.difference(&heard)
}
