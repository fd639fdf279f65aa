//! Leaving: one replica after the other is replaced while streams run, a stream that is too long for the
//! grace is told so and billed, and whoever asks twice does not wait. It must not know configuration reloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpStream;

use crate::support::balancer::{ASK_EVERY, Balancer};
use crate::support::client::{Connection, Request, Stream};
use crate::support::dialect::{openai, request, said, usage};
use crate::support::gateway::{Gateway, Setup, free_address};
use crate::support::provider::{FakeProvider, Gate, Reply, Step};
use crate::support::{GLANCE, soon};

const REPLICAS: usize = 3;
/// Clients that stream, each on a new connection a call; and clients that keep their connection.
const STREAMING: usize = 8;
const KEEPING: usize = 4;
/// How long one stream lasts.
const STREAM: Duration = Duration::from_millis(600);

fn configuration(fake: &FakeProvider, server: &str) -> String {
    format!(
        "[server]\nallow_anonymous = true\n{server}\n[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n",
        fake.url()
    )
}

fn streamed(model: &str) -> serde_json::Value {
    let mut body = request(model, 5);
    body["stream"] = json!(true);
    body
}

/// Ten words, evenly over the length of the stream.
fn paced(fake: &FakeProvider) {
    fake.on("paced", |exchange| {
        let mut steps = Vec::new();
        for step in openai().beginning(exchange, &said(10), None) {
            steps.extend([step, Step::Pause(STREAM / 10)]);
        }
        steps.extend(openai().ending(exchange, "stop", 1, Some(&usage(17, 10))));
        Reply::stream(steps)
    });
    fake.on("plain", |exchange| openai().answer(exchange, 3, &usage(17, 3)));
}

/// What went wrong for clients; and how much went well.
#[derive(Default)]
struct Seen {
    streams: AtomicUsize,
    calls: AtomicUsize,
    reconnected: AtomicUsize,
    wrong: std::sync::Mutex<Vec<String>>,
}

async fn stream_on(address: std::net::SocketAddr, seen: Arc<Seen>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let saw = Request::chat(&streamed("fake/paced")).open(address).await.rest().await;
        if (saw.status, saw.dones(), saw.error()) != (200, 1, None) {
            seen.wrong.lock().unwrap().push(saw.summary());
        }
        seen.streams.fetch_add(1, Ordering::Relaxed);
    }
}

