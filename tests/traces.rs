//! Calls as traces at a real OTLP receiver, over gRPC and over HTTP: names, parents, attributes,
//! status, no secrets; and what happens when the receiver is frozen or gone: nothing, to the calls.
//! It must not know how a span is made.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::Request;
use crate::support::collector::{Attributes, Collector, Span};
use crate::support::dialect::{openai, request, said, usage};
use crate::support::gateway::{Gateway, Setup, free_address};
use crate::support::metrics::Scrape;
use crate::support::prometheus::Prometheus;
use crate::support::provider::{FakeProvider, Reply, Step};
use crate::support::{GLANCE, has_tool, soon};

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const UNSET: i32 = 0;
const ERROR: i32 = 2;

/// What a receiver that does not answer is given; a call that waits for it takes as long.
const RECEIVERS_TIME: Duration = Duration::from_secs(1);

/// Quick answers after which a slow one is known to be slow.
const QUICK: usize = 20;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

const CLIENT_KEY: &str = "client-key-tr81xv-never-seen";
const PROVIDER_KEY: &str = "sk-provkey-tr77aabb-never-seen";
const RECEIVER_KEY: &str = "receiver-key-tr55rt-never-seen";
const PROMPT: &str = "prompt-sentinel-lemur-bassoon";
const ANSWER: &str = "answer-sentinel-heron-marimba";

/// Two providers of one model: the first always fails.
fn configuration(fake: &FakeProvider) -> String {
    let provider = |name: &str| {
        format!(
            "[providers.{name}]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"{PROVIDER_KEY}\"\nretry = {{ attempts = 1 }}\n",
            fake.url()
        )
    };
    let targets = "[ { target = \"first/broken\" }, { target = \"second/plain\", tier = 2 } ]";
    provider("first")
        + &provider("second")
        + &format!("[models.either]\ntargets = {targets}\n")
        + "[prices.\"second/plain\"]\ninput = 1.0\noutput = 2.0\n"
        + &format!("[[keys]]\nname = \"team\"\nkey = \"{CLIENT_KEY}\"\n")
}

