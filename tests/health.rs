//! What the gateway says of its own health, and how it finds out that a provider is gone.
//! It must not know how a target falls ill.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::limits_server::Server;
use crate::support::client::Request;
use crate::support::dialect::{openai, request, usage};
use crate::support::gateway::Gateway;
use crate::support::provider::{FakeProvider, Reply};
use crate::support::{GLANCE, PATIENCE, has_tool};

fn configuration(fake: &FakeProvider, more: &str) -> String {
    format!(
        "[server]\nallow_anonymous = true\n[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n\
         models = [\"plain\", \"ill\"]\nretry = {{ attempts = 1 }}\nbreaker = {{ failures = 2, open = \"300ms\" }}\n{more}\n",
        fake.url()
    )
}

fn failure() -> Reply {
    Reply::json(500, &json!({"error": {"message": "ill", "type": "server_error", "param": null, "code": null}}))
}

async fn page(gateway: &Gateway, path: &str) -> (u16, Value) {
    let answer = Request::get(path).send(gateway.address).await;
    (answer.status, answer.json())
}

async fn until(gateway: &Gateway, path: &str, wished: impl Fn(u16, &Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (status, json) = page(gateway, path).await;
        if wished(status, &json) {
            return json;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path} stays {status} {json}");
        tokio::time::sleep(GLANCE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_names_what_rests_and_ready_turns_when_nothing_is_left() {
    let fake = FakeProvider::start().await;
    for model in ["plain", "ill"] {
        fake.on(model, |_| failure());
    }
    let gateway = Gateway::start(configuration(&fake, "").replace("300ms", "2s")).await;
    let (status, health) = page(&gateway, "/health").await;
    assert_eq!((status, &health["status"]), (200, &json!("healthy")), "{health}");
    let checks = &health["checks"];
    assert_eq!(checks["upstreams"], json!({"status": "ok", "known": 2, "resting": []}));
    assert_eq!(checks["redis"], json!({"status": "unused"}));
    assert_eq!(checks["metering"]["status"], "ok");
    assert!(checks["memory"]["resident_bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000), "{checks}");
    let ask = async |model: &str| Request::chat(&request(&format!("fake/{model}"), 3)).send(gateway.address).await.status;
    for _ in 0..2 {
        ask("ill").await;
    }
    let (status, health) = page(&gateway, "/health").await;
    assert_eq!((status, &health["status"]), (200, &json!("degraded")), "{health}");
    assert_eq!(health["checks"]["upstreams"], json!({"status": "degraded", "known": 2, "resting": ["fake/ill"]}));
    assert_eq!(page(&gateway, "/ready").await, (200, json!({"ready": true})), "one target is left");
    for _ in 0..2 {
        ask("plain").await;
    }
    assert_eq!(page(&gateway, "/ready").await, (503, json!({"ready": false})));
    let (status, health) = page(&gateway, "/health").await;
    assert_eq!((status, &health["status"]), (503, &json!("unhealthy")), "{health}");
    assert_eq!(page(&gateway, "/live").await.0, 200, "nobody is helped by a restart");
    for model in ["plain", "ill"] {
        fake.on(model, |exchange| openai().answer(exchange, 3, &usage(17, 3)));
    }
    until(&gateway, "/ready", |status, _| status == 200).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while (ask("ill").await, ask("plain").await) != (200, 200) {
        assert!(tokio::time::Instant::now() < deadline, "targets that are well again are called again");
        tokio::time::sleep(GLANCE).await;
    }
    until(&gateway, "/health", |_, health| health["status"] == "healthy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_sees_a_redis_that_is_frozen() {
    if !has_tool("redis-server") {
        return;
    }
    let (redis, fake) = (Server::start(), FakeProvider::start().await);
    fake.on("plain", |exchange| openai().answer(exchange, 3, &usage(17, 3)));
    let limits = format!("[rate_limit]\nbackend = \"redis\"\nredis_url = \"{}\"\nrequests_per_minute = 1000\n", redis.url());
    let gateway = Gateway::start(configuration(&fake, &limits)).await;
    let ask = async || Request::chat(&request("fake/plain", 3)).send(gateway.address).await.status;
    assert_eq!(ask().await, 200);
    let health = until(&gateway, "/health", |_, health| health["checks"]["redis"]["state"] == "shared").await;
    assert_eq!((&health["status"], &health["checks"]["redis"]["replicas"]), (&json!("healthy"), &json!(1)));
    redis.freeze();
    while page(&gateway, "/health").await.1["checks"]["redis"]["status"] != "degraded" {
        assert_eq!(ask().await, 200, "calls go on");
    }
    assert_eq!(page(&gateway, "/health").await.1["status"], "degraded");
    assert_eq!(page(&gateway, "/ready").await.0, 200, "calls are answered by this replica's share");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_finds_out_before_a_call_has_to() {
    let fake = FakeProvider::start().await;
    let is_ill = Arc::new(AtomicBool::new(false));
    let ill = is_ill.clone();
    fake.on("", move |exchange| {
        let listed = (exchange.path.as_str(), exchange.head.header("authorization")) == ("/v1/models", Some("Bearer sk-fake"));
        if ill.load(Ordering::Relaxed) || !listed { failure() } else { Reply::json(200, &json!({"object": "list", "data": []})) }
    });
    fake.on("plain", |exchange| openai().answer(exchange, 3, &usage(17, 3)));
    let gateway = Gateway::start(configuration(&fake, "probe = { every = \"50ms\", timeout = \"2s\" }")).await;
    let probes = |result: &'static str| [("provider", "fake"), ("result", result)];
    gateway.until("some probes", |scrape| scrape.count("choreoai_probes_total", &probes("ok")) >= 3).await;
    assert_eq!(page(&gateway, "/ready").await.0, 200);
    is_ill.store(true, Ordering::Relaxed);
    until(&gateway, "/ready", |status, _| status == 503).await;
    let scrape = gateway.scrape();
    assert!(scrape.count("choreoai_probes_total", &probes("failed")) >= 2, "one alone is not believed");
    assert_eq!(scrape.sum("choreoai_model_available", &[("model", "plain")]), 0.0);
    let refused = Request::chat(&request("fake/plain", 3)).send(gateway.address).await;
    assert_eq!((refused.status, fake.exchanges("plain").len()), (503, 0), "nothing is sent");
    is_ill.store(false, Ordering::Relaxed);
    until(&gateway, "/ready", |status, _| status == 200).await;
    assert_eq!(Request::chat(&request("fake/plain", 3)).send(gateway.address).await.status, 200);
    let scrape = gateway.settled("plain", 1).await;
    assert_eq!(scrape.count("choreoai_settlements_total", &[]), 1, "probes are no attempts");
    assert!(scrape.count("choreoai_upstream_connections_created_total", &[]) < 10, "probes share the connections");
    // A configuration without it ends it.
    assert!(gateway.reload(&configuration(&fake, "")).await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = fake.exchanges("").len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fake.exchanges("").len(), asked);
}
