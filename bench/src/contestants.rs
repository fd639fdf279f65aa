//! Who is measured: how each is configured and started, all of them as plain as they can be and in
//! front of the same provider. Another gateway is added by its address and process id.
//! It must not know what is measured.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::http1::Message;
use crate::load::Target;
use crate::process::{Launch, Running, free_address};
use crate::wire::{Plan, Wire};

/// How long a contestant may take until its first answer.
const START_LIMIT: Duration = Duration::from_secs(15);

/// Processes or threads that each contestant works with: the two processors of the reference machine.
const WORKERS: u32 = 2;

/// The key that callers of the gateway under test send.
const KEY: &str = "sk-bench-0000000000000000000000000000";

/// What a gateway is configured with beside what every gateway here is.
#[derive(Clone, Debug, Default)]
pub struct Variant {
    /// The Redis that counts its limits, instead of its own memory.
    pub redis: Option<SocketAddr>,
    /// More tables of its configuration.
    pub more: String,
}

/// One who is measured.
#[derive(Debug)]
pub struct Contestant {
    /// Its name in the table.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The key that callers send.
    pub key: String,
    /// Its model names, by wire of the upstream: OpenAI's, Anthropic's, Gemini's.
    pub models: [String; 3],
    /// Whether it speaks OpenAI's wire to its callers whatever its upstream speaks. The others pass on
    /// what they are given.
    pub translates: bool,
    /// The Redis that counts its limits, if one does. Such a contestant is measured on small calls only.
    pub redis: Option<SocketAddr>,
    /// How to start it; `None` for one that runs already, or for the provider itself.
    launch: Option<Launch>,
    running: Option<Running>,
    pid: Option<u32>,
    log: PathBuf,
}

impl Contestant {
    /// The provider itself: what the load costs with nobody between.
    #[must_use]
    pub fn direct(provider: SocketAddr) -> Self {
        Self::plain("direct", provider, None, Path::new(""))
    }

    fn plain(name: &str, address: SocketAddr, launch: Option<Launch>, room: &Path) -> Self {
        Self {
            name: name.to_owned(),
            address,
            key: KEY.to_owned(),
            models: ["gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-flash"].map(str::to_owned),
            translates: false,
            redis: None,
            launch,
            running: None,
            pid: None,
            log: room.join(format!("{name}.log")),
        }
    }

    /// nginx as a plain reverse proxy.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn nginx(provider: SocketAddr, room: &Path) -> io::Result<Self> {
        let address = free_address()?;
        let home = room.display();
        let file = room.join("nginx.conf");
        fs::write(&file, nginx_conf(address, provider, room))?;
        let args = vec![
            "-p".to_owned(),
            home.to_string(),
            "-c".to_owned(),
            file.display().to_string(),
            "-e".to_owned(),
            "stderr".to_owned(),
        ];
        Ok(Self::plain("nginx", address, Some(launch("nginx", args)), room))
    }

    /// HAProxy as a plain reverse proxy.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn haproxy(provider: SocketAddr, room: &Path) -> io::Result<Self> {
        let address = free_address()?;
        let file = room.join("haproxy.cfg");
        fs::write(&file, haproxy_cfg(address, provider))?;
        let args = vec!["-db".to_owned(), "-f".to_owned(), file.display().to_string()];
        Ok(Self::plain("haproxy", address, Some(launch("haproxy", args)), room))
    }

    /// The bare axum + reqwest pass-through of this program.
    ///
    /// # Errors
    /// When this program's own file is unknown.
    pub fn passthrough(provider: SocketAddr, room: &Path) -> io::Result<Self> {
        let address = free_address()?;
        let program = std::env::current_exe()?.display().to_string();
        let args = ["passthrough", "--listen", &address.to_string(), "--upstream", &provider.to_string()].map(str::to_owned);
        Ok(Self::plain("pass-through", address, Some(launch(&program, args.to_vec())), room))
    }

    /// The gateway: authentication, limits for the gateway and the key, metering, metrics, logs at their defaults.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn gateway(name: &str, program: &str, variant: &Variant, (provider, room): (SocketAddr, &Path)) -> io::Result<Self> {
        let address = free_address()?;
        let file = room.join(format!("{}.toml", name.replace(' ', "-")));
        fs::write(&file, gateway_toml(provider, variant))?;
        let mut launch = launch(program, vec!["--config".to_owned(), file.display().to_string()]);
        launch.env.push(("CHOREOAI_LISTEN".to_owned(), address.to_string()));
        let mut contestant = Self::plain(name, address, Some(launch), room);
        contestant.models = ["gpt-4o-mini", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash"].map(str::to_owned);
        contestant.translates = true;
        contestant.redis = variant.redis;
        Ok(contestant)
    }

    /// One that runs already: `NAME=HOST:PORT,PID[,KEY[,MODEL]]`.
    ///
    /// # Errors
    /// When the text is not of that form.
    pub fn other(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is not NAME=HOST:PORT,PID[,KEY[,MODEL]]");
        let (name, rest) = text.split_once('=').ok_or_else(form)?;
        let mut fields = rest.split(',');
        let address = fields.next().and_then(|field| field.parse().ok()).ok_or_else(form)?;
        let pid = fields.next().and_then(|field| field.parse().ok()).ok_or_else(form)?;
        let mut contestant = Self::plain(name, address, None, Path::new(""));
        contestant.pid = Some(pid);
        contestant.key = fields.next().unwrap_or(KEY).to_owned();
        let model = fields.next().unwrap_or(&contestant.models[0]).to_owned();
        contestant.models[0] = model;
        Ok(contestant)
    }

    /// Its process id, while it runs. The provider itself has none: it is not measured.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::id).or(self.pid)
    }

    /// Whether this program starts and stops it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.launch.is_some()
    }

    /// Starts it and says how long it took until its first answer to a call.
    ///
    /// # Errors
    /// When it cannot be started or does not answer in time; the text ends with what it logged.
    pub fn start(&mut self) -> io::Result<Duration> {
        let Some(launch) = &self.launch else { return Ok(Duration::ZERO) };
        let start = Instant::now();
        let mut running = Running::start(launch, &self.log)?;
        let target = self.target(Wire::OpenAi, Plan { events: 0, pace_us: 0 }, 1024);
        let mut last = String::new();
        while start.elapsed() < START_LIMIT && !running.has_ended() {
            match first_call(&target) {
                Ok(200) => {
                    self.running = Some(running);
                    return Ok(start.elapsed());
                }
                Ok(status) => last = format!("status {status}"),
                Err(error) => last = error.to_string(),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        Err(io::Error::other(format!("{} does not answer ({last}): {}", self.name, tail.join(" | "))))
    }

    /// Stops it and says how long it took; `None` for one that this program did not start.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop(&mut self) -> io::Result<Option<Duration>> {
        self.running.take().map(Running::stop).transpose()
    }

    /// A call to it, whose upstream speaks `wire`.
    #[must_use]
    pub fn target(&self, wire: Wire, plan: Plan, bytes: usize) -> Target {
        let spoken = if self.translates { Wire::OpenAi } else { wire };
        let model = match wire {
            Wire::OpenAi => &self.models[0],
            Wire::Anthropic => &self.models[1],
            Wire::Gemini => &self.models[2],
        };
        Target::new(self.address, spoken.path(), &self.key, &spoken.request(model, plan, bytes))
    }
}

