//! The run: starts the provider and the contestants, measures them in turn (A B C, A B C, …) so that
//! whatever disturbs the machine disturbs all of them, and stops everything it started.
//! It must not know how a measurement is made, nor how it is shown.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::sleep;

use crate::contestants::{Contestant, Variant};
use crate::load::hold::hold;
use crate::process::{Launch, Running, free_address, memory_kb};
use crate::redis::Redis;
use crate::scenarios::{HELD, SCENARIOS, Scenario, Slice};
use crate::wire::Wire;

/// When no further measurement is begun, so that the whole stays within ten minutes.
const TIME_LIMIT: Duration = Duration::from_secs(9 * 60);

/// How long opening the held streams may take.
const OPENING_LIMIT: Duration = Duration::from_secs(30);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Order {
    /// The gateway's program; without it only the references are measured.
    pub gateway: Option<String>,
    /// Others that run already, as [`Contestant::other`] reads them.
    pub others: Vec<String>,
    /// How many times each is measured.
    pub rounds: u32,
    /// Measures only rows whose name contains this.
    pub only: Option<String>,
    /// How many streams are held for the memory row.
    pub streams: u32,
}

/// What starting, resting, holding streams and stopping cost.
#[derive(Clone, Debug, Serialize)]
pub struct Footprint {
    /// Who.
    pub contestant: String,
    /// Milliseconds from starting the process to its first answer to a call.
    pub start_ms: f64,
    /// Memory after the first call, in KB.
    pub idle_kb: u64,
    /// Streams that were open.
    pub streams: u32,
    /// Memory with these streams open, in KB.
    pub held_kb: u64,
    /// Memory a second after they were closed, in KB.
    pub after_kb: u64,
    /// Milliseconds from SIGTERM to the end of the process.
    pub stop_ms: f64,
}

impl Footprint {
    /// KB an open stream.
    #[must_use]
    pub fn kb_per_stream(&self) -> f64 {
        self.held_kb.saturating_sub(self.idle_kb) as f64 / f64::from(self.streams.max(1))
    }
}

/// Everything that was seen.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    /// When it was measured, in Unix seconds.
    pub unix_time: u64,
    /// Processors of the machine.
    pub processors: usize,
    /// The contestants in the order they took turns.
    pub contestants: Vec<String>,
    /// Every measurement.
    pub slices: Vec<Slice>,
    /// Every start and stop.
    pub footprints: Vec<Footprint>,
}

/// The fake provider, running.
#[derive(Debug)]
pub struct Provider {
    /// Where it listens.
    pub address: SocketAddr,
    _running: Running,
}

impl Provider {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(room: &Path) -> io::Result<Self> {
        let address = free_address()?;
        let program = std::env::current_exe()?.display().to_string();
        let args = ["fake", "--listen", &address.to_string()].map(str::to_owned).to_vec();
        let running = Running::start(&Launch { program, args, env: Vec::new() }, &room.join("fake.log"))?;
        let start = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            if start.elapsed() > Duration::from_secs(5) {
                return Err(io::Error::other("the fake provider does not listen"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Self { address, _running: running })
    }
}

/// A directory for one run, removed when dropped.
#[derive(Debug)]
pub struct Room(PathBuf);

impl Room {
    /// Makes it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("choreoai-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // What is left of it is in the system's own directory for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Measures everything and gives what was seen.
///
/// # Errors
/// When somebody cannot be started, or the load cannot run.
pub fn run(order: &Order) -> io::Result<Results> {
    let begun = Instant::now();
    let room = Room::new()?;
    let provider = Provider::start(room.path())?;
    let redis = Redis::start(room.path())?;
    let mut contestants = contestants(order, provider.address, redis.as_ref(), room.path())?;
    let mut results = Results {
        unix_time: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        contestants: contestants.iter().map(|contestant| contestant.name.clone()).collect(),
        ..Results::default()
    };
    if order.only.is_none() {
        for contestant in contestants.iter_mut().filter(|contestant| contestant.is_ours() && contestant.redis.is_none()) {
            say(&format!("{}: start, {} streams, stop", contestant.name, order.streams));
            results.footprints.push(footprint(contestant, order.streams)?);
        }
    }
    for contestant in &mut contestants {
        contestant.start()?;
    }
    for round in 0..order.rounds {
        for scenario in SCENARIOS.iter().filter(|scenario| wanted(order, scenario)) {
            say(&format!("round {} of {}: {}", round + 1, order.rounds, scenario.name));
            for contestant in contestants.iter().filter(|contestant| scenario.concerns(contestant)) {
                if begun.elapsed() > TIME_LIMIT {
                    say("the time is up: what follows was not measured");
                    return Ok(results);
                }
                results.slices.push(scenario.measure(contestant, round)?);
            }
        }
    }
    Ok(results)
}

fn wanted(order: &Order, scenario: &Scenario) -> bool {
    order.only.as_ref().is_none_or(|part| scenario.name.contains(part.as_str()))
}

fn contestants(order: &Order, provider: SocketAddr, redis: Option<&Redis>, room: &Path) -> io::Result<Vec<Contestant>> {
    let mut all = vec![
        Contestant::direct(provider),
        Contestant::nginx(provider, room)?,
        Contestant::haproxy(provider, room)?,
        Contestant::passthrough(provider, room)?,
    ];
    if let Some(program) = &order.gateway {
        all.push(Contestant::gateway("gateway", program, &Variant::default(), (provider, room))?);
        if let Some(redis) = redis {
            let variant = Variant { redis: Some(redis.address), ..Variant::default() };
            all.push(Contestant::gateway("gateway + Redis", program, &variant, (provider, room))?);
        }
    }
    for text in &order.others {
        all.push(Contestant::other(text).map_err(io::Error::other)?);
    }
    Ok(all)
}

/// Of a fresh process, so that memory grown by earlier load does not hide what a stream takes.
fn footprint(contestant: &mut Contestant, streams: u32) -> io::Result<Footprint> {
    let start = contestant.start()?;
    let pid = contestant.pid().ok_or_else(|| io::Error::other("not started"))?;
    std::thread::sleep(Duration::from_millis(500));
    let idle_kb = memory_kb(pid)?;
    let target = Rc::new(contestant.target(Wire::OpenAi, HELD, 1024));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (open, held_kb) = LocalSet::new().block_on(&runtime, async {
        let held = hold(&target, streams, OPENING_LIMIT).await;
        sleep(Duration::from_secs(2)).await;
        memory_kb(pid).map(|kb| (held.open(), kb))
    })?;
    drop(runtime);
    std::thread::sleep(Duration::from_secs(1));
    let after_kb = memory_kb(pid)?;
    let stop = contestant.stop()?.unwrap_or_default();
    Ok(Footprint {
        contestant: contestant.name.clone(),
        start_ms: start.as_secs_f64() * 1000.0,
        idle_kb,
        streams: open,
        held_kb,
        after_kb,
        stop_ms: stop.as_secs_f64() * 1000.0,
    })
}

/// Tells how far the run is.
pub fn say(text: &str) {
    // Whoever closed the terminal does not want to know.
    let _ = writeln!(io::stderr(), "bench: {text}");
}
