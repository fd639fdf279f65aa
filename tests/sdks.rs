//! The official Python and Node packages of OpenAI against a running gateway, installed by `make test`.
//! It must not know what they check; only that all of it passed and was counted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::dialect::{called, openai, said, usage};
use crate::support::gateway::Gateway;
use crate::support::native::Native;
use crate::support::provider::{Exchange, FakeProvider, Reply, Step};
use crate::support::{skip, words};

const KEY: &str = "sdk-key-may-all";
const POOR_KEY: &str = "sdk-key-may-nothing";
/// Bytes that are no text.
const SOUND: &[u8] = b"ID3\x00\xff\xfe\r\n\r\ndata: x";
const PACED_KEY: &str = "sdk-key-one-a-second";

fn answer(exchange: &Exchange, pieces: &[crate::support::dialect::Piece], text: &str) -> Reply {
    let usage = usage(17, 12);
    if exchange.json()["stream"] == true {
        return openai().stream(exchange, pieces, Some(&usage));
    }
    openai().whole(exchange, &json!({"role": "assistant", "content": text, "refusal": null}), Some(&usage))
}

async fn provider() -> FakeProvider {
    let fake = FakeProvider::start().await;
    let error =
        |kind: &str, code: Option<&str>| json!({"error": {"message": "so it is", "type": kind, "param": null, "code": code}});
    fake.on("plain", |exchange| answer(exchange, &said(12), &words(12).concat()));
    fake.on("tools", |exchange| answer(exchange, &[called(0, 12), called(1, 12)].concat(), ""));
    fake.on("schema", |exchange| answer(exchange, &[], "{\"name\":\"Ada\",\"age\":36}"));
    let limited = error("rate_limit_error", Some("rate_limit_exceeded"));
    fake.on("limited", move |_| Reply::json(429, &limited).header("retry-after", "7"));
    // As several providers tell it; to the SDKs it is not worth another try.
    fake.on("poor", |_| Reply::json(402, &json!({"error": {"message": "no credits", "code": 402}})));
    let bad = error("invalid_request_error", None);
    fake.on("bad", move |_| Reply::json(400, &bad));
    fake.on("cut", |exchange| {
        let mut steps = openai().beginning(exchange, &said(5), None);
        steps.push(Step::HangUp);
        Reply::stream(steps)
    });
    fake.on("native", |exchange| {
        let native = if exchange.path.ends_with("/responses") { Native::Responses } else { Native::Completions };
        native.answer(exchange, 12, Some(&native.bill([17, 12, 0, 0])))
    });
    fake.on("native-cut", |_| {
        let native = Native::Responses;
        Reply::stream([native.opening(None), native.said(5), vec![Step::HangUp]].concat())
    });
    let picture = json!({"created": 1_760_000_000, "data": [{"b64_json": "QUFB"}]});
    fake.on("picture", move |_| Reply::json(200, &picture));
    fake.on("sound", |_| Reply::whole(200, "audio/mpeg", SOUND));
    fake.on("", passed_on);
    fake.on("slow", |exchange| {
        let steps = openai().beginning(exchange, &said(400), None);
        Reply::stream(steps.into_iter().flat_map(|step| [step, Step::Pause(Duration::from_millis(40))]).collect())
    });
    fake
}

/// Answers to what names no model, or names it in a form.
fn passed_on(exchange: &Exchange) -> Reply {
    let sent = String::from_utf8_lossy(&exchange.body);
    let file = json!({"id": "file-1", "object": "file", "bytes": 5, "created_at": 1_760_000_000, "filename": "a.jsonl",
        "purpose": "batch", "status": "processed"});
    let has = |part: &str| sent.contains(part);
    match (exchange.head.first_line.split(' ').next().unwrap_or_default(), exchange.path.as_str()) {
        ("POST", "/v1/audio/transcriptions") if has("plain") && !has("sdk/plain") && has("ID3-not-much") => {
            Reply::json(200, &json!({"text": "not much", "usage": {"type": "duration", "seconds": 1}}))
        }
        ("POST", "/v1/files") if has("purpose") && has("{\"custom_id\":1}") => Reply::json(200, &file),
        ("GET", "/v1/files?limit=1") => Reply::json(200, &json!({"object": "list", "data": [file], "has_more": false})),
        ("GET", "/v1/files/file-1/content") => Reply::whole(200, "application/octet-stream", SOUND),
        ("DELETE", "/v1/files/file-1") => Reply::json(200, &json!({"id": "file-1", "object": "file", "deleted": true})),
        ("POST", "/v1/moderations") => Reply::json(200, &json!({"id": "modr-1", "model": "m", "results": [{"flagged": false}]})),
        other => Reply::json(400, &json!({"error": {"message": format!("not as it should be: {other:?}"), "type": "x"}})),
    }
}

async fn passes(program: PathBuf, script: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fake = provider().await;
    let gateway = Gateway::start(format!(
        "[providers.sdk]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\nretry = {{ attempts = 1 }}\n\
         [models.everyday]\ntargets = [ {{ target = \"sdk/plain\" }} ]\n\
         [[keys]]\nname = \"all\"\nkey = \"{KEY}\"\n[[keys]]\nname = \"poor\"\nkey = \"{POOR_KEY}\"\nmodels = [\"nothing\"]\n\
         [[keys]]\nname = \"paced\"\nkey = \"{PACED_KEY}\"\nrequests_per_minute = 100\nrequests_per_second = 1\n",
        fake.url()
    ))
    .await;
    let url = format!("http://{}/v1", gateway.address);
    let mut command = Command::new(program);
    command.arg(root.join(script)).env("GATEWAY", url).env("KEY", KEY).env("POOR_KEY", POOR_KEY).env("PACED_KEY", PACED_KEY);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", gateway.output().join("\n"));
    let left = fake.until("slow", |all| all.iter().all(|exchange| exchange.over)).await;
    assert!(left.iter().all(|exchange| exchange.left_early), "an abort reaches the provider");
    assert_eq!(fake.exchanges("poor").len(), 1, "an empty account is asked once, however patient the client");
    let sent = fake.count() as u64;
    let scrape = gateway.until("all settlements", |scrape| scrape.count("choreoai_settlements_total", &[]) >= sent).await;
    assert_eq!(scrape.count("choreoai_settlements_total", &[]), sent);
    assert_eq!(scrape.count("choreoai_settlements_total", &[("outcome", "client_disconnect")]), left.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_sdk_is_at_home() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python/bin/python");
    if !python.is_file() {
        skip("the Python SDK is not installed in .tools/python");
        return;
    }
    passes(python, "tests/sdk/python/check.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_sdk_is_at_home() {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/node/node_modules/openai");
    if !installed.is_dir() {
        skip("the Node SDK is not installed in tests/sdk/node/node_modules");
        return;
    }
    passes("node".into(), "tests/sdk/node/check.js").await;
}
