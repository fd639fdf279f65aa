//! The cases in which somebody leaves: the client early, the provider in mid-stream, both too slow,
//! the gateway itself. It must not know how a case is judged.

use std::time::Duration;

use serde_json::json;

use super::bill::{Bill, Tokens};
use super::cases::{Case, How, Leaves, PROMPT, paced};
use crate::support::client::Request;
use crate::support::dialect::{Dialect, Placement, openai, prompt_tokens, request, said, thought};
use crate::support::gateway::Gateway;
use crate::support::http::End;
use crate::support::provider::{Exchange, FakeProvider, Gate, Reply, Step};

/// Between two events of a slow provider: much longer than the gateway takes to notice a client gone.
const SLOW: Duration = Duration::from_millis(40);

/// Between two events of a provider as fast as models get.
const BRISK: Duration = Duration::from_millis(1);

pub fn cases() -> Vec<Case> {
    let mut cases = client_leaves();
    cases.extend(drained());
    cases.extend(provider_leaves());
    cases
}

fn pouring(words: usize, pause: Option<Duration>) -> impl Fn(&Exchange) -> Reply + Send + Sync + 'static {
    move |exchange| {
        let tokens = Tokens::of(prompt_tokens(PROMPT), words as u64);
        let steps = openai().stream(exchange, &said(words), Some(&tokens.report())).steps;
        Reply::stream(if let Some(pause) = pause { paced(steps, pause) } else { steps })
    }
}

fn client_leaves() -> Vec<Case> {
    let speeds = [("slow", Some(SLOW), 200, 1), ("brisk", Some(BRISK), 3000, 25), ("unpaced", None, 3000, 0)];
    let mut cases = Vec::new();
    for (speed, pause, words, in_flight) in speeds {
        for (after, how) in [(1, How::Reset), (5, How::Close), (40, How::Reset), (40, How::Close)] {
            let name = format!("client gone after {after}, provider {speed}, {how:?}");
            let mut case = Case::new(&name, "openai", pouring(words, pause)).streamed().counted().left(Leaves::After(after, how));
            case.in_flight = in_flight;
            if pause.is_none() {
                // All of it may have been written by then, the usage among it, or even passed on.
                case.marks.extend([("client_disconnect", "provider"), ("completed", "provider")]);
            }
            cases.push(case);
        }
    }
    for how in [How::Close, How::Reset] {
        let silent = |_: &Exchange| Reply::stream(Vec::new()).after(Step::Stall);
        let name = format!("client gone before the first byte, {how:?}");
        cases.push(Case::new(&name, "openai", silent).streamed().counted().left(Leaves::BeforeFirst(how)));
        let opened = |exchange: &Exchange| Reply::stream(vec![openai().opening(&exchange.model, None), Step::Stall]);
        let name = format!("client gone before the first word, {how:?}");
        cases.push(Case::new(&name, "openai", opened).streamed().counted().left(Leaves::BeforeFirst(how)));
    }
    cases
}

/// `on_disconnect = "drain"`: the real bill, though nobody listens any more.
fn drained() -> Vec<Case> {
    let tokens = Tokens::of(prompt_tokens(PROMPT), 60);
    let case = Case::new("client gone after 5, drained", "drain", pouring(60, Some(SLOW)));
    vec![case.streamed().billed(tokens).left(Leaves::After(5, How::Reset)).marked("client_disconnect", "provider")]
}

fn ends_with(words: usize, last: Step) -> impl Fn(&Exchange) -> Reply + Send + Sync + 'static {
    move |exchange| {
        let mut steps = openai().beginning(exchange, &said(words), None);
        steps.push(last.clone());
        Reply::stream(steps)
    }
}

fn provider_leaves() -> Vec<Case> {
    let error = json!({"error": {"message": "The engine is overloaded", "type": "server_error", "param": null, "code": null}});
    let nothing = Step::Write(bytes::Bytes::new(), 0);
    let cut = |name: &str, provider, last: Step, outcome| {
        Case::new(name, provider, ends_with(150, last)).streamed().counted().cut(outcome, "estimated")
    };
    // A reset may overtake what was written before it: the gateway must have read on.
    let reset = |exchange: &Exchange| {
        let mut steps = openai().beginning(exchange, &said(150), None);
        steps.extend([Step::Pause(Duration::from_millis(300)), Step::Reset]);
        Reply::stream(steps)
    };
    vec![
        Case::new("reset in mid-stream", "openai", reset).streamed().counted().cut("upstream_truncated", "estimated"),
        cut("closed without the end of the body", "openai", Step::HangUp, "upstream_truncated"),
        cut("clean end without finish", "openai", nothing, "upstream_truncated"),
        cut("stall until the idle timeout", "impatient", Step::Stall, "timeout"),
        cut("error event in mid-stream", "openai", Step::Write(openai().event(&error.to_string()), 0), "upstream_error"),
        Case::new("reasoning, then reset", "openai", |exchange| {
            let mut steps = openai().beginning(exchange, &thought("reasoning_content", 150), None);
            steps.extend([Step::Pause(Duration::from_millis(300)), Step::HangUp]);
            Reply::stream(steps)
        })
        .streamed()
        .counted()
        .cut("upstream_truncated", "estimated"),
        partly_reported(),
    ]
}

