//! Another configuration while calls run: what changes at once, what lives on, what is refused.
//! It must not know how a configuration is carried out.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::client::Request;
use crate::support::dialect::{openai, request, said, usage};
use crate::support::gateway::{Gateway, Setup};
use crate::support::provider::{FakeProvider, Gate, Reply, Step};

/// Reloads under load in `make test`; `RELOADS` says otherwise.
const RELOADS: u64 = 150;
/// What 100 reloads under load may leave in memory of an unoptimised build, in KiB.
const SLACK_KIB: u64 = 8 * 1024;

async fn fake() -> FakeProvider {
    let fake = FakeProvider::start().await;
    for model in ["plain", "other"] {
        fake.on(model, |exchange| openai().answer(exchange, 3, &usage(17, 3)));
    }
    fake.on("ill", |_| {
        Reply::json(500, &json!({"error": {"message": "ill", "type": "server_error", "param": null, "code": null}}))
    });
    fake
}

fn provider(name: &str, fake: &FakeProvider, more: &str) -> String {
    format!(
        "[providers.{name}]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\nmodels = [\"plain\", \"ill\"]\nretry = {{ attempts = 1 }}\n{more}\n",
        fake.url()
    )
}

fn ask(model: &str) -> Request {
    Request::chat(&request(model, 3)).key("sk-team")
}

