//! Recorded streams of the providers that speak OpenAI's wire, played through the running gateway:
//! whole, byte by byte, and cut; the client's events and the booked usage are the recording's.
//! The recordings are read from the folder that `WIRE_RECORDINGS` names; none of them is in this project.
//! It must not know any provider's quirks: it reads a recording as leniently as the best client would.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::client::{Request, Saw};
use crate::support::gateway::Gateway;
use crate::support::provider::{FakeProvider, Reply, Step};
use crate::support::{dialect, skip};

/// Cuts a recording is played with; the adapters' own test cuts at every byte.
const CUTS: usize = 5;
/// Bytes at each end of a recording that travel alone, and how many travel together between.
const EVERY_BYTE: usize = 1500;
const SOME_BYTES: usize = 37;
/// Recordings under way at the same time.
const AT_ONCE: usize = 4;

/// One recorded stream.
struct Recording {
    name: String,
    kind: &'static str,
    request: Value,
    body: Vec<u8>,
    tells: Told,
}

/// What a stream told, however it was worded.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    text: BTreeMap<u64, String>,
    reasoning: String,
    /// Name and arguments by choice and place.
    calls: BTreeMap<(u64, u64), (String, String)>,
    finish: BTreeMap<u64, String>,
    usage: Option<(u64, u64)>,
    has_error: bool,
}

impl Told {
    fn hear(&mut self, event: &Value) {
        self.has_error |= event.get("error").is_some_and(|error| !error.is_null());
        for choice in event["choices"].as_array().into_iter().flatten() {
            let index = choice["index"].as_u64().unwrap_or(0);
            let delta = &choice["delta"];
            self.hear_content(index, &delta["content"]);
            let thought = delta["reasoning_content"].as_str().or(delta["reasoning"].as_str());
            self.reasoning.push_str(thought.unwrap_or_default());
            for (nth, call) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
                self.hear_call(index, call["index"].as_u64().unwrap_or(nth as u64), &call["function"]);
            }
            if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
                self.finish.entry(index).or_insert_with(|| reason.to_owned());
            }
        }
        for usage in [&event["usage"], &event["x_groq"]["usage"]] {
            if let (Some(input), Some(output)) = (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64()) {
                self.usage = Some((input, output));
            }
        }
    }

    fn hear_content(&mut self, index: u64, content: &Value) {
        let text = self.text.entry(index).or_default();
        match content {
            Value::String(part) => text.push_str(part),
            Value::Array(parts) => {
                for part in parts {
                    text.push_str(part["text"].as_str().unwrap_or_default());
                    for thought in part["thinking"].as_array().into_iter().flatten() {
                        self.reasoning.push_str(thought["text"].as_str().unwrap_or_default());
                    }
                }
            }
            _ => {}
        }
    }

    fn hear_call(&mut self, choice: u64, place: u64, function: &Value) {
        let call = self.calls.entry((choice, place)).or_default();
        call.0.push_str(function["name"].as_str().unwrap_or_default());
        match &function["arguments"] {
            Value::String(fragment) => call.1.push_str(fragment),
            Value::Null => {}
            whole => call.1.push_str(&whole.to_string()),
        }
    }

    fn of(events: impl Iterator<Item = Value>) -> Self {
        let mut told = Self::default();
        events.for_each(|event| told.hear(&event));
        told
    }
}

/// The data events of a body, by the rules of server-sent events.
fn events(body: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(body).replace("\r\n", "\n").replace('\r', "\n");
    let data = text.split("\n\n").map(|event| {
        let lines =
            event.lines().filter_map(|line| line.strip_prefix("data:")).map(|line| line.strip_prefix(' ').unwrap_or(line));
        lines.collect::<Vec<_>>().join("\n")
    });
    data.filter_map(|data| serde_json::from_str(&data).ok()).collect()
}

