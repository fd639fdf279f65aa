//! Real gateways that share one real Redis, and a thousand clients: one limit passes, not one per gateway.
//! It must not know how the limits are counted.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::limits_redis::ACCOUNT;
use crate::limits_server::Server;
use crate::limits_storm::in_time;
use crate::support::client::{Answer, Request, Stream};
use crate::support::dialect::{openai, prompt_tokens, request, said, usage};
use crate::support::gateway::{Gateway, Setup, free_address};
use crate::support::provider::{FakeProvider, Gate, Reply, Step};

const CLIENTS: usize = 1_000;

/// What one call costs: its prompt and its answer.
const COST: u64 = 250;

const PROMPT: usize = 20;

/// Keys, what limits them, and how many calls that lets pass in a minute or at once.
const LIMITS: [(&str, &str, u64); 4] = [
    ("few", "requests_per_minute = 60", 60),
    ("many", "requests_per_minute = 600", 600),
    ("tokens", "tokens_per_minute = 100000", 100_000 / COST),
    ("places", "max_concurrent = 40", 40),
];

async fn provider() -> FakeProvider {
    let fake = FakeProvider::start().await;
    let (input, output) = (prompt_tokens(PROMPT), COST - prompt_tokens(PROMPT));
    fake.on("plain", move |exchange| {
        openai().whole(exchange, &json!({"role": "assistant", "content": "hi"}), Some(&usage(input, output)))
    });
    fake
}

/// With the usual deadline, although on a few busy cores a thousand clients keep gateways and Redis from their work for
/// longer than that.
async fn gateway(fake: &FakeProvider, redis: &Server) -> Gateway {
    let keys = LIMITS.map(|(key, limit, _)| format!("[[keys]]\nname = \"{key}\"\nkey = \"{key}\"\n{limit}\n")).concat();
    let toml = format!(
        "[rate_limit]\nbackend = \"redis\"\nredis_url = \"{}\"\nlease = \"3s\"\n\
         [providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n{keys}",
        redis.url(),
        fake.url()
    );
    Setup::new(toml).start().await
}

async fn gateways(fake: &FakeProvider, redis: &Server, replicas: u64) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for _ in 0..replicas {
        gateways.push(gateway(fake, redis).await);
    }
    know_each_other(redis, replicas).await;
    gateways
}

fn addresses(gateways: &[Gateway]) -> Vec<SocketAddr> {
    gateways.iter().map(|gateway| gateway.address).collect()
}

/// Waits until every gateway has said once more that it lives, and so has heard of all.
async fn know_each_other(redis: &Server, replicas: u64) {
    assert!(in_time(async || redis.ask::<u64>("ZCARD {choreoai}:replicas") == replicas).await);
    let before = redis.calls("evalsha");
    assert!(in_time(async || redis.calls("evalsha") >= before + 2 * replicas).await);
}

fn call(model: &str, key: &str) -> Request {
    let mut body = request(model, PROMPT);
    body["max_tokens"] = json!(COST - prompt_tokens(PROMPT));
    Request::chat(&body).key(key)
}

/// Every client calls once, spread over the gateways. Who is left without an answer has none among these.
async fn rush(gateways: Vec<SocketAddr>, key: &'static str) -> Vec<Answer> {
    let clients = (0..CLIENTS).map(|client| {
        let to = gateways[client % gateways.len()];
        tokio::spawn(async move { call("fake/plain", key).send(to).await })
    });
    let mut answers = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        answers.extend(client.await);
    }
    answers
}

fn seconds(answer: &Answer, name: &str) -> u64 {
    answer.head.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", answer.head)).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_limit_however_many_gateways() {
    for replicas in [1, 2, 4] {
        let (fake, redis) = (provider().await, Server::start());
        let gateways = gateways(&fake, &redis, replicas).await;
        for (key, limit, expected) in &LIMITS[..3] {
            let (began, before) = (Instant::now(), fake.count());
            let mut answers = rush(addresses(&gateways), key).await;
            // Whoever was refused comes again. What a gateway was not sure of is settled by then.
            know_each_other(&redis, replicas).await;
            answers.extend(rush(addresses(&gateways), key).await);
            let took = began.elapsed();
            assert!(took < Duration::from_secs(55), "a minute must not pass: {took:?}");
            assert_eq!(answers.len(), 2 * CLIENTS, "everybody is answered");
            let passed = answers.iter().filter(|answer| answer.status == 200).count() as u64;
            let degraded: f64 = gateways.iter().map(|one| one.scrape().sum("choreoai_rate_limit_degraded_total", &[])).sum();
            println!(
                "{replicas} gateways, {limit}: {passed} of {expected} passed in {took:.1?}, {degraded} decided without Redis so far"
            );
            assert_eq!((fake.count() - before) as u64, passed, "what is refused goes nowhere");
            assert!(is_nearly(passed, *expected), "{replicas} gateways, {limit}: {passed} of {expected}");
            for refused in answers.iter().filter(|answer| answer.status != 200) {
                assert_eq!(refused.status, 429, "{}", refused.text());
                let wait = seconds(refused, "retry-after");
                assert!((1..=61).contains(&wait), "{wait} s");
                assert!(seconds(refused, "retry-after-ms") <= wait * 1_000);
            }
        }
    }
}

/// Within one in a hundred.
fn is_nearly(passed: u64, expected: u64) -> bool {
    passed.abs_diff(expected) * 100 <= expected
}

/// Calls that hold a place until the test ends, one after the other, as long as there are places.
async fn take_places(gateways: &[SocketAddr], at_most: usize) -> Vec<Stream> {
    let mut taken = Vec::new();
    for turn in 0..at_most {
        let mut body = request("fake/held", PROMPT);
        body["stream"] = json!(true);
        let stream = Request::chat(&body).key("places").open(gateways[turn % gateways.len()]).await;
        if !stream.head.first_line.contains(" 200 ") {
            assert!(stream.head.first_line.contains(" 429 "), "{:?}", stream.head);
            break;
        }
        taken.push(stream);
    }
    taken
}

