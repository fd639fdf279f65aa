//! What is measured, one row each: the load and for how long.
//! It must not know who is measured.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::sleep;

use crate::contestants::Contestant;
use crate::load::closed::Closed;
use crate::load::open::{self, Schedule};
use crate::process::Cpu;
use crate::redis;
use crate::wire::{Plan, Wire};

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name, in the table and in the raw results.
    pub name: &'static str,
    /// What the upstream speaks.
    pub wire: Wire,
    /// The answer that is asked for.
    pub plan: Plan,
    /// Bytes of the request's body.
    pub request_bytes: usize,
    /// How calls are made.
    pub load: Load,
    /// How long it is measured, in milliseconds.
    pub millis: u64,
}

/// How calls are made.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// Each connection calls again once it is answered.
    Closed {
        /// Connections.
        connections: u32,
    },
    /// Calls start when they are due.
    Open {
        /// Calls started a second.
        per_second: u32,
        /// Connections that take turns.
        connections: u32,
    },
}

pub(crate) const CALL: Plan = Plan { events: 0, pace_us: 0 };
pub(crate) const UNPACED: Plan = Plan { events: 200, pace_us: 0 };
const PACED: Plan = Plan { events: 150, pace_us: 20_000 };
// At 47 streams a second their events, 20 ms apart, do not all fall on the same moment.
const SHORT_PACED: Plan = Plan { events: 20, pace_us: 20_000 };

/// An open stream that says something every two seconds.
pub const HELD: Plan = Plan { events: 1000, pace_us: 2_000_000 };

/// Everything that is measured of each contestant in each round.
pub const SCENARIOS: [Scenario; 8] = [
    row("call, 1 KB", Wire::OpenAi, CALL, Load::Closed { connections: 32 }),
    Scenario { request_bytes: 100 * 1024, ..row("call, 100 KB prompt", Wire::OpenAi, CALL, Load::Closed { connections: 16 }) },
    row("stream event, unpaced", Wire::OpenAi, UNPACED, Load::Closed { connections: 16 }),
    Scenario { millis: 3500, ..row("stream event, one per 20 ms", Wire::OpenAi, PACED, Load::Closed { connections: 100 }) },
    Scenario { millis: 3000, ..row("calls at 500/s", Wire::OpenAi, CALL, Load::Open { per_second: 500, connections: 32 }) },
    Scenario {
        millis: 3000,
        ..row("streams at 47/s", Wire::OpenAi, SHORT_PACED, Load::Open { per_second: 47, connections: 64 })
    },
    row("Anthropic stream event", Wire::Anthropic, UNPACED, Load::Closed { connections: 16 }),
    row("Gemini stream event", Wire::Gemini, UNPACED, Load::Closed { connections: 16 }),
];

pub(crate) const fn row(name: &'static str, wire: Wire, plan: Plan, load: Load) -> Scenario {
    Scenario { name, wire, plan, request_bytes: SMALL, load, millis: 2000 }
}

/// The body of a small call, in bytes.
const SMALL: usize = 1024;

/// Before a closed loop is measured, in milliseconds: connections are made, caches are warm.
const WARM_UP: Duration = Duration::from_millis(400);

/// What one measurement of one contestant gave.
#[derive(Clone, Debug, Serialize)]
pub struct Slice {
    /// Which round.
    pub round: u32,
    /// Who.
    pub contestant: String,
    /// What.
    pub scenario: &'static str,
    /// How long it was measured.
    pub seconds: f64,
    /// Calls answered as asked.
    pub calls: u64,
    /// Content events received.
    pub events: u64,
    /// Calls that failed, and the first failure.
    pub failures: u64,
    /// The first failure, in words.
    pub failure: Option<String>,
    /// Processor time of the contestant in nanoseconds; `None` for the provider itself.
    pub cpu_ns: Option<u64>,
    /// Round trips to the contestant's Redis; `None` without one.
    pub redis: Option<u64>,
    /// From due to the last byte.
    pub whole: Option<Quantiles>,
    /// From due to the first content event.
    pub first_event: Option<Quantiles>,
    /// From the provider's writing an event to the client's reading it.
    pub event_delay: Option<Quantiles>,
    /// From one event of a stream to the next.
    pub event_gap: Option<Quantiles>,
}

/// A distribution, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// How many were seen.
    pub count: usize,
    /// The middle.
    pub p50: f64,
    /// Nine of ten are below.
    pub p90: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Quantiles {
    fn of(mut nanos: Vec<u64>) -> Option<Self> {
        nanos.sort_unstable();
        let last = nanos.len().checked_sub(1)?;
        let at = |hundredths: usize| nanos[last * hundredths / 100] as f64 / 1000.0;
        Some(Self { count: nanos.len(), p50: at(50), p90: at(90), p99: at(99), max: at(100) })
    }
}

