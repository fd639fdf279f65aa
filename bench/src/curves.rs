//! How the cost of a call grows with its work and with what is configured: the gateway beside itself,
//! in turn, with one thing more of.
//! It must not know how a measurement is made.

use std::fmt::Write;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::contestants::{Contestant, Variant};
use crate::report::median;
use crate::run::{Provider, Room, say};
use crate::scenarios::{CALL, Load, Scenario, UNPACED, row};
use crate::wire::{Plan, Wire};

/// How many times each is measured.
const ROUNDS: usize = 5;

const SMALL: Scenario = Scenario { millis: 1000, ..row("call, 1 KB", Wire::OpenAi, CALL, Load::Closed { connections: 32 }) };
const LARGE: Scenario = Scenario { request_bytes: 100 * 1024, ..SMALL };
const STREAM: Scenario = Scenario { plan: UNPACED, load: Load::Closed { connections: 16 }, ..SMALL };

/// One comparison: what grows, and both sides of it.
struct Curve {
    grows: &'static str,
    scenarios: [Scenario; 2],
    /// Places in the list of contestants.
    contestants: [usize; 2],
}

/// What one comparison gave.
#[derive(Debug, Serialize)]
pub struct Growth {
    /// What grew.
    pub grows: &'static str,
    /// Microseconds of processor time a call before and after, round by round.
    pub micros: Vec<[f64; 2]>,
}

/// Measures all curves.
///
/// # Errors
/// When the gateway cannot be started, or the load cannot run.
pub fn run(program: &str) -> io::Result<Vec<Growth>> {
    let room = Room::new()?;
    let provider = Provider::start(room.path())?;
    let start = |name: &str, more: String| -> io::Result<Contestant> {
        let variant = Variant { more, ..Variant::default() };
        let mut contestant = Contestant::gateway(name, program, &variant, (provider.address, Path::new(room.path())))?;
        contestant.start()?;
        Ok(contestant)
    };
    let contestants = [
        start("plain", keys(10) + &models(10, 1))?,
        start("keys", keys(100) + &models(10, 1))?,
        start("models", keys(10) + &models(100, 1))?,
        start("targets", keys(10) + &models(1000, 1))?,
        start("many targets", keys(10) + &models(10, 1) + &targets(100))?,
    ];
    let mut seen = Vec::new();
    for curve in curves() {
        say(&format!("curve: {}", curve.grows));
        let mut micros = Vec::new();
        for _ in 0..ROUNDS {
            let mut pair = [0.0; 2];
            for ((pair, scenario), at) in pair.iter_mut().zip(&curve.scenarios).zip(curve.contestants) {
                let slice = scenario.closed(&contestants[at], connections(scenario))?;
                if slice.failures > 0 {
                    return Err(io::Error::other(format!("{}: {}", curve.grows, slice.failure.unwrap_or_default())));
                }
                *pair = slice.cpu_ns.unwrap_or(0) as f64 / 1000.0 / slice.calls.max(1) as f64;
            }
            micros.push(pair);
        }
        seen.push(Growth { grows: curve.grows, micros });
    }
    Ok(seen)
}

const fn connections(scenario: &Scenario) -> u32 {
    match scenario.load {
        Load::Closed { connections } | Load::Open { connections, .. } => connections,
    }
}

fn curves() -> [Curve; 7] {
    let twice = |scenario: Scenario| Scenario { request_bytes: 2 * scenario.request_bytes, ..scenario };
    let longer = Scenario { plan: Plan { events: 2 * UNPACED.events, ..UNPACED }, ..STREAM };
    let curve = |grows, scenarios, contestants| Curve { grows, scenarios, contestants };
    [
        curve("prompt, 1 KB to 2 KB", [SMALL, twice(SMALL)], [0, 0]),
        curve("prompt, 100 KB to 200 KB", [LARGE, twice(LARGE)], [0, 0]),
        curve("events of a stream, 200 to 400", [STREAM, longer], [0, 0]),
        curve("keys, 10 to 100", [SMALL, SMALL], [0, 1]),
        curve("models, 10 to 100", [SMALL, SMALL], [0, 2]),
        curve("configured targets, 10 to 1000", [SMALL, SMALL], [0, 3]),
        curve("targets of the model called, 1 to 100", [SMALL, SMALL], [0, 4]),
    ]
}

fn keys(count: usize) -> String {
    let key = |nth: usize| format!("[[keys]]\nname = \"other-{nth}\"\nkey = \"sk-other-{nth:032}\"\nrequests_per_minute = 100\n");
    (1..count).map(key).collect()
}

fn models(count: usize, targets: usize) -> String {
    let list =
        |nth: usize| (0..targets).map(|at| format!("{{ target = \"openai/model-{nth}-{at}\" }}")).collect::<Vec<_>>().join(", ");
    (1..count).map(|nth| format!("[models.\"name-{nth}\"]\ntargets = [{}]\n", list(nth))).collect()
}

/// The model that is called, with so many targets of its own.
fn targets(count: usize) -> String {
    let list: Vec<String> = (0..count).map(|at| format!("{{ target = \"openai/gpt-4o-mini-{at}\" }}")).collect();
    format!("[models.\"gpt-4o-mini\"]\ntargets = [{}]\n", list.join(", "))
}

/// The curves as a table in Markdown.
#[must_use]
pub fn table(seen: &[Growth]) -> String {
    let mut text = "| what grows | CPU µs a call | ratio |\n|---|---|---|\n".to_owned();
    for Growth { grows, micros } in seen {
        let side = |side: usize| median(micros.iter().map(|pair| pair[side]).collect()).unwrap_or(0.0);
        let ratio = median(micros.iter().map(|pair| pair[1] / pair[0]).collect()).unwrap_or(0.0);
        // Writing to a String does not fail.
        let _ = writeln!(text, "| {grows} | {:.1} → {:.1} | {ratio:.2}× |", side(0), side(1));
    }
    text
}
