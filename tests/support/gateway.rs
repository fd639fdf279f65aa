//! The real gateway as a child process: started on a free port with a configuration, watched through
//! its door, its metrics and its logs, ended by its process id. It must not know any one story.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::Request;
use super::metrics::Scrape;
use super::{GLANCE, PATIENCE};

/// Gauges that are above zero only while something is going on.
const IN_FLIGHT: [&str; 3] = ["choreoai_requests_in_flight", "choreoai_attempts_in_flight", "choreoai_queue_size"];

/// Names the gateway that is to be tested instead of the one that was built with the tests, e.g. an optimised one.
const BINARY: &str = "CHOREOAI_BINARY";

/// Looks in a row that must find the same memory before it counts as settled.
const STEADY: u32 = 8;

/// A gateway. Dropping it asserts that nothing is in flight any more and that it leaves politely.
pub struct Gateway {
    pub address: SocketAddr,
    /// From the start of the process until `/ready` said yes.
    pub started_in: Duration,
    /// Its configuration file.
    pub file: PathBuf,
    child: Child,
    output: Arc<Mutex<Vec<String>>>,
    ended: bool,
}

/// How to start a gateway.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    toml: String,
    /// A file that is there already, instead of `toml`.
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    address: Option<SocketAddr>,
}

impl Setup {
    pub fn new(toml: impl Into<String>) -> Self {
        Self { toml: toml.into(), ..Self::default() }
    }

    /// A gateway that reads this file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { file: Some(path.into()), ..Self::default() }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// At this address instead of a free one.
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// The command, its configuration written to a file.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_and_file(arguments).0
    }

    fn command_and_file(&self, arguments: &[&str]) -> (Command, PathBuf) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("gateway-{}-{}.toml", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = self.file.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
        let binary = std::env::var_os(BINARY).unwrap_or_else(|| env!("CARGO_BIN_EXE_choreoai").into());
        let mut command = Command::new(binary);
        command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if !self.toml.is_empty() {
            std::fs::write(&path, &self.toml).unwrap();
        }
        if !self.toml.is_empty() || self.file.is_some() {
            command.arg("--config").arg(&path);
        }
        command.env("RUST_LOG", "info").env("CHOREOAI_LOG_FORMAT", "json");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        (command, path)
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&self) -> Gateway {
        for _ in 0..3 {
            if let Some(gateway) = self.try_start().await {
                return gateway;
            }
        }
        panic!("the gateway does not start");
    }

    async fn try_start(&self) -> Option<Gateway> {
        let address = self.address.unwrap_or_else(free_address);
        let began = Instant::now();
        let (mut command, file) = self.command_and_file(&[]);
        let mut child = command.env("CHOREOAI_LISTEN", address.to_string()).spawn().unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), output.clone());
        collect(child.stderr.take().unwrap(), output.clone());
        let mut gateway = Gateway { address, started_in: Duration::ZERO, file, child, output, ended: false };
        while began.elapsed() < PATIENCE {
            if gateway.get("/ready").is_some_and(|(status, _)| status == 200) {
                gateway.started_in = began.elapsed();
                return Some(gateway);
            }
            if let Some(status) = gateway.child.try_wait().unwrap() {
                gateway.ended = true;
                println!("the gateway ended at once with {status}:\n{}", gateway.output().join("\n"));
                return None;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the gateway is not ready:\n{}", gateway.output().join("\n"));
    }
}

/// An address on loopback that nobody listens on.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn collect(source: impl Read + Send + 'static, into: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            into.lock().unwrap().push(line);
        }
    });
}

