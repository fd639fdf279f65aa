//! Recorded provider traffic, found through the environment variable WIRE_RECORDINGS: loading it, playing it
//! through an adapter, and holding what came out against what the recording itself says. What others make of the
//! same recordings is looked at where the official SDK hears them through the running gateway.
//! It must not know any particular wire, nor use the crate's own reading of one.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use providers::{Account, Call, ChatRequest, Class, Endpoint, Provider, UpstreamError, Usage};
use serde_json::{Value, json};

use crate::{play, strict};

/// Places at which a recorded stream is cut in two, beside byte by byte.
pub const CUTS: usize = 30;

/// The folder of errors that nobody recorded.
pub const DOCUMENTED: &str = "documented_errors";

/// One recorded call.
pub struct Recording {
    /// Its folder and its name.
    pub name: String,
    pub url: String,
    pub request: Value,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// Whether the answer is a stream of events.
    pub is_stream: bool,
}

/// Where the recordings are, if anywhere; says so when a test skips.
pub fn root() -> Option<PathBuf> {
    let root = std::env::var_os("WIRE_RECORDINGS").map(PathBuf::from);
    if root.is_none() {
        println!("skipped: WIRE_RECORDINGS is not set");
    }
    root
}

/// Every recording in `recordings/<folder>`, by name.
pub fn of(root: &Path, folder: &str) -> Vec<Recording> {
    in_folder(&root.join("recordings").join(folder))
}

/// Every recording of every provider, and every documented error.
pub fn all(root: &Path) -> Vec<Recording> {
    let mut folders = vec![root.join(DOCUMENTED)];
    for place in ["recordings", "recordings/_response_only"] {
        let entries = std::fs::read_dir(root.join(place)).into_iter().flatten();
        folders.extend(entries.map(|entry| entry.unwrap().path()));
    }
    folders.sort();
    folders.iter().flat_map(|folder| in_folder(folder)).collect()
}

/// Every error that is known from the documentation of `provider` alone.
pub fn documented(root: &Path, provider: &str) -> Vec<Recording> {
    let mut all = in_folder(&root.join(DOCUMENTED));
    all.retain(|recording| recording.file_name().split('-').next() == Some(provider));
    all
}

fn in_folder(folder: &Path) -> Vec<Recording> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    paths.iter().map(|path| load(path)).collect()
}

/// One recording.
pub fn load(path: &Path) -> Recording {
    let case: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let response = &case["response"];
    let headers = response["headers"].as_object().into_iter().flatten().filter_map(|(name, value)| {
        let value = value.as_str().or_else(|| value[0].as_str())?;
        Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?))
    });
    let body = match (&response["body"], response["body_base64"].as_str()) {
        (_, Some(base64)) => base64_bytes(base64),
        (Value::String(text), None) => text.clone().into_bytes(),
        (Value::Null, None) => Vec::new(),
        (json, None) => json.to_string().into_bytes(),
    };
    let request = match &case["request"]["body"] {
        Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        json => json.clone(),
    };
    let start = body.trim_ascii_start();
    let is_stream = [&b"data:"[..], b"event:", b":"].iter().any(|field| start.starts_with(field));
    let status = response["status"].as_u64().map_or(200, |status| u16::try_from(status).unwrap());
    let folder = path.parent().unwrap().file_name().unwrap().to_string_lossy();
    Recording {
        name: format!("{folder}/{}", path.file_stem().unwrap().to_string_lossy()),
        url: case["request"]["url"].as_str().unwrap_or_default().to_owned(),
        request,
        status: StatusCode::from_u16(status).unwrap(),
        headers: headers.collect(),
        is_stream: is_stream || response["body_base64"].is_string(),
        body,
    }
}

