//! The endpoints that are carried on as they are (completions, responses, messages): what goes up and comes
//! down unchanged, errors in the shape of each API, and that all that holds for chat completions holds here.
//! It must not know bills: they are the accuracy run's.

use serde_json::{Value, json};

use crate::support::client::{Answer, Heard, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::native::{NATIVES, Native};
use crate::support::provider::{Exchange, FakeProvider, Reply, Step};

const KEY: &str = "a-callers-key-4711";

async fn house(more: &str) -> (FakeProvider, Gateway) {
    let fake = FakeProvider::start().await;
    let toml = format!(
        "{more}\n[providers.vllm]\nbase_url = \"{url}\"\napi_key = \"sk-upstream\"\nretry = {{ attempts = 1 }}\n\
         [providers.openai]\nbase_url = \"{url}\"\napi_key = \"sk-upstream\"\nretry = {{ attempts = 1 }}\n\
         [providers.anthropic]\nbase_url = \"http://{address}\"\napi_key = \"sk-upstream\"\nretry = {{ attempts = 1 }}\n\
         [[keys]]\nname = \"caller\"\nkey = \"{KEY}\"\n",
        url = fake.url(),
        address = fake.address
    );
    (fake, Gateway::start(toml).await)
}

fn ask(native: Native, body: &Value) -> Request {
    Request::new("POST", native.path()).json(body).key(KEY)
}

fn target(native: Native) -> String {
    format!("{}/m", native.kind())
}

/// The error in the shape of this API.
fn error_of(native: Native, answer: &Answer) -> Value {
    if native != Native::Messages {
        return answer.error();
    }
    let body = answer.json();
    assert_eq!(body["type"], "error", "not Anthropic's error: {body}");
    assert!(body["error"]["type"].is_string() && body["error"]["message"].is_string(), "{body}");
    body["error"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_call_is_refused_in_the_shape_of_its_api_and_goes_nowhere() {
    let (fake, gateway) = house("").await;
    for native in NATIVES {
        let good = native.request(&target(native), 3);
        let with = |name: &str, value: Value| {
            let mut body = good.clone();
            body[name] = value;
            body.to_string()
        };
        let without = |name: &str| {
            let mut body = good.clone();
            body.as_object_mut().unwrap().remove(name);
            body.to_string()
        };
        let limit = if native == Native::Responses { "max_output_tokens" } else { "max_tokens" };
        let mut cases = vec![
            ("no JSON", "hello".to_owned(), 400),
            ("an array", "[]".to_owned(), 400),
            ("no model", without("model"), 400),
            ("a model that is no string", with("model", json!(7)), 400),
            ("a stream that is no boolean", with("stream", json!("yes")), 400),
            ("a limit that is no number", with(limit, json!("many")), 400),
            ("an unknown model", with("model", json!("no-such-model")), 404),
            ("a key twice", good.to_string().replacen('{', "{\"model\":\"openai/other\",", 1), 400),
        ];
        match native {
            Native::Completions => cases.push(("no prompt", without("prompt"), 400)),
            Native::Responses => cases.push(("an input that is a number", with("input", json!(7)), 400)),
            Native::Messages => {
                cases.push(("no messages", without("messages"), 400));
                cases.push(("messages that are no array", with("messages", json!("hi")), 400));
            }
        }
        for (what, body, status) in cases {
            let answer = Request::new("POST", native.path()).key(KEY).body(body).send(gateway.address).await;
            assert_eq!(answer.status, status, "{native:?}, {what}: {}", answer.text());
            let error = error_of(native, &answer);
            let wished = if native == Native::Messages && status == 404 { "not_found_error" } else { "invalid_request_error" };
            assert_eq!(error["type"], wished, "{native:?}, {what}");
        }
        let nobody = Request::new("POST", native.path()).json(&good).send(gateway.address).await;
        assert_eq!(nobody.status, 401, "{native:?}");
        error_of(native, &nobody);
    }
    assert_eq!(fake.count(), 0, "nothing goes upstream");
    let scrape = gateway.scrape();
    assert_eq!(scrape.count("choreoai_settlements_total", &[]), 0);
    for native in NATIVES {
        let counted = scrape.count("choreoai_requests_total", &[("endpoint", native.path())]);
        assert!(counted >= 10, "{native:?}: {counted} are counted under their own endpoint");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_up_and_come_down_as_they_are() {
    let (fake, gateway) = house("").await;
    for native in NATIVES {
        let bill = native.bill([131, 9, 0, 0]);
        fake.on("m", {
            let bill = bill.clone();
            move |exchange| native.answer(exchange, 9, Some(&bill))
        });
        let mut body = native.request(&target(native), 3);
        body["x_unknown"] = json!({"kept": [1, 2.50]});
        let call =
            ask(native, &body).header("anthropic-beta", "some-beta-1").header("openai-beta", "x=v1").header("cookie", "secret");
        let answer = call.send(gateway.address).await;
        let Step::Write(whole, _) = &native.whole(9, Some(&bill)).steps[0] else { panic!("no body") };
        assert_eq!((answer.status, answer.body.as_slice()), (200, &whole[..]), "{native:?}");
        let up = fake.latest();
        assert_eq!(up.path, native.path(), "{native:?}");
        body["model"] = json!("m");
        assert_eq!(up.json(), body, "{native:?}: the body but for the model");
        let all = format!("{:?}", up.head);
        assert!(!all.contains(KEY) && !all.contains("secret") && all.contains("sk-upstream"), "{native:?}: {all}");
        let is_anthropics = native == Native::Messages;
        assert_eq!(up.head.header("anthropic-version"), is_anthropics.then_some("2023-06-01"), "{native:?}");
        assert_eq!(up.head.header("anthropic-beta"), Some("some-beta-1"), "{native:?}");
        body["model"] = json!(target(native));
        body["stream"] = json!(true);
        let saw = ask(native, &body).open(gateway.address).await.rest().await;
        let Reply { steps, .. } = native.answer(&fake.latest_of_stream(&body), 9, Some(&bill));
        let wished: Vec<Heard> = heard(&steps).into_iter().filter(|line| !is_withheld(native, line)).collect();
        assert_eq!(saw.lines, wished, "{native:?}");
    }
}

impl FakeProvider {
    /// An exchange that asks what this body asks.
    fn latest_of_stream(&self, body: &Value) -> Exchange {
        Exchange { body: body.to_string().into(), ..self.latest() }
    }
}

/// The lines of what a provider writes.
fn heard(steps: &[Step]) -> Vec<Heard> {
    let bytes: Vec<u8> =
        steps.iter().flat_map(|step| if let Step::Write(bytes, _) = step { bytes.to_vec() } else { vec![] }).collect();
    let text = String::from_utf8(bytes).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| match line.strip_prefix("data: ") {
            Some(data) => Heard::Data(data.to_owned()),
            None => Heard::Other(line.to_owned()),
        })
        .collect()
}

/// The chunk with the bill of a completion that nobody asked for.
fn is_withheld(native: Native, line: &Heard) -> bool {
    native == Native::Completions && matches!(line, Heard::Data(data) if data.contains("\"choices\":[]"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_provider_answers_in_the_words_of_every_api() {
    let gateway = Setup::default().start().await;
    for (number, native) in NATIVES.into_iter().enumerate() {
        let ask = |model: &str, more: Value| {
            let mut body = native.request(&format!("demo/{model}"), 3);
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Request::new("POST", native.path()).json(&body)
        };
        let whole = ask("echo", json!({})).send(gateway.address).await;
        assert!(whole.status == 200 && whole.text().contains("You said:  the"), "{native:?}: {}", whole.text());
        let saw = ask("echo", json!({"stream": true})).open(gateway.address).await.rest().await;
        assert_eq!((saw.ends(), saw.error()), (1, None), "{native:?}");
        assert!(saw.text().starts_with("You said:  the"), "{native:?}: {}", saw.text());
        let cut = ask("cut", json!({"stream": true})).open(gateway.address).await.rest().await;
        assert_eq!((cut.ends(), cut.error().is_some()), (0, true), "{native:?}");
        let tool = match native {
            Native::Completions => continue,
            Native::Responses => {
                json!({"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}})
            }
            Native::Messages => json!({"name": "look_up", "input_schema": {"type": "object", "properties": {}}}),
        };
        for stream in [false, true] {
            let called = ask("echo", json!({"tools": [tool], "stream": stream})).send(gateway.address).await;
            assert!(called.status == 200 && called.text().contains("\"look_up\""), "{native:?}: {}", called.text());
        }
        let scrape = gateway.settled("echo", 2 + 4 * number as u64).await;
        let calls = scrape.count("choreoai_tool_calls_total", &[("model", "echo")]);
        assert_eq!(calls, 2 * number as u64, "{native:?}");
    }
    let scrape = gateway.settled("echo", 10).await;
    let known = [("model", "echo"), ("outcome", "completed"), ("usage_source", "provider")];
    assert_eq!(scrape.count("choreoai_settlements_total", &known), 10, "each tells what it used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_cut_ends_with_an_error_in_the_words_of_its_api() {
    let (fake, gateway) = house("").await;
    for native in NATIVES {
        fake.on("m", move |_| Reply::stream([native.opening(None), native.said(5), vec![Step::HangUp]].concat()));
        let mut body = native.request(&target(native), 3);
        body["stream"] = json!(true);
        let saw = ask(native, &body).open(gateway.address).await.rest().await;
        assert_eq!((saw.status, saw.ends()), (200, 0), "{native:?}");
        let events = saw.chunks();
        let last = events.last().unwrap();
        let named = saw.lines.contains(&Heard::Other("event: error".into()));
        match native {
            Native::Completions => {
                assert_eq!((&last["error"]["code"], named), (&json!("upstream_stream_error"), false));
            }
            Native::Responses => {
                let wished = json!({"type": "error", "sequence_number": 8, "code": "upstream_stream_error",
                    "message": "the provider ended the stream before it was complete", "param": null});
                assert_eq!((last, named), (&wished, true), "the next number after three openings and five words");
            }
            Native::Messages => {
                let wished = json!({"type": "error", "error": {"type": "api_error",
                    "message": "the provider ended the stream before it was complete"}});
                assert_eq!((last, named), (&wished, true));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_failed_is_told_once_and_in_the_providers_words() {
    let (fake, gateway) = house("").await;
    let native = Native::Responses;
    let failed = move |_: &Exchange| {
        let response = json!({"id": "resp_fake", "object": "response", "status": "failed", "output": [],
            "error": {"code": "server_error", "message": "It broke."}, "usage": native.bill([131, 7, 0, 0])});
        let event = json!({"type": "response.failed", "sequence_number": 9, "response": response});
        let last = Step::Write(format!("event: response.failed\ndata: {event}\n\n").into(), 0);
        Reply::stream([native.opening(None), native.said(5), vec![last]].concat())
    };
    fake.on("m", failed);
    let mut body = native.request("openai/m", 3);
    body["stream"] = json!(true);
    let saw = ask(native, &body).open(gateway.address).await.rest().await;
    let kinds: Vec<String> = saw.chunks().iter().map(|event| event["type"].to_string()).collect();
    assert_eq!(kinds.iter().filter(|kind| kind.contains("failed") || kind.contains("error")).count(), 1, "{kinds:?}");
    assert!(kinds.last().unwrap().contains("response.failed"), "{kinds:?}");
    let scrape = gateway.until("the settlement", |scrape| scrape.count("choreoai_settlements_total", &[]) == 1).await;
    let marks = [("outcome", "upstream_error"), ("usage_source", "provider")];
    assert_eq!(scrape.count("choreoai_settlements_total", &marks), 1);
    assert_eq!(scrape.count("choreoai_tokens_total", &[("type", "output")]), 7, "what it used all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_that_have_no_such_endpoint_are_passed_over_and_broken_ones_left() {
    let more = "[models.mixed]\ntargets = [ { target = \"anthropic/c\" }, { target = \"openai/broken\", tier = 2 }, { target = \"openai/m\", tier = 3 } ]\n";
    let (fake, gateway) = house(more).await;
    let native = Native::Responses;
    fake.on("broken", move |_| Reply::stream([native.opening(None), vec![Step::HangUp]].concat()));
    fake.on("m", move |exchange| native.answer(exchange, 9, Some(&native.bill([131, 9, 0, 0]))));
    let mut body = native.request("mixed", 3);
    body["stream"] = json!(true);
    let saw = ask(native, &body).open(gateway.address).await.rest().await;
    assert_eq!((saw.ends(), saw.error(), saw.head.header("x-choreoai-attempts")), (1, None, Some("2")));
    assert_eq!(fake.exchanges("c").len(), 0, "it does not speak that");
    let unserved = ask(native, &native.request("anthropic/c", 3)).send(gateway.address).await;
    assert_eq!((unserved.status, &unserved.error()["code"]), (404, &json!("model_not_found")));
    assert!(unserved.error()["message"].as_str().unwrap().contains("/v1/responses"), "{}", unserved.text());
    assert_eq!(fake.exchanges("c").len(), 0);
}

/// Anthropic tells it as a wrong request; its clients know a word for it, and nobody's asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_account_is_told_in_the_words_of_each_surface() {
    let (fake, gateway) = house("").await;
    let poor = json!({"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}});
    fake.on("poor", move |_| Reply::json(400, &poor));
    let chat = json!({"model": "anthropic/poor", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    for (path, words) in [("/v1/messages", "billing_error"), ("/v1/chat/completions", "insufficient_quota")] {
        let answer = Request::new("POST", path).json(&chat).key(KEY).send(gateway.address).await;
        assert_eq!((answer.status, &answer.json()["error"]["type"]), (429, &json!(words)), "{}", answer.text());
        assert_eq!(answer.head.header("x-should-retry"), Some("false"), "{path}");
    }
    assert_eq!(fake.exchanges("poor").len(), 2, "each call asked once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anthropics_clients_come_in_with_their_own_header_and_meet_limits_in_their_own_words() {
    let more = "[rate_limit]\ntokens_per_minute = 1000\n";
    let (fake, gateway) = house(more).await;
    let native = Native::Messages;
    fake.on("m", move |exchange| {
        if exchange.path.ends_with("count_tokens") {
            return Reply::json(200, &json!({"input_tokens": 14}));
        }
        native.answer(exchange, 9, Some(&native.bill([131, 9, 0, 0])))
    });
    let call = |path: &str, tokens: u64| {
        let mut body = native.request("anthropic/m", 3);
        body["max_tokens"] = json!(tokens);
        Request::new("POST", path).json(&body).header("x-api-key", KEY).header("anthropic-version", "2024-01-01")
    };
    let answer = call("/v1/messages", 500).send(gateway.address).await;
    assert_eq!((answer.status, &answer.json()["type"]), (200, &json!("message")), "{}", answer.text());
    let up = fake.latest();
    assert_eq!((up.head.header("x-api-key"), up.head.header("anthropic-version")), (Some("sk-upstream"), Some("2024-01-01")));
    let too_much = call("/v1/messages", 990).send(gateway.address).await;
    assert_eq!(too_much.status, 429, "140 are gone: {}", too_much.text());
    assert_eq!(error_of(native, &too_much)["type"], "rate_limit_error");
    assert!(too_much.head.header("retry-after").is_some());
    let count = call("/v1/messages/count_tokens", 990).send(gateway.address).await;
    assert_eq!((count.status, count.json()), (200, json!({"input_tokens": 14})), "a count takes no tokens");
    let scrape = gateway.scrape();
    let free = [("outcome", "completed"), ("usage_source", "none")];
    assert_eq!(scrape.count("choreoai_settlements_total", &free), 1);
    assert_eq!(scrape.count("choreoai_tokens_total", &[]), 140);
    assert_eq!(scrape.count("choreoai_requests_total", &[("endpoint", "/v1/messages/count_tokens")]), 1);
}
