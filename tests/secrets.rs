//! The secret scan: with everything logged, no key, prompt or answer stands in logs, metrics or errors.
//! It must not know what the calls were good for.

use serde_json::json;

use crate::support::client::Request;
use crate::support::dialect::{Piece, openai, usage};
use crate::support::gateway::Setup;
use crate::support::provider::{FakeProvider, Reply, Step};

/// What must never be seen outside the conversation it belongs to.
const CLIENT_KEY: &str = "client-key-zq81xv-never-seen";
const WRONG_KEY: &str = "wrong-key-pm55rt-never-seen";
const PROVIDER_KEY: &str = "sk-proj-provkey77aabbccddee-never-seen";
const PROMPT: &str = "prompt-sentinel-kiwi-harpsichord";
const ANSWER: &str = "answer-sentinel-walrus-zeppelin";
const ENDUSER: &str = "enduser-sentinel-orchid-trombone";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_seen_at_the_most_talkative_level() {
    let fake = FakeProvider::start().await;
    let piece = |text: &str| Piece { delta: json!({"content": text}), choice: 0, tokens: 1 };
    fake.on("plain", move |exchange| {
        if exchange.json()["stream"] == true {
            return openai().stream(exchange, &[piece(ANSWER), piece(" and "), piece(ANSWER)], Some(&usage(17, 3)));
        }
        openai().whole(exchange, &json!({"role": "assistant", "content": ANSWER}), Some(&usage(17, 3)))
    });
    fake.on("cut", move |exchange| {
        let mut steps = openai().beginning(exchange, &[piece(ANSWER)], None);
        steps.push(Step::Write(format!("data: {{broken {ANSWER}\n\n").into(), 0));
        steps.push(Step::HangUp);
        Reply::stream(steps)
    });
    fake.on("rejected", |_| {
        let message = format!("Incorrect API key provided: {PROVIDER_KEY}. You can find your API key at https://example.com");
        Reply::json(
            401,
            &json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": "invalid_api_key"}}),
        )
    });
    fake.on("html", |_| Reply::whole(500, "text/html", format!("<html>{PROMPT} {PROVIDER_KEY}</html>")));
    let toml = format!(
        "[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"{PROVIDER_KEY}\"\nretry = {{ attempts = 1 }}\n[[keys]]\nname = \"one\"\nkey = \"{CLIENT_KEY}\"\n",
        fake.url()
    );
    let gateway = Setup::new(toml).env("RUST_LOG", "trace").start().await;
    let mut errors = Vec::new();
    for model in ["plain", "cut", "rejected", "html", "missing"] {
        for stream in [false, true] {
            let body = json!({"model": format!("fake/{model}"), "stream": stream, "user": ENDUSER,
                "messages": [{"role": "user", "content": PROMPT}]});
            let answer = Request::chat(&body).key(CLIENT_KEY).send(gateway.address).await;
            if answer.status >= 400 {
                errors.push(answer.text());
            }
        }
    }
    let body = json!({"model": "fake/plain", "messages": [{"role": "user", "content": PROMPT}]});
    for odd in [format!("Bearer {WRONG_KEY}"), format!("Basic {WRONG_KEY}"), WRONG_KEY.to_owned()] {
        let answer =
            Request::chat(&body).header("authorization", &odd).header("x-api-key", WRONG_KEY).send(gateway.address).await;
        assert_eq!(answer.status, 401);
        errors.push(answer.text());
    }
    let broken = format!("{{\"model\": \"fake/plain\", \"messages\": \"{PROMPT}\", \"{CLIENT_KEY}");
    errors.push(Request::new("POST", "/v1/chat/completions").key(CLIENT_KEY).body(broken).send(gateway.address).await.text());
    let query = Request::get(&format!("/v1/models?api_key={CLIENT_KEY}")).key(CLIENT_KEY).send(gateway.address).await;
    assert_eq!(query.status, 200);
    let scrape = gateway.until("every call to be counted", |scrape| scrape.count("choreoai_settlements_total", &[]) == 10).await;
    gateway.log("of the last call", |line| line["path"] == "/v1/models").await;
    let logs = gateway.output().join("\n");
    assert!(logs.lines().count() > 20, "at trace there is something to scan:\n{logs}");
    for secret in [CLIENT_KEY, WRONG_KEY, PROVIDER_KEY, PROMPT, ANSWER, ENDUSER] {
        for (place, text) in [("logs", &logs), ("metrics", &scrape.text)] {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} in the {place}: {}", line.unwrap_or_default());
        }
        let error = errors.iter().find(|error| error.contains(secret));
        assert!(error.is_none(), "{secret} in an error: {}", error.unwrap());
    }
    println!("scanned {} log lines, {} series, {} errors", logs.lines().count(), scrape.samples.len(), errors.len());
}