impl Recording {
    /// The last part of the name.
    pub fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap()
    }

    /// The same recording with another body, in another form.
    pub fn with(&self, what: &str, body: Vec<u8>, is_stream: bool) -> Self {
        let (url, request, headers) = (self.url.clone(), self.request.clone(), self.headers.clone());
        Self { name: format!("{} {what}", self.name), url, request, status: self.status, headers, body, is_stream }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Reads base64, by a table of its own: nothing of the crate under test is used here.
pub fn base64_bytes(text: &str) -> Vec<u8> {
    let digit = |byte: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|&c| c == byte);
    let digits: Vec<u32> = text.bytes().filter_map(digit).map(|digit| u32::try_from(digit).unwrap()).collect();
    let group = |group: &[u32]| {
        let word = group.iter().fold(0, |word, digit| word << 6 | digit) << (6 * (4 - group.len()));
        word.to_be_bytes()[1..group.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

/// What an answer says, in whatever words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    pub choices: Vec<SaidChoice>,
    /// Input, output, cache read, cache written (of both lifetimes), reasoning.
    pub usage: Option<[u64; 5]>,
    /// Status and class of a failure.
    pub error: Option<(u16, Class)>,
    /// Whether it broke off without an end.
    pub is_cut: bool,
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
    /// An answer of one choice.
    pub fn one(choice: SaidChoice, usage: Option<[u64; 5]>) -> Self {
        Self { choices: vec![choice], usage, ..Self::default() }
    }

    /// A failure.
    pub fn failed(status: u16, class: Class) -> Self {
        Self { error: Some((status, class)), ..Self::default() }
    }

    /// A failure of which the status tells everything.
    pub fn refused(status: StatusCode) -> Self {
        Self::failed(status.as_u16(), Class::from_status(status))
    }

    /// A stream that broke off; what it had said until then is not compared.
    pub fn cut() -> Self {
        Self { is_cut: true, ..Self::default() }
    }

    fn of_error(error: &UpstreamError) -> Self {
        assert!(!error.message.is_empty() && !error.type_name.is_empty(), "an error without words: {error:?}");
        Self::failed(error.status.as_u16(), error.class)
    }

    fn of(said: strict::Said, usage: Option<Usage>) -> Self {
        let told = [&said.usage["prompt_tokens"], &said.usage["completion_tokens"]].map(Value::as_u64);
        assert_eq!(told, [usage.map(|usage| usage.input), usage.map(|usage| usage.output)], "the client and the gateway");
        let choices = said.choices.into_values().map(|spoken| SaidChoice {
            text: spoken.content,
            reasoning: spoken.reasoning,
            calls: spoken.calls.into_iter().map(|(name, text)| (name, arguments(&text))).collect(),
            finish: spoken.finish.unwrap_or_default(),
        });
        let counts = |usage: Usage| {
            [usage.input, usage.output, usage.cache_read, usage.cache_write + usage.cache_write_1h, usage.reasoning]
        };
        Self { choices: choices.collect(), usage: usage.map(counts), ..Self::default() }
    }
}

/// Arguments as JSON; text that is none stays text (a call that was cut by the token limit).
pub fn arguments(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// The client's side of a replay; what it asks does not matter, only whether it streams.
pub fn client(endpoint: Endpoint, stream: bool) -> ChatRequest {
    let body = match endpoint {
        Endpoint::Chat => {
            json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream, "stream_options": {"include_usage": true}})
        }
        Endpoint::Embeddings => json!({"model": "m", "input": ["hi"]}),
        Endpoint::Completions => {
            json!({"model": "m", "prompt": "hi", "stream": stream, "stream_options": {"include_usage": true}})
        }
        Endpoint::Passed | Endpoint::Account => json!({"model": "m"}),
        Endpoint::Responses => json!({"model": "m", "input": "hi", "stream": stream}),
        Endpoint::Messages | Endpoint::CountTokens => {
            json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": stream})
        }
    };
    ChatRequest::parse(Bytes::from(body.to_string()), endpoint).unwrap()
}

fn account() -> Account {
    Account { project: Some("p".to_owned()), region: Some("us-east-1".to_owned()), ..Account::default() }
}

/// Plays a chat completion, asked of `model`, in the form in which it was recorded; a stream is cut in many ways.
pub fn played(provider: &dyn Provider, model: &str, recording: &Recording) -> Said {
    let (request, account) = (client(Endpoint::Chat, recording.is_stream), account());
    let call = play::call(&request, model, &account);
    if !recording.status.is_success() {
        return Said::of_error(&provider.error(recording.status, &recording.headers, &recording.body));
    }
    if recording.is_stream {
        return streamed(provider, &call, &recording.body);
    }
    match provider.answer(&call, &recording.headers, recording.body.clone().into()) {
        Ok(answer) => {
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            strict::whole_grammar(&body).unwrap();
            Said::of(strict::from_answer(&body), answer.usage)
        }
        Err(error) => Said::of_error(&error),
    }
}

fn streamed(provider: &dyn Provider, call: &Call<'_>, body: &[u8]) -> Said {
    let framing = provider.request(call).unwrap().framing;
    let played = play::stream_cut(provider, call, framing, (body, CUTS));
    if let Some(error) = &played.error {
        assert!(!played.done, "an error and yet complete");
        return Said::of_error(error);
    }
    if !played.done {
        return Said::cut();
    }
    assert_eq!(played.malformed, 0, "frames were skipped");
    Said::of(strict::grammar(&played.bytes, true).unwrap(), played.usage)
}

/// Plays an embeddings answer: its vectors and usage, or the status of the failure.
pub fn vectors(provider: &dyn Provider, recording: &Recording) -> Result<(Vec<Vec<f64>>, Option<u64>), u16> {
    let (request, account) = (client(Endpoint::Embeddings, false), account());
    let call = Call { endpoint: Endpoint::Embeddings, ..play::call(&request, "m", &account) };
    if !recording.status.is_success() {
        return Err(provider.error(recording.status, &recording.headers, &recording.body).status.as_u16());
    }
    let answer = provider.answer(&call, &recording.headers, recording.body.clone().into());
    let answer = answer.map_err(|error| error.status.as_u16())?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let data = body["data"].as_array().unwrap().iter().enumerate().map(|(position, item)| {
        assert_eq!(item["index"], position);
        numbers(&item["embedding"])
    });
    Ok((data.collect(), answer.usage.map(|usage| usage.input)))
}

pub fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Counts what held and lists what did not.
#[derive(Default)]
pub struct Tally {
    what: &'static str,
    passed: usize,
    failed: Vec<String>,
}

impl Tally {
    pub fn new(what: &'static str) -> Self {
        Self { what, ..Self::default() }
    }

    /// What was recorded, as `expected` reads it, against what is heard through `provider`.
    pub fn hear(&mut self, provider: &dyn Provider, recording: &Recording, expected: impl Fn(&Recording) -> Said) {
        self.hear_of(provider, "m", recording, expected);
    }

    /// The same, asked of a model whose name matters to the wire.
    pub fn hear_of(
        &mut self,
        provider: &dyn Provider,
        model: &str,
        recording: &Recording,
        expected: impl Fn(&Recording) -> Said,
    ) {
        self.check(&recording.name, || {
            let (expected, heard) = (expected(recording), played(provider, model, recording));
            if heard == expected { Ok(()) } else { Err(format!("\n  recorded {expected:?}\n  adapter  {heard:?}")) }
        });
    }

    /// Any comparison; a difference or a panic is a failure of this recording alone.
    pub fn check(&mut self, name: &str, compare: impl FnOnce() -> Result<(), String>) {
        match std::panic::catch_unwind(AssertUnwindSafe(compare)) {
            Ok(Ok(())) => self.passed += 1,
            Ok(Err(why)) => self.failed.push(format!("{name}: {why:.3000}")),
            Err(panic) => {
                let told = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
                self.failed.push(format!("{name}: panicked: {}", told.unwrap_or_default()));
            }
        }
    }

    /// A comparison that is one question.
    pub fn assert(&mut self, name: &str, holds: bool, why: &str) {
        self.check(name, || if holds { Ok(()) } else { Err(why.to_owned()) });
    }

    /// Prints the pass rate; fails for whatever is not in the list of exceptions, each with its reason.
    pub fn end(self, excused: &[(&str, &str)]) {
        let total = self.passed + self.failed.len();
        println!("{}: {} of {total} comparisons with recordings hold", self.what, self.passed);
        let reason = |failure: &String| excused.iter().find(|(name, _)| failure.contains(name)).map(|(_, reason)| reason);
        let (known, new): (Vec<String>, Vec<String>) = self.failed.into_iter().partition(|failure| reason(failure).is_some());
        for failure in known {
            println!("  differs: {:.200}, because {}", failure, reason(&failure).unwrap());
        }
        assert!(total > 0, "{}: nothing was recorded", self.what);
        assert!(new.is_empty(), "{}", new.join("\n"));
    }
}
