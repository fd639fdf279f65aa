//! What the configuration foretells stands at 0 before it happens: counters are not born at 1, where
//! Prometheus would not see the first event. It must not know how a series comes about.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::client::Request;
use crate::support::dialect::{called, openai, request, said, usage};
use crate::support::gateway::Gateway;
use crate::support::metrics::Scrape;
use crate::support::provider::{Exchange, FakeProvider, Gate, Reply, Step};

/// Why a call goes on to the next target, and what its provider did.
type Misfortune = (&'static str, fn(&Exchange) -> Reply);

const MISFORTUNES: [Misfortune; 10] = [
    ("upstream_error", |_| refusal(500, "server_error")),
    ("upstream_unavailable", |_| refusal(503, "overloaded")),
    ("upstream_rate_limited", |_| refusal(429, "rate_limit_exceeded")),
    ("upstream_rate_limited", |_| refusal(429, "insufficient_quota")),
    ("upstream_auth", |_| refusal(401, "invalid_api_key")),
    ("upstream_auth", |_| refusal(403, "forbidden")),
    ("invalid_request", |_| refusal(400, "context_length_exceeded")),
    ("upstream_error", |_| Reply::stream(Vec::new()).after(Step::Reset)),
    ("upstream_timeout", |_| Reply::stream(Vec::new()).after(Step::Stall)),
    ("upstream_stream_error", |exchange| Reply::stream(vec![openai().opening(&exchange.model, None), Step::HangUp])),
];

fn refusal(status: u16, code: &str) -> Reply {
    Reply::json(status, &json!({"error": {"message": "no", "type": code, "param": null, "code": code}}))
}

fn key(name: &str, limits: &str) -> String {
    format!("[[keys]]\nname = \"{name}\"\nkey = \"sk-{name}\"\n{limits}\n")
}

/// A provider for each name, all at the same address, tried twice and quick to give up.
fn providers(fake: &FakeProvider, all: &[(&str, &str)]) -> String {
    let rules = "timeouts = { first_byte = \"400ms\", idle = \"400ms\" }\n\
                 retry = { attempts = 2, base = \"1ms\", max = \"2ms\" }\nbreaker = { failures = 1000 }";
    let section = |(name, more): &(&str, &str)| {
        format!("[providers.{name}]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n{rules}\n{more}\n", fake.url())
    };
    all.iter().map(section).collect()
}

/// The series whose labels no configuration foretells: statuses are the providers' own, and what is left of a provider's
/// limits is known when it says so.
fn foretold(scrape: &Scrape) -> BTreeSet<String> {
    let untold = ["choreoai_requests_total", "choreoai_upstream_ratelimit_remaining"];
    scrape.identities().into_iter().filter(|series| untold.iter().all(|name| !series.starts_with(name))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_happens_makes_a_series() {
    let (fake, gate) = (FakeProvider::start().await, Gate::closed());
    let held = gate.clone();
    fake.on("good", |exchange| openai().answer(exchange, 3, &usage(17, 3)));
    fake.on("held", move |exchange| {
        let mut steps = openai().beginning(exchange, &said(2), None);
        steps.push(Step::Wait(held.clone()));
        steps.extend(openai().ending(exchange, "stop", 1, None));
        Reply::stream(steps)
    });
    let mut toml = providers(
        &fake,
        &[
            ("shaky", ""),
            ("sound", ""),
            ("tight", "requests_per_minute = 1"),
            ("narrow", "max_concurrent = 1\nqueue = { size = 1, wait = \"1ms\" }"),
        ],
    );
    let mut model = |name: &str, target: &str| {
        toml += &format!("[models.{name}]\ntargets = [ {{ target = \"{target}\" }}, {{ target = \"sound/good\", tier = 2 }} ]\n");
    };
    for (index, (_, script)) in MISFORTUNES.into_iter().enumerate() {
        fake.on(&format!("bad-{index}"), script);
        model(&format!("case-{index}"), &format!("shaky/bad-{index}"));
    }
    model("tight", "tight/good");
    model("narrow", "narrow/held");
    toml += &(key("any", "") + &key("few", "requests_per_minute = 1"));
    let gateway = Gateway::start(toml).await;
    let send = async |model: &str, stream: bool, key: &str| {
        let mut body = request(model, 3);
        body["stream"] = json!(stream);
        Request::chat(&body).key(key).send(gateway.address).await.status
    };
    let before = foretold(&gateway.scrape());

    for index in 0..MISFORTUNES.len() {
        assert_eq!(send(&format!("case-{index}"), true, "sk-any").await, 200);
    }
    for (reason, _) in MISFORTUNES {
        assert!(fallbacks(&gateway.scrape(), reason) > 0, "nothing fell back for {reason}");
    }
    for _ in 0..2 {
        assert_eq!(send("tight", false, "sk-any").await, 200);
    }
    let mut body = request("narrow", 3);
    body["stream"] = json!(true);
    let mut waiting = Request::chat(&body).key("sk-any").open(gateway.address).await;
    waiting.contents(2).await;
    assert_eq!(send("narrow", true, "sk-any").await, 200);
    gate.open();
    waiting.rest().await;
    assert_eq!([send("tight", true, "sk-few").await, send("tight", true, "sk-few").await], [200, 429]);

    let after = gateway.until("the narrow call's end", |scrape| scrape.sum("choreoai_requests_in_flight", &[]) <= 1.0).await;
    assert_eq!((fallbacks(&after, "rate_limited"), fallbacks(&after, "overloaded")), (2, 1));
    let hits = |scope, limit| after.count("choreoai_rate_limit_hits_total", &[("scope", scope), ("limit", limit)]);
    assert_eq!((hits("provider", "rpm"), hits("provider", "concurrency"), hits("key", "rpm")), (2, 1, 1));
    assert!(after.count("choreoai_upstream_retries_total", &[("provider", "shaky")]) > 4);
    let new: Vec<String> = foretold(&after).difference(&before).cloned().collect();
    assert_eq!(new, Vec::<String>::new(), "born when they happened");
}

fn fallbacks(scrape: &Scrape, reason: &str) -> u64 {
    scrape.count("choreoai_fallbacks_total", &[("to_provider", "sound"), ("reason", reason)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_are_there_before_anything_happens() {
    let gateway = Gateway::start(
        "[server]\nallow_anonymous = true\n[rate_limit]\nper_ip_per_second = 5000\n\
         [providers.one]\nkind = \"openai\"\napi_key = \"sk-fake\"\nmodels = [\"listed\"]\ntokens_per_minute = 5\n\
         [[keys]]\nname = \"team\"\nkey = \"sk-team\"\nlimits_per_model = { \"one/listed\" = { max_concurrent = 1 } }\n",
    )
    .await;
    let scrape = gateway.scrape();
    let target = [("provider", "one"), ("model", "listed")];
    let cases: [(&str, &[(&str, &str)]); 12] = [
        ("choreoai_rate_limit_hits_total", &[("scope", "global"), ("limit", "rpm")]),
        ("choreoai_rate_limit_hits_total", &[("scope", "provider"), ("limit", "tpm")]),
        ("choreoai_rate_limit_hits_total", &[("scope", "key_model"), ("limit", "concurrency")]),
        ("choreoai_rate_limit_hits_total", &[("scope", "address"), ("limit", "rps")]),
        ("choreoai_upstream_retries_total", &[("provider", "one"), ("reason", "upstream_timeout")]),
        ("choreoai_upstream_requests_total", &[("provider", "one"), ("outcome", "timeout")]),
        ("choreoai_settlements_total", &[("model", "listed"), ("outcome", "timeout"), ("usage_source", "partial")]),
        ("choreoai_key_requests_total", &[("key", "team")]),
        ("choreoai_key_tokens_total", &[("key", "team"), ("type", "output")]),
        ("choreoai_key_cost_total", &[("key", "team")]),
        ("choreoai_tool_calls_total", &target),
        ("choreoai_requests_total", &[("provider", "one"), ("model", "listed"), ("status", "503")]),
    ];
    for (name, labels) in cases {
        let series: Vec<_> = scrape.series(name, labels).collect();
        assert_eq!(series.len(), 1, "{name}{labels:?}");
        assert!(series[0].value == 0.0, "{name}{labels:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_that_answers_call_are_counted() {
    let fake = FakeProvider::start().await;
    fake.on("tools", |exchange| {
        if exchange.json()["stream"] == true {
            let pieces = [called(0, 4), called(1, 4)].concat();
            return openai().stream(exchange, &pieces, Some(&usage(17, 12)));
        }
        let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "look_up", "arguments": "{}"}});
        let message = json!({"role": "assistant", "content": null, "tool_calls": [call("a"), call("b"), call("c")]});
        openai().whole(exchange, &message, Some(&usage(17, 12)))
    });
    let toml = "[server]\nallow_anonymous = true\n".to_owned() + &providers(&fake, &[("one", "models = [\"tools\"]")]);
    let gateway = Gateway::start(toml).await;
    for (stream, sum) in [(false, 3), (true, 5), (false, 8)] {
        let mut body = request("one/tools", 3);
        body["stream"] = json!(stream);
        assert_eq!(Request::chat(&body).send(gateway.address).await.status, 200);
        let tools = |scrape: &Scrape| scrape.count("choreoai_tool_calls_total", &[("provider", "one"), ("model", "tools")]);
        let seen = gateway.until("the tool calls", |scrape| tools(scrape) >= sum).await;
        assert_eq!(tools(&seen), sum);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_ill_target_is_seen_beside_a_good_one() {
    let fake = FakeProvider::start().await;
    fake.on("good", |exchange| openai().answer(exchange, 3, &usage(17, 3)));
    fake.on("ill", |_| refusal(500, "server_error"));
    let toml = format!(
        "[server]\nallow_anonymous = true\n[providers.one]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n\
         models = [\"good\", \"ill\"]\nretry = {{ attempts = 1 }}\nbreaker = {{ failures = 2, open = \"1h\" }}\n",
        fake.url()
    );
    let gateway = Gateway::start(toml).await;
    let health = || {
        let scrape = gateway.scrape();
        let available = |model| scrape.count("choreoai_model_available", &[("provider", "one"), ("model", model)]);
        [scrape.count("choreoai_circuit_breaker_state", &[("provider", "one")]), available("good"), available("ill")]
    };
    assert_eq!(health(), [0, 1, 1]);
    for (model, status) in [("ill", 500), ("ill", 500), ("ill", 503), ("good", 200)] {
        let answer = Request::chat(&request(&format!("one/{model}"), 3)).send(gateway.address).await;
        assert_eq!(answer.status, status, "{model}: {}", answer.text());
    }
    assert_eq!(health(), [2, 1, 0]);
}
