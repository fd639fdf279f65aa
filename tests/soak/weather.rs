//! What happens during a soak: what providers do, what clients ask, and when they leave.
//! It must not know what is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Connection, Request, Stream};
use crate::support::dialect::{openai, request, said, usage};
use crate::support::provider::{Exchange, FakeProvider, Reply, Step};

/// What providers can be asked for; each name is what comes of it.
pub const MODELS: [&str; 12] =
    ["well", "well_too", "failing", "refused", "reset", "cut", "stalled", "slow", "silent", "broken", "empty", "trickle"];
/// The longest prompt, in words.
const LONGEST_PROMPT: usize = 20_000;

/// Teaches a provider all of it.
pub fn teach(fake: &FakeProvider) {
    for model in MODELS {
        fake.on(model, move |exchange| answer(model, exchange));
    }
}

fn answer(model: &str, exchange: &Exchange) -> Reply {
    // One in three goes well, so that second tries and second targets have something to find.
    if fastrand::u8(..3) == 0 {
        return openai().answer(exchange, 20, &usage(30, 20));
    }
    let error = json!({"error": {"message": "not now", "type": "server_error", "param": null, "code": null}});
    let mut begun = openai().beginning(exchange, &said(10), None);
    match model {
        "failing" => Reply::json([500, 502, 503, 529][fastrand::usize(..4)], &error),
        "refused" => Reply::json(429, &error).header("retry-after-ms", "20"),
        "reset" => Reply::stream(Vec::new()).after(Step::Reset),
        "cut" => {
            begun.push(if fastrand::bool() { Step::Reset } else { Step::HangUp });
            Reply::stream(begun)
        }
        "stalled" => {
            begun.push(Step::Stall);
            if fastrand::bool() { Reply::stream(begun) } else { Reply::stream(Vec::new()).after(Step::Stall) }
        }
        "slow" => openai().answer(exchange, 20, &usage(30, 20)).after(Step::Pause(Duration::from_millis(fastrand::u64(..300)))),
        "silent" => openai().stream(exchange, &said(20), None),
        "broken" => Reply::whole(200, "application/json", "{\"choices\": [{\"mess"),
        "empty" => Reply::whole(200, "application/json", ""),
        "trickle" => openai().answer(exchange, 3, &usage(30, 3)).byte_by_byte(),
        _ => openai().answer(exchange, 20, &usage(30, 20)),
    }
}

/// Chance, the same again for the same seed.
pub struct Faults(fastrand::Rng);

impl Faults {
    pub fn seeded(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    fn request(&mut self) -> Value {
        let model = self.0.choice(MODELS).unwrap();
        let words = if self.0.u8(..20) == 0 { self.0.usize(..LONGEST_PROMPT) } else { self.0.usize(1..200) };
        let name = if self.0.bool() { model.to_owned() } else { format!("two/{model}") };
        let mut body = request(&name, words);
        body["stream"] = json!(self.0.u8(..3) > 0);
        body
    }
}

/// What clients saw.
#[derive(Default)]
pub struct Seen {
    answered: AtomicU64,
    streamed: AtomicU64,
    told: AtomicU64,
    left: AtomicU64,
    refused: AtomicU64,
    harmed: Mutex<Vec<String>>,
}

impl Seen {
    pub fn harmed(&self) -> usize {
        self.harmed.lock().unwrap().len()
    }

    /// Attempts that may have been sent without arriving: the connection broke under them, or their client left.
    pub fn spare(&self, sent: u64) -> u64 {
        self.left.load(Ordering::Relaxed) + sent / 10
    }

    pub fn summary(&self) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let harmed = self.harmed.lock().unwrap();
        let sample = harmed.first().map(|what| format!(", e.g. {what}")).unwrap_or_default();
        format!(
            "{} answered, {} streamed, {} told of an error, {} refused, {} left, {} harmed{sample}",
            count(&self.answered),
            count(&self.streamed),
            count(&self.told),
            count(&self.refused),
            count(&self.left),
            harmed.len()
        )
    }

    fn harm(&self, what: String) {
        self.harmed.lock().unwrap().push(what);
    }
}

/// Calls again and again, in one way or another.
pub async fn call_on(address: SocketAddr, mut faults: Faults, seen: Arc<Seen>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let body = faults.request();
        match faults.0.u8(..10) {
            0 => leave_before_the_answer(address, &body, &mut faults, &seen).await,
            1 => leave_within_the_answer(address, &body, &mut faults, &seen).await,
            2 => one_that_may_not(address, &body, &seen).await,
            _ => stay(address, &body, &seen).await,
        }
        tokio::time::sleep(Duration::from_millis(faults.0.u64(..40))).await;
    }
}

