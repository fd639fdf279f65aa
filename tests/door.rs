//! The door: what is no call is refused clearly, costs nothing and goes nowhere; the paths beside the
//! API; request ids. It must not know streams or bills.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Connection, Request};
use crate::support::dialect::{openai, request, said, usage};
use crate::support::gateway::Gateway;
use crate::support::provider::{FakeProvider, Reply, Step};

const MIB: usize = 1024 * 1024;

async fn house() -> (FakeProvider, Gateway) {
    let fake = FakeProvider::start().await;
    fake.on("plain", |exchange| openai().answer(exchange, 3, &usage(17, 3)));
    let toml = format!(
        "[server]\nallow_anonymous = true\nbody_timeout = \"1s\"\n[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\nmodels = [\"plain\", \"endless\"]\nretry = {{ attempts = 1 }}\n",
        fake.url()
    );
    (fake, Gateway::start(toml).await)
}

fn post(body: impl Into<Vec<u8>>) -> Request {
    Request::new("POST", "/v1/chat/completions").header("content-type", "application/json").body(body)
}

fn chat(extra: &str) -> String {
    format!("{{\"model\":\"fake/plain\",\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]{extra}}}")
}

/// Everything that is wrong inside a body: `(what, body)`.
fn wrong_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let nested = |open: &str, close: &str| chat(&format!(",\"x\":{}1{}", open.repeat(10_000), close.repeat(10_000))).into_bytes();
    let mut not_utf8 = chat("").into_bytes();
    let at = not_utf8.windows(4).position(|four| four == b"\"hi\"").unwrap();
    not_utf8[at + 1] = 0xff;
    let texts = [
        ("nothing", String::new()),
        ("no JSON", "hello".into()),
        ("half a JSON", chat("")[..40].into()),
        ("two JSONs", chat("") + &chat("")),
        ("an array", "[]".into()),
        ("a string", "\"model\"".into()),
        ("a bad escape", chat(",\"x\":\"\\q\"")),
        ("a control character in a string", chat(",\"x\":\"a\u{1}b\"")),
        ("a number that is none", chat(",\"x\":NaN")),
        ("a trailing comma", chat(",")),
        ("a comment", chat(" /* hi */")),
        ("a key twice", chat(",\"model\":\"fake/other\"")),
        ("a key twice, escaped", chat(",\"mod\\u0065l\":\"fake/other\"")),
        ("no model", "{\"messages\":[]}".into()),
        ("an empty model", "{\"model\":\"\",\"messages\":[]}".into()),
        ("a model that is no string", "{\"model\":7,\"messages\":[]}".into()),
        ("no messages", "{\"model\":\"fake/plain\"}".into()),
        ("messages that are no array", "{\"model\":\"fake/plain\",\"messages\":\"hi\"}".into()),
        ("stream that is no boolean", chat(",\"stream\":\"yes\"")),
        ("max_tokens that is no number", chat(",\"max_tokens\":\"many\"")),
    ];
    let mut bodies: Vec<_> = texts.into_iter().map(|(what, text)| (what, text.into_bytes())).collect();
    bodies.push(("bytes that are not UTF-8", not_utf8));
    bodies.push(("10,000 arrays in one another", nested("[", "]")));
    bodies.push(("10,000 objects in one another", nested("{\"a\":", "}")));
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_call_is_a_400_goes_nowhere_and_costs_nothing() {
    let (fake, gateway) = house().await;
    for (what, body) in wrong_bodies() {
        let answer = post(body).send(gateway.address).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        assert_eq!(answer.error()["type"], "invalid_request_error", "{what}");
        assert!(answer.head.header("x-request-id").is_some(), "{what}");
    }
    let unknown = Request::chat(&request("no-such-model", 3)).send(gateway.address).await;
    assert_eq!((unknown.status, &unknown.error()["code"]), (404, &json!("model_not_found")));
    let scrape = gateway.scrape();
    assert_eq!(fake.count(), 0, "nothing goes upstream");
    assert_eq!(scrape.count("choreoai_settlements_total", &[]), 0);
    assert_eq!(scrape.sum("choreoai_tokens_total", &[]) + scrape.sum("choreoai_cost_total", &[]), 0.0);
    let calls = wrong_bodies().len() as u64 + 1;
    assert_eq!(scrape.count("choreoai_requests_total", &[("endpoint", "/v1/chat/completions")]), calls, "each is counted once");
    assert_eq!(scrape.count("choreoai_errors_total", &[]), calls);
}