impl Scenario {
    /// Whether it says something about this contestant: the provider itself is only a reference for
    /// latency, and only a translator or a plain proxy can be asked for a foreign wire.
    #[must_use]
    pub fn concerns(&self, contestant: &Contestant) -> bool {
        let is_provider = contestant.pid().is_none();
        if contestant.redis.is_some() {
            return self.wire == Wire::OpenAi && !self.by_event() && self.request_bytes <= SMALL;
        }
        match self.load {
            Load::Open { .. } => true,
            Load::Closed { .. } => !is_provider && (self.wire == Wire::OpenAi || contestant.is_ours()),
        }
    }

    /// Whether the table counts its cost by event rather than by call.
    #[must_use]
    pub fn by_event(&self) -> bool {
        self.plan.events > 0
    }

    /// Measures one contestant.
    ///
    /// # Errors
    /// When the runtime of the load cannot be built.
    pub fn measure(&self, contestant: &Contestant, round: u32) -> std::io::Result<Slice> {
        let mut slice = match self.load {
            Load::Closed { connections } => self.closed(contestant, connections)?,
            Load::Open { per_second, connections } => {
                let lasts = Duration::from_millis(self.millis);
                self.open(contestant, Schedule { per_second, connections, lasts })?
            }
        };
        slice.round = round;
        Ok(slice)
    }

    /// The cost of closed loops, for comparisons outside of the table.
    pub(crate) fn closed(&self, contestant: &Contestant, connections: u32) -> std::io::Result<Slice> {
        let target = Rc::new(contestant.target(self.wire, self.plan, self.request_bytes));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let stagger = Duration::from_micros(self.plan.pace_us);
        LocalSet::new().block_on(&runtime, async {
            let load = Closed::start(&target, connections, stagger);
            sleep(WARM_UP).await;
            let asked = contestant.redis.map(redis::scripts).transpose()?;
            let (start, before, cpu_before) = (Instant::now(), load.tally(), read_cpu(contestant));
            sleep(Duration::from_millis(self.millis)).await;
            let (after, cpu_after) = (load.tally(), read_cpu(contestant));
            let mut slice = self.slice(contestant, start.elapsed());
            let asked_then = contestant.redis.map(redis::scripts).transpose()?;
            slice.redis = asked_then.zip(asked).map(|(after, before)| after - before);
            slice.calls = after.calls - before.calls;
            slice.events = after.events - before.events;
            slice.failures = after.failures;
            slice.failure = load.failure();
            slice.cpu_ns = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
            Ok(slice)
        })
    }

    fn open(&self, contestant: &Contestant, schedule: Schedule) -> std::io::Result<Slice> {
        let target = contestant.target(self.wire, self.plan, self.request_bytes);
        let asked = contestant.redis.map(redis::scripts).transpose()?;
        let (start, cpu_before) = (Instant::now(), read_cpu(contestant));
        let seen = open::run(&target, schedule);
        let cpu_after = read_cpu(contestant);
        let mut slice = self.slice(contestant, start.elapsed());
        let asked_then = contestant.redis.map(redis::scripts).transpose()?;
        slice.redis = asked_then.zip(asked).map(|(after, before)| after - before);
        slice.calls = seen.whole.len() as u64;
        slice.events = (seen.first_event.len() + seen.event_gap.len()) as u64;
        slice.failures = seen.failures;
        slice.failure = seen.failure;
        slice.cpu_ns = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
        slice.whole = Quantiles::of(seen.whole);
        slice.first_event = Quantiles::of(seen.first_event);
        slice.event_delay = Quantiles::of(seen.event_delay);
        slice.event_gap = Quantiles::of(seen.event_gap);
        Ok(slice)
    }

    fn slice(&self, contestant: &Contestant, lasted: Duration) -> Slice {
        Slice {
            round: 0,
            contestant: contestant.name.clone(),
            scenario: self.name,
            seconds: lasted.as_secs_f64(),
            calls: 0,
            events: 0,
            failures: 0,
            failure: None,
            cpu_ns: None,
            redis: None,
            whole: None,
            first_event: None,
            event_delay: None,
            event_gap: None,
        }
    }
}

fn read_cpu(contestant: &Contestant) -> Option<Cpu> {
    contestant.pid().map(Cpu::of)
}