/// Usage on every chunk, then a cut: what was reported last is what was billed.
fn partly_reported() -> Case {
    let every = Dialect { placement: Placement::EveryChunk, ..openai() };
    let script = move |exchange: &Exchange| {
        let mut steps = vec![every.opening(&exchange.model, Some(&Tokens::of(131, 0).report()))];
        for (n, piece) in said(60).iter().enumerate() {
            let so_far = Tokens::of(131, n as u64 + 1).report();
            steps.push(every.piece(&exchange.model, piece, Some(&so_far)));
        }
        steps.push(Step::HangUp);
        Reply::stream(steps)
    };
    let case = Case::new("usage in every chunk, then cut", "openai", script).streamed();
    case.billed(Tokens::of(131, 60)).cut("upstream_truncated", "partial")
}

/// The gateway is held up just when its client leaves, and the provider speaks on meanwhile: what has arrived by then is
/// counted. The first estimate of all, which has to read its vocabulary first, keeps no provider talking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accuracy_when_the_gateway_is_held_up() {
    let provider = FakeProvider::start().await;
    provider.on("slow", pouring(200, Some(SLOW)));
    let gateway = Gateway::start(format!(
        "[server]\nallow_anonymous = true\n[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\nmodels = [\"slow\"]\n",
        provider.url()
    ))
    .await;
    let mut body = request("fake/slow", PROMPT);
    body["stream"] = json!(true);
    for (round, held_up) in [(1, Duration::ZERO), (2, Duration::from_millis(400)), (3, Duration::from_millis(400))] {
        let mut stream = Request::chat(&body).open(gateway.address).await;
        stream.contents(5).await;
        stream.connection.reset();
        if !held_up.is_zero() {
            gateway.hold_up(held_up).await;
        }
        let exchanges = provider.until("slow", |all| all.len() == round && all.iter().all(|exchange| exchange.over)).await;
        let scrape = gateway.settled("slow", round as u64).await;
        let booked = scrape.count("choreoai_tokens_total", &[("model", "slow"), ("type", "output")]);
        let billed: u64 = exchanges.iter().map(|exchange| exchange.tokens_written).sum();
        println!("held up for {held_up:?}: billed {billed}, booked {booked} words in {round} calls");
        // One a call may be on its way when the gateway hangs up.
        assert!(booked.abs_diff(billed) <= 2 * round as u64, "round {round}: billed {billed}, booked {booked}");
    }
}

/// SIGTERM in mid-stream: the gateway leaves, and the log says what it settled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accuracy_of_sigterm_in_mid_stream() {
    const WORDS: usize = 150;
    let provider = FakeProvider::start().await;
    let gate = Gate::closed();
    let held = gate.clone();
    provider.on("held", move |exchange| {
        let mut steps = openai().beginning(exchange, &said(WORDS), None);
        steps.push(Step::Wait(held.clone()));
        Reply::stream(steps)
    });
    let prices = super::bill::price_table("fake", "held");
    let mut gateway = Gateway::start(format!(
        "[server]\nallow_anonymous = true\nshutdown_grace = \"300ms\"\n[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n{prices}",
        provider.url()
    ))
    .await;
    let mut body = request("fake/held", PROMPT);
    body["stream"] = json!(true);
    let mut stream = Request::chat(&body).open(gateway.address).await;
    stream.contents(WORDS).await;
    let (status, took) = gateway.stop();
    let saw = stream.rest().await;
    let line = gateway.log("of the settlement", |line| line["outcome"] == "gateway_shutdown").await;
    let bill = Bill::Counted { input: prompt_tokens(PROMPT), percent: 100 };
    let (billed, cost) = bill.of(&provider.exchanges("held"));
    let booked = Tokens::of(line["input_tokens"].as_u64().unwrap(), line["output_tokens"].as_u64().unwrap());
    let booked_cost = line["cost_usd"].as_f64().unwrap();
    println!(
        "\nSIGTERM in mid-stream: billed {billed:?}, booked {booked:?}, {} USD booked as {booked_cost}; ended in {took:?} with {status}; client saw {}",
        super::bill::usd(cost),
        saw.summary()
    );
    assert!(status.success(), "{status}");
    assert_eq!(line["usage_source"], "estimated");
    assert!((super::ratio(booked.total(), billed.total()) - 1.0).abs() <= super::TOLERANCE, "{booked:?} for {billed:?}");
    #[expect(clippy::cast_precision_loss, reason = "a tolerance of per cents")]
    let cost = cost as f64 / 1e12;
    assert!((booked_cost / cost - 1.0).abs() <= super::TOLERANCE, "{booked_cost} USD for {cost}");
    assert_eq!(saw.dones(), 0, "a stream that was cut must not look complete");
    assert!(saw.error().is_some() || saw.end == End::Cut, "the client must notice: {:?}", saw.data());
}
