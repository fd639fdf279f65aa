//! The gateway's life: how fast it starts, what it says to a newcomer, how it leaves.
//! It must not know bills or the door's refusals.

use std::time::Duration;

use serde_json::json;

use crate::support::client::{Connection, Request};
use crate::support::dialect::{openai, request, usage};
use crate::support::gateway::{Gateway, Setup};
use crate::support::provider::{FakeProvider, Gate};
use crate::support::{PATIENCE, soon};

/// Bounds for an unoptimised build on a busy machine; the release build's own are measured by `make bench`.
const GENEROUS_START: Duration = Duration::from_secs(3);
const GENEROUS_MEMORY_KIB: u64 = 120 * 1024;

fn configuration(fake: &FakeProvider, grace: &str) -> String {
    format!(
        "[server]\nallow_anonymous = true\nshutdown_grace = \"{grace}\"\n[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n",
        fake.url()
    )
}

/// Nothing looks at a clock just in case: a gateway that nobody calls is left asleep, but for a look at its file every 5 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_nothing_to_do_sleeps() {
    let fake = FakeProvider::start().await;
    fake.on("one", |exchange| openai().answer(exchange, 3, &usage(17, 3)));
    let gateway = Gateway::start(configuration(&fake, "1s")).await;
    assert_eq!(Request::chat(&request("fake/one", 10)).send(gateway.address).await.status, 200);
    gateway.log("of the call", |line| line["path"] == "/v1/chat/completions").await;
    let mut fewest = u64::MAX;
    for _ in 0..10 {
        let before = gateway.sleeps();
        tokio::time::sleep(Duration::from_secs(1)).await;
        fewest = fewest.min(gateway.sleeps() - before);
        if fewest <= 2 {
            return;
        }
    }
    panic!("something wakes it {fewest} times a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_configuration_the_printed_curl_line_works() {
    let mut gateway = Setup::default().env("CHOREOAI_LOG_FORMAT", "text").start().await;
    let idle = gateway.memory_kib();
    println!("start {:?}, idle memory {idle} KiB (this build)", gateway.started_in);
    assert!(gateway.started_in < GENEROUS_START && idle < GENEROUS_MEMORY_KIB);
    let printed = gateway.output().join("\n");
    let from = printed.find("curl ").unwrap_or_else(|| panic!("no curl line in:\n{printed}"));
    let mut script = String::new();
    for line in printed[from..].lines() {
        script += line.trim_end_matches('\\');
        if !line.trim_end().ends_with('\\') {
            break;
        }
        script.push(' ');
    }
    assert!(script.contains(&gateway.address.to_string()), "{script}");
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{script}\nanswered {answer}"));
    assert!(json["choices"][0]["message"]["content"].as_str().is_some_and(|text| !text.is_empty()), "{json}");
    assert!(json["usage"]["total_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{json}");
    let scrape = gateway.until("the settlement", |scrape| scrape.count("choreoai_settlements_total", &[]) == 1).await;
    assert!(scrape.sum("choreoai_cost_total", &[]) > 0.0, "the demo has a price");
    let (status, took) = gateway.stop();
    println!("idle SIGTERM: ended in {took:?} with {status}");
    assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_hold_it_up() {
    let fake = FakeProvider::start().await;
    fake.on("plain", |exchange| openai().answer(exchange, 3, &usage(17, 3)));
    let mut gateway = Gateway::start(configuration(&fake, "20s")).await;
    let mut kept = Connection::open(gateway.address).await;
    kept.write(&Request::chat(&request("fake/plain", 3)).bytes()).await;
    assert_eq!(kept.answer().await.status, 200);
    let _silent = Connection::open(gateway.address).await;
    let (status, took) = gateway.stop();
    println!("SIGTERM with a kept and a silent connection: {took:?}");
    assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_finishes_within_the_grace_and_nothing_new_begins() {
    let fake = FakeProvider::start().await;
    let gate = Gate::closed();
    let held = gate.clone();
    fake.on("held", move |exchange| openai().held(exchange, 5, &held));
    let mut gateway = Gateway::start(configuration(&fake, "15s")).await;
    let mut body = request("fake/held", 10);
    body["stream"] = json!(true);
    let mut stream = Request::chat(&body).open(gateway.address).await;
    stream.contents(5).await;
    let mut early = Connection::open(gateway.address).await;
    early.write(&Request::get("/live").bytes()).await;
    assert_eq!(early.answer().await.status, 200);
    gateway.terminate();
    // Either the door still answers "not ready", or it is shut: never ready again, never a new call.
    let not_ready = async {
        loop {
            match tokio::net::TcpStream::connect(gateway.address).await {
                Err(_) => return,
                Ok(_) if Request::get("/ready").send(gateway.address).await.status == 503 => return,
                Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    soon("/ready to turn", not_ready).await;
    early.write(&Request::chat(&body).bytes()).await;
    if let Some(head) = early.head().await {
        assert_eq!(head.second_word(), "503", "no new call while leaving");
    }
    assert_eq!(fake.exchanges("held").len(), 1);
    gate.open();
    let saw = stream.rest().await;
    assert_eq!((saw.dones(), saw.error()), (1, None), "a stream may finish");
    let status = gateway.wait();
    assert!(status.success(), "{status}");
    let line = gateway.log("of the call", |line| line["outcome"] == "completed").await;
    assert_eq!((line["input_tokens"].as_u64(), line["output_tokens"].as_u64()), (Some(17), Some(5)));
    assert!(PATIENCE > Duration::from_secs(15));
}

#[test]
fn a_bad_configuration_is_told_by_line_and_nearest_key() {
    let cases = [
        ("[server]\nlisten = \"127.0.0.1:0\"\nmax_body_byte = 5\n", ["3", "max_body_byte", "max_body_bytes"]),
        ("[providers.openai]\nkind = \"openai\"\napy_key = \"x\"\n", ["3", "apy_key", "api_key"]),
        ("[server]\nshutdown_grace = \"soon\"\n", ["2", "soon", "shutdown_grace"]),
        ("[providers.mine]\nkind = \"opanai\"\nbase_url = \"http://127.0.0.1:1\"\n", ["opanai", "openai", "mine"]),
        ("[models.m]\ntargets = [ { target = \"nowhere/x\" } ]\n", ["nowhere", "m", "target"]),
        ("[server\n", ["1", "", ""]),
        ("[rate_limit]\nbackend = \"memry\"\n", ["memry", "memory", "redis"]),
        ("[[keys]]\nname = \"a\"\nkey = \"${NOT_SET_ANYWHERE}\"\n", ["NOT_SET_ANYWHERE", "", ""]),
        ("[[keys]]\nname = \"a\"\nkey = \"secret-1\"\n[[keys]]\nname = \"a\"\nkey = \"secret-2\"\n", ["a", "", ""]),
    ];
    for (toml, wished) in cases {
        let output = Setup::new(toml).command(&["check"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "accepted:\n{toml}\n{said}");
        for word in wished {
            assert!(said.contains(word), "{word:?} is not in the message for\n{toml}\n{said}");
        }
        assert!(!said.contains("secret-") && !said.contains("panicked"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_prints_routes_limits_and_unpriced_models_but_no_key() {
    let fake = FakeProvider::start().await;
    let toml = configuration(&fake, "5s")
        + "[models.everyday]\ntargets = [ { target = \"fake/plain\" } ]\n\
           [[keys]]\nname = \"team-a\"\nkey = \"a-very-secret-key\"\nrequests_per_minute = 123\n";
    let output = Setup::new(toml).command(&["check"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for word in ["everyday", "fake/plain", "team-a", "123"] {
        assert!(said.contains(word), "no {word} in\n{said}");
    }
    assert!(!said.contains("a-very-secret-key") && !said.contains("sk-fake"), "{said}");
    assert_eq!(fake.count(), 0, "a check calls nobody");
}