/// A call asks for itself and for the only provider it can go to in one question, and what it gives back rides with the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_one_round_trip() {
    const CALLS: u64 = 100;
    let (fake, redis) = (provider().await, Server::start());
    let figures = "requests_per_minute = 100000\ntokens_per_minute = 100000000\nmax_concurrent = 100";
    let toml = format!(
        "[rate_limit]\nbackend = \"redis\"\nredis_url = \"{}\"\n{figures}\n\
         [providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n{figures}\n",
        redis.url(),
        fake.url()
    );
    let gateway = Setup::new(toml).start().await;
    assert!(in_time(async || redis.ask::<u64>("ZCARD {choreoai}:replicas") == 1).await);
    let counted = || redis.ask::<Option<u64>>("HGET {choreoai}:provider:fake:window r").unwrap_or_default();
    // The first few bring the script along, and connect.
    for _ in 0..10 {
        assert_eq!(call("fake/plain", "nobody").send(gateway.address).await.status, 200);
    }
    let (scripts, calls, began) = (redis.calls("evalsha"), counted(), Instant::now());
    for _ in 0..CALLS {
        assert_eq!(call("fake/plain", "nobody").send(gateway.address).await.status, 200);
    }
    let (scripts, beats) = (redis.calls("evalsha") - scripts, 2 * began.elapsed().as_secs() + 2);
    println!("{scripts} scripts for {CALLS} calls in {:.1?}", began.elapsed());
    assert_eq!(counted() - calls, CALLS);
    // On a machine so busy that calls come 20 ms apart, what they give back goes by itself.
    assert!((CALLS..CALLS * 3 / 2 + beats).contains(&scripts), "{scripts} scripts for {CALLS} calls");
    for rule in ["global:gateway", "provider:fake"] {
        let leases = || redis.ask::<u64>(&format!("ZCARD {{choreoai}}:{rule}:leases"));
        assert!(in_time(async || leases() == 0).await, "{rule}: {} places did not come back", leases());
    }
}

/// SIGKILL in the middle of a rush, to one that holds places: the limit holds, and its places come back when its leases end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_takes_nothing_with_it() {
    let (fake, redis, gate) = (provider().await, Server::start(), Gate::closed());
    let door = gate.clone();
    fake.on("held", move |exchange| {
        let mut steps = openai().beginning(exchange, &said(1), None);
        steps.push(Step::Wait(door.clone()));
        steps.extend(openai().ending(exchange, "stop", 1, Some(&usage(1, 1))));
        Reply::stream(steps)
    });
    let mut four = gateways(&fake, &redis, 4).await;
    let held = take_places(&addresses(&four), 60).await;
    assert_eq!(held.len(), 40, "all places are taken, ten on each gateway");

    let rushing = tokio::spawn(rush(addresses(&four), "many"));
    let passed = || fake.exchanges("plain").len() as u64;
    assert!(in_time(async || passed() >= 100).await);
    four.remove(3).kill();
    let killed = Instant::now();
    let answered = rushing.await.unwrap().len();
    let three = addresses(&four);
    let mut back = Vec::new();
    while back.len() < 10 && killed.elapsed() < Duration::from_secs(8) {
        back.extend(take_places(&three, 20).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = killed.elapsed();
    assert_eq!(back.len(), 10, "the places of the dead, and no other");
    assert!(take_places(&three, 1).await.is_empty(), "no other");
    rush(three, "many").await;

    let counted: u64 = redis.ask("HGET {choreoai}:key:many:window r");
    println!(
        "killed after {answered} of {CLIENTS} had an answer: {} of 600 passed, {counted} counted; its places were back after {after:.1?}",
        passed()
    );
    assert!(is_nearly(counted, 600), "{counted}");
    // What the dead had taken and not yet sent is counted, and cannot be passed by anybody.
    let lost = (CLIENTS - answered) as u64;
    assert!(passed() <= counted && passed() + lost >= 594, "{} passed, {lost} were left without an answer", passed());
    assert!(after >= Duration::from_secs(2), "a lease that lives is not given to others: {after:?}");
    gate.open();
}

/// Over TLS, by a user with a password who may do no more than the documentation says. The certificate's authority is one that
/// the system trusts, as far as the gateway is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_behind_tls_and_a_password() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls");
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (fake, tls_port) = (provider().await, free_address().port().to_string());
    let redis = Server::start_with(&[
        "--tls-port",
        &tls_port,
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        &file("redis.pem"),
        "--tls-key-file",
        &file("redis.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
    ]);
    let _: () = redis.ask(&format!("ACL SETUSER gate on >s3cret ~{{choreoai}}:* {ACCOUNT}"));
    let toml = format!(
        "[rate_limit]\nbackend = \"redis\"\nredis_url = \"rediss://gate:s3cret@127.0.0.1:{tls_port}\"\nrequests_per_minute = 2\n\
         [providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n",
        fake.url()
    );
    let gateway = Setup::new(toml).env("SSL_CERT_FILE", &file("ca.pem")).start().await;
    assert!(in_time(async || redis.ask::<u64>("ZCARD {choreoai}:replicas") == 1).await, "{}", gateway.output().join("\n"));
    for status in [200, 200, 429] {
        assert_eq!(call("fake/plain", "nobody").send(gateway.address).await.status, status);
    }
    assert_eq!(redis.ask::<u64>("HGET {choreoai}:global:gateway:window r"), 2);
    assert!(!gateway.output().join("\n").contains("s3cret"));
}