fn recordings() -> Option<Vec<Recording>> {
    let Some(folder) = std::env::var_os("WIRE_RECORDINGS").map(PathBuf::from) else {
        println!("SKIPPED: WIRE_RECORDINGS names no folder of recordings");
        return None;
    };
    let mut found = Vec::new();
    for kind in providers::all().filter(|wire| speaks_openai(*wire)).map(providers::Provider::kind) {
        for path in dir(&folder.join("recordings").join(kind)) {
            let case: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let (request, response) = (&case["request"], &case["response"]);
            let is_chat = request["url"].as_str().is_some_and(|url| url.contains("/chat/completions"));
            let body = response["body"].as_str().unwrap_or_default();
            if !is_chat || response["status"] != 200 || request["body"]["stream"] != true || !body.contains("data:") {
                continue;
            }
            let tells = Told::of(events(body.as_bytes()).into_iter());
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            found.push(Recording { name, kind, request: request["body"].clone(), body: body.as_bytes().to_vec(), tells });
        }
    }
    Some(found)
}

/// Whether this wire is OpenAI's: such calls go to such a path.
fn speaks_openai(wire: &dyn providers::Provider) -> bool {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let request = providers::ChatRequest::parse(body.to_string().into(), providers::Endpoint::Chat).unwrap();
    let account = providers::Account::default();
    let call = providers::Call {
        endpoint: providers::Endpoint::Chat,
        request: &request,
        model: "m",
        account: &account,
        id: "id",
        created: 0,
        ask_usage: true,
    };
    wire.request(&call).is_ok_and(|upstream| upstream.path.contains("/chat/completions"))
}

fn dir(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    paths.sort();
    paths
}

/// How a body is handed over.
fn plays(body: &[u8]) -> Vec<(String, Vec<Step>)> {
    let write = |bytes: &[u8]| Step::Write(bytes::Bytes::copy_from_slice(bytes), 0);
    let mut plays = vec![("whole".to_owned(), vec![write(body)]), ("byte by byte".to_owned(), byte_by_byte(body))];
    for n in 1..=CUTS {
        let cut = body.len() * n / (CUTS + 1);
        plays.push((
            format!("in two at byte {cut}"),
            vec![write(&body[..cut]), Step::Pause(std::time::Duration::from_millis(5)), write(&body[cut..])],
        ));
    }
    plays
}

/// Every byte a TCP segment, at both ends; what lies between in segments of a few bytes.
fn byte_by_byte(body: &[u8]) -> Vec<Step> {
    let (head, rest) = body.split_at(body.len().min(EVERY_BYTE));
    let (middle, tail) = rest.split_at(rest.len().saturating_sub(EVERY_BYTE));
    let each = |bytes: &[u8]| Step::EachByte(bytes::Bytes::copy_from_slice(bytes));
    let few = middle.chunks(SOME_BYTES).map(|part| Step::Write(bytes::Bytes::copy_from_slice(part), 0));
    std::iter::once(each(head)).chain(few).chain([each(tail)]).collect()
}