const TEAM: &str = "[[keys]]\nname = \"team\"\nkey = \"sk-team\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_stream_ends_under_the_old_one_and_the_next_call_meets_the_new() {
    let fake = fake().await;
    let gate = Gate::closed();
    let held = gate.clone();
    fake.on("held", move |exchange| openai().held(exchange, 5, &held));
    let gateway = Gateway::start(provider("one", &fake, "") + TEAM).await;
    let mut body = request("one/held", 10);
    body["stream"] = json!(true);
    let mut stream = Request::chat(&body).key("sk-team").open(gateway.address).await;
    stream.contents(5).await;
    let routed = "[models.everyday]\ntargets = [ { target = \"two/plain\" } ]\n";
    assert!(gateway.reload(&(provider("two", &fake, "") + routed + TEAM)).await);
    let during = gateway.scrape();
    assert_eq!(during.count("choreoai_settlements_total", &[("provider", "two")]), 0);
    assert!(during.series("choreoai_settlements_total", &[("provider", "two")]).count() > 0, "there at 0");
    assert!(during.sum("choreoai_config_last_reload_success_timestamp_seconds", &[]) > 1.7e9);
    assert_eq!(ask("one/plain").send(gateway.address).await.status, 404);
    assert_eq!(ask("everyday").send(gateway.address).await.status, 200);
    gate.open();
    let saw = stream.rest().await;
    assert_eq!((saw.dones(), saw.error()), (1, None), "the stream is whole");
    let after = gateway.until("the old one to be gone", |scrape| scrape.count("choreoai_configs_in_use", &[]) == 1).await;
    let booked = [("provider", "one"), ("model", "other"), ("outcome", "completed")];
    assert_eq!(after.count("choreoai_settlements_total", &booked), 1, "{}", after.lines("choreoai_settlements"));
    assert_eq!(after.series("choreoai_model_available", &[("provider", "one")]).count(), 0, "what is gone is not ill");
    assert_eq!(after.series("choreoai_circuit_breaker_state", &[("provider", "one")]).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_is_refused_with_its_line_and_nothing_changes() {
    let fake = fake().await;
    let good = provider("one", &fake, "") + TEAM;
    let gateway = Gateway::start(good.clone()).await;
    let cases = [
        (good.clone() + "request_per_minute = 5\n", ["line 11", "did you mean `requests_per_minute`?"]),
        ("[server]\nlisten = \"127.0.0.1:\n".to_owned(), ["line 2", ""]),
        (good.clone() + "[prices.\"one/plain\"]\ninput = \"a lot\"\noutput = 1\n", ["input", "a lot"]),
        (good.replace("sk-fake", "sk-\\u0007"), ["one", "characters"]),
        (good.clone() + "[rate_limit]\ndeadline = \"70ms\"\n", ["line 12: rate_limit.deadline", "restart"]),
        (TEAM.to_owned(), ["no provider", ""]),
    ];
    for (earlier, (toml, wished)) in cases.into_iter().enumerate() {
        assert!(!gateway.reload(&toml).await, "{toml}");
        let told = |line: &serde_json::Value| line["message"].as_str().is_some_and(|text| text.contains("refused"));
        let refusals = || gateway.logs().into_iter().filter(told).collect::<Vec<_>>();
        gateway.log("of the refusal", |_| refusals().len() > earlier).await;
        let line = refusals().pop().unwrap();
        let error = line["error"].as_str().unwrap();
        assert!(wished.iter().all(|word| error.contains(word)), "{wished:?} in {error}");
        assert!(!error.contains("sk-"), "{error}");
        assert_eq!(gateway.scrape().sum("choreoai_config_last_reload_successful", &[]), 0.0);
        assert_eq!(ask("one/plain").send(gateway.address).await.status, 200);
    }
    let other_format = good + "[log]\nformat = \"text\"\n";
    assert!(gateway.reload(&other_format).await, "what the environment says goes before the file, here as at the start");
    assert_eq!(gateway.scrape().sum("choreoai_config_last_reload_successful", &[]), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn breakers_limits_and_connections_live_on() {
    let fake = fake().await;
    let toml = |more: &str, limit: u32| {
        let breaker = "breaker = { failures = 3, window = \"60s\", open = \"60s\" }\n";
        provider("one", &fake, &(breaker.to_owned() + more)) + TEAM + &format!("requests_per_minute = {limit}\n")
    };
    let gateway = Gateway::start(toml("", 10)).await;
    for _ in 0..3 {
        ask("one/ill").send(gateway.address).await;
    }
    ask("one/plain").send(gateway.address).await;
    let opened = |gateway: &Gateway| {
        let scrape = gateway.scrape();
        let state = scrape.count("choreoai_circuit_breaker_state", &[("provider", "one")]);
        (state, scrape.count("choreoai_upstream_connections_created_total", &[]))
    };
    let (state, connections) = opened(&gateway);
    assert_eq!(state, 2);
    assert!(gateway.reload(&toml("", 10)).await);
    assert!(gateway.reload(&toml("max_concurrent = 5\n", 10)).await, "a change beside the connection");
    assert_eq!(ask("one/plain").send(gateway.address).await.status, 200);
    assert_eq!(opened(&gateway), (2, connections), "the breaker and the connections are the same");
    let asked = fake.count();
    assert_eq!(ask("one/ill").send(gateway.address).await.status, 503);
    assert_eq!(fake.count(), asked, "the breaker still lets nothing pass");
    // Six calls are counted by now; a smaller limit counts them as well.
    assert!(gateway.reload(&toml("max_concurrent = 5\n", 7)).await);
    assert_eq!(ask("one/plain").send(gateway.address).await.status, 200);
    assert_eq!(ask("one/plain").send(gateway.address).await.status, 429);
    // Another key there is another account: its health is not known yet.
    assert!(gateway.reload(&toml("max_concurrent = 5\n", 100).replace("sk-fake", "sk-new")).await);
    assert_eq!(opened(&gateway).0, 0);
    assert_eq!(ask("one/plain").send(gateway.address).await.status, 200);
    let exchanges = fake.exchanges("plain");
    assert_eq!(exchanges.last().unwrap().head.header("authorization"), Some("Bearer sk-new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_prices_change_at_once() {
    let fake = fake().await;
    let priced = |price: u32| format!("[prices.\"one/plain\"]\ninput = {price}\noutput = {price}\n");
    let gateway = Gateway::start(provider("one", &fake, "") + &priced(1) + TEAM).await;
    ask("one/plain").send(gateway.address).await;
    assert!(gateway.reload(&(provider("one", &fake, "") + &priced(100) + &TEAM.replace("sk-team", "sk-next"))).await);
    assert_eq!(ask("one/plain").send(gateway.address).await.status, 401, "the key is gone");
    assert_eq!(Request::chat(&request("one/plain", 3)).key("sk-next").send(gateway.address).await.status, 200);
    let scrape = gateway.settled("plain", 2).await;
    let cost = scrape.sum("choreoai_cost_total", &[("model", "plain")]);
    assert!((cost - 20.0 * 101.0 / 1e6).abs() < 1e-12, "20 tokens at 1 and 20 at 100 USD a million: {cost}");
    assert_eq!(scrape.count("choreoai_key_requests_total", &[("key", "team")]), 2, "the same caller");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_floods_the_door_is_slowed_and_stays_so() {
    let fake = fake().await;
    let toml = provider("one", &fake, "") + TEAM;
    let guarded = |more: &str| "[rate_limit]\nper_ip_per_second = 1\n".to_owned() + &toml + more;
    let gateway = Gateway::start(guarded("")).await;
    assert_eq!(ask("one/plain").send(gateway.address).await.status, 200);
    let refused = ask("one/plain").send(gateway.address).await;
    assert_eq!((refused.status, refused.head.header("retry-after")), (429, Some("1")));
    assert!(gateway.reload(&guarded("requests_per_minute = 100\n")).await);
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(ask("one/plain").send(gateway.address).await.status);
    }
    assert!(answers.iter().filter(|status| **status == 429).count() > 10, "{answers:?}");
    let hits = [("scope", "address"), ("limit", "rps")];
    assert!(gateway.scrape().count("choreoai_rate_limit_hits_total", &hits) > 10);
    assert!(gateway.reload(&toml).await);
    assert_eq!(ask("one/plain").send(gateway.address).await.status, 200, "there is no guard any more");
}

/// Kubernetes shows a `ConfigMap` as a link to a folder, and changes it by exchanging the folder behind the link.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_is_noticed_also_behind_links() {
    let fake = fake().await;
    let volume = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("configmap-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&volume);
    let write = |folder: &str, toml: &str| {
        std::fs::create_dir_all(volume.join(folder)).unwrap();
        std::fs::write(volume.join(folder).join("choreoai.toml"), toml).unwrap();
        symlink(folder, volume.join("..data_tmp")).unwrap();
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    };
    let toml = |name: &str| "[server]\nwatch = \"20ms\"\n".to_owned() + &provider(name, &fake, "") + TEAM;
    write("..2026_1", &toml("one"));
    symlink("..data/choreoai.toml", volume.join("choreoai.toml")).unwrap();
    let gateway = Setup::file(volume.join("choreoai.toml")).start().await;
    let reloads = |result: &'static str, times: u64| {
        let what = format!("{times} × {result}");
        let gateway = &gateway;
        async move {
            gateway.until(&what, |scrape| scrape.count("choreoai_config_reloads_total", &[("result", result)]) == times).await
        }
    };
    write("..2026_2", &toml("two"));
    std::fs::remove_dir_all(volume.join("..2026_1")).unwrap();
    reloads("success", 1).await;
    assert_eq!(ask("two/plain").send(gateway.address).await.status, 200);
    std::fs::write(volume.join("..data/choreoai.toml"), "[server]\nwatch = \"20ms\"\nbroken").unwrap();
    reloads("failure", 1).await;
    std::fs::write(volume.join("..data/choreoai.toml"), toml("three")).unwrap();
    reloads("success", 2).await;
    assert_eq!(ask("three/plain").send(gateway.address).await.status, 200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    reloads("success", 2).await;
    drop(gateway);
    std::fs::remove_dir_all(&volume).unwrap();
}

/// Acceptance: reloads under load: no failed call, no leaked memory, gauges right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_no_call_and_leave_nothing() {
    let reloads: u64 = std::env::var("RELOADS").ok().and_then(|text| text.parse().ok()).unwrap_or(RELOADS);
    let fake = fake().await;
    fake.on("stream", |exchange| {
        let mut steps = openai().beginning(exchange, &said(5), None);
        steps.push(Step::Pause(Duration::from_millis(15)));
        steps.extend(openai().ending(exchange, "stop", 5, Some(&usage(17, 5))));
        Reply::stream(steps)
    });
    let toml = |number: u64| {
        let models = format!("[models.everyday]\ntargets = [ {{ target = \"one/plain\", weight = {} }} ]\n", 1 + number % 7);
        // Every third one makes a new provider, with connections of its own.
        provider(
            "one",
            &fake,
            &format!("max_concurrent = {}\ntimeouts = {{ connect = \"{}s\" }}", 50 + number % 5, 30 + number / 3 % 2),
        ) + &models
            + TEAM
    };
    let gateway = Gateway::start(toml(0)).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let (stop, answered, address) = (stop.clone(), answered.clone(), gateway.address);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if caller == 0 {
                        let mut body = request("one/stream", 10);
                        body["stream"] = json!(true);
                        let saw = Request::chat(&body).key("sk-team").open(address).await.rest().await;
                        assert_eq!((saw.dones(), saw.error()), (1, None));
                    } else {
                        assert_eq!(ask("everyday").send(address).await.status, 200);
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut settled_kib = 0;
    for number in 1..=reloads {
        assert!(gateway.reload(&toml(number)).await, "reload {number}");
        if number == reloads / 3 {
            settled_kib = gateway.memory_kib();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let scrape = gateway.until("one configuration", |scrape| scrape.count("choreoai_configs_in_use", &[]) == 1).await;
    let (answered, memory) = (answered.load(Ordering::Relaxed), gateway.memory_kib());
    println!("{reloads} reloads under {answered} calls; memory {settled_kib} KiB after a third, {memory} KiB at the end");
    assert_eq!(scrape.count("choreoai_settlements_total", &[("outcome", "completed")]), answered);
    assert_eq!(scrape.count("choreoai_errors_total", &[]), 0, "{}", scrape.lines("choreoai_errors"));
    assert_eq!(scrape.count("choreoai_config_reloads_total", &[("result", "success")]), reloads);
    assert_eq!(scrape.sum("choreoai_model_available", &[("model", "plain")]), 1.0);
    for gauge in ["choreoai_attempts_in_flight", "choreoai_queue_size", "choreoai_circuit_breaker_state"] {
        assert_eq!(scrape.sum(gauge, &[]), 0.0, "{}", scrape.lines(gauge));
    }
    assert!(memory < settled_kib + SLACK_KIB * (1 + reloads / 100), "{settled_kib} KiB, then {memory} KiB");
}
