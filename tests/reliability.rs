//! Calls survive what providers do: the retry budget, fallback on what a model names, several keys, deadlines, hedging,
//! breakers, and a storm over targets of which most are ill.
//! It must not know the gateway's insides; single faults are `faults`'s.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::client::{Answer, Request};
use crate::support::dialect::{openai, request, said, usage};
use crate::support::gateway::Gateway;
use crate::support::metrics::Scrape;
use crate::support::provider::{Exchange, FakeProvider, Gate, Reply, Step};

/// A configuration of these provider and model tables; each provider with the lines that follow its name.
fn configuration(fake: &FakeProvider, providers: &[(&str, &str)], models: &str) -> String {
    let table = |(name, more): &(&str, &str)| {
        let key = if more.contains("api_keys") { "" } else { "api_key = \"sk-fake\"\n" };
        format!("[providers.{name}]\nkind = \"openai\"\nbase_url = \"{}\"\n{key}{more}\n", fake.url())
    };
    format!("[server]\nallow_anonymous = true\n{}{models}", providers.iter().map(table).collect::<String>())
}

fn answers(exchange: &Exchange) -> Reply {
    openai().answer(exchange, 12, &usage(17, 12))
}

fn fails(status: u16, code: &str) -> Reply {
    let error = json!({"error": {"message": "no", "type": "server_error", "param": null, "code": code}});
    Reply::json(status, &error)
}

fn chat(model: &str, stream: bool) -> Request {
    let mut body = request(model, 10);
    body["stream"] = json!(stream);
    Request::chat(&body)
}

async fn call(gateway: &Gateway, model: &str) -> Answer {
    chat(model, false).send(gateway.address).await
}

fn attempts(answer: &Answer) -> Option<u32> {
    answer.head.header("x-choreoai-attempts").map(|attempts| attempts.parse().unwrap())
}

fn settlements(scrape: &Scrape) -> u64 {
    scrape.count("choreoai_settlements_total", &[])
}

/// What became of one call of a storm: its status, 0 for a connection that failed, and its time.
type Fate = (u16, Duration);

/// Calls of `model` at this rate for this long, each begun on time whatever became of those before.
async fn storm(gateway: &Gateway, model: &str, per_second: u32, seconds: u32) -> Vec<Fate> {
    // A client wants cryptography, also where it speaks in the clear.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (url, body) = (format!("http://{}/v1/chat/completions", gateway.address), request(model, 10).to_string());
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    let mut calls = JoinSet::new();
    for _ in 0..per_second * seconds {
        ticks.tick().await;
        let sending = client.post(&url).header("content-type", "application/json").body(body.clone()).send();
        calls.spawn(async move {
            let began = Instant::now();
            let status = match sending.await {
                Ok(answer) => (answer.status().as_u16(), answer.bytes().await),
                Err(error) => (0, Err(error)),
            };
            (if status.1.is_ok() { status.0 } else { 0 }, began.elapsed())
        });
    }
    calls.join_all().await
}

/// The long form of a storm, for whoever asks for it: `CHOREOAI_TEST_STORM=60`.
fn storm_seconds() -> u32 {
    std::env::var("CHOREOAI_TEST_STORM").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(8)
}

