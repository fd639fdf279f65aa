//! The Redis of the gateways that share their limits: started for the run, asked how often it was called.
//! It must not know what the limits are.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Launch, Running, free_address};

/// How long it may take to answer, at the start and later.
const PATIENCE: Duration = Duration::from_secs(5);

/// A Redis of this run. Dropping it ends it.
#[derive(Debug)]
pub struct Redis {
    /// Where it listens.
    pub address: SocketAddr,
    _running: Running,
}

impl Redis {
    /// Starts it; `None` when this machine has none.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start(room: &Path) -> io::Result<Option<Self>> {
        let version = Command::new("redis-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !version.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let address = free_address()?;
        let (port, home) = (address.port().to_string(), room.display().to_string());
        let args = ["--port", &port, "--bind", "127.0.0.1", "--dir", &home, "--save", "", "--appendonly", "no"];
        let launch = Launch { program: "redis-server".to_owned(), args: args.map(str::to_owned).to_vec(), env: Vec::new() };
        let running = Running::start(&launch, &room.join("redis.log"))?;
        let start = Instant::now();
        while let Err(error) = scripts(address) {
            if start.elapsed() > PATIENCE {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(Self { address, _running: running }))
    }
}

/// How many scripts it has run: each is one round trip of a gateway, with one question or many.
///
/// # Errors
/// When it does not answer.
pub fn scripts(address: SocketAddr) -> io::Result<u64> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(b"INFO commandstats\r\nQUIT\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let calls = |line: &str| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?.parse().ok();
    Ok(text.lines().find_map(calls).unwrap_or(0))
}