async fn stay(address: SocketAddr, body: &Value, seen: &Seen) {
    let call = Request::chat(body).key("sk-team");
    if body["stream"] == false {
        let answer = call.send(address).await;
        match answer.status {
            200 if answer.json()["choices"][0]["message"]["content"].is_string() => &seen.answered,
            500.. | 429 if answer.json()["error"]["message"].is_string() => &seen.told,
            _ => return seen.harm(format!("{} {} for {}", answer.status, answer.text(), body["model"])),
        }
        .fetch_add(1, Ordering::Relaxed);
        return;
    }
    let saw = call.open(address).await;
    let status = saw.status;
    let saw = saw.rest().await;
    match (status, saw.dones()) {
        (200, 1) if saw.error().is_none() => &seen.streamed,
        (200, 0) if saw.error().is_some() => &seen.told,
        (429 | 500.., 0) => &seen.told,
        _ => return seen.harm(format!("{} for {}", saw.summary(), body["model"])),
    }
    .fetch_add(1, Ordering::Relaxed);
}

async fn leave_before_the_answer(address: SocketAddr, body: &Value, faults: &mut Faults, seen: &Seen) {
    let mut connection = Connection::open(address).await;
    let bytes = Request::chat(body).key("sk-team").bytes();
    let part = if faults.0.bool() { bytes.len() } else { faults.0.usize(..bytes.len()) };
    connection.write(&bytes[..part]).await;
    tokio::time::sleep(Duration::from_millis(faults.0.u64(..100))).await;
    seen.left.fetch_add(1, Ordering::Relaxed);
    if faults.0.bool() { connection.reset() } else { connection.close().await }
}

async fn leave_within_the_answer(address: SocketAddr, body: &Value, faults: &mut Faults, seen: &Seen) {
    let mut stream = Request::chat(body).key("sk-team").open(address).await;
    for _ in 0..faults.0.usize(..8) {
        if stream.status != 200 || stream.next().await.is_none() {
            break;
        }
    }
    seen.left.fetch_add(1, Ordering::Relaxed);
    if faults.0.bool() { stream.connection.reset() } else { stream.connection.close().await }
}

/// A wrong key, or one that has used up its limit.
async fn one_that_may_not(address: SocketAddr, body: &Value, seen: &Seen) {
    let key = if fastrand::bool() { "sk-small" } else { "sk-wrong" };
    let mut body = body.clone();
    body["stream"] = json!(false);
    body["model"] = json!("well");
    let answer = Request::chat(&body).key(key).send(address).await;
    match answer.status {
        200 => &seen.answered,
        401 | 429 if answer.json()["error"]["message"].is_string() => &seen.refused,
        _ => return seen.harm(format!("{} {} for a key that may not", answer.status, answer.text())),
    }
    .fetch_add(1, Ordering::Relaxed);
}

/// Many open a stream, and all leave when the last one has its first event.
pub async fn swarm(address: SocketAddr, size: usize, seen: &Seen) {
    leave_all(open_streams(address, size).await, seen);
}

/// Opens this many streams of an answer that tells no usage, and waits for the first event of each.
pub async fn open_streams(address: SocketAddr, size: usize) -> Vec<Stream> {
    let opening = (0..size).map(|_| {
        tokio::spawn(async move {
            let mut body = request("two/silent", 50);
            body["stream"] = json!(true);
            let mut stream = Request::chat(&body).key("sk-team").open(address).await;
            stream.next().await;
            stream
        })
    });
    let opening: Vec<_> = opening.collect();
    let mut streams = Vec::with_capacity(size);
    for stream in opening {
        streams.push(stream.await.unwrap());
    }
    streams
}

/// All of them leave.
pub fn leave_all(streams: Vec<Stream>, seen: &Seen) {
    seen.left.fetch_add(streams.len() as u64, Ordering::Relaxed);
    streams.into_iter().for_each(|stream| stream.connection.reset());
}

/// Teaches a provider to begin an answer and to wait for the client to leave.
pub fn teach_to_wait(fake: &FakeProvider) {
    fake.on("silent", |exchange| {
        let mut begun = openai().beginning(exchange, &said(10), None);
        begun.push(Step::Stall);
        Reply::stream(begun)
    });
}