/// Acceptance: one of three targets fails every second call, one is a black hole; the clients do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_over_ill_targets_is_answered() {
    const FIRST_BYTE: Duration = Duration::from_millis(1500);
    let fake = FakeProvider::start().await;
    fake.on("well", answers);
    // At random, so that streaks occur as they do in life.
    fake.on("shaky", |exchange| if fastrand::bool() { fails(500, "oops") } else { answers(exchange) });
    fake.on("hole", |_| Reply::stream(Vec::new()).after(Step::Stall));
    let more = "timeouts = { first_byte = \"1500ms\" }\nbreaker = { failures = 5, open = \"1s\" }\nretry = { base = \"20ms\" }";
    let targets = "targets = [ { target = \"a/well\" }, { target = \"b/shaky\" }, { target = \"c/hole\" } ]";
    let models = format!("[models.any]\n{targets}\n");
    let gateway = Gateway::start(configuration(&fake, &[("a", more), ("b", more), ("c", more)], &models)).await;
    let mut fates = storm(&gateway, "any", 200, storm_seconds()).await;
    fates.sort_by_key(|(_, took)| *took);
    let (calls, answered) = (fates.len(), fates.iter().filter(|(status, _)| *status == 200).count());
    let at = |share: f64| fates[((calls - 1) as f64 * share) as usize].1;
    let trips = |provider: &str| gateway.scrape().count("choreoai_circuit_breaker_trips_total", &[("provider", provider)]);
    println!(
        "{calls} calls, {answered} answered; p50 {:?}, p99 {:?}, longest {:?}; breaker of the shaky one opened {} times, of the hole {}",
        at(0.5),
        at(0.99),
        at(1.0),
        trips("b"),
        trips("c")
    );
    assert!(answered * 1000 >= calls * 999, "{answered} of {calls} were answered");
    assert!(at(0.99) < 2 * FIRST_BYTE, "p99 {:?}", at(0.99));
    assert!(trips("b") > 0 && trips("c") > 0);
    // It is well again, and so is its breaker after a call found out.
    fake.on("shaky", answers);
    let is_closed = |scrape: &Scrape| scrape.count("choreoai_circuit_breaker_state", &[("provider", "b")]) == 0;
    for _ in 0..200 {
        if is_closed(&gateway.scrape()) {
            break;
        }
        assert_eq!(call(&gateway, "any").await.status, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let scrape = gateway.until("the breaker to close", is_closed).await;
    let settled =
        gateway.until("every attempt to be settled", |scrape| scrape.sum("choreoai_attempts_in_flight", &[]) == 0.0).await;
    assert_eq!(settlements(&settled), fake.count() as u64, "attempts and settlements");
    assert_eq!(
        scrape.sum("choreoai_retry_budget_exhausted_total", &[("provider", "a")]),
        0.0,
        "the one that is well is not rationed"
    );
}

/// The first byte of a whole answer comes when the model is through: only `total` ends a call without a word about
/// `first_byte`, for embeddings as well, and it is not made again; where there is one, it is obeyed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_answer_is_not_hurried_unless_the_operator_says_so() {
    let fake = FakeProvider::start().await;
    let thinks = |exchange: &Exchange| answers(exchange).after(Step::Pause(Duration::from_millis(1200)));
    fake.on("thinks", thinks);
    fake.on("mute", |_| Reply::stream(Vec::new()).after(Step::Stall));
    let retry = "retry = { attempts = 2, base = \"1ms\" }";
    let providers = [
        ("patient", format!("timeouts = {{ idle = \"300ms\", total = \"2s\" }}\n{retry}")),
        ("hurried", format!("timeouts = {{ first_byte = \"300ms\", total = \"2s\" }}\n{retry}")),
    ];
    let gateway =
        Gateway::start(configuration(&fake, &providers.each_ref().map(|(name, more)| (*name, more.as_str())), "")).await;
    let embed = |model: &str| Request::new("POST", "/v1/embeddings").json(&json!({"model": model, "input": "a word"}));
    let cases = [
        (chat("patient/thinks", false), (200, Some(1)), 1200..2000),
        (chat("patient/mute", false), (504, Some(1)), 2000..4000),
        (embed("patient/mute"), (504, Some(1)), 2000..4000),
        (chat("hurried/thinks", false), (504, Some(2)), 600..1200),
        (chat("hurried/thinks", true), (504, Some(2)), 600..1200),
        (embed("hurried/mute"), (504, Some(2)), 600..1200),
    ];
    let address = gateway.address;
    let called = cases.map(|(request, expected, millis)| async move {
        let began = Instant::now();
        let answer = request.send(address).await;
        ((answer.status, attempts(&answer)), expected, began.elapsed().as_millis(), millis)
    });
    for (seen, expected, took, millis) in join_all(called).await {
        assert_eq!(seen, expected, "after {took} ms");
        assert!(millis.contains(&took), "{expected:?} after {took} ms, and not within {millis:?}");
    }
}

