//! What a stream promises (DESIGN §4): one grammar, hidden usage, an error event instead of a clean
//! end, timeouts, fallback before the first word and never after, a provider told when nobody listens.
//! It must not know prices or keys; the bill is `accuracy`'s.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::client::{Heard, Request};
use crate::support::dialect::{openai, request, said, usage};
use crate::support::gateway::Gateway;
use crate::support::http::End;
use crate::support::provider::{Exchange, FakeProvider, Gate, Reply, Step};

/// Every model of these stories, told to the gateway so that each has series of its own.
const MODELS: [&str; 24] = [
    "plain",
    "two",
    "broken",
    "reset",
    "closed",
    "unfinished",
    "half-a-line",
    "mute",
    "idle",
    "endless",
    "cancelled",
    "drained",
    "refuses",
    "breaks-early",
    "error-first",
    "breaks-late",
    "spare",
    "shaky",
    "slow",
    "html",
    "empty",
    "truncated",
    "error-in-200",
    "flood",
];

/// One provider `fake` of OpenAI's kind in front of `fake`, with further lines in its table.
fn configuration(fake: &FakeProvider, more: &str) -> String {
    format!("[server]\nallow_anonymous = true\n{}", provider_table("fake", fake, more))
}

fn provider_table(name: &str, fake: &FakeProvider, more: &str) -> String {
    format!(
        "[providers.{name}]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake-provider\"\nmodels = {MODELS:?}\n{more}\n",
        fake.url()
    )
}

fn streamed(model: &str) -> Value {
    let mut body = request(model, 10);
    body["stream"] = json!(true);
    body
}

