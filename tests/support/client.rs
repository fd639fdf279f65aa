//! A client over a bare socket: it can be slow, rude or gone at any byte, and sees exactly what arrives.
//! It must not know the gateway's insides nor any provider.

use std::net::SocketAddr;

use bytes::BytesMut;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::http::{End, Head, Reader};
use super::soon;

/// A request in the making.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.into(), path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A chat completion.
    pub fn chat(body: &Value) -> Self {
        Self::new("POST", "/v1/chat/completions").json(body)
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    /// The request as bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = if self.body.is_empty() && self.method == "GET" {
            String::new()
        } else {
            format!("content-length: {}\r\n", self.body.len())
        };
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: gateway\r\n{headers}{length}\r\n", self.method, self.path).into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it on a connection of its own and reads the whole answer.
    pub async fn send(&self, to: SocketAddr) -> Answer {
        let mut connection = Connection::open(to).await;
        connection.write(&self.bytes()).await;
        connection.answer().await
    }

    /// Sends it on a connection of its own and reads the head of the answer.
    pub async fn open(&self, to: SocketAddr) -> Stream {
        let mut connection = Connection::open(to).await;
        connection.write(&self.bytes()).await;
        connection.stream().await
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Asserts OpenAI's error object and gives it.
    pub fn error(&self) -> Value {
        let error = self.json()["error"].clone();
        assert!(
            error["message"].is_string() && error["type"].is_string(),
            "{} is not OpenAI's error: {}",
            self.status,
            self.text()
        );
        assert!(error.get("param").is_some() && error.get("code").is_some(), "no param or code: {}", self.text());
        error
    }
}

/// An open connection to the gateway.
pub struct Connection {
    reader: Reader<TcpStream>,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> Self {
        let socket = soon("a connection", TcpStream::connect(to)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { reader: Reader::new(socket) }
    }

    /// Writes all of it; whether that was possible.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        soon("the gateway to read", self.reader.get_mut().write_all(bytes)).await.is_ok()
    }

    /// Writes until all is written or the gateway answers.
    pub async fn write_until_answered(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(1 << 16) {
            let socket = self.reader.get_mut();
            tokio::select! {
                biased;
                _ = socket.readable() => return,
                () = std::future::ready(()) => {}
            }
            if !self.write(part).await {
                return;
            }
        }
    }

    /// The next head, or `None` when the gateway closed without one.
    pub async fn head(&mut self) -> Option<Head> {
        soon("an answer's head", self.reader.head(true)).await
    }

    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await.expect("the gateway closed without an answer");
        let (body, end) = soon("an answer's body", self.reader.rest()).await;
        assert_eq!(end, End::Whole, "an answer was cut: {}", head.first_line);
        Answer { status: head.second_word().parse().unwrap(), head, body: body.to_vec() }
    }

    pub async fn stream(mut self) -> Stream {
        let head = self.head().await.expect("the gateway closed without an answer");
        Stream { status: head.second_word().parse().unwrap(), head, connection: self, buffer: BytesMut::new() }
    }

    /// Leaves as a killed process does: with a reset.
    pub fn reset(mut self) {
        self.reader.get_mut().set_zero_linger().unwrap();
    }

    /// Leaves as a polite client does: by closing.
    pub async fn close(mut self) {
        let _ = self.reader.get_mut().shutdown().await;
    }
}

/// One thing heard on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Data(String),
    Comment(String),
    /// Any other line that is not blank.
    Other(String),
}

/// An answer that is being streamed.
pub struct Stream {
    pub status: u16,
    pub head: Head,
    pub connection: Connection,
    buffer: BytesMut,
}