/// What the recording tells of its usage, in the gateway's meaning: output includes reasoning.
fn billed(recording: &Recording) -> Option<(u64, u64)> {
    let excludes = dialect::DIALECTS.iter().any(|dialect| dialect.kind == recording.kind && dialect.excludes_reasoning);
    let last = events(&recording.body).into_iter().rfind(|event| event["usage"].is_object());
    let reasoning = last.and_then(|event| event["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64()).unwrap_or(0);
    recording.tells.usage.map(|(input, output)| (input, output + if excludes { reasoning } else { 0 }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_stream_comes_through_as_it_was_said() {
    let Some(recordings) = recordings() else { return };
    if recordings.is_empty() {
        skip("WIRE_RECORDINGS holds no stream of a known wire");
        return;
    }
    let fake = Arc::new(FakeProvider::start().await);
    let mut toml = String::from("[server]\nallow_anonymous = true\n");
    for kind in providers::all().map(providers::Provider::kind) {
        if recordings.iter().any(|recording| recording.kind == kind) {
            toml += &format!(
                "[providers.{kind}]\nkind = \"{kind}\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\nretry = {{ attempts = 1 }}\nbreaker = {{ failures = 1000000 }}\n",
                fake.url()
            );
        }
    }
    for (nth, recording) in recordings.iter().enumerate() {
        for (play, _) in plays(&recording.body).iter().enumerate() {
            toml += &format!("[prices.\"{}/{}\"]\ninput = 1\noutput = 1\n", recording.kind, model(nth, play));
        }
    }
    let gateway = Arc::new(Gateway::start(toml).await);
    let played =
        futures_util::stream::iter(recordings.iter().enumerate()).map(|(nth, recording)| play(nth, recording, &fake, &gateway));
    let faults: Vec<String> = played.buffered(AT_ONCE).collect::<Vec<_>>().await.concat();
    println!("{} recorded streams, {} plays each", recordings.len(), CUTS + 2);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn model(recording: usize, play: usize) -> String {
    format!("recording-{recording}-{play}")
}

async fn play(nth: usize, recording: &Recording, fake: &FakeProvider, gateway: &Gateway) -> Vec<String> {
    let mut faults = Vec::new();
    let mut first: Option<Vec<Value>> = None;
    for (number, (how, steps)) in plays(&recording.body).into_iter().enumerate() {
        let model = model(nth, number);
        fake.on(&model, move |_| Reply::stream(steps.clone()));
        let mut body = recording.request.clone();
        body["model"] = json!(format!("{}/{model}", recording.kind));
        body["stream_options"] = json!({"include_usage": true});
        if !body["messages"].is_array() {
            body["messages"] = json!([{"role": "user", "content": "hi"}]);
        }
        let saw = Request::chat(&body).open(gateway.address).await.rest().await;
        let said_nothing_but_an_error = recording.tells.has_error
            && recording.tells.text.values().all(String::is_empty)
            && recording.tells.reasoning.is_empty();
        if saw.status >= 400 && said_nothing_but_an_error {
            continue;
        }
        if saw.status != 200 {
            faults.push(format!("{} {}, {how}: status {}", recording.kind, recording.name, saw.status));
            continue;
        }
        let mut fault = |what: String| faults.push(format!("{} {}, {how}: {what}", recording.kind, recording.name));
        differences(recording, &saw).into_iter().for_each(&mut fault);
        let chunks = saw.chunks();
        if first.get_or_insert_with(|| chunks.clone()) != &chunks {
            fault("other events than when played whole".to_owned());
        }
        let scrape = gateway.settled(&model, 1).await;
        let tokens = |kind| scrape.count("choreoai_tokens_total", &[("model", model.as_str()), ("type", kind)]);
        let booked = (tokens("input"), tokens("output"));
        if let Some(billed) = billed(recording).filter(|billed| *billed != booked) {
            fault(format!("the recording reports {billed:?}, booked {booked:?}"));
        }
    }
    faults
}

/// How what the client saw differs from what the recording tells.
fn differences(recording: &Recording, saw: &Saw) -> Vec<String> {
    let (told, got) = (&recording.tells, Told::of(saw.chunks().into_iter()));
    let mut found = Vec::new();
    let mut compare = |what: &str, same: bool, detail: String| {
        if !same {
            found.push(format!("{what}: {detail}"));
        }
    };
    let text = |told: &Told| told.text.values().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>();
    compare("text", text(told) == text(&got), format!("{:?} for {:?}", text(&got), text(told)));
    compare("reasoning", told.reasoning == got.reasoning, format!("{:?} for {:?}", got.reasoning, told.reasoning));
    compare("tool calls", told.calls.values().eq(got.calls.values()), format!("{:?} for {:?}", got.calls, told.calls));
    // What was finished before an error need not be told any more.
    compare(
        "choices that finished",
        told.has_error || told.finish.len() == got.finish.len(),
        format!("{:?} for {:?}", got.finish, told.finish),
    );
    compare("error", told.has_error == got.has_error, format!("{} for {}", got.has_error, told.has_error));
    let complete = !told.has_error && !told.finish.is_empty();
    compare("[DONE]", saw.dones() == usize::from(complete), format!("{} times", saw.dones()));
    found
}

#[test]
fn a_stream_is_read_leniently() {
    let body = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\n: hi\n\ndata:{\"choices\":[{\"delta\":{\"content\":[{\"type\":\"text\",\"text\":\"b\"}]},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
    let told = Told::of(events(body).into_iter());
    assert_eq!((told.text[&0].as_str(), told.usage, told.finish.len()), ("ab", Some((1, 2)), 1));
}
