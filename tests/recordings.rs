//! Recorded streams of the providers that speak OpenAI's wire, played through the running gateway in many cuts:
//! whole, byte by byte, and in two. However it was cut, the client hears the same and the same is booked. What the
//! recording says is held against what the official SDK hears in `recordings_sdk`.
//! The recordings are read from the folder that `WIRE_RECORDINGS` names; none of them is in this project.
//! It must not know what any recording says.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::provider::{FakeProvider, Reply, Step};
use crate::support::skip;

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
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            found.push(Recording { name, kind, request: request["body"].clone(), body: body.as_bytes().to_vec() });
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
    let mut whole = None;
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
        let scrape = gateway.settled(&model, 1).await;
        let tokens = |kind| scrape.count("choreoai_tokens_total", &[("model", model.as_str()), ("type", kind)]);
        let heard = (saw.status, saw.chunks(), saw.dones(), [tokens("input"), tokens("output")]);
        let first = whole.get_or_insert_with(|| heard.clone());
        if *first != heard {
            faults.push(format!("{} {}, {how}: {heard:?}\n  whole: {first:?}", recording.kind, recording.name));
        }
    }
    faults
}