/// What one refused giant may cost while it is read, and what the further ones may add to that, in KiB.
/// The allocator keeps some of what it was given back; one giant kept each time would be twice as much.
const ONE_GIANT_KIB: u64 = 128 * 1024;
const MORE_GIANTS_KIB: u64 = 96 * 1024;
const GIANTS: usize = 12;

/// Asserts that memory is bounded for one of these and flat for more of them.
async fn stays_flat<F: Future<Output = ()>>(what: &str, gateway: &Gateway, one: impl Fn() -> F) {
    let before = gateway.warm_memory_kib(&post(chat(""))).await;
    one().await;
    let first = gateway.memory_kib();
    for _ in 1..GIANTS {
        one().await;
    }
    let last = gateway.memory_kib();
    println!("{what}: {before} KiB before, {first} after one, {last} after {GIANTS}");
    assert!(first.saturating_sub(before) < ONE_GIANT_KIB, "{what}: one costs {} KiB", first - before);
    assert!(last.saturating_sub(first) < MORE_GIANTS_KIB, "{what}: the further ones cost {} KiB", last - first);
}

fn chunked(body: &str) -> Vec<u8> {
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut bytes = head.as_bytes().to_vec();
    for part in body.as_bytes().chunks(MIB) {
        bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_giant_body_is_refused_with_memory_flat() {
    let (fake, gateway) = house().await;
    let huge = chat(&format!(",\"x\":\"{}\"", "a".repeat(33 * MIB)));
    for (what, bytes) in [("33 MiB, announced", post(huge.clone()).bytes()), ("33 MiB, in chunks", chunked(&huge))] {
        let refused = || async {
            let mut connection = Connection::open(gateway.address).await;
            connection.write_until_answered(&bytes).await;
            let answer = connection.answer().await;
            assert_eq!(answer.status, 413, "{what}: {}", answer.text());
            answer.error();
        };
        stays_flat(what, &gateway, refused).await;
    }
    assert!(fake.exchanges("plain").iter().all(|exchange| exchange.body.len() < 1000), "nothing of it goes upstream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_bombs_are_refused_with_memory_flat() {
    let (_fake, gateway) = house().await;
    let large = format!("GET /health HTTP/1.1\r\nhost: g\r\n{}\r\n", format!("x-bomb: {}\r\n", "b".repeat(8000)).repeat(1000));
    let many = format!("GET /health HTTP/1.1\r\nhost: g\r\n{}\r\n", "x-many: 1\r\n".repeat(5000));
    for (what, bytes) in [("8 MB of headers", large), ("5,000 headers", many)] {
        let refused = || async {
            let mut connection = Connection::open(gateway.address).await;
            connection.write_until_answered(bytes.as_bytes()).await;
            let status = connection.head().await.map(|head| head.second_word().to_owned());
            assert!(status.as_ref().is_some_and(|status| status.starts_with('4')), "{what}: answered with {status:?}");
        };
        stays_flat(what, &gateway, refused).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_line_of_the_provider_is_an_error_with_memory_flat() {
    let (fake, gateway) = house().await;
    fake.on("endless", |exchange| {
        let mut steps = openai().beginning(exchange, &said(3), None);
        steps.push(Step::Write("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"".into(), 0));
        let part = bytes::Bytes::from(vec![b'a'; MIB]);
        steps.extend((0..64).map(|_| Step::Write(part.clone(), 0)));
        Reply::stream(steps)
    });
    let mut body = request("fake/endless", 3);
    body["stream"] = json!(true);
    let call = Request::chat(&body);
    let cut = || async {
        let saw = call.open(gateway.address).await.rest().await;
        assert_eq!((saw.status, saw.dones()), (200, 0));
        assert!(saw.error().is_some(), "{:?}", saw.data().last());
    };
    stays_flat("64 MiB in one line from the provider", &gateway, cut).await;
    let exchanges = fake.until("endless", |all| all.len() == GIANTS && all.iter().all(|exchange| exchange.over)).await;
    assert!(exchanges.iter().all(|exchange| exchange.left_early), "the gateway hangs up");
    gateway.settled("endless", GIANTS as u64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_sender_is_sent_away() {
    let (fake, gateway) = house().await;
    let bytes = post(chat("")).bytes();
    let mut connection = Connection::open(gateway.address).await;
    connection.write(&bytes[..bytes.len() - 10]).await;
    let began = Instant::now();
    let answer = connection.answer().await;
    assert_eq!(answer.status, 408, "{}", answer.text());
    answer.error();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_but_steady_sender_is_served() {
    let (_fake, gateway) = house().await;
    let bytes = post(chat("")).bytes();
    let mut connection = Connection::open(gateway.address).await;
    for part in bytes.chunks(bytes.len() / 8) {
        assert!(connection.write(part).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(connection.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_doors_are_named_in_openais_shape() {
    let (fake, gateway) = house().await;
    let cases = [
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/v1/nothing/here", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", "/v1/../metrics", 404),
        ("GET", "/v1/models/no-such-model", 404),
    ];
    for (method, path, status) in cases {
        let answer = Request::new(method, path).send(gateway.address).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert_eq!(answer.error()["type"], "invalid_request_error", "{method} {path}");
        if status == 405 {
            assert!(answer.head.header("allow").is_some(), "{method} {path}");
        }
    }
    let smuggled = "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!";
    let mut connection = Connection::open(gateway.address).await;
    connection.write(smuggled.as_bytes()).await;
    assert_eq!(connection.answer().await.status, 400, "two lengths");
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_ready_live_and_models_answer() {
    let (_fake, gateway) = house().await;
    let health = Request::get("/health").send(gateway.address).await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("healthy")));
    let timestamp = health.json()["timestamp"].as_str().unwrap().to_owned();
    assert!(timestamp.len() >= 20 && timestamp.as_bytes()[10] == b'T', "{timestamp} is not RFC 3339");
    assert!(health.json()["checks"].is_object());
    assert_eq!(Request::get("/ready").send(gateway.address).await.json(), json!({"ready": true}));
    assert_eq!(Request::get("/live").send(gateway.address).await.json(), json!({"alive": true}));
    let models = Request::get("/v1/models").send(gateway.address).await.json();
    assert_eq!(models["object"], "list");
    assert!(models["data"].is_array());
    let without = Request::new("POST", "/chat/completions").json(&request("fake/plain", 3)).send(gateway.address).await;
    assert_eq!(without.status, 200, "also without /v1: {}", without.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_told_with_what_is_known_of_them() {
    let gateway = Gateway::start(
        "[server]\nallow_anonymous = true\n[providers.claude]\nkind = \"anthropic\"\napi_key = \"k\"\n\
         [providers.cohere]\napi_key = \"k\"\n[providers.own]\nkind = \"openai\"\napi_key = \"k\"\nmodels = [\"my-model\"]\n\
         [models.both]\ntargets = [{ target = \"claude/claude-sonnet-4-5\" }, { target = \"claude/claude-opus-5\" }]\n\
         [models.half]\ntargets = [{ target = \"claude/claude-sonnet-4-5\" }, { target = \"own/my-model\" }]\n\
         [prices.\"own/my-model\"]\ninput = 0.125\noutput = 1000\ncache_read = 0.000001\n",
    )
    .await;
    let list = Request::get("/v1/models").send(gateway.address).await.json();
    let listed = |id: &str| list["data"].as_array().unwrap().iter().find(|model| model["id"] == id).cloned();
    let chat = json!(["/v1/chat/completions", "/v1/messages"]);
    let sonnet = listed("claude/claude-sonnet-4-5").unwrap();
    assert_eq!((&sonnet["owned_by"], &sonnet["endpoints"]), (&json!("claude"), &chat));
    assert_eq!((&sonnet["context_length"], &sonnet["max_completion_tokens"]), (&json!(200_000), &json!(64_000)));
    let price = json!({"input": "3", "output": "15", "cache_read": "0.3", "cache_write": "3.75", "cache_write_1h": "6",
        "unit": "USD per million tokens"});
    assert_eq!(sonnet["pricing"], price);
    let own = listed("own/my-model").unwrap();
    let all = json!(["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]);
    assert_eq!(own["endpoints"], all, "nobody knows which");
    assert_eq!((own["pricing"]["input"].clone(), own["pricing"]["output"].clone()), (json!("0.125"), json!("1000")));
    assert_eq!(own["pricing"]["cache_read"], "0.000001");
    assert_eq!(own.get("context_length"), None);
    let both = listed("both").unwrap();
    assert_eq!(
        (&both["context_length"], &both["max_completion_tokens"]),
        (&json!(200_000), &json!(64_000)),
        "what the least can"
    );
    assert_eq!((both.get("pricing"), &both["endpoints"]), (None, &chat), "they cost not the same");
    assert_eq!(listed("half").unwrap().get("context_length"), None, "one of them is not known");
    assert_eq!(listed("cohere/embed-v4.0").unwrap()["endpoints"], json!(["/v1/embeddings"]));
    assert!(listed("cohere/rerank-v3.5").is_none() && listed("own/gpt-image-1").is_none(), "no endpoint takes them");
    for id in ["claude/claude-sonnet-4-5", "both", "own/my-model"] {
        let one = Request::get(&format!("/v1/models/{id}")).send(gateway.address).await.json();
        assert_eq!(Some(one), listed(id), "alone as in the list");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sane_request_ids_come_back() {
    let (_fake, gateway) = house().await;
    let ask = |id: Option<&str>| {
        let request = Request::get("/live");
        if let Some(id) = id { request.header("x-request-id", id) } else { request }
    };
    let mut given = Vec::new();
    for sane in ["abc-123", "550e8400-e29b-41d4-a716-446655440000", "req_A.b"] {
        let answer = ask(Some(sane)).send(gateway.address).await;
        assert_eq!(answer.head.header("x-request-id"), Some(sane));
    }
    for other in [None, Some("two words"), Some("\"quoted\""), Some("<script>"), Some("h\u{e9}"), Some(&"x".repeat(2000))] {
        let answer = ask(other).send(gateway.address).await;
        let id = answer.head.header("x-request-id").unwrap().to_owned();
        assert!(Some(id.as_str()) != other && !id.is_empty() && id.len() < 100, "{id}");
        assert!(!given.contains(&id), "{id} twice");
        given.push(id);
    }
    let failed = post("no JSON").header("x-request-id", "my-call-7").send(gateway.address).await;
    assert_eq!(failed.head.header("x-request-id"), Some("my-call-7"));
    gateway.log("of that call", |line: &Value| line["request_id"] == "my-call-7" && line["status_code"] == 400).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_line_tells_the_call() {
    let (_fake, gateway) = house().await;
    let mut body = request("fake/plain", 3);
    body["stream"] = json!(true);
    Request::chat(&body).header("x-request-id", "logged").open(gateway.address).await.rest().await;
    let line = gateway.log("of the call", |line| line["request_id"] == "logged" && line["status_code"].is_number()).await;
    let wished = json!({
        "method": "POST", "path": "/v1/chat/completions", "status_code": 200, "provider": "fake", "stream": true,
        "input_tokens": 17, "output_tokens": 3, "outcome": "completed", "usage_source": "provider", "attempt": 1,
    });
    for (name, value) in wished.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} in {line}");
    }
    for name in ["timestamp", "level", "logger", "message"] {
        assert!(line[name].is_string(), "{name} in {line}");
    }
    assert!(line["duration"].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 20.0), "{line}");
    assert!(line["ttft"].as_f64().is_some_and(|seconds| seconds > 0.0), "{line}");
    assert!(line.get("model").is_some(), "{line}");
}