/// Calls on one connection for as long as it is kept, as HTTP clients do.
async fn call_on(address: std::net::SocketAddr, seen: Arc<Seen>, stop: Arc<AtomicBool>) {
    let mut kept = Connection::open(address).await;
    while !stop.load(Ordering::Relaxed) {
        kept.write(&Request::chat(&request("fake/plain", 3)).bytes()).await;
        let answer = kept.answer().await;
        if answer.status != 200 {
            seen.wrong.lock().unwrap().push(format!("{} {}", answer.status, answer.text()));
        }
        seen.calls.fetch_add(1, Ordering::Relaxed);
        if answer.head.header("connection") == Some("close") {
            seen.reconnected.fetch_add(1, Ordering::Relaxed);
            kept = Connection::open(address).await;
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

/// Acceptance: zero broken streams that would finish within the grace, zero refused calls that honour `/ready`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_replaced_one_by_one_and_nobody_notices() {
    let fake = FakeProvider::start().await;
    paced(&fake);
    let delay = 6 * ASK_EVERY;
    let toml = configuration(&fake, &format!("shutdown_grace = \"10s\"\nshutdown_delay = \"{}ms\"", delay.as_millis()));
    let addresses: Vec<_> = (0..REPLICAS).map(|_| free_address()).collect();
    let mut replicas = Vec::new();
    for &address in &addresses {
        replicas.push(Setup::new(toml.clone()).at(address).start().await);
    }
    let balancer = Balancer::before(&addresses).await;
    let takes = async |address| {
        while !balancer.sends_to(address) {
            tokio::time::sleep(ASK_EVERY / 5).await;
        }
    };
    for &address in &addresses {
        soon("the balancer to find it", takes(address)).await;
    }
    let (seen, stop) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
    let streaming = (0..STREAMING).map(|_| tokio::spawn(stream_on(balancer.address, seen.clone(), stop.clone())));
    let mut clients: Vec<_> = streaming.collect();
    clients.extend((0..KEEPING).map(|_| tokio::spawn(call_on(balancer.address, seen.clone(), stop.clone()))));
    tokio::time::sleep(STREAM).await;
    let (mut under_way, mut left) = (0, Vec::new());
    for (index, &address) in addresses.iter().enumerate() {
        let mut old = replicas.remove(index);
        old.terminate();
        let status = tokio::task::block_in_place(|| old.wait());
        assert!(status.success(), "{status}");
        let leaving = old.log("of leaving", |line| line["message"] == "shutting down").await;
        under_way += leaving["running"].as_u64().unwrap();
        left.push(old);
        replicas.insert(index, Setup::new(toml.clone()).at(address).start().await);
        soon("the balancer to find the new one", takes(address)).await;
        tokio::time::sleep(STREAM / 2).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (streams, calls, reconnected) = (count(&seen.streams), count(&seen.calls), count(&seen.reconnected));
    println!(
        "{REPLICAS} replicas replaced under {streams} streams and {calls} calls on {KEEPING} kept connections ({reconnected} times \
         told to open another); {under_way} calls were under way in those that left"
    );
    assert_eq!(*seen.wrong.lock().unwrap(), Vec::<String>::new());
    assert_eq!(count(&balancer.turned_away), 0, "there was always one ready");
    assert!(under_way >= 1 && streams >= 2 * STREAMING && calls > 20, "there was load");
    let everybody: Vec<&Gateway> = left.iter().chain(&replicas).collect();
    let completed = || -> usize {
        let lines = everybody.iter().map(|gateway| gateway.logs().iter().filter(|line| line["outcome"] == "completed").count());
        lines.sum()
    };
    let booked = async {
        while completed() < fake.count() {
            tokio::time::sleep(GLANCE).await;
        }
    };
    soon("every attempt to be booked as completed, by one that left or one that came", booked).await;
    assert_eq!(completed(), fake.count());
}

/// A stream that waits until the test lets it go on.
async fn held(fake: &FakeProvider, gateway: &Gateway) -> (Gate, Stream) {
    let gate = Gate::closed();
    let held = gate.clone();
    fake.on("held", move |exchange| openai().held(exchange, 5, &held));
    let mut stream = Request::chat(&streamed("fake/held")).open(gateway.address).await;
    stream.contents(5).await;
    (gate, stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_outlives_the_grace_is_told_and_billed() {
    let fake = FakeProvider::start().await;
    let mut gateway = Gateway::start(configuration(&fake, "shutdown_grace = \"300ms\"")).await;
    let (_gate, stream) = held(&fake, &gateway).await;
    let (status, took) = gateway.stop();
    assert!(status.success() && took < Duration::from_secs(3), "{status} after {took:?}");
    let saw = stream.rest().await;
    assert_eq!((saw.dones(), saw.error().is_some()), (0, true), "{}", saw.summary());
    let line = gateway.log("of the call", |line| line["outcome"] == "gateway_shutdown").await;
    assert_eq!((&line["usage_source"], line["output_tokens"].as_u64()), (&json!("estimated"), Some(5)), "{line}");
    fake.until("held", |exchanges| exchanges.iter().all(|exchange| exchange.left_early)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_twice_does_not_wait_for_the_grace() {
    let fake = FakeProvider::start().await;
    let mut gateway = Gateway::start(configuration(&fake, "shutdown_grace = \"15s\"\nshutdown_delay = \"15s\"")).await;
    let (_gate, stream) = held(&fake, &gateway).await;
    gateway.terminate();
    gateway.log("of leaving", |line| line["message"] == "shutting down").await;
    let (status, took) = gateway.stop();
    assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    assert!(stream.rest().await.error().is_some());
    gateway.log("of the call", |line| line["outcome"] == "gateway_shutdown").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_the_delay_new_calls_are_taken_although_ready_says_no() {
    let fake = FakeProvider::start().await;
    paced(&fake);
    let mut gateway = Gateway::start(configuration(&fake, "shutdown_delay = \"2s\"\nshutdown_grace = \"10s\"")).await;
    let mut kept = Connection::open(gateway.address).await;
    kept.write(&Request::get("/live").bytes()).await;
    assert_eq!(kept.answer().await.head.header("connection"), None);
    let told = Instant::now();
    gateway.terminate();
    gateway.log("of leaving", |line| line["message"] == "shutting down").await;
    assert_eq!(Request::get("/ready").send(gateway.address).await.status, 503);
    assert_eq!(Request::get("/health").send(gateway.address).await.json()["status"], "draining");
    kept.write(&Request::chat(&request("fake/plain", 3)).bytes()).await;
    let answer = kept.answer().await;
    assert!(told.elapsed() < Duration::from_secs(2), "too slow a machine to tell");
    assert_eq!((answer.status, answer.head.header("connection")), (200, Some("close")));
    let status = gateway.wait();
    assert!(status.success() && told.elapsed() >= Duration::from_secs(2), "{status} after {:?}", told.elapsed());
    assert!(TcpStream::connect(gateway.address).await.is_err(), "the door is shut");
}