impl Gateway {
    /// A gateway with this configuration.
    pub async fn start(toml: impl Into<String>) -> Self {
        Setup::new(toml).start().await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Every line written so far, on either output.
    pub fn output(&self) -> Vec<String> {
        self.output.lock().unwrap().clone()
    }

    /// The log lines written so far.
    pub fn logs(&self) -> Vec<Value> {
        self.output().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a log line that is as wished.
    pub async fn log(&self, what: &str, wished: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.logs().into_iter().find(&wished) {
                return line;
            }
            assert!(Instant::now() < deadline, "no log line {what} in\n{}", self.output().join("\n"));
            tokio::time::sleep(GLANCE).await;
        }
    }

    pub fn scrape(&self) -> Scrape {
        let (status, body) = self.get("/metrics").expect("no metrics");
        assert_eq!(status, 200);
        Scrape::parse(&body)
    }

    /// Waits until the metrics are as wished.
    pub async fn until(&self, what: &str, wished: impl Fn(&Scrape) -> bool) -> Scrape {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let scrape = self.scrape();
            if wished(&scrape) {
                return scrape;
            }
            assert!(
                Instant::now() < deadline,
                "waited too long for {what}; settlements:\n{}",
                scrape.lines("choreoai_settlements")
            );
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Waits until this many attempts at a model are settled.
    pub async fn settled(&self, model: &str, attempts: u64) -> Scrape {
        let what = format!("{attempts} settlements of {model}");
        self.until(&what, |scrape| scrape.count("choreoai_settlements_total", &[("model", model)]) >= attempts).await
    }

    /// Resident memory in KiB once all that is loaded beside the first calls is there.
    pub async fn warm_memory_kib(&self, call: &Request) -> u64 {
        for _ in 0..3 {
            assert_eq!(call.send(self.address).await.status, 200);
        }
        let deadline = Instant::now() + PATIENCE;
        let (mut last, mut same) = (0, 0);
        while same < STEADY && Instant::now() < deadline {
            tokio::time::sleep(10 * GLANCE).await;
            let now = self.memory_kib();
            same = if now.abs_diff(last) < 256 { same + 1 } else { 0 };
            last = now;
        }
        last
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// How often its threads have gone to sleep by themselves so far, which is also how often something woke them.
    pub fn sleeps(&self) -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let statuses = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("status")).ok());
        let count = |status: String| {
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
        };
        statuses.filter_map(count).sum()
    }

    /// Open file descriptors and threads.
    pub fn descriptors_and_threads(&self) -> (usize, usize) {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", self.pid())).unwrap().count();
        (count("fd"), count("task"))
    }

    /// Keeps no line that was written so far.
    pub fn forget_output(&self) {
        self.output.lock().unwrap().clear();
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Holds it up for so long, as a busy machine may.
    pub async fn hold_up(&self, lasts: Duration) {
        self.signal("-STOP");
        tokio::time::sleep(lasts).await;
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success(), "could not signal the gateway");
    }

    /// Writes this configuration into its file, sends SIGHUP, and waits until it was read: whether it was taken in.
    pub async fn reload(&self, toml: &str) -> bool {
        std::fs::write(&self.file, toml).unwrap();
        let reloads = |scrape: &Scrape, result| scrape.count("choreoai_config_reloads_total", &[("result", result)]);
        let before = self.scrape();
        self.signal("-HUP");
        let seen = |scrape: &Scrape| ["success", "failure"].map(|result| reloads(scrape, result) - reloads(&before, result));
        let after = self.until("the reload", |scrape| seen(scrape) != [0, 0]).await;
        seen(&after) == [1, 0]
    }

    /// Ends it as a crash would, without a chance to say goodbye.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.ended = true;
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        self.terminate();
        (self.wait(), began.elapsed())
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.ended = true;
                return status;
            }
            std::thread::sleep(GLANCE);
        }
        panic!("the gateway does not end:\n{}", self.output().join("\n"));
    }

    /// A plain GET, blocking, for use where no runtime is at hand.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut socket = TcpStream::connect_timeout(&self.address, Duration::from_secs(2)).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(socket, "GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, if head.to_ascii_lowercase().contains("chunked") { dechunk(body) } else { body.to_owned() }))
    }

    fn busy(&self) -> Option<String> {
        let scrape = self.scrape();
        let busy = IN_FLIGHT.iter().find(|gauge| scrape.sum(gauge, &[]) != 0.0);
        busy.map(|gauge| scrape.lines(gauge))
    }

    /// Waits until nothing is in flight.
    fn come_to_rest(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(busy) = self.busy() {
            assert!(Instant::now() < deadline, "still in flight: {busy}");
            std::thread::sleep(GLANCE);
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            return;
        }
        self.come_to_rest();
        let (status, _) = self.stop();
        assert!(status.success(), "the gateway ended with {status}:\n{}", self.output().join("\n"));
    }
}

fn dechunk(body: &str) -> String {
    let mut whole = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 || after.len() < size {
            break;
        }
        whole.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}
