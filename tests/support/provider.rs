//! A provider that says exactly what a test wrote down, byte for byte and when, remembers what it was
//! asked and how far it came before the gateway left, and so knows its bill.
//! It must not know any dialect, price or gateway.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::http::{End, Head, Reader};
use super::{GLANCE, PATIENCE};

/// A door that a test opens when it is time.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn passed(&self) {
        let mut state = self.0.subscribe();
        let _ = state.wait_for(|open| *open).await;
    }
}

/// One thing the provider does while answering.
#[derive(Clone, Debug)]
pub enum Step {
    /// Write these bytes at once; they cost this many output tokens.
    Write(Bytes, u64),
    /// Write these bytes one TCP segment each.
    EachByte(Bytes),
    /// Do nothing for a while.
    Pause(Duration),
    /// Do nothing until the test says so.
    Wait(Gate),
    /// Reset the connection (no FIN, no end of the body).
    Reset,
    /// Close the connection without the end of the body.
    HangUp,
    /// Do nothing until the gateway leaves.
    Stall,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// Done before the head is sent.
    pub before: Vec<Step>,
    pub steps: Vec<Step>,
    chunked: bool,
}

impl Reply {
    /// A whole JSON answer.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::whole(status, "application/json", body.to_string())
    }

    /// A whole answer of any type.
    pub fn whole(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let body: Bytes = body.into();
        let headers = vec![("content-type".into(), content_type.into()), ("content-length".into(), body.len().to_string())];
        Self { status, headers, before: Vec::new(), steps: vec![Step::Write(body, 0)], chunked: false }
    }

    /// A streamed answer.
    pub fn stream(steps: Vec<Step>) -> Self {
        let headers = vec![("content-type".into(), "text/event-stream".into()), ("transfer-encoding".into(), "chunked".into())];
        Self { status: 200, headers, before: Vec::new(), steps, chunked: true }
    }

    /// The same answer with this header, in place of one of its name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn after(mut self, step: Step) -> Self {
        self.before.push(step);
        self
    }

    /// The same answer, every byte of its body in a TCP segment of its own.
    pub fn byte_by_byte(mut self) -> Self {
        for step in &mut self.steps {
            if let Step::Write(bytes, _) = step {
                *step = Step::EachByte(bytes.clone());
            }
        }
        self
    }

    fn head(&self) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("HTTP/1.1 {} Scripted\r\n{headers}\r\n", self.status)
    }
}

/// One request as it arrived, and how far the answer came.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub path: String,
    pub head: Head,
    pub body: Bytes,
    /// The `model` of the body, or else the part of the path that something is to be said to; empty when
    /// there is neither.
    pub model: String,
    /// How many requests for this model came before.
    pub number: usize,
    /// Output tokens in what was handed to the network so far.
    pub tokens_written: u64,
    /// Steps done so far.
    pub steps_done: usize,
    /// Whether the gateway closed before the answer was over.
    pub left_early: bool,
    /// Whether nothing more will be written.
    pub over: bool,
}

impl Exchange {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Whether the request asks for usage on its stream.
    pub fn asks_usage(&self) -> bool {
        self.json()["stream_options"]["include_usage"] == Value::Bool(true)
    }
}

type Script = Arc<dyn Fn(&Exchange) -> Reply + Send + Sync>;

#[derive(Default)]
struct Shared {
    scripts: Mutex<HashMap<String, Script>>,
    exchanges: Mutex<Vec<Exchange>>,
    /// For a run that is too long to remember it: only how many requests came for each model.
    forgets: bool,
    counts: Mutex<HashMap<String, usize>>,
}

/// The provider. It ends when dropped.
pub struct FakeProvider {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl FakeProvider {
    pub async fn start() -> Self {
        Self::start_with(Shared::default()).await
    }

    /// One that counts what it was asked, and remembers nothing of it.
    pub async fn start_forgetful() -> Self {
        Self::start_with(Shared { forgets: true, ..Shared::default() }).await
    }

    async fn start_with(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { address, shared, accepting }
    }

    /// Base URL for a provider's configuration.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What to say to requests for this model; of the model without a name, to all that nothing else is said to.
    pub fn on(&self, model: &str, script: impl Fn(&Exchange) -> Reply + Send + Sync + 'static) {
        self.shared.scripts.lock().unwrap().insert(model.to_owned(), Arc::new(script));
    }

    /// Every request for this model so far.
    pub fn exchanges(&self, model: &str) -> Vec<Exchange> {
        let all = self.shared.exchanges.lock().unwrap();
        all.iter().filter(|exchange| exchange.model == model).cloned().collect()
    }

    /// The request that came last, for whatever model.
    pub fn latest(&self) -> Exchange {
        self.shared.exchanges.lock().unwrap().last().cloned().expect("no request came")
    }

    /// How many requests came, for whatever model.
    pub fn count(&self) -> usize {
        self.shared.counts.lock().unwrap().values().sum()
    }

