//! What Prometheus makes of `/metrics`: `promtool` finds nothing to say, and the questions people ask
//! of it get numbers. It needs Prometheus on this machine, and says so where there is none.
//! It must not know how the numbers come about.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::Request;
use crate::support::dialect::{openai, request, said, usage};
use crate::support::gateway::Gateway;
use crate::support::prometheus::Prometheus;
use crate::support::provider::{FakeProvider, Reply};
use crate::support::{PATIENCE, has_tool};

/// The questions, in the words of PromQL. Ratios are taken between sums, as the label sets differ.
const QUERIES: [(&str, &str); 17] = [
    ("request rate", "rate(choreoai_requests_total[5m])"),
    ("error rate, %", "sum(rate(choreoai_errors_total[5m])) / sum(rate(choreoai_requests_total[5m])) * 100"),
    ("p95 latency, each series", "histogram_quantile(0.95, rate(choreoai_request_duration_seconds_bucket[5m])) > 0"),
    ("p95 latency", "histogram_quantile(0.95, sum by (le) (rate(choreoai_request_duration_seconds_bucket[5m])))"),
    ("tokens by provider", "sum by (provider) (rate(choreoai_tokens_total[5m]))"),
    (
        "success rate, %",
        "(sum(rate(choreoai_requests_total{status=~\"2..\"}[5m])) / sum(rate(choreoai_requests_total[5m]))) * 100",
    ),
    ("tokens an hour", "sum(increase(choreoai_tokens_total[1h]))"),
    ("USD an hour by provider", "sum by (provider) (rate(choreoai_cost_total[5m])) * 3600"),
    ("open connections", "choreoai_active_connections"),
    ("streaming share", "sum(rate(choreoai_streaming_requests_total[5m])) / sum(rate(choreoai_requests_total[5m]))"),
    ("first token, p95", "histogram_quantile(0.95, sum by (le) (rate(choreoai_time_to_first_token_seconds_bucket[5m])))"),
    ("the gateway's own time, p95", "histogram_quantile(0.95, sum by (le) (rate(choreoai_overhead_seconds_bucket[5m])))"),
    (
        "connection reuse",
        "sum(rate(choreoai_upstream_connections_reused_total[5m])) / (sum(rate(choreoai_upstream_connections_reused_total[5m])) + sum(rate(choreoai_upstream_connections_created_total[5m])))",
    ),
    ("breaker trips in an hour", "sum(increase(choreoai_circuit_breaker_trips_total[1h]))"),
    ("queue", "sum(choreoai_queue_size)"),
    ("memory, MB", "process_resident_memory_bytes / 1024 / 1024"),
    ("uptime", "time() - process_start_time_seconds"),
];

async fn house() -> (FakeProvider, Gateway) {
    let fake = FakeProvider::start().await;
    fake.on("plain", |exchange| openai().stream(exchange, &said(12), Some(&usage(170, 12))));
    fake.on("bad", |_| {
        Reply::json(500, &json!({"error": {"message": "no", "type": "server_error", "param": null, "code": null}}))
    });
    let toml = format!(
        "[server]\nallow_anonymous = true\n[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n\
         retry = {{ attempts = 1 }}\nbreaker = {{ failures = 1000000 }}\n[prices.\"fake/plain\"]\ninput = 2.5\noutput = 10\n",
        fake.url()
    );
    (fake, Gateway::start(toml).await)
}

async fn load(to: SocketAddr) {
    for n in 0..5 {
        let mut body = request(if n == 4 { "fake/bad" } else { "fake/plain" }, 10);
        body["stream"] = json!(true);
        Request::chat(&body).open(to).await.rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_has_nothing_to_say() {
    if !has_tool("promtool") {
        return;
    }
    let (_fake, gateway) = house().await;
    load(gateway.address).await;
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(gateway.scrape().text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "promtool: {said}");
    let negotiated =
        Request::get("/metrics").header("accept", "application/openmetrics-text;version=1.0.0").send(gateway.address).await;
    let kind = negotiated.head.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "OpenMetrics when asked for, not {kind}");
    assert!(negotiated.text().ends_with("# EOF\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_question_gets_a_number() {
    if !has_tool("prometheus") {
        return;
    }
    let (_fake, gateway) = house().await;
    let prometheus = Prometheus::start(gateway.address);
    let deadline = Instant::now() + 2 * PATIENCE;
    let mut open: Vec<(&str, &str)> = QUERIES.to_vec();
    while !open.is_empty() {
        assert!(Instant::now() < deadline, "no number for {open:#?}");
        load(gateway.address).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut still = Vec::new();
        for (what, query) in open {
            let values = prometheus.ask(query).await;
            match values.iter().find(|value| value.is_finite()) {
                Some(value) => println!("{what:<28} {value:>14.6}  ({} series)", values.len()),
                None => still.push((what, query)),
            }
        }
        open = still;
    }
    let share = prometheus.ask(QUERIES[1].1).await[0];
    assert!((10.0..=30.0).contains(&share), "one call in five fails, Prometheus says {share} %");
}
