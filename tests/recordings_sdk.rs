//! Every recorded answer of every wire, played by a fake provider through the running gateway and heard by
//! the official Python package, in one process that walks them all; it says what the fake answers next.
//! It must not know what a recording says.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine;
use serde_json::{Value, json};

use crate::support::gateway::Gateway;
use crate::support::provider::{Exchange, FakeProvider, Reply, Step};
use crate::support::skip;

/// Where the fake is told its next answer.
const NEXT: &str = "/next";

/// A fake that gives whatever answer it was told last.
async fn obedient() -> FakeProvider {
    let fake = FakeProvider::start().await;
    let next = Arc::new(Mutex::new(Reply::json(500, &Value::Null)));
    fake.on("", move |exchange| {
        if exchange.path == NEXT {
            *next.lock().unwrap() = told(exchange);
            return Reply::json(200, &json!({}));
        }
        next.lock().unwrap().clone()
    });
    fake
}

fn told(exchange: &Exchange) -> Reply {
    let wish = exchange.json();
    let decode = |piece: &Value| base64::engine::general_purpose::STANDARD.decode(piece.as_str().unwrap()).unwrap();
    let pieces = wish["pieces"].as_array().unwrap().iter().map(decode);
    let mut reply = if wish["is_chunked"] == true {
        Reply::stream(pieces.map(|piece| Step::Write(piece.into(), 0)).collect())
    } else {
        Reply::whole(200, "application/json", pieces.collect::<Vec<_>>().concat())
    };
    reply.status = u16::try_from(wish["status"].as_u64().unwrap()).unwrap();
    for (name, value) in wish["headers"].as_object().unwrap() {
        reply = reply.header(name, value.as_str().unwrap());
    }
    reply
}

/// Every kind twice: by its own name, and under a name whose bills nobody looks at.
fn configuration(fake: &FakeProvider) -> String {
    let mut toml = String::from("[server]\nallow_anonymous = true\n");
    for kind in providers::all().map(providers::Provider::kind) {
        for name in [kind.to_owned(), format!("{kind}-unknown")] {
            toml += &format!(
                "[providers.{name}]\nkind = \"{kind}\"\nbase_url = \"http://{}\"\napi_key = \"sk-fake\"\nregion = \"us-east-1\"\n\
                 project = \"p\"\nretry = {{ attempts = 1 }}\nbreaker = {{ failures = 1000000 }}\n",
                fake.address
            );
        }
    }
    toml
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recording_is_heard_by_the_sdk_as_it_was_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".tools/python/bin/python");
    let Some(recordings) = std::env::var_os("WIRE_RECORDINGS") else {
        println!("SKIPPED: WIRE_RECORDINGS names no folder of recordings");
        return;
    };
    if !python.is_file() {
        skip("the Python SDK is not installed in .tools/python");
        return;
    }
    let fake = obedient().await;
    let gateway = Gateway::start(configuration(&fake)).await;
    let kinds: Vec<_> = providers::all().map(providers::Provider::kind).collect();
    let mut command = Command::new(python);
    command.arg("-B").arg(root.join("tests/sdk/python/recordings.py"));
    command
        .env("GATEWAY", format!("http://{}/v1", gateway.address))
        .env("METRICS", format!("http://{}/metrics", gateway.address));
    command.env("NEXT", format!("http://{}{NEXT}", fake.address)).env("KINDS", kinds.join(" "));
    command.env("WIRE_RECORDINGS", recordings);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}");
}
