//! The open loop: calls start when the schedule says, whether or not earlier ones are answered, and
//! a call's time counts from the moment it was due. So a contestant that stalls is charged for every
//! call that had to wait (no coordinated omission). Blocking sockets, one thread each: nothing of the
//! load's own scheduling stands between an answer and its time.
//! It must not know contestants.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Answer, READ_BYTES, Target};

/// How long one read may take before the call counts as failed.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// The time between setting up and the first call.
const LEAD: Duration = Duration::from_millis(60);

/// When calls are due.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Calls started a second, over all connections.
    pub per_second: u32,
    /// Connections that take turns. A call whose connection is still busy waits, and the wait counts.
    pub connections: u32,
    /// How long calls are started.
    pub lasts: Duration,
}

/// What was seen, in nanoseconds, unsorted.
#[derive(Debug, Default)]
pub struct Seen {
    /// From the moment a call was due to its last byte.
    pub whole: Vec<u64>,
    /// From the moment a stream was due to its first content event.
    pub first_event: Vec<u64>,
    /// From the provider's writing an event to our reading it.
    pub event_delay: Vec<u64>,
    /// From one event of a stream to the next.
    pub event_gap: Vec<u64>,
    /// Calls that failed.
    pub failures: u64,
    /// The first failure, in words.
    pub failure: Option<String>,
}

impl Seen {
    fn merge(&mut self, other: Self) {
        self.whole.extend(other.whole);
        self.first_event.extend(other.first_event);
        self.event_delay.extend(other.event_delay);
        self.event_gap.extend(other.event_gap);
        self.failures += other.failures;
        self.failure = self.failure.take().or(other.failure);
    }
}

/// Runs the schedule to its end.
#[must_use]
pub fn run(target: &Target, schedule: Schedule) -> Seen {
    let mut seen = Seen::default();
    let start = Instant::now() + LEAD;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..schedule.connections).map(|number| scope.spawn(move || turns(target, schedule, number, start))).collect();
        for thread in threads {
            match thread.join() {
                Ok(other) => seen.merge(other),
                Err(_) => seen.failures += 1,
            }
        }
    });
    seen
}

/// The calls of one connection: every `connections`-th of the schedule.
fn turns(target: &Target, schedule: Schedule, number: u32, start: Instant) -> Seen {
    let mut seen = Seen::default();
    let mut socket = None;
    let mut turn = u64::from(number);
    // The first call makes the connection and is not counted.
    if let Err(error) = call(target, &mut socket, Instant::now(), &mut Seen::default()) {
        seen.failures += 1;
        seen.failure.get_or_insert(error.to_string());
    }
    loop {
        let after = Duration::from_nanos(turn * 1_000_000_000 / u64::from(schedule.per_second));
        if after >= schedule.lasts {
            return seen;
        }
        let due = start + after;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if let Err(error) = call(target, &mut socket, due, &mut seen) {
            socket = None;
            seen.failures += 1;
            seen.failure.get_or_insert(error.to_string());
        }
        turn += u64::from(schedule.connections);
    }
}

fn call(target: &Target, kept: &mut Option<TcpStream>, due: Instant, seen: &mut Seen) -> io::Result<()> {
    let mut socket = match kept.take() {
        Some(socket) => socket,
        None => connect(target)?,
    };
    socket.write_all(&target.request)?;
    let mut buffer = [0; READ_BYTES];
    let mut answer = Answer::new(target);
    let mut last_event = None;
    loop {
        let read = socket.read(&mut buffer)?;
        let now = Instant::now();
        if read == 0 && !answer.whole_at_close() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let whole = answer.feed(&buffer[..read], &mut |stamp| {
            match last_event.replace(now) {
                None => seen.first_event.push(nanos(now - due)),
                Some(last) => seen.event_gap.push(nanos(now - last)),
            }
            if let Some(stamp) = stamp {
                seen.event_delay.push(u64::try_from(unix.saturating_sub(stamp)).unwrap_or(u64::MAX));
            }
        })?;
        if whole || read == 0 {
            answer.check().map_err(io::Error::other)?;
            seen.whole.push(nanos(now - due));
            if read > 0 && answer.keeps_alive() {
                *kept = Some(socket);
            }
            return Ok(());
        }
    }
}

fn connect(target: &Target) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&target.address, READ_LIMIT)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(READ_LIMIT))?;
    Ok(socket)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
