//! What is passed on: other paths of OpenAI's API, as JSON, forms and bytes. Where they go, who may go there,
//! what of a call goes up and what comes down, and what is booked.
//! It must not know the endpoints that have doors of their own.

use serde_json::{Value, json};

use crate::support::client::{Connection, Request};
use crate::support::gateway::Gateway;
use crate::support::http::End;
use crate::support::provider::{FakeProvider, Reply, Step};

const ALL: &str = "key-that-may-all-5f2c";
const SOME: &str = "key-that-may-some-77aa";
const ONE: &str = "key-of-one-provider-19";

async fn house(more: &str) -> (FakeProvider, FakeProvider, Gateway) {
    let (openai, other) = (FakeProvider::start().await, FakeProvider::start().await);
    let (o, p) = (openai.url(), other.url());
    let toml = format!(
        "{more}\n[providers.openai]\nbase_url = \"{o}\"\napi_key = \"sk-openai\"\nmodels = [\"plain\", \"dear\"]\nretry = {{ attempts = 2, base = \"1ms\" }}\n\
         [providers.a-groq]\nkind = \"groq\"\nbase_url = \"{p}\"\napi_key = \"sk-other\"\nmodels = [\"whisper\"]\n\
         [providers.anthropic]\nbase_url = \"{p}\"\napi_key = \"sk-other\"\n\
         [models.drawer]\ntargets = [ {{ target = \"openai/plain\" }} ]\n\
         [prices.\"openai/dear\"]\ninput = 1\noutput = 2\n\
         [[keys]]\nname = \"all\"\nkey = \"{ALL}\"\n\
         [[keys]]\nname = \"some\"\nkey = \"{SOME}\"\nmodels = [\"drawer\", \"a-groq/whisper\"]\n\
         [[keys]]\nname = \"one\"\nkey = \"{ONE}\"\nmodels = [\"openai/*\"]\n"
    );
    (openai, other, Gateway::start(toml).await)
}

fn form(parts: &[(&str, &str)]) -> Request {
    let parts: String = parts
        .iter()
        .map(|(name, value)| format!("--xyz\r\nContent-Disposition: form-data; name={name}\r\n\r\n{value}\r\n"))
        .collect();
    Request::new("POST", "/v1/audio/transcriptions")
        .header("content-type", "multipart/form-data; boundary=xyz")
        .body(format!("{parts}--xyz--\r\n"))
}