impl Stream {
    /// The next line that is not blank, or `None` at the end.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let line = String::from_utf8(line.to_vec()).expect("the stream is not UTF-8");
                match heard(line.trim_end_matches(['\n', '\r'])) {
                    Some(heard) => return Some(heard),
                    None => continue,
                }
            }
            match soon("a stream event", self.connection.reader.piece()).await {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None if self.buffer.is_empty() => return None,
                None => {
                    let rest = String::from_utf8_lossy(&self.buffer.split()).into_owned();
                    return heard(&rest);
                }
            }
        }
    }

    /// All that is left of an answer that is no events, and how it ended.
    pub async fn bytes(mut self) -> (bytes::Bytes, End) {
        soon("an answer's bytes", self.connection.reader.rest()).await
    }

    /// The next data line's content.
    pub async fn data(&mut self) -> Option<String> {
        while let Some(heard) = self.next().await {
            if let Heard::Data(data) = heard {
                return Some(data);
            }
        }
        None
    }

    /// Reads to the end.
    pub async fn rest(mut self) -> Saw {
        let mut lines = Vec::new();
        while let Some(heard) = self.next().await {
            lines.push(heard);
        }
        Saw { status: self.status, head: self.head, lines, end: self.connection.reader.ended().unwrap_or(End::Cut) }
    }

    /// Reads until this many chunks with generated content were seen.
    pub async fn contents(&mut self, count: usize) {
        let mut seen = 0;
        while seen < count {
            let data = self.data().await.expect("the stream ended early");
            let json: Value = serde_json::from_str(&data).unwrap_or(Value::Null);
            seen += usize::from(content(&json).is_some_and(|text| !text.is_empty()));
        }
    }
}

/// The text in an event of a chat completion, a completion, a message or a response.
fn content(event: &Value) -> Option<&str> {
    let choice = &event["choices"][0];
    match event["type"].as_str() {
        Some("content_block_delta") => event["delta"]["text"].as_str(),
        Some("response.output_text.delta") => event["delta"].as_str(),
        _ => choice["delta"]["content"].as_str().or(choice["text"].as_str()),
    }
}

fn heard(line: &str) -> Option<Heard> {
    if line.is_empty() {
        None
    } else if let Some(data) = line.strip_prefix("data:") {
        Some(Heard::Data(data.strip_prefix(' ').unwrap_or(data).to_owned()))
    } else if let Some(comment) = line.strip_prefix(':') {
        Some(Heard::Comment(comment.trim().to_owned()))
    } else {
        Some(Heard::Other(line.to_owned()))
    }
}

/// Everything a client saw of a streamed answer.
#[derive(Clone, Debug)]
pub struct Saw {
    pub status: u16,
    pub head: Head,
    pub lines: Vec<Heard>,
    pub end: End,
}

impl Saw {
    /// The data lines, `[DONE]` among them.
    pub fn data(&self) -> Vec<&str> {
        let data = self.lines.iter().filter_map(|line| match line {
            Heard::Data(data) => Some(data.as_str()),
            _ => None,
        });
        data.collect()
    }

    /// The data lines as JSON, `[DONE]` left out.
    pub fn chunks(&self) -> Vec<Value> {
        let data = self.data().into_iter().filter(|data| *data != "[DONE]");
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| panic!("not JSON: {data}"))).collect()
    }

    /// How often `[DONE]` was said.
    pub fn dones(&self) -> usize {
        self.data().iter().filter(|data| **data == "[DONE]").count()
    }

    /// How often the end was said, in whichever words.
    pub fn ends(&self) -> usize {
        let is_end = |event: &Value| {
            ["message_stop", "response.completed", "response.incomplete", "response.failed"]
                .iter()
                .any(|end| event["type"] == *end)
        };
        self.dones() + self.chunks().iter().filter(|event| is_end(event)).count()
    }

    /// The error event, if there was one: the object in it, or what is an object of its own.
    pub fn error(&self) -> Option<Value> {
        let told = |event: Value| event.get("error").cloned().or_else(|| (event["type"] == "error").then_some(event));
        self.chunks().into_iter().find_map(told)
    }

    /// The usage the client was given.
    pub fn usage(&self) -> Option<Value> {
        self.chunks().into_iter().find_map(|chunk| chunk.get("usage").filter(|usage| usage.is_object()).cloned())
    }

    /// The text of the first choice.
    pub fn text(&self) -> String {
        self.chunks().iter().filter_map(|event| content(event).map(str::to_owned)).collect()
    }

    /// In a few words.
    pub fn summary(&self) -> String {
        let deltas = self.chunks().iter().filter(|chunk| chunk["choices"][0]["delta"].is_object()).count();
        let mut parts = vec![format!("{}", self.status), format!("{deltas} chunks")];
        if self.usage().is_some() {
            parts.push("usage".into());
        }
        if let Some(error) = self.error() {
            parts.push(format!("error {}", error["code"].as_str().or(error["type"].as_str()).unwrap_or("?")));
        }
        if self.dones() > 0 {
            parts.push("[DONE]".into());
        }
        if self.end == End::Cut {
            parts.push("cut".into());
        }
        parts.join(", ")
    }
}