fn twelve_words(exchange: &Exchange) -> Reply {
    openai().answer(exchange, 12, &usage(17, 12))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_request_stays_whole_but_for_what_the_gateway_owns() {
    let fake = FakeProvider::start().await;
    fake.on("plain", twelve_words);
    let gateway = Gateway::start(configuration(&fake, "")).await;
    let body = r#"{"some_new_field": {"b":1e3,"a":[1,2.50]},  "model":"fake/plain","messages":[{"role":"user","content":"h\u00e9 \ud83d\ude00"}],
        "stream":true,"stream_options":{"include_usage":false,"include_obfuscation":false},"seed":9007199254740993}"#;
    let whole = Request::new("POST", "/v1/chat/completions").header("content-type", "application/json").key("client-secret");
    let saw = whole.body(body).open(gateway.address).await.rest().await;
    assert_eq!((saw.status, saw.dones()), (200, 1));
    let [sent] = &fake.exchanges("plain")[..] else { panic!("one attempt") };
    let text = std::str::from_utf8(&sent.body).unwrap();
    assert_eq!(sent.path, "/v1/chat/completions");
    assert_eq!(sent.head.header("authorization"), Some("Bearer sk-fake-provider"), "the provider's key, never the client's");
    for kept in [r#""some_new_field": {"b":1e3,"a":[1,2.50]}"#, r#""h\u00e9 \ud83d\ude00""#, r#""seed":9007199254740993"#] {
        assert!(text.contains(kept), "{kept} was changed in {text}");
    }
    let sent = sent.json();
    assert_eq!(sent["model"], "plain");
    assert_eq!(sent["stream_options"], json!({"include_usage": true, "include_obfuscation": false}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_has_one_grammar() {
    let fake = FakeProvider::start().await;
    fake.on("plain", twelve_words);
    fake.on("two", |exchange| {
        let mut pieces = said(8);
        pieces.iter_mut().enumerate().for_each(|(n, piece)| piece.choice = n as u64 % 2);
        openai().stream(exchange, &pieces, Some(&usage(17, 8)))
    });
    let gateway = Gateway::start(configuration(&fake, "")).await;
    for (model, choices) in [("fake/plain", 1), ("fake/two", 2)] {
        for asks in [None, Some(false), Some(true)] {
            let mut body = streamed(model);
            if let Some(asks) = asks {
                body["stream_options"] = json!({"include_usage": asks});
            }
            let saw = Request::chat(&body).open(gateway.address).await.rest().await;
            let chunks = saw.chunks();
            assert!(saw.head.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")));
            assert_eq!((saw.end, saw.dones(), *saw.data().last().unwrap()), (End::Whole, 1, "[DONE]"), "{model} {asks:?}");
            assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"]));
            let finishes = chunks.iter().filter(|chunk| chunk["choices"][0]["finish_reason"].is_string()).count();
            assert_eq!(finishes, choices, "one finish reason a choice");
            let with_usage: Vec<usize> = (0..chunks.len()).filter(|&n| chunks[n]["usage"].is_object()).collect();
            let wished = if asks == Some(true) { vec![chunks.len() - 1] } else { Vec::new() };
            assert_eq!(with_usage, wished, "{model}, include_usage {asks:?}");
            let empty = chunks.iter().filter(|chunk| chunk["choices"] == json!([])).count();
            assert_eq!(empty, wished.len(), "a chunk without choices is there only for usage");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_line_is_skipped_and_counted() {
    let fake = FakeProvider::start().await;
    fake.on("broken", |exchange| {
        let mut reply = twelve_words(exchange);
        reply.steps.insert(3, Step::Write(openai().event("{\"choices\":[{\"delta\":{\"content\":\" lost"), 0));
        reply.steps.insert(5, Step::Write("data: \u{fffd}not json\n\n: a comment\n\nretry: 10\n\n".into(), 0));
        reply
    });
    let gateway = Gateway::start(configuration(&fake, "")).await;
    let saw = Request::chat(&streamed("fake/broken")).open(gateway.address).await.rest().await;
    assert_eq!((saw.dones(), saw.error()), (1, None), "{:?}", saw.data());
    assert_eq!(saw.text(), said(12).iter().map(|piece| piece.delta["content"].as_str().unwrap().to_owned()).collect::<String>());
    let scrape = gateway.settled("broken", 1).await;
    let malformed: f64 =
        scrape.samples.iter().filter(|sample| sample.name.contains("malformed")).map(|sample| sample.value).sum();
    assert!((malformed - 2.0).abs() < 0.5, "two malformed lines, counted {malformed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_stream_ends_with_an_error_event_and_never_as_complete() {
    let fake = FakeProvider::start().await;
    let ends: [(&str, Vec<Step>); 4] = [
        ("reset", vec![Step::Pause(Duration::from_millis(200)), Step::Reset]),
        ("closed", vec![Step::HangUp]),
        ("unfinished", Vec::new()),
        ("half-a-line", vec![Step::Write("data: {\"choices\":[{\"ind".into(), 0), Step::HangUp]),
    ];
    for (model, end) in ends.clone() {
        fake.on(model, move |exchange| {
            let mut steps = openai().beginning(exchange, &said(5), None);
            steps.extend(end.clone());
            Reply::stream(steps)
        });
    }
    let gateway = Gateway::start(configuration(&fake, "retry = { attempts = 3 }")).await;
    for (model, _) in ends {
        let saw = Request::chat(&streamed(&format!("fake/{model}"))).open(gateway.address).await.rest().await;
        let error = saw.error().unwrap_or_else(|| panic!("{model}: no error event in {:?}", saw.data()));
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        assert!(error.get("param").is_some() && error.get("code").is_some(), "{error}");
        assert!(saw.data().last().unwrap().contains("\"error\""), "{model}: nothing follows the error");
        assert_eq!((saw.dones(), saw.end), (0, End::Whole), "{model}");
        assert_eq!(fake.exchanges(model).len(), 1, "{model}: no second try once words have reached the client");
        assert_eq!(saw.text().split_whitespace().count(), 5, "{model}: all that came before the cut has reached the client");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_are_separate() {
    let fake = FakeProvider::start().await;
    fake.on("mute", |_| Reply::stream(Vec::new()).after(Step::Stall));
    fake.on("idle", |exchange| {
        let mut steps = openai().beginning(exchange, &said(5), None);
        steps.push(Step::Stall);
        Reply::stream(steps)
    });
    fake.on("endless", |exchange| {
        let steps = openai().beginning(exchange, &said(400), None);
        Reply::stream(steps.into_iter().flat_map(|step| [step, Step::Pause(Duration::from_millis(50))]).collect())
    });
    let limits =
        "timeouts = { connect = \"1s\", first_byte = \"700ms\", idle = \"900ms\", total = \"3s\" }\nretry = { attempts = 1 }";
    let gateway = Gateway::start(configuration(&fake, limits)).await;
    let cases = [("mute", 700, 504, false), ("idle", 900, 200, true), ("endless", 3000, 200, true)];
    for (model, after_ms, status, begun) in cases {
        let began = tokio::time::Instant::now();
        let saw = Request::chat(&streamed(&format!("fake/{model}"))).open(gateway.address).await;
        assert_eq!(saw.status, status, "{model}");
        let saw = saw.rest().await;
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(after_ms), "{model} ended after {took:?}");
        assert!(took < Duration::from_millis(after_ms) + PATIENCE / 2, "{model} ended after {took:?}");
        assert_eq!(saw.dones(), 0);
        if begun {
            assert!(saw.error().is_some(), "{model}: {:?}", saw.data());
        }
        gateway.settled(model, 1).await;
        let timeouts = gateway.scrape().count("choreoai_settlements_total", &[("model", model), ("outcome", "timeout")]);
        assert_eq!(timeouts, 1, "{model}");
        fake.until(model, |all| all.iter().all(|exchange| exchange.over)).await;
    }
    let mut whole = request("fake/mute", 10);
    whole["stream"] = json!(false);
    assert_eq!(Request::chat(&whole).send(gateway.address).await.status, 504);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_is_told_when_the_client_left_unless_it_is_to_be_drained() {
    let fake = FakeProvider::start().await;
    const WORDS: usize = 60;
    for model in ["cancelled", "drained"] {
        fake.on(model, |exchange| {
            let steps = openai().answer(exchange, WORDS, &usage(17, WORDS as u64)).steps;
            Reply::stream(steps.into_iter().flat_map(|step| [step, Step::Pause(Duration::from_millis(60))]).collect())
        });
    }
    let (cancel, drain) = (provider_table("cancel", &fake, ""), provider_table("drain", &fake, "on_disconnect = \"drain\""));
    let gateway = Gateway::start(format!("[server]\nallow_anonymous = true\n{cancel}{drain}")).await;
    for (model, name, told) in [("cancelled", "cancel/cancelled", true), ("drained", "drain/drained", false)] {
        let mut stream = Request::chat(&streamed(name)).open(gateway.address).await;
        stream.contents(3).await;
        stream.connection.reset();
        let exchanges = fake.until(model, |all| all.len() == 1 && all[0].over).await;
        let written = exchanges[0].tokens_written;
        assert_eq!(written < WORDS as u64 / 2, told, "{model}: {written} words were written");
        assert!(told || written == WORDS as u64, "{model}: {written} words were written");
        gateway.settled(model, 1).await;
    }
    for model in ["cancelled", "drained"] {
        let labels = [("model", model), ("outcome", "client_disconnect")];
        assert_eq!(gateway.scrape().count("choreoai_settlements_total", &labels), 1, "{model}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_stream_falls_over_before_its_first_word_and_never_after() {
    let fake = FakeProvider::start().await;
    fake.on("refuses", |_| {
        Reply::json(503, &json!({"error": {"message": "busy", "type": "server_error", "param": null, "code": null}}))
    });
    fake.on("breaks-early", |exchange| Reply::stream(vec![openai().opening(&exchange.model, None), Step::HangUp]));
    fake.on("error-first", |_| {
        let error = json!({"error": {"message": "overloaded", "type": "server_error", "param": null, "code": null}});
        Reply::stream(vec![Step::Write(openai().event(&error.to_string()), 0)])
    });
    fake.on("breaks-late", |exchange| {
        let mut steps = openai().beginning(exchange, &said(3), None);
        steps.push(Step::HangUp);
        Reply::stream(steps)
    });
    fake.on("spare", twelve_words);
    let firsts = ["refuses", "breaks-early", "error-first", "breaks-late"];
    let models: String = firsts
        .iter()
        .map(|first| {
            format!("[models.{first}]\ntargets = [ {{ target = \"fake/{first}\" }}, {{ target = \"fake/spare\", tier = 2 }} ]\n")
        })
        .collect();
    let gateway = Gateway::start(configuration(&fake, "retry = { attempts = 1 }") + &models).await;
    for first in firsts {
        let saw = Request::chat(&streamed(first)).open(gateway.address).await.rest().await;
        let falls_over = first != "breaks-late";
        assert_eq!((saw.status, saw.dones() == 1), (200, falls_over), "{first}: {:?}", saw.data());
        assert_eq!(saw.error().is_none(), falls_over, "{first}: {:?}", saw.data());
        let roles = saw.chunks().iter().filter(|chunk| chunk["choices"][0]["delta"]["role"].is_string()).count();
        assert_eq!(roles, 1, "{first}: the failed opening must not show: {:?}", saw.data());
        gateway.settled(first, 1).await;
    }
    assert_eq!(fake.exchanges("spare").len(), 3);
    gateway.settled("spare", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passing_failure_is_tried_again() {
    let fake = FakeProvider::start().await;
    fake.on("shaky", |exchange| match exchange.number {
        0 => Reply::json(500, &json!({"error": {"message": "oops", "type": "server_error", "param": null, "code": null}})),
        1 => Reply::whole(502, "text/html", "<html><body>Bad gateway</body></html>"),
        _ => twelve_words(exchange),
    });
    let gateway = Gateway::start(configuration(&fake, "retry = { attempts = 3, base = \"10ms\", max = \"50ms\" }")).await;
    let saw = Request::chat(&streamed("fake/shaky")).open(gateway.address).await.rest().await;
    assert_eq!((saw.status, saw.dones()), (200, 1));
    let scrape = gateway.settled("shaky", 3).await;
    assert_eq!(
        scrape
            .count("choreoai_settlements_total", &[("model", "shaky"), ("outcome", "upstream_error"), ("usage_source", "none")]),
        2
    );
    assert_eq!(
        scrape.count("choreoai_settlements_total", &[("model", "shaky"), ("outcome", "completed"), ("usage_source", "provider")]),
        1
    );
    assert_eq!(scrape.count("choreoai_requests_total", &[("model", "shaky"), ("status", "200")]), 1, "answered once");
    assert_eq!(scrape.sum("choreoai_errors_total", &[]), 0.0, "the client saw no failure");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comments_keep_an_idle_stream_alive() {
    let fake = FakeProvider::start().await;
    let gate = Gate::closed();
    let held = gate.clone();
    fake.on("slow", move |exchange| openai().held(exchange, 3, &held));
    let gateway = Gateway::start(configuration(&fake, "")).await;
    let mut stream = Request::chat(&streamed("fake/slow")).open(gateway.address).await;
    stream.contents(3).await;
    assert!(matches!(stream.next().await, Some(Heard::Comment(_))), "a comment while nothing else is said");
    gate.open();
    let saw = stream.rest().await;
    assert_eq!((saw.dones(), saw.error()), (1, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_no_answers_are_errors() {
    let fake = FakeProvider::start().await;
    let html = "<html><head><title>Sign in</title></head></html>";
    fake.on("html", move |_| Reply::whole(200, "text/html", html));
    fake.on("empty", |_| Reply::whole(200, "application/json", ""));
    fake.on("truncated", |_| {
        let mut reply = Reply::whole(200, "application/json", "{\"id\":\"x\",\"choices\":[{\"index\":0,\"mess");
        reply.headers[1].1 = "4000".into();
        reply.steps.push(Step::HangUp);
        reply
    });
    fake.on("error-in-200", |_| Reply::json(200, &json!({"error": {"message": "no credits", "code": 402}})));
    let gateway = Gateway::start(configuration(&fake, "retry = { attempts = 1 }\nbreaker = { failures = 1000 }")).await;
    for model in ["html", "empty", "truncated", "error-in-200"] {
        for stream in [false, true] {
            let mut body = request(&format!("fake/{model}"), 10);
            body["stream"] = json!(stream);
            let answer = Request::chat(&body).send(gateway.address).await;
            if answer.status == 200 {
                assert!(
                    stream && answer.text().contains("\"error\"") && !answer.text().contains("[DONE]"),
                    "{model}: {}",
                    answer.text()
                );
            } else {
                assert!((400..=599).contains(&answer.status), "{model}: {}", answer.status);
                let error = answer.error();
                assert!(!error["message"].as_str().unwrap().contains("<html"), "{model}: {error}");
            }
        }
        let scrape = gateway.settled(model, 2).await;
        assert_eq!(scrape.count("choreoai_settlements_total", &[("model", model), ("outcome", "completed")]), 0, "{model}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_costs_no_memory() {
    const WORDS: usize = 150_000;
    let fake = FakeProvider::start().await;

    fake.on("flood", move |exchange| {
        let steps = openai().stream(exchange, &said(WORDS), Some(&usage(17, WORDS as u64))).steps;
        let body: Vec<u8> = steps
            .into_iter()
            .flat_map(|step| if let Step::Write(bytes, _) = step { bytes.to_vec() } else { Vec::new() })
            .collect();
        Reply::stream(body.chunks(1 << 16).map(|part| Step::Write(bytes::Bytes::copy_from_slice(part), 0)).collect())
    });

    let gateway = Gateway::start(configuration(&fake, "")).await;
    fake.on("plain", twelve_words);
    let before = gateway.warm_memory_kib(&Request::chat(&streamed("fake/plain"))).await;
    let mut stream = Request::chat(&streamed("fake/flood")).open(gateway.address).await;
    stream.contents(10).await;
    // The provider comes to a stop when every buffer on the way is full.
    let mut steps = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = fake.exchanges("flood")[0].steps_done;
        if now == steps {
            break;
        }
        steps = now;
    }
    let grown = gateway.memory_kib().saturating_sub(before);
    println!("a client that does not read: {} KiB more, provider stopped at {steps} of {} steps", grown, WORDS * 220 / (1 << 16));
    assert!(grown < 24 * 1024, "{grown} KiB for one stream");
    let saw = stream.rest().await;
    assert_eq!((saw.dones(), saw.error()), (1, None));
    assert_eq!(saw.text().split_whitespace().count() + 10, WORDS);
}