fn ok(value: &Value) -> Reply {
    Reply::json(200, value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_to_the_provider_of_its_model_or_the_one_its_path_names() {
    let (openai, other, gateway) = house("").await;
    for fake in [&openai, &other] {
        fake.on("", |_| ok(&json!({"object": "thing"})));
    }
    let image =
        |model: &str| Request::new("POST", "/v1/images/generations").json(&json!({"model": model, "prompt": "a cat", "x": 1.50}));
    let file = ("\"file\"; filename=\"a.mp3\"", "ID3\r\n--xy\r\n");
    // (call, whether OpenAI's, path there, model there)
    let cases = [
        (image("drawer"), true, "/v1/images/generations", "plain"),
        (image("openai/plain"), true, "/v1/images/generations", "plain"),
        (Request::new("POST", "/images/generations").json(&json!({"model": "drawer"})), true, "/v1/images/generations", "plain"),
        (
            Request::new("POST", "/a-groq/v1/images/generations").json(&json!({"model": "x"})),
            false,
            "/v1/images/generations",
            "x",
        ),
        (form(&[("\"model\"", "a-groq/whisper"), file]), false, "/v1/audio/transcriptions", "whisper"),
        (form(&[file, ("\"model\"", "a-groq/whisper")]), false, "/v1/audio/transcriptions", "whisper"),
        (Request::new("POST", "/v1/moderations").json(&json!({"input": "hm"})), true, "/v1/moderations", ""),
        (Request::get("/v1/files?limit=2&after=x%2Fy"), true, "/v1/files?limit=2&after=x%2Fy", ""),
        (Request::get("/files/file-1/content"), true, "/v1/files/file-1/content", ""),
        (Request::new("DELETE", "/v1/files/file-1"), true, "/v1/files/file-1", ""),
        (Request::new("POST", "/v1/batches/batch_1/cancel"), true, "/v1/batches/batch_1/cancel", ""),
        (Request::get("/v1/responses/resp_1?stream=false"), true, "/v1/responses/resp_1?stream=false", ""),
        (Request::get("/a-groq/v1/batches"), false, "/v1/batches", ""),
        (Request::get("/a-groq/v1/files/file-9"), false, "/v1/files/file-9", ""),
    ];
    for (call, is_openais, path, model) in cases {
        let call = call
            .key(ALL)
            .header("openai-beta", "assistants=v2")
            .header("cookie", "secret")
            .header("x-base-url", "http://evil.com");
        let answer = call.send(gateway.address).await;
        let (there, key) = if is_openais { (&openai, "Bearer sk-openai") } else { (&other, "Bearer sk-other") };
        assert_eq!((answer.status, answer.json()), (200, json!({"object": "thing"})), "{path}: {}", answer.text());
        let up = there.latest();
        assert_eq!((up.path.as_str(), up.head.header("authorization")), (path, Some(key)));
        assert_eq!(up.head.header("openai-beta"), Some("assistants=v2"), "{path}");
        let sent = format!("{:?}", up.head);
        assert!(!sent.contains(ALL) && !sent.contains("secret") && !sent.contains("evil"), "{sent}");
        let text = String::from_utf8_lossy(&up.body).into_owned();
        assert!(model.is_empty() || text.contains(model) && !text.contains("a-groq/") && !text.contains("drawer"), "{text}");
    }
    let scrape = gateway.scrape();
    let sent = (openai.count() + other.count()) as u64;
    assert_eq!(scrape.count("choreoai_settlements_total", &[("outcome", "completed"), ("usage_source", "none")]), sent);
    assert_eq!(scrape.count("choreoai_requests_total", &[("endpoint", "/v1/files")]), 4);
    assert_eq!(scrape.count("choreoai_requests_total", &[("endpoint", "/v1/responses/{*rest}"), ("method", "GET")]), 1);
    assert_eq!(scrape.count("choreoai_requests_total", &[("provider", "a-groq"), ("endpoint", "/v1/batches")]), 1);
    assert_eq!(scrape.count("choreoai_attempts_in_flight", &[]), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leads_elsewhere_is_refused_and_goes_nowhere() {
    let (openai, other, gateway) = house("").await;
    let json = |path: &str, body: &str| Request::new("POST", path).header("content-type", "application/json").body(body);
    let cases = [
        ("a walk", Request::get("/v1/files/../admin"), 400),
        ("an escaped walk", Request::get("/v1/files/%2e%2e/admin"), 400),
        ("an escaped slash", Request::get("/v1/files/a%2f..%2fb"), 400),
        ("a backslash", Request::get("/v1/files/a\\b"), 400),
        ("two slashes", Request::get("/v1/files//evil.com"), 400),
        ("a slash at the end", Request::get("/v1/files/file-1/"), 400),
        ("a path nobody knows", Request::get("/v1/organization/admin_api_keys"), 404),
        ("what hands out keys", json("/v1/realtime/client_secrets", "{}"), 404),
        ("a provider nobody knows", Request::get("/nobody/v1/files"), 404),
        ("a provider of another wire", Request::get("/anthropic/v1/files"), 404),
        ("a model of another wire", json("/v1/images/generations", "{\"model\":\"anthropic/x\"}"), 404),
        ("an unknown model", json("/v1/images/generations", "{\"model\":\"nothing\"}"), 404),
        ("a model in a provider's path that walks", json("/a-groq/v1/images/generations", "{\"model\":\"../x\"}"), 404),
        ("another method", Request::new("PUT", "/v1/files/file-1"), 405),
        ("no JSON", json("/v1/moderations", "hello"), 400),
        ("a model twice", json("/v1/moderations", "{\"model\":\"drawer\",\"model\":\"openai/dear\"}"), 400),
        ("a model that is no text", json("/v1/moderations", "{\"model\":7}"), 400),
        ("another type of body", Request::new("POST", "/v1/files").header("content-type", "text/plain").body("x"), 400),
        ("a form without an end", form(&[]).body("--xyz\r\n"), 400),
        ("a model twice in a form", form(&[("\"model\"", "drawer"), ("\"model\"", "openai/dear")]), 400),
    ];
    let count = cases.len() as u64;
    for (what, call, status) in cases {
        let answer = call.key(ALL).send(gateway.address).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_eq!(answer.error()["type"], "invalid_request_error", "{what}");
    }
    assert_eq!(openai.count() + other.count(), 0, "nothing goes upstream");
    let scrape = gateway.scrape();
    assert_eq!((scrape.count("choreoai_settlements_total", &[]), scrape.count("choreoai_errors_total", &[])), (0, count));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_limits_and_prices_hold() {
    let (openai, other, gateway) = house("unpriced = \"reject\"\n[rate_limit]\nrequests_per_minute = 10\n").await;
    for fake in [&openai, &other] {
        fake.on("", |_| {
            ok(&json!({"id": "x", "usage": {"input_tokens": 10, "input_tokens_details": {"image_tokens": 4},
            "output_tokens": 100, "total_tokens": 110}}))
        });
    }
    let image = |model: &str| Request::new("POST", "/v1/images/generations").json(&json!({"model": model}));
    let cases = [
        ("nobody", image("openai/dear"), None, 401),
        ("another model", image("openai/dear"), Some(SOME), 403),
        ("the account", Request::get("/v1/files"), Some(SOME), 403),
        ("another provider's account", Request::get("/a-groq/v1/files"), Some(ONE), 403),
        ("a model without a price", image("openai/plain"), Some(ALL), 403),
        ("something without a price", Request::new("POST", "/v1/batches").json(&json!({"input_file_id": "f"})), Some(ALL), 403),
        ("its own provider's account", Request::get("/v1/files"), Some(ONE), 200),
        ("a priced model", image("openai/dear"), Some(ONE), 200),
    ];
    for (what, call, key, status) in cases {
        let call = if let Some(key) = key { call.key(key) } else { call };
        let answer = call.send(gateway.address).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        if what == "a priced model" {
            assert_eq!(answer.head.header("x-choreoai-cost-usd"), Some("0.00021"));
        }
    }
    let scrape = gateway.scrape();
    assert_eq!(openai.count() + other.count(), 2);
    assert_eq!(scrape.count("choreoai_tokens_total", &[("provider", "openai"), ("model", "dear"), ("type", "output")]), 100);
    assert_eq!(scrape.count("choreoai_key_tokens_total", &[("key", "one")]), 110, "what a list says it used is not used again");
    for _ in 0..8 {
        Request::get("/v1/files").key(ONE).send(gateway.address).await;
    }
    let refused = Request::get("/v1/files").key(ONE).send(gateway.address).await;
    assert_eq!((refused.status, refused.head.header("x-choreoai-limited-by")), (429, Some("gateway")), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_and_files_come_down_as_they_come_and_break_off_where_they_break_off() {
    let (openai, _other, gateway) = house("").await;
    let sound: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let piece = bytes::Bytes::from(sound.clone());
    openai.on("plain", move |exchange| {
        let steps: Vec<Step> = (0..8).map(|n| Step::Write(piece.slice(n * 100_000..(n + 1) * 100_000), 0)).collect();
        let ends = exchange.number == 0;
        let reply = Reply::stream(if ends { steps } else { [steps[..3].to_vec(), vec![Step::HangUp]].concat() });
        reply
            .header("content-type", "audio/mpeg")
            .header("content-disposition", "attachment; filename=\"a.mp3\"")
            .header("set-cookie", "a=b")
    });
    let call = Request::new("POST", "/v1/audio/speech").json(&json!({"model": "openai/plain", "input": "Hello"})).key(ALL);
    let answer = call.send(gateway.address).await;
    assert_eq!((answer.status, answer.body == sound), (200, true));
    assert_eq!(answer.head.header("content-type"), Some("audio/mpeg"));
    assert_eq!(answer.head.header("content-disposition"), Some("attachment; filename=\"a.mp3\""));
    assert_eq!(answer.head.header("set-cookie"), None);
    let cut = call.open(gateway.address).await;
    let (got, end) = cut.bytes().await;
    assert_eq!((end, got == sound[..got.len()]), (End::Cut, true), "a sound that was cut is not a whole one");
    assert!(got.len() < sound.len() && !got.is_empty(), "{}", got.len());
    let scrape = gateway.settled("plain", 2).await;
    for outcome in ["completed", "upstream_truncated"] {
        let marks = [("outcome", outcome), ("usage_source", "none")];
        assert_eq!(scrape.count("choreoai_settlements_total", &marks), 1, "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_settles_and_events_tell_what_was_used() {
    let (openai, _other, gateway) = house("").await;
    openai.on("plain", |_| Reply::stream(vec![Step::Write("ID3".into(), 0), Step::Stall]).header("content-type", "audio/mpeg"));
    openai.on("dear", |_| {
        let event = |data: Value| Step::Write(format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap()).into(), 0);
        Reply::stream(vec![
            event(json!({"type": "image_generation.partial_image", "b64_json": "QUFB"})),
            event(json!({"type": "image_generation.completed", "usage": {"input_tokens": 10, "output_tokens": 100, "total_tokens": 110}})),
        ])
    });
    let mut connection = Connection::open(gateway.address).await;
    let speech = Request::new("POST", "/v1/audio/speech").json(&json!({"model": "openai/plain", "input": "Hello"})).key(ALL);
    connection.write(&speech.bytes()).await;
    openai.until("plain", |all| !all.is_empty()).await;
    connection.head().await.unwrap();
    connection.reset();
    let exchanges = openai.until("plain", |all| all.iter().all(|exchange| exchange.over)).await;
    assert!(exchanges[0].left_early);
    let scrape = gateway.settled("plain", 1).await;
    assert_eq!(scrape.count("choreoai_settlements_total", &[("outcome", "client_disconnect"), ("usage_source", "none")]), 1);
    let image = Request::new("POST", "/v1/images/generations").json(&json!({"model": "openai/dear", "stream": true})).key(ALL);
    let saw = image.open(gateway.address).await.rest().await;
    assert_eq!(saw.chunks().len(), 2, "{:?}", saw.lines);
    let scrape = gateway.settled("dear", 1).await;
    assert_eq!(scrape.count("choreoai_tokens_total", &[("model", "dear")]), 110);
    assert_eq!(scrape.sum("choreoai_cost_total", &[("model", "dear")]), 0.000_21);
    assert_eq!(scrape.count("choreoai_attempts_in_flight", &[]), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_twice_is_tried_once() {
    let (openai, _other, gateway) = house("").await;
    openai.on("", |_| Reply::json(500, &json!({"error": {"message": "oh", "type": "server_error"}})));
    for (call, tries) in [
        (Request::get("/v1/files"), 2),
        (Request::new("POST", "/v1/batches").json(&json!({"input_file_id": "f"})), 1),
        (Request::new("DELETE", "/v1/files/f"), 1),
        (Request::new("POST", "/v1/images/generations").json(&json!({"model": "drawer"})), 2),
    ] {
        let before = openai.count();
        let answer = call.key(ALL).send(gateway.address).await;
        assert_eq!((answer.status, openai.count() - before), (500, tries));
        assert_eq!(answer.error()["message"], "oh");
    }
    let gone = Request::get("/v1/files/none").key(ALL);
    openai.on("", |_| {
        Reply::json(404, &json!({"error": {"message": "No such File object: none", "type": "invalid_request_error"}}))
    });
    assert_eq!(gone.send(gateway.address).await.error()["message"], "No such File object: none");
}