fn launch(program: &str, args: Vec<String>) -> Launch {
    Launch { program: program.to_owned(), args, env: Vec::new() }
}

fn first_call(target: &Target) -> io::Result<u16> {
    let mut socket = TcpStream::connect_timeout(&target.address, START_LIMIT)?;
    socket.set_read_timeout(Some(START_LIMIT))?;
    socket.write_all(&target.request)?;
    let mut message = Message::default();
    let mut buffer = [0; 4096];
    loop {
        let read = socket.read(&mut buffer)?;
        if read == 0 || message.feed(&buffer[..read], &mut |_| {})? {
            return Ok(message.status());
        }
    }
}

/// Its best as a plain proxy: no access log, connections kept on both sides, bodies of the measured
/// size held in memory, nothing buffered on the way back (a stream must not wait).
fn nginx_conf(listen: SocketAddr, provider: SocketAddr, room: &Path) -> String {
    let home = room.display();
    format!(
        "worker_processes {WORKERS};
daemon off;
pid {home}/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    client_body_temp_path {home}/nginx-body;
    proxy_temp_path {home}/nginx-proxy;
    fastcgi_temp_path {home}/nginx-fastcgi;
    uwsgi_temp_path {home}/nginx-uwsgi;
    scgi_temp_path {home}/nginx-scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_body_buffer_size 256k;
    client_max_body_size 32m;
    tcp_nodelay on;
    upstream provider {{
        server {provider};
        keepalive 512;
        keepalive_requests 1000000000;
        keepalive_timeout 600s;
    }}
    server {{
        listen {listen} backlog=4096;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"
    )
}

fn haproxy_cfg(listen: SocketAddr, provider: SocketAddr) -> String {
    format!(
        "global
    nbthread {WORKERS}
    maxconn 9000
defaults
    mode http
    option http-keep-alive
    option http-no-delay
    http-reuse always
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
listen gateway
    bind {listen}
    backlog 4096
    server provider {provider} pool-max-conn 512
"
    )
}

fn gateway_toml(provider: SocketAddr, variant: &Variant) -> String {
    let backend = match variant.redis {
        Some(redis) => format!("backend = \"redis\"\nredis_url = \"redis://{redis}\""),
        None => "backend = \"memory\"".to_owned(),
    };
    let more = &variant.more;
    format!(
        "[rate_limit]
{backend}
requests_per_minute = 1000000000
tokens_per_minute = 1000000000000
max_concurrent = 100000

[providers.openai]
base_url = \"http://{provider}/v1\"
api_key = \"sk-provider\"
max_concurrent = 50000

[providers.anthropic]
base_url = \"http://{provider}\"
api_key = \"sk-provider\"
max_concurrent = 50000

[providers.gemini]
base_url = \"http://{provider}\"
api_key = \"sk-provider\"
max_concurrent = 50000

[[keys]]
name = \"bench\"
key = \"{KEY}\"
requests_per_minute = 1000000000
tokens_per_minute = 1000000000000
max_concurrent = 100000
{more}"
    )
}
