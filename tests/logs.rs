//! What the log says of calls when it is told to say less of some and more of all.
//! It must not know what a call costs.

use crate::support::client::Request;
use crate::support::dialect::{openai, request, usage};
use crate::support::gateway::Gateway;
use crate::support::provider::FakeProvider;

fn completed(gateway: &Gateway) -> Vec<serde_json::Value> {
    gateway.logs().into_iter().filter(|line| line["message"] == "request completed").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn successes_can_be_left_out_and_lines_can_say_where_they_come_from() {
    let fake = FakeProvider::start().await;
    fake.on("plain", |exchange| openai().answer(exchange, 3, &usage(17, 3)));
    let toml = format!(
        "[log]\nsource = true\nsample_success = 0.0\n[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n",
        fake.url()
    );
    let gateway = Gateway::start(toml).await;
    for _ in 0..5 {
        assert_eq!(Request::chat(&request("fake/plain", 3)).send(gateway.address).await.status, 200);
    }
    assert_eq!(Request::chat(&request("nowhere/plain", 3)).send(gateway.address).await.status, 404);
    let failed = gateway.log("of the failure", |line| line["status_code"] == 404).await;
    assert!(failed["file"].as_str().is_some_and(|file| file.ends_with(".rs")), "{failed}");
    assert!(failed["line"].as_u64().is_some_and(|line| line > 0) && failed["thread"].is_string(), "{failed}");
    let scrape = gateway.settled("other", 5).await;
    assert_eq!(scrape.count("choreoai_requests_total", &[("status", "200"), ("provider", "fake")]), 5, "all are counted");
    let lines = completed(&gateway);
    assert!(lines.iter().all(|line| line["status_code"] == 404), "only failures have lines: {lines:?}");
}