    /// Waits until the exchanges for this model are as wished.
    pub async fn until(&self, model: &str, wished: impl Fn(&[Exchange]) -> bool) -> Vec<Exchange> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let exchanges = self.exchanges(model);
            if wished(&exchanges) {
                return exchanges;
            }
            assert!(tokio::time::Instant::now() < deadline, "the provider waited in vain; {model} saw {exchanges:?}");
            tokio::time::sleep(GLANCE).await;
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((socket, _)) = accepted {
                    connections.spawn(serve(socket, shared.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    socket.set_nodelay(true).unwrap();
    let mut reader = Reader::new(socket);
    while let Some(head) = reader.head(false).await {
        let (body, End::Whole) = reader.rest().await else { return };
        let (index, reply) = shared.receive(head, body);
        let progress = Progress { shared: &shared, index };
        let stays = answer(reader.get_mut(), &reply, &progress).await;
        progress.note(|exchange| {
            exchange.over = true;
            exchange.left_early = matches!(stays, After::Left);
        });
        if !matches!(stays, After::Stays) {
            return;
        }
    }
}

impl Shared {
    fn named_in(&self, path: &str) -> String {
        let scripts = self.scripts.lock().unwrap();
        path.split(['/', ':', '?']).find(|part| scripts.contains_key(*part)).unwrap_or_default().to_owned()
    }

    fn script(&self, model: &str) -> Option<Script> {
        let scripts = self.scripts.lock().unwrap();
        scripts.get(model).or_else(|| scripts.get("")).cloned()
    }

    fn receive(&self, head: Head, body: Bytes) -> (usize, Reply) {
        let json: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let path = head.second_word().to_owned();
        let model = json["model"].as_str().map_or_else(|| self.named_in(&path), str::to_owned);
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry(model.clone()).or_default();
        let number = *count;
        *count += 1;
        drop(counts);
        let mut exchanges = self.exchanges.lock().unwrap();
        let (tokens_written, steps_done, left_early, over) = (0, 0, false, false);
        let exchange = Exchange { path, head, body, model: model.clone(), number, tokens_written, steps_done, left_early, over };
        let index = exchanges.len();
        if !self.forgets {
            exchanges.push(exchange.clone());
        }
        drop(exchanges);
        let script = self.script(&model);
        let unknown = serde_json::json!({"error": {"message": "no such model", "type": "invalid_request_error", "param": null, "code": "model_not_found"}});
        (index, script.map_or_else(|| Reply::json(404, &unknown), |script| script(&exchange)))
    }
}

struct Progress<'a> {
    shared: &'a Shared,
    index: usize,
}

impl Progress<'_> {
    fn note(&self, change: impl FnOnce(&mut Exchange)) {
        self.shared.exchanges.lock().unwrap().get_mut(self.index).map(change);
    }
}

enum After {
    Stays,
    Closes,
    Left,
}

async fn answer(socket: &mut TcpStream, reply: &Reply, progress: &Progress<'_>) -> After {
    for step in &reply.before {
        if let Some(after) = take(socket, step, false, progress).await {
            return after;
        }
    }
    if write(socket, reply.head().as_bytes()).await.is_none() {
        return After::Left;
    }
    for step in &reply.steps {
        if let Some(after) = take(socket, step, reply.chunked, progress).await {
            return after;
        }
        progress.note(|exchange| exchange.steps_done += 1);
    }
    if reply.chunked && write(socket, b"0\r\n\r\n").await.is_none() {
        return After::Left;
    }
    After::Stays
}

/// Does one step; says so when it was the last.
async fn take(socket: &mut TcpStream, step: &Step, chunked: bool, progress: &Progress<'_>) -> Option<After> {
    match step {
        Step::Write(bytes, tokens) => {
            if write(socket, &framed(bytes, chunked)).await.is_none() {
                return Some(After::Left);
            }
            progress.note(|exchange| exchange.tokens_written += tokens);
        }
        Step::EachByte(bytes) => {
            for byte in framed(bytes, chunked) {
                if write(socket, &[byte]).await.is_none() {
                    return Some(After::Left);
                }
                tokio::task::yield_now().await;
            }
        }
        Step::Pause(time) => {
            tokio::select! {
                () = tokio::time::sleep(*time) => {}
                () = left(socket) => return Some(After::Left),
            }
        }
        Step::Wait(gate) => {
            tokio::select! {
                () = gate.passed() => {}
                () = left(socket) => return Some(After::Left),
            }
        }
        Step::Reset => {
            let _ = socket.set_zero_linger();
            return Some(After::Closes);
        }
        Step::HangUp => return Some(After::Closes),
        Step::Stall => {
            left(socket).await;
            return Some(After::Left);
        }
    }
    None
}

fn framed(bytes: &Bytes, chunked: bool) -> Vec<u8> {
    if !chunked || bytes.is_empty() {
        return bytes.to_vec();
    }
    let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
    framed.extend_from_slice(bytes);
    framed.extend_from_slice(b"\r\n");
    framed
}

/// Writes all of it; `None` when the gateway left before or meanwhile.
async fn write(socket: &mut TcpStream, bytes: &[u8]) -> Option<()> {
    let mut probe = [0];
    if matches!(socket.try_read(&mut probe), Ok(0)) {
        return None;
    }
    let (reader, mut writer) = socket.split();
    let gone = async {
        loop {
            let _ = reader.readable().await;
            if is_gone(reader.try_read(&mut [0])) {
                return;
            }
        }
    };
    tokio::select! {
        written = writer.write_all(bytes) => written.ok(),
        () = gone => None,
    }
}

/// Comes back when the gateway has closed its side.
async fn left(socket: &TcpStream) {
    loop {
        let _ = socket.readable().await;
        if is_gone(socket.try_read(&mut [0])) {
            return;
        }
    }
}

fn is_gone(read: std::io::Result<usize>) -> bool {
    match read {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}