fn scripts(fake: &FakeProvider) {
    fake.on("broken", |_| Reply::json(500, &json!({"error": {"message": format!("no {PROMPT}"), "type": "server_error"}})));
    fake.on("plain", |exchange| {
        if exchange.json()["stream"] == true {
            return openai().stream(exchange, &said(3), Some(&usage(17, 3)));
        }
        let tokens = json!({"prompt_tokens": 17, "completion_tokens": 3, "total_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 8}, "completion_tokens_details": {"reasoning_tokens": 2}});
        openai().whole(exchange, &json!({"role": "assistant", "content": ANSWER}), Some(&tokens))
    });
    fake.on("cut", |exchange| {
        let mut steps = openai().beginning(exchange, &said(2), None);
        steps.push(Step::HangUp);
        Reply::stream(steps)
    });
    fake.on("stalls", |exchange| {
        let mut steps = openai().beginning(exchange, &said(2), None);
        steps.push(Step::Stall);
        Reply::stream(steps)
    });
}

fn setup(fake: &FakeProvider, collector: &Collector, protocol: &str) -> Setup {
    scripts(fake);
    setup_of(configuration(fake), collector, protocol)
}

fn setup_of(toml: String, collector: &Collector, protocol: &str) -> Setup {
    Setup::new(toml)
        .env("OTEL_ENABLED", "true")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
}

fn call(model: &str) -> Request {
    Request::chat(&request(model, 3)).key(CLIENT_KEY)
}

fn streamed(model: &str) -> Request {
    let mut body = request(model, 3);
    body["stream"] = json!(true);
    Request::chat(&body).key(CLIENT_KEY)
}

/// The attributes, with those left out whose value depends on the run.
fn fixed(span: &Span) -> Attributes {
    let varies = ["choreoai.request_id", "server.port", "gen_ai.response.id", "gen_ai.response.time_to_first_chunk"];
    span.attributes.iter().filter(|(key, _)| !varies.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn as_attributes(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn of_kind(spans: &[Span], kind: i32) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind == kind).collect()
}

/// What a call that fell over is, as spans: itself, the attempt that failed, the attempt that was answered.
async fn a_call_that_falls_over_is_three_spans(protocol: &str) {
    let (fake, collector) = (FakeProvider::start().await, Collector::start().await);
    let gateway = setup(&fake, &collector, protocol)
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .env("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization=Bearer%20{RECEIVER_KEY}"))
        .start()
        .await;
    let answer = call("either")
        .header("traceparent", &format!("00-{TRACE}-{PARENT}-01"))
        .header("tracestate", "vendor=42")
        .header("x-request-id", "call-1")
        .send(gateway.address)
        .await;
    assert_eq!(answer.status, 200);
    let spans = collector.until("three spans", |spans| spans.len() >= 3).await;
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let (server, attempts) = (of_kind(&spans, SERVER)[0], of_kind(&spans, CLIENT));
    let (failed, answered) = (attempts[0], attempts[1]);
    they_belong_together(&spans, server, failed, answered);
    assert_eq!(fixed(server), as_attributes(&OF_SERVER));
    assert_eq!(server.attributes["choreoai.request_id"], "call-1");
    assert_eq!(fixed(failed), as_attributes(&OF_FAILED));
    assert_eq!(fixed(answered), as_attributes(&OF_ANSWERED));
    assert_eq!(answered.attributes["server.port"], fake.address.port().to_string());

    // The provider was told which span it serves, and the log line where to look.
    for (model, span) in [("broken", failed), ("plain", answered)] {
        let head = fake.exchanges(model)[0].head.clone();
        assert_eq!(head.header("traceparent"), Some(format!("00-{TRACE}-{}-01", span.id).as_str()));
        assert_eq!(head.header("tracestate"), Some("vendor=42"));
    }
    let line = gateway.log("of the call", |line| line["message"] == "request completed" && line["request_id"] == "call-1").await;
    assert_eq!((line["trace_id"].as_str(), line["span_id"].as_str()), (Some(TRACE), Some(server.id.as_str())));
    let told = collector.headers();
    assert!(told.iter().all(|headers| headers["authorization"] == format!("Bearer {RECEIVER_KEY}")), "{told:?}");
    assert_eq!(dropped(&gateway.scrape()), 0);
}

/// Names, parents, status, and what says who sent them.
fn they_belong_together(spans: &[Span], server: &Span, failed: &Span, answered: &Span) {
    for span in spans {
        assert_eq!((span.trace_id.as_str(), span.state.as_str(), span.scope.as_str()), (TRACE, "vendor=42", "choreoai"));
        assert_eq!(span.resource["service.name"], "choreoai");
        assert_eq!(span.resource["deployment.environment.name"], "test");
        assert!(span.resource.contains_key("service.version") && span.resource.contains_key("service.instance.id"));
    }
    assert_eq!((server.parent.as_str(), server.name.as_str()), (PARENT, "POST /v1/chat/completions"));
    assert_eq!((failed.parent.as_str(), failed.name.as_str()), (server.id.as_str(), "chat broken"));
    assert_eq!((answered.parent.as_str(), answered.name.as_str()), (server.id.as_str(), "chat plain"));
    assert_eq!((server.status, failed.status, answered.status), (UNSET, ERROR, UNSET));
    assert!(server.took >= failed.took + answered.took, "attempts lie within their call");
}

const OF_SERVER: [(&str, &str); 11] = [
    ("http.request.method", "POST"),
    ("http.route", "/v1/chat/completions"),
    ("url.path", "/v1/chat/completions"),
    ("url.scheme", "http"),
    ("http.response.status_code", "200"),
    ("choreoai.attempts", "2"),
    ("choreoai.cost_usd", "0.000023"),
    ("choreoai.key", "team"),
    ("choreoai.model", "plain"),
    ("choreoai.provider", "second"),
    ("choreoai.stream", "false"),
];
const OF_FAILED: [(&str, &str); 10] = [
    ("gen_ai.operation.name", "chat"),
    ("gen_ai.provider.name", "openai"),
    ("gen_ai.request.model", "broken"),
    ("server.address", "127.0.0.1"),
    ("http.response.status_code", "500"),
    ("error.type", "500"),
    ("choreoai.attempt", "1"),
    ("choreoai.outcome", "upstream_error"),
    ("choreoai.provider", "first"),
    ("choreoai.usage_source", "none"),
];
const OF_ANSWERED: [(&str, &str); 16] = [
    ("gen_ai.operation.name", "chat"),
    ("gen_ai.provider.name", "openai"),
    ("gen_ai.request.model", "plain"),
    ("gen_ai.response.model", "plain"),
    ("gen_ai.response.finish_reasons", "stop"),
    ("gen_ai.usage.input_tokens", "17"),
    ("gen_ai.usage.output_tokens", "3"),
    ("gen_ai.usage.cache_read.input_tokens", "8"),
    ("gen_ai.usage.reasoning.output_tokens", "2"),
    ("server.address", "127.0.0.1"),
    ("http.response.status_code", "200"),
    ("choreoai.attempt", "2"),
    ("choreoai.cost_usd", "0.000023"),
    ("choreoai.outcome", "completed"),
    ("choreoai.provider", "second"),
    ("choreoai.usage_source", "provider"),
];

fn dropped(scrape: &Scrape) -> u64 {
    scrape.count("choreoai_telemetry_dropped_total", &[("signal", "traces")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_falls_over_is_three_spans_over_grpc() {
    a_call_that_falls_over_is_three_spans("grpc").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_falls_over_is_three_spans_over_http() {
    a_call_that_falls_over_is_three_spans("http/protobuf").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_say_how_they_went() {
    let (fake, collector) = (FakeProvider::start().await, Collector::start().await);
    let gateway = setup(&fake, &collector, "grpc").env("OTEL_SERVICE_NAME", "door").start().await;
    let mut left = streamed("second/stalls").open(gateway.address).await;
    left.contents(2).await;
    drop(left);
    streamed("second/plain").open(gateway.address).await.rest().await;
    streamed("second/cut").open(gateway.address).await.rest().await;
    let spans = collector.until("six spans", |spans| spans.len() >= 6).await;

    // (model, outcome, error.type, status of the attempt, status of the call)
    let cases = [
        ("plain", "completed", None, UNSET, UNSET),
        ("cut", "upstream_truncated", Some("upstream_truncated"), ERROR, ERROR),
        ("stalls", "client_disconnect", Some("client_disconnect"), UNSET, UNSET),
    ];
    for (model, outcome, error_type, attempt_status, call_status) in cases {
        let attempt = spans.iter().find(|span| span.name == format!("chat {model}")).expect(model);
        let call = spans.iter().find(|span| span.id == attempt.parent).expect("its call");
        assert_eq!(attempt.attributes["choreoai.outcome"], outcome, "{model}");
        assert_eq!(attempt.attributes.get("error.type").map(String::as_str), error_type, "{model}");
        assert_eq!((attempt.status, call.status), (attempt_status, call_status), "{model}: {call:#?}");
        assert_eq!(attempt.attributes["gen_ai.request.stream"], "true", "{model}");
        assert_eq!(call.attributes["choreoai.stream"], "true", "{model}");
        assert_eq!((call.parent.as_str(), call.resource["service.name"].as_str()), ("", "door"), "{model}: a root of its own");
        let wait: f64 = attempt.attributes["gen_ai.response.time_to_first_chunk"].parse().unwrap();
        assert!(wait > 0.0 && wait <= attempt.took as f64 / 1e9, "{model}: {wait}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_calls_are_traced_and_pages_are_not() {
    let (fake, collector) = (FakeProvider::start().await, Collector::start().await);
    let gateway = setup(&fake, &collector, "http/protobuf").start().await;
    for page in ["/health", "/ready", "/live", "/metrics"] {
        assert_eq!(Request::get(page).send(gateway.address).await.status, 200);
    }
    assert_eq!(
        Request::get(&format!("/v1/models/nothing?key={CLIENT_KEY}")).key(CLIENT_KEY).send(gateway.address).await.status,
        404
    );
    assert_eq!(Request::chat(&request("either", 3)).key("wrong").send(gateway.address).await.status, 401);
    assert_eq!(call("first/broken").send(gateway.address).await.status, 500);
    let spans = collector.until("four spans", |spans| spans.len() >= 4).await;
    let told: Vec<_> = of_kind(&spans, SERVER)
        .iter()
        .map(|span| {
            (
                span.name.clone(),
                span.attributes["http.response.status_code"].clone(),
                span.attributes["error.type"].clone(),
                span.status,
            )
        })
        .collect();
    let expected = [
        ("GET /v1/models/{id}", "404", "not_found", UNSET),
        ("POST /v1/chat/completions", "401", "unauthorized", UNSET),
        ("POST /v1/chat/completions", "500", "upstream_error", ERROR),
    ];
    let expected: Vec<_> =
        expected.map(|(name, status, error, code)| (name.to_owned(), status.to_owned(), error.to_owned(), code)).into();
    assert_eq!(told, expected);
    assert_eq!(spans.len(), 4, "a refused call has no attempt: {spans:#?}");
}

/// What the provider was told, and whether anything was exported, for a client that sent `sent`.
async fn sampled(variables: &[(&str, &str)], sent: Option<&str>) -> (Option<String>, Value, Vec<Span>) {
    let (fake, collector) = (FakeProvider::start().await, Collector::start().await);
    let mut setup = setup(&fake, &collector, "http/protobuf");
    for (name, value) in variables {
        setup = setup.env(name, value);
    }
    let mut gateway = setup.start().await;
    let mut request = call("second/plain");
    if let Some(sent) = sent {
        request = request.header("traceparent", sent);
    }
    assert_eq!(request.send(gateway.address).await.status, 200);
    let line =
        gateway.log("of the call", |line| line["message"] == "request completed" && line["path"] == "/v1/chat/completions").await;
    // Leaving sends what there is.
    assert!(gateway.stop().0.success());
    let told = fake.exchanges("plain")[0].head.header("traceparent").map(str::to_owned);
    (told, line, collector.spans())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampling_and_context_are_as_the_variables_say() {
    let (yes, no) = (format!("00-{TRACE}-{PARENT}-01"), format!("00-{TRACE}-{PARENT}-00"));
    let off = [("OTEL_TRACES_SAMPLER", "always_off")];
    let half = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.0")];

    let (told, line, spans) = sampled(&off, None).await;
    let told = told.expect("context goes out also when nothing is exported");
    assert!(told.ends_with("-00") && told.contains(line["trace_id"].as_str().unwrap()), "{told} {line}");
    assert!(spans.is_empty(), "{spans:#?}");

    let (told, _, spans) = sampled(&[], Some(&no)).await;
    assert!(told.unwrap().starts_with(&format!("00-{TRACE}-")) && spans.is_empty(), "the client decided: {spans:#?}");
    let (_, _, spans) = sampled(&half, Some(&yes)).await;
    assert_eq!(spans.len(), 2, "the client decided: {spans:#?}");
    let (_, _, spans) = sampled(&half, None).await;
    assert!(spans.is_empty(), "none of a share of none: {spans:#?}");

    let (told, line, spans) = sampled(&[("OTEL_PROPAGATORS", "none")], Some(&yes)).await;
    assert!(told.is_none() && line["trace_id"] != TRACE && spans.len() == 2, "{told:?} {line} {spans:#?}");

    let (told, line, spans) = sampled(&[("OTEL_SDK_DISABLED", "true")], Some(&yes)).await;
    assert!(told.is_none() && line.get("trace_id").is_none() && spans.is_empty(), "off is off: {told:?} {line} {spans:#?}");
}

/// Calls while spans cannot be delivered: all are answered as ever, and what is lost is counted.
async fn calls_go_on(gateway: &Gateway, calls: usize) {
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    for _ in 0..calls {
        let sent = Instant::now();
        assert_eq!(call("second/plain").send(gateway.address).await.status, 200);
        longest = longest.max(sent.elapsed());
    }
    println!("{calls} calls in {:?}, the longest {longest:?}", began.elapsed());
    assert!(longest < RECEIVERS_TIME, "a call waited for the receiver: {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_receiver_harms_no_call_and_what_is_dropped_is_counted() {
    for protocol in ["grpc", "http/protobuf"] {
        let (fake, collector) = (FakeProvider::start().await, Collector::frozen().await);
        let gateway = setup(&fake, &collector, protocol)
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", &RECEIVERS_TIME.as_millis().to_string())
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "8")
            .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
            .start()
            .await;
        calls_go_on(&gateway, 50).await;
        // Of 100 spans at most 12 are still waiting or on their way; those are lost one by one.
        gateway.until("the spans beyond the line to be dropped", |scrape| dropped(scrape) >= 88).await;
        let scrape = gateway.until("all spans to be dropped", |scrape| dropped(scrape) >= 100).await;
        assert_eq!(dropped(&scrape), 100, "{protocol}: every span once");
        let warnings =
            gateway.logs().iter().filter(|line| line["message"] == "spans cannot be delivered and are dropped").count();
        assert_eq!(warnings, 1, "{protocol}: said once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_does_not_wait_for_a_frozen_receiver() {
    let (fake, collector) = (FakeProvider::start().await, Collector::frozen().await);
    let mut gateway = setup(&fake, &collector, "grpc").start().await;
    calls_go_on(&gateway, 5).await;
    let (status, took) = gateway.stop();
    println!("SIGTERM with spans on their way to a frozen receiver: {took:?}");
    assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_gone_is_missed_and_welcomed_back() {
    let fake = FakeProvider::start().await;
    let address = free_address();
    scripts(&fake);
    let gateway = Setup::new(configuration(&fake))
        .env("OTEL_ENABLED", "true")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", &RECEIVERS_TIME.as_millis().to_string())
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .start()
        .await;
    calls_go_on(&gateway, 5).await;
    gateway.log("of the loss", |line| line["message"] == "spans cannot be delivered and are dropped").await;
    gateway.until("ten spans to be dropped", |scrape| dropped(scrape) == 10).await;
    let collector = Collector::at(address).await;
    calls_go_on(&gateway, 1).await;
    assert_eq!(collector.until("the next spans", |spans| spans.len() >= 2).await.len(), 2);
    gateway.log("of the return", |line| line["message"] == "spans are delivered again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_stands_in_a_span_or_in_the_log_of_sending_it() {
    for protocol in ["grpc", "http/protobuf"] {
        let (fake, collector) = (FakeProvider::start().await, Collector::start().await);
        let gateway = setup(&fake, &collector, protocol)
            .env("RUST_LOG", "trace")
            .env("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization=Bearer%20{RECEIVER_KEY}"))
            .start()
            .await;
        for model in ["second/plain", "first/broken", "second/cut", "either", "missing/model"] {
            for stream in [false, true] {
                let body = json!({"model": model, "stream": stream, "user": "someone-never-seen",
                    "messages": [{"role": "user", "content": PROMPT}]});
                let _ = Request::chat(&body).key(CLIENT_KEY).header("x-secret", PROMPT).send(gateway.address).await;
            }
        }
        // Five models, each twice: two of them with one attempt more, one with one attempt less.
        let spans = collector.until("all spans", |spans| spans.len() >= 20).await;
        let logs = gateway.output().join("\n");
        assert!(logs.contains("h2::") || protocol != "grpc", "the exporter's own connection is in the log at trace");
        for secret in [CLIENT_KEY, PROVIDER_KEY, RECEIVER_KEY, PROMPT, ANSWER, "someone-never-seen"] {
            let span = spans.iter().find(|span| span.debug.contains(secret));
            assert!(span.is_none(), "{secret} in {span:#?}");
            let line = logs.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} in the log with {protocol}: {}", line.unwrap_or_default());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_of_latency_lead_to_traces() {
    if !has_tool("prometheus") {
        return;
    }
    let (fake, collector) = (FakeProvider::start().await, Collector::start().await);
    let gateway = setup(&fake, &collector, "grpc").start().await;
    let prometheus = Prometheus::start(gateway.address);
    streamed("second/plain").open(gateway.address).await.rest().await;
    assert_eq!(call("second/plain").send(gateway.address).await.status, 200);
    let exported = collector.until("four spans", |spans| spans.len() >= 4).await;
    let families = ["request_duration", "upstream_request_duration", "time_to_first_token"];
    for family in families.map(|family| format!("choreoai_{family}_seconds_bucket")) {
        let seen = async {
            loop {
                let seen = prometheus.exemplars(&family).await;
                if !seen.is_empty() {
                    return seen;
                }
                tokio::time::sleep(GLANCE).await;
            }
        };
        for trace in soon(&format!("an exemplar of {family}"), seen).await {
            assert!(exported.iter().any(|span| span.trace_id == trace), "{family}: {trace} is no trace that was exported");
        }
    }
    let text = gateway.scrape().text;
    assert!(!text.contains("trace_id"), "the older format has no exemplars");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_at_the_same_time_stand_below_one_call() {
    let (fake, collector) = (FakeProvider::start().await, Collector::start().await);
    fake.on("hedged", |exchange| {
        let answer = openai().answer(exchange, 3, &usage(17, 3));
        if exchange.number == QUICK { answer.after(Step::Stall) } else { answer }
    });
    let hedged = "[models.hedged]\ntargets = [ { target = \"second/hedged\" } ]\nhedge = { at_least = \"50ms\" }\n";
    let gateway = setup_of(configuration(&fake) + hedged, &collector, "grpc").start().await;
    for _ in 0..QUICK {
        assert_eq!(call("hedged").send(gateway.address).await.status, 200);
    }
    let slow = call("hedged").header("traceparent", &format!("00-{TRACE}-{PARENT}-01"));
    assert_eq!(slow.send(gateway.address).await.status, 200);
    let of_it = |spans: &[Span]| spans.iter().filter(|span| span.trace_id == TRACE).cloned().collect::<Vec<_>>();
    let spans = of_it(&collector.until("the slow call's spans", |spans| of_it(spans).len() >= 3).await);
    let (server, attempts) = (of_kind(&spans, SERVER), of_kind(&spans, CLIENT));
    assert_eq!((server.len(), attempts.len()), (1, 2), "{spans:#?}");
    assert!(attempts.iter().all(|attempt| attempt.parent == server[0].id), "{spans:#?}");
    let mut outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.attributes["choreoai.outcome"].as_str()).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["client_disconnect", "completed"], "the slower one was given up");
    assert_eq!(server[0].attributes["choreoai.attempts"], "2");
}

#[test]
fn an_address_that_cannot_be_used_is_told_at_the_start() {
    for (arguments, endpoint) in [(["check"].as_slice(), "not an address"), (&[], "collector:4318")] {
        let mut command =
            Setup::default().env("OTEL_ENABLED", "true").env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).command(arguments);
        let output = command.env("CHOREOAI_LISTEN", "127.0.0.1:0").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && !said.contains("panicked"), "{said}");
    }
}
