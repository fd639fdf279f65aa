//! Real gateways that share one real Redis, and a thousand clients: one limit passes, not one per gateway.
//! It must not know how the limits are counted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::limits_server::Server;
use crate::limits_storm::in_time;
use crate::support::client::{Answer, Request};
use crate::support::dialect::{openai, prompt_tokens, request, usage};
use crate::support::gateway::{Gateway, Setup};
use crate::support::provider::FakeProvider;

const CLIENTS: usize = 1_000;

/// What one call costs: its prompt and its answer.
const COST: u64 = 250;

const PROMPT: usize = 20;

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
async fn gateway(fake: &FakeProvider, redis: &Server, limit: &str) -> Gateway {
    let toml = format!(
        "[rate_limit]\nbackend = \"redis\"\nredis_url = \"{}\"\n\
         [providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n\
         [[keys]]\nname = \"team\"\nkey = \"team-key\"\n{limit}\n",
        redis.url(),
        fake.url()
    );
    Setup::new(toml).start().await
}

/// Waits until every gateway has said once more that it lives, and so has heard of all.
async fn know_each_other(redis: &Server, replicas: u64) {
    assert!(in_time(async || redis.ask::<u64>("ZCARD {choreoai}:replicas") == replicas).await);
    let before = redis.calls("evalsha");
    assert!(in_time(async || redis.calls("evalsha") >= before + 2 * replicas).await);
}

/// Every client calls once, spread over the gateways.
async fn rush(gateways: &[SocketAddr]) -> Vec<Answer> {
    let clients = (0..CLIENTS).map(|client| {
        let to = gateways[client % gateways.len()];
        tokio::spawn(async move {
            let mut body = request("fake/plain", PROMPT);
            body["max_tokens"] = json!(COST - prompt_tokens(PROMPT));
            Request::chat(&body).key("team-key").send(to).await
        })
    });
    let mut answers = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        answers.push(client.await.unwrap());
    }
    answers
}

fn seconds(answer: &Answer, name: &str) -> u64 {
    answer.head.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", answer.head)).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_limit_however_many_gateways() {
    for replicas in [1, 2, 4] {
        for (limit, expected) in
            [("requests_per_minute = 60", 60), ("requests_per_minute = 600", 600), ("tokens_per_minute = 100000", 100_000 / COST)]
        {
            let (fake, redis) = (provider().await, Server::start());
            let mut gateways = Vec::new();
            for _ in 0..replicas {
                gateways.push(gateway(&fake, &redis, limit).await);
            }
            know_each_other(&redis, replicas).await;
            let addresses: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.address).collect();
            let began = Instant::now();
            let mut answers = rush(&addresses).await;
            // Whoever was refused comes again. What a gateway was not sure of is settled by then.
            know_each_other(&redis, replicas).await;
            answers.extend(rush(&addresses).await);
            let took = began.elapsed();
            assert!(took < Duration::from_secs(55), "a minute must not pass: {took:?}");
            let passed = answers.iter().filter(|answer| answer.status == 200).count() as u64;
            let degraded: f64 = gateways.iter().map(|one| one.scrape().sum("choreoai_rate_limit_degraded_total", &[])).sum();
            println!(
                "{replicas} gateways, {limit}: {passed} of {expected} passed in {took:.1?}, {degraded} decided without Redis"
            );
            assert_eq!(fake.count() as u64, passed, "what is refused goes nowhere");
            let off = passed.abs_diff(expected) as f64 / expected as f64;
            assert!(off <= 0.01, "{replicas} gateways, {limit}: {passed} of {expected}");
            for refused in answers.iter().filter(|answer| answer.status != 200) {
                assert_eq!(refused.status, 429, "{}", refused.text());
                let wait = seconds(refused, "retry-after");
                assert!((1..=61).contains(&wait), "{wait} s");
                assert!(seconds(refused, "retry-after-ms") <= wait * 1_000);
            }
        }
    }
}
