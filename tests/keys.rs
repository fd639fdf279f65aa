//! Who may come in: keys, allow-lists, what is counted for whom, and that nothing a caller invents
//! becomes a label. It must not know streams or bills.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::client::{Connection, Request};
use crate::support::dialect::{openai, request, usage};
use crate::support::gateway::{Gateway, Setup, free_address};
use crate::support::provider::FakeProvider;

const ALL: &str = "key-that-may-all-5f2c";
const SOME: &str = "key-that-may-some-77aa";
const HASHED: &str = "key-known-by-hash-only-19";

async fn house() -> (FakeProvider, Gateway) {
    let fake = FakeProvider::start().await;
    for model in ["plain", "secret"] {
        fake.on(model, |exchange| openai().whole(exchange, &json!({"role": "assistant", "content": "hi"}), Some(&usage(17, 3))));
    }
    let hash: String = Sha256::digest(HASHED).iter().map(|byte| format!("{byte:02x}")).collect();
    let toml = format!(
        "[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n\
         [models.everyday]\ntargets = [ {{ target = \"fake/plain\" }} ]\n\
         [models.special]\ntargets = [ {{ target = \"fake/secret\" }} ]\n\
         [[keys]]\nname = \"all\"\nkey = \"{ALL}\"\n\
         [[keys]]\nname = \"some\"\nkey = \"{SOME}\"\nmodels = [\"everyday\"]\n\
         [[keys]]\nname = \"hashed\"\nkey_sha256 = \"{hash}\"\nmodels = [\"fake/*\"]\n",
        fake.url()
    );
    (fake, Gateway::start(toml).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_opens_what_it_may_open() {
    let (fake, gateway) = house().await;
    let cases = [
        (Some(ALL), "everyday", 200),
        (Some(ALL), "special", 200),
        (Some(ALL), "fake/plain", 200),
        (Some(SOME), "everyday", 200),
        (Some(SOME), "special", 403),
        (Some(SOME), "fake/secret", 403),
        (Some(HASHED), "fake/secret", 200),
        (Some(HASHED), "special", 403),
        (None, "everyday", 401),
        (Some("wrong"), "everyday", 401),
        (Some(""), "everyday", 401),
    ];
    let mut passed = 0;
    for (key, model, status) in cases {
        let call = Request::chat(&request(model, 3));
        let call = if let Some(key) = key { call.key(key) } else { call };
        let answer = call.send(gateway.address).await;
        assert_eq!(answer.status, status, "{key:?} {model}: {}", answer.text());
        passed += u64::from(status == 200);
        if status == 401 {
            assert_eq!(answer.error()["code"], "invalid_api_key");
        } else if status == 403 {
            answer.error();
        }
    }
    for odd in ["Basic dXNlcjpwYXNz", "Bearer", "bearer", ALL, "Token abc"] {
        let answer = Request::chat(&request("everyday", 3)).header("authorization", odd).send(gateway.address).await;
        assert_eq!(answer.status, 401, "{odd}: {}", answer.text());
    }
    assert_eq!(fake.count() as u64, passed, "what is refused goes nowhere");
    assert_eq!(Request::get("/v1/models").send(gateway.address).await.status, 401);
    for open in ["/health", "/ready", "/live", "/metrics"] {
        assert_eq!(Request::get(open).send(gateway.address).await.status, 200, "{open}");
    }
    let scrape = gateway.scrape();
    assert_eq!(scrape.count("choreoai_settlements_total", &[]), passed);
    for (key, calls) in [("all", 3), ("some", 1), ("hashed", 1)] {
        assert_eq!(scrape.count("choreoai_key_tokens_total", &[("key", key), ("type", "input")]), 17 * calls, "{key}");
        assert_eq!(scrape.count("choreoai_key_tokens_total", &[("key", key), ("type", "output")]), 3 * calls, "{key}");
    }
    for kind in ["input", "output"] {
        let by_key = scrape.sum("choreoai_key_tokens_total", &[("type", kind)]);
        assert_eq!(by_key, scrape.sum("choreoai_tokens_total", &[("type", kind)]), "tokens by key = tokens by model");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_listed_as_far_as_the_key_may_use_them() {
    let (_fake, gateway) = house().await;
    for (key, sees_special) in [(ALL, true), (SOME, false)] {
        let list = Request::get("/v1/models").key(key).send(gateway.address).await.json();
        let ids: Vec<&str> = list["data"].as_array().unwrap().iter().filter_map(|model| model["id"].as_str()).collect();
        assert!(ids.contains(&"everyday"), "{ids:?}");
        assert_eq!(ids.contains(&"special"), sees_special, "{ids:?}");
        let one = Request::get("/v1/models/everyday").key(key).send(gateway.address).await;
        assert_eq!((one.status, &one.json()["id"], &one.json()["object"]), (200, &json!("everyday"), &json!("model")));
    }
}

#[test]
fn anonymous_callers_beyond_loopback_are_refused() {
    let address = format!("0.0.0.0:{}", free_address().port());
    let output = Setup::default().command(&[]).env("CHOREOAI_LISTEN", &address).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "started for everybody: {said}");
    assert!(said.contains("allow_anonymous"), "the message names the way out: {said}");
}

/// How many of each kind of junk.
const JUNK: usize = 10_000;
/// Connections that send it.
const SENDERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_makes_no_series() {
    let (_fake, gateway) = house().await;
    let kinds: [fn(usize) -> Request; 4] = [
        |n| Request::chat(&request(&format!("junk-model-{n}"), 1)).key(ALL),
        |n| Request::chat(&request(&format!("fake/junk-{n}"), 1)).key(ALL),
        |n| Request::chat(&request("everyday", 1)).key(&format!("junk-key-{n}")),
        |n| Request::new(if n % 2 == 0 { "GET" } else { "POST" }, &format!("/v1/junk/{n}?q={n}")).key(ALL),
    ];
    let address = gateway.address;
    for n in [0, 1] {
        for kind in kinds {
            kind(n).send(address).await;
        }
    }
    // The first hundred wrong keys are told so; what follows is told to slow down. Both have had their turn then.
    for n in 0..100 {
        kinds[2](n).send(address).await;
    }
    gateway.scrape();
    let before = gateway.scrape().identities();
    for kind in kinds {
        let senders = (0..SENDERS).map(|sender| {
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                for n in (sender..JUNK).step_by(SENDERS) {
                    if !connection.write(&kind(n + 10).bytes()).await {
                        connection = Connection::open(address).await;
                        continue;
                    }
                    let answer = connection.answer().await;
                    assert!(answer.status >= 400, "{}", answer.text());
                    if answer.head.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                        connection = Connection::open(address).await;
                    }
                }
            })
        });
        for sender in senders.collect::<Vec<_>>() {
            sender.await.unwrap();
        }
    }
    let after = gateway.scrape();
    let new: Vec<_> = after.identities().into_iter().filter(|identity| !before.contains(identity)).collect();
    println!("{} series before, {} after {} junk calls", before.len(), after.samples.len(), 4 * JUNK);
    assert_eq!(new, Vec::<String>::new());
    assert!(!after.text.contains("junk"), "nothing of it is in /metrics");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_a_model_holds_however_the_model_is_spelled() {
    let fake = FakeProvider::start().await;
    fake.on("plain", |exchange| openai().whole(exchange, &json!({"role": "assistant", "content": "hi"}), Some(&usage(17, 3))));
    let toml = format!(
        "[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\n\
         [models.everyday]\ntargets = [ {{ target = \"fake/plain\" }} ]\nrequests_per_minute = 3\n\
         [[keys]]\nname = \"all\"\nkey = \"{ALL}\"\n\
         [[keys]]\nname = \"some\"\nkey = \"{SOME}\"\nlimits_per_model = {{ \"everyday\" = {{ requests_per_minute = 1 }} }}\n",
        fake.url()
    );
    let gateway = Gateway::start(toml).await;
    let call = async |key: &str, model: &str| Request::chat(&request(model, 3)).key(key).send(gateway.address).await.status;
    assert_eq!(call(SOME, "everyday").await, 200);
    assert_eq!(call(SOME, "fake/plain").await, 429, "the caller's limit on everyday");
    assert_eq!(call(ALL, "fake/plain").await, 200);
    assert_eq!(call(ALL, "everyday").await, 200);
    assert_eq!(call(ALL, "fake/plain").await, 429, "the model's own limit");
    assert_eq!(fake.count(), 3);
}