/// A provider that is gone without a word is noticed although its answer may take ten minutes: the kernel, whose list of
/// connections tells which of them has a timer for probes (2), watches a connection that waits.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_waits_for_a_model_is_watched() {
    let (fake, gate) = (FakeProvider::start().await, Gate::closed());
    let held = gate.clone();
    fake.on("thinks", move |exchange| answers(exchange).after(Step::Wait(held.clone())));
    let gateway = Gateway::start(configuration(&fake, &[("a", "")], "")).await;
    let address = gateway.address;
    let waiting = tokio::spawn(async move { chat("a/thinks", false).send(address).await });
    fake.until("thinks", |all| all.len() == 1).await;
    let to = format!(":{:04X}", fake.address.port());
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let timers = connections.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let timers: Vec<&str> =
        timers.filter(|fields| fields[2].ends_with(&to) && fields[3] == "01").map(|fields| fields[5]).collect();
    assert!(!timers.is_empty() && timers.iter().all(|timer| timer.starts_with("02:")), "{timers:?}");
    gate.open();
    assert_eq!(waiting.await.unwrap().status, 200);
}

/// Acceptance: with all targets failing, providers get at most 1.2 times what clients send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_all_targets_failing_the_retry_budget_holds() {
    let fake = FakeProvider::start().await;
    // The breakers are kept out of it: they alone would hold the load down.
    let more = "breaker = { failures = 1000000 }\nretry = { attempts = 3, base = \"5ms\", max = \"20ms\" }";
    let model = |name: &str| {
        format!(
            "[models.{name}]\ntargets = [ {{ target = \"a/{name}\" }}, {{ target = \"b/{name}\" }}, {{ target = \"c/{name}\", tier = 2 }} ]\n"
        )
    };
    let models = model("broken") + &model("limited") + &model("full");
    let gateway = Gateway::start(configuration(&fake, &[("a", more), ("b", more), ("c", more)], &models)).await;
    for (model, status) in [("broken", 500), ("limited", 429), ("full", 503)] {
        fake.on(model, move |_| fails(status, "no"));
        let before = fake.count();
        let fates = storm(&gateway, model, 200, 3).await;
        let (calls, sent) = (fates.len(), fake.count() - before);
        println!("{model}: {calls} calls, {sent} attempts, {:.3} per call", sent as f64 / calls as f64);
        assert!(fates.iter().all(|(seen, _)| *seen == status), "every client hears the provider's reason");
        assert!(sent > calls, "some are tried again");
        assert!(sent * 10 <= calls * 12, "{sent} attempts for {calls} calls");
    }
    let scrape = gateway.scrape();
    assert!(scrape.sum("choreoai_retry_budget_exhausted_total", &[]) > 0.0);
    assert_eq!(settlements(&scrape), fake.count() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_target_is_not_starved_by_a_dead_one() {
    let fake = FakeProvider::start().await;
    fake.on("spent", |_| fails(429, "rate_limit_exceeded"));
    fake.on("well", |exchange| answers(exchange).after(Step::Pause(Duration::from_millis(700))));
    let models = "[models.any]\ntargets = [ { target = \"a/spent\" }, { target = \"b/well\", tier = 2 } ]\n";
    let more = "retry = { attempts = 2, base = \"5ms\" }";
    let gateway = Gateway::start(configuration(&fake, &[("a", more), ("b", more)], models)).await;
    let fates = storm(&gateway, "any", 150, 2).await;
    let refused = fates.iter().filter(|(status, _)| *status != 200).count();
    assert_eq!(refused, 0, "of {} calls that the first target refuses, the second one answers all", fates.len());
    assert!(fake.exchanges("spent").len() < fates.len() + 30, "and the first is hardly asked twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_target_is_tried_after_what_the_model_names_and_nothing_else() {
    let fake = FakeProvider::start().await;
    fake.on("broken", |_| fails(500, "oops"));
    fake.on("limited", |_| fails(429, "rate_limit_exceeded"));
    fake.on("filtered", |_| fails(400, "content_filter"));
    fake.on("unknown", |_| fails(404, "model_not_found"));
    fake.on("wrong", |_| fails(400, "invalid_value"));
    fake.on("refused", |_| fails(401, "invalid_api_key"));
    fake.on("small", |_| fails(400, "context_length_exceeded"));
    fake.on("spare", answers);
    // The first target, what the model names, the status the client gets.
    let cases = [
        ("broken", None, 200),
        ("broken", Some("[\"timeout\", \"rate_limit\"]"), 500),
        ("limited", None, 200),
        ("limited", Some("[]"), 429),
        ("filtered", None, 400),
        ("filtered", Some("[\"content_filter\"]"), 200),
        ("unknown", None, 404),
        ("unknown", Some("[\"not_found\"]"), 200),
        ("refused", None, 200),
        ("refused", Some("[\"server_error\"]"), 401),
        ("small", None, 200),
        ("wrong", None, 400),
        (
            "wrong",
            Some(
                "[\"server_error\", \"timeout\", \"rate_limit\", \"overloaded\", \"context_overflow\", \"auth\", \"content_filter\", \"not_found\"]",
            ),
            400,
        ),
    ];
    let models = cases.iter().enumerate().map(|(number, (first, names, _))| {
        let names = names.map(|names| format!("fallback_on = {names}\n")).unwrap_or_default();
        format!("[models.m{number}]\n{names}targets = [ {{ target = \"a/{first}\" }}, {{ target = \"b/{first}\", tier = 2 }}, {{ target = \"b/spare\", tier = 3 }} ]\n")
    });
    let more = "retry = { attempts = 1 }\nbreaker = { failures = 1000 }";
    let gateway = Gateway::start(configuration(&fake, &[("a", more), ("b", more)], &models.collect::<String>())).await;
    for (number, (first, names, status)) in cases.iter().enumerate() {
        let before = fake.exchanges(first).len();
        let answer = call(&gateway, &format!("m{number}")).await;
        assert_eq!(answer.status, *status, "{first} {names:?}: {}", answer.text());
        // A prompt that is too long for a model is too long for it elsewhere.
        let asked = if *status != 200 || *first == "small" { 1 } else { 2 };
        assert_eq!(fake.exchanges(first).len() - before, asked, "{first} {names:?}");
        assert_eq!(attempts(&answer), Some(asked as u32 + u32::from(*status == 200)), "{first} {names:?}");
        let (provider, model) = if *status == 200 { ("b", "spare") } else { ("a", *first) };
        assert_eq!(answer.head.header("x-choreoai-provider"), Some(provider), "{first} {names:?}");
        assert_eq!(answer.head.header("x-choreoai-model"), Some(model), "{first} {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_take_turns_and_a_refused_one_is_set_aside() {
    let fake = FakeProvider::start().await;
    let key =
        |exchange: &Exchange| exchange.head.header("authorization").unwrap_or_default().rsplit('-').next().unwrap().to_owned();
    fake.on("m", move |exchange| match key(exchange).as_str() {
        "revoked" => fails(401, "invalid_api_key"),
        "poor" => fails(429, "insufficient_quota"),
        "quick" => fails(429, "rate_limit_exceeded").header("retry-after", "30"),
        _ => answers(exchange),
    });
    fake.on("none", |_| fails(401, "invalid_api_key"));
    let names = ["revoked", "good", "poor", "quick", "fine"];
    let keys: Vec<String> = names.iter().map(|name| format!("sk-secret-{name}")).collect();
    let more = format!("api_keys = {keys:?}\nmodels = [\"m\", \"none\"]");
    let gateway = Gateway::start(configuration(&fake, &[("a", &more)], "")).await;
    for _ in 0..20 {
        let answer = call(&gateway, "a/m").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let used = |name: &str| fake.exchanges("m").iter().filter(|exchange| key(exchange) == name).count();
    assert_eq!(["revoked", "poor", "quick"].map(used), [1, 1, 1], "each is refused once");
    assert!(used("good").abs_diff(used("fine")) <= 2, "the others share the calls: {} and {}", used("good"), used("fine"));
    let scrape = gateway.settled("m", 23).await;
    assert_eq!(scrape.count("choreoai_upstream_keys_resting", &[("provider", "a")]), 3);
    for reason in ["auth", "quota", "rate_limited"] {
        assert_eq!(scrape.count("choreoai_upstream_key_refusals_total", &[("provider", "a"), ("reason", reason)]), 1, "{reason}");
    }
    let answer = call(&gateway, "a/none").await;
    assert_eq!(answer.status, 401, "when none is left the client hears the provider's reason: {}", answer.text());
    assert_eq!(fake.exchanges("none").len(), 2, "both that were left were tried");
    let said = gateway.output().join("\n") + &scrape.text + &answer.text();
    assert!(!said.contains("secret"), "no key shows anywhere");
}

/// Who waits in a provider's line is not held up by the gateway, also when no place comes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_in_a_providers_line_is_no_overhead() {
    let fake = FakeProvider::start().await;
    fake.on("held", |exchange| {
        let mut steps = openai().beginning(exchange, &said(1), None);
        steps.push(Step::Stall);
        Reply::stream(steps)
    });
    let narrow = "models = [\"held\"]\nmax_concurrent = 1\nqueue = { size = 2, wait = \"500ms\" }";
    let gateway = Gateway::start(configuration(&fake, &[("a", narrow)], "")).await;
    let mut holding = chat("a/held", true).open(gateway.address).await;
    holding.contents(1).await;
    assert_eq!(chat("a/held", false).send(gateway.address).await.status, 503, "the wait was too long");
    let late = chat("a/held", false).header("x-request-timeout-ms", "400").send(gateway.address).await;
    assert_eq!(late.status, 504, "too long for the client");
    let overhead = gateway.scrape().sum("choreoai_overhead_seconds_sum", &[("endpoint", "/v1/chat/completions")]);
    assert!(overhead < 0.3, "{overhead} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_deadline_ends_its_call_and_blames_nobody() {
    let fake = FakeProvider::start().await;
    fake.on("mute", |_| Reply::stream(Vec::new()).after(Step::Stall));
    fake.on("broken", |_| fails(500, "oops"));
    fake.on("endless", |exchange| {
        let steps = openai().beginning(exchange, &said(200), None);
        Reply::stream(steps.into_iter().flat_map(|step| [step, Step::Pause(Duration::from_millis(50))]).collect())
    });
    let more =
        "models = [\"mute\", \"broken\", \"endless\"]\nbreaker = { failures = 2 }\nretry = { attempts = 5, base = \"4s\" }";
    let gateway = Gateway::start(configuration(&fake, &[("a", more)], "")).await;
    let within = |model: &str, stream: bool, header: &str, value: &str| chat(model, stream).header(header, value);
    let began = Instant::now();
    let requests = [
        within("a/mute", false, "x-request-timeout-ms", "400"),
        within("a/mute", true, "x-request-timeout-ms", "400"),
        within("a/mute", false, "x-stainless-timeout", "1"),
        within("a/mute", false, "x-stainless-read-timeout", "0.5"),
    ];
    for answer in join_all(requests.iter().map(|request| request.send(gateway.address))).await {
        let error = answer.error();
        assert_eq!((answer.status, &error["code"]), (504, &json!("deadline_exceeded")), "{error}");
        assert_eq!(attempts(&answer), Some(1), "the deadline is the whole call's");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    let saw = within("a/endless", true, "x-request-timeout-ms", "600").open(gateway.address).await.rest().await;
    assert_eq!(
        (saw.error().map(|error| error["code"].clone()), saw.dones()),
        (Some(json!("deadline_exceeded")), 0),
        "{:?}",
        saw.data()
    );
    // No time is left to wait for another try: the reason of the first is told, and at once.
    let began = Instant::now();
    let answer = within("a/broken", false, "x-request-timeout-ms", "1").send(gateway.address).await;
    assert!([500, 504].contains(&answer.status) && began.elapsed() < Duration::from_secs(3), "{}", answer.status);
    for wrong in ["soon", "0", "-5", "1.5", ""] {
        let answer = within("a/mute", false, "x-request-timeout-ms", wrong).send(gateway.address).await;
        assert_eq!((answer.status, &answer.error()["param"]), (400, &json!("x-request-timeout-ms")), "{wrong:?}");
    }
    assert_eq!(fake.exchanges("mute").len(), 4, "nothing is sent for a header that is wrong");
    let scrape = gateway.settled("mute", 4).await;
    assert_eq!(scrape.count("choreoai_settlements_total", &[("model", "mute"), ("outcome", "timeout")]), 4);
    assert_eq!(scrape.count("choreoai_circuit_breaker_trips_total", &[]), 0, "no target is blamed for an impatient client");
    assert!(scrape.count("choreoai_errors_total", &[("error_type", "deadline_exceeded")]) >= 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_call_is_hedged_and_both_attempts_are_billed() {
    const LIMIT: Duration = Duration::from_secs(6);
    let fake = FakeProvider::start().await;
    for model in ["cut", "read"] {
        // Quick, but for one call that is marked.
        fake.on(model, |exchange| {
            let is_slow = exchange.json()["user"] == "slow";
            if is_slow { answers(exchange).after(Step::Pause(Duration::from_secs(3))) } else { answers(exchange) }
        });
    }
    fake.on("other", answers);
    let targets =
        |model: &str| format!("targets = [ {{ target = \"{model}/{model}\" }}, {{ target = \"o/other\", weight = 0 }} ]");
    let model = |name: &str| format!("[models.{name}]\nhedge = {{ at_least = \"150ms\" }}\n{}\n", targets(name));
    let providers = [("cut", ""), ("read", "on_disconnect = \"drain\""), ("o", "")];
    let gateway = Gateway::start(configuration(&fake, &providers, &(model("cut") + &model("read")))).await;
    for model in ["cut", "read"] {
        for _ in 0..20 {
            assert_eq!(attempts(&call(&gateway, model).await), Some(1), "nothing is hedged while little is known");
        }
        let mut body = request(model, 10);
        body["user"] = json!("slow");
        let began = Instant::now();
        let answer = Request::chat(&body).send(gateway.address).await;
        assert_eq!((answer.status, attempts(&answer)), (200, Some(2)), "{}", answer.text());
        assert_eq!(answer.head.header("x-choreoai-model"), Some("other"));
        assert!(began.elapsed() < LIMIT);
        let scrape = gateway.settled(model, 21).await;
        let lost = scrape.count("choreoai_settlements_total", &[("model", model), ("outcome", "client_disconnect")]);
        let complete = scrape.count("choreoai_settlements_total", &[("model", model), ("outcome", "completed")]);
        let (stopped, read) = if model == "cut" { (1, 20) } else { (0, 21) };
        assert_eq!((lost, complete), (stopped, read), "{model}: the slower one is settled as what it is");
        assert_eq!(scrape.count("choreoai_tokens_total", &[("model", model), ("type", "output")]), 12 * read, "{model}");
    }
    let scrape = gateway.settled("other", 2).await;
    assert_eq!(scrape.count("choreoai_hedges_total", &[("provider", "o")]), 2);
    let answered = [("endpoint", "/v1/chat/completions"), ("status", "200")];
    assert_eq!(scrape.count("choreoai_requests_total", &answered), 42, "each client is answered once");
    assert_eq!(scrape.sum("choreoai_stream_aborts_total", &[]) + scrape.sum("choreoai_errors_total", &[]), 0.0);
    assert_eq!(settlements(&scrape), fake.count() as u64);
}

/// A pause that a provider asked for is told to every client as the provider's own limit; what is left alone because
/// it fails is not there. Of several targets the one that is free first decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_asked_for_a_pause_is_not_asked_again_and_clients_hear_why() {
    let fake = FakeProvider::start().await;
    let minutes = |wait: &'static str| move |_: &Exchange| fails(429, "rate_limit_exceeded").header("retry-after", wait);
    fake.on("busy", minutes("60"));
    fake.on("busier", minutes("600"));
    fake.on("broken", |_| fails(500, "oops"));
    let more = "retry = { attempts = 1 }\nbreaker = { failures = 1, open = \"300s\" }";
    let model = |name: &str, targets: &str| format!("[models.{name}]\ntargets = [ {targets} ]\n");
    let models = model("paused", "{ target = \"a/busy\" }, { target = \"b/broken\" }")
        + &model("down", "{ target = \"a/busier\" }, { target = \"b/broken\" }");
    let gateway = Gateway::start(configuration(&fake, &[("a", more), ("b", more)], &models)).await;
    for target in ["a/busy", "a/busier"] {
        assert_eq!(call(&gateway, target).await.status, 429, "{target} says so itself");
    }
    assert_eq!(call(&gateway, "b/broken").await.status, 500);
    let asked = fake.count();
    let cases = [
        ("a/busy", 429, "rate_limit_exceeded", Some("provider"), 50..=60),
        ("paused", 429, "rate_limit_exceeded", Some("provider"), 50..=60),
        ("a/busier", 429, "rate_limit_exceeded", Some("provider"), 590..=600),
        ("b/broken", 503, "upstream_unavailable", None, 290..=300),
        ("down", 503, "upstream_unavailable", None, 290..=300),
    ];
    for (model, status, code, by, wait) in cases {
        let answer = call(&gateway, model).await;
        assert_eq!((answer.status, &answer.error()["code"]), (status, &json!(code)), "{model}: {}", answer.text());
        assert_eq!((answer.head.header("x-choreoai-limited-by"), attempts(&answer)), (by, None), "{model}");
        let told: u64 = answer.head.header("retry-after").unwrap().parse().unwrap();
        assert!(wait.contains(&told), "{model}: {told}");
    }
    assert_eq!(fake.count(), asked, "nobody was asked");
}

/// A pause is no reason to send clients elsewhere, to a replica that would be told the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_only_target_is_paused_stays_ready_and_one_whose_is_down_does_not() {
    let fake = FakeProvider::start().await;
    for (status, ready) in [(429, 200), (500, 503)] {
        fake.on("m", move |_| fails(status, "no").header("retry-after", "60"));
        let more = "models = [\"m\"]\nretry = { attempts = 1 }\nbreaker = { failures = 1, open = \"300s\" }";
        let gateway = Gateway::start(configuration(&fake, &[("a", more)], "")).await;
        assert_eq!(call(&gateway, "a/m").await.status, status);
        assert_eq!(Request::get("/ready").send(gateway.address).await.status, ready, "after a {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_first_tokens_open_the_breaker_and_with_all_targets_down_calls_fail_at_once() {
    let fake = FakeProvider::start().await;
    fake.on("slow", |exchange| {
        let mut reply = openai().answer(exchange, 3, &usage(17, 3));
        reply.steps.insert(0, Step::Pause(Duration::from_millis(400)));
        reply
    });
    let more = "breaker = { failures = 2, open = \"20s\", slow_first_token = \"200ms\" }";
    let models = "[models.any]\ntargets = [ { target = \"a/slow\" } ]\n";
    let gateway = Gateway::start(configuration(&fake, &[("a", more)], models)).await;
    for _ in 0..2 {
        let saw = chat("any", true).open(gateway.address).await.rest().await;
        assert_eq!((saw.status, saw.dones()), (200, 1), "the client gets what came late");
    }
    let began = Instant::now();
    let answer = chat("any", true).send(gateway.address).await;
    assert_eq!((answer.status, &answer.error()["code"]), (503, &Value::from("upstream_unavailable")));
    let wait: u64 = answer.head.header("retry-after").unwrap().parse().unwrap();
    assert!((15..=20).contains(&wait) && began.elapsed() < Duration::from_secs(2), "{wait}");
    assert_eq!((attempts(&answer), fake.count()), (None, 2), "nobody was asked");
    let scrape = gateway.settled("slow", 2).await;
    assert_eq!(scrape.count("choreoai_circuit_breaker_trips_total", &[("provider", "a")]), 1);
    assert_eq!(scrape.count("choreoai_circuit_breaker_state", &[("provider", "a")]), 2);
}
