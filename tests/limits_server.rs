//! A real redis-server of a test's own, and a slow line to it. It must not know limits.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A redis-server on a free port of loopback; ends with the test.
pub struct Server {
    pub port: u16,
    extra: Vec<String>,
    process: Child,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(extra: &[&str]) -> Self {
        let port = free_port();
        let extra: Vec<String> = extra.iter().map(|&word| word.to_owned()).collect();
        let server = Self { port, process: spawn(port, &extra), extra };
        server.wait_until_it_answers();
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A plain connection to look at it with.
    pub fn look(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).expect("a good URL");
        client.get_connection_with_timeout(Duration::from_secs(5)).expect("redis-server answers")
    }

    pub fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().expect("a command"));
        for word in words {
            asked.arg(word);
        }
        asked.query(&mut self.look()).expect("an answer")
    }

    /// How often a command was called so far.
    pub fn calls(&self, command: &str) -> u64 {
        let stats: String = self.ask("INFO commandstats");
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")).map(str::to_owned));
        line.map_or(0, |line| line.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number"))
    }

    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again on the same port, with no data.
    pub fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.port, &self.extra);
        self.wait_until_it_answers();
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status().expect("kill is there");
        assert!(sent.success());
    }

    fn wait_until_it_answers(&self) {
        let client = redis::Client::open(self.url()).expect("a good URL");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            let connection = client.get_connection_with_timeout(Duration::from_millis(200));
            let denied = |error: &redis::RedisError| error.code() == Some("NOAUTH");
            match connection.and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection)) {
                Ok(_) => return,
                Err(error) if denied(&error) => return,
                Err(_) => std::thread::yield_now(),
            }
        }
        panic!("redis-server on port {} does not answer", self.port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn spawn(port: u16, extra: &[String]) -> Child {
    let folder = env!("CARGO_TARGET_TMPDIR");
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(folder)
        .args(extra)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is missing: these tests need one (Redis 6 or later, or Valkey under that name)")
}

/// A line to a port that delays everything by as many milliseconds as it is told, and leads elsewhere when it is told.
pub struct SlowLine {
    pub port: u16,
    pub delay_ms: Arc<AtomicU64>,
    pub target: Arc<AtomicU16>,
}

impl SlowLine {
    pub async fn to(target: u16) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let delay_ms = Arc::new(AtomicU64::new(0));
        let delay = delay_ms.clone();
        let target = Arc::new(AtomicU16::new(target));
        let there = target.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, there.load(Ordering::Relaxed))).await else { continue };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::spawn(carry(near_in, far_out, delay.clone()));
                tokio::spawn(carry(far_in, near_out, Arc::default()));
            }
        });
        Self { port, delay_ms, target }
    }
}

async fn carry(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, delay_ms: Arc<AtomicU64>) {
    let mut buffer = vec![0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let delay = delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
