//! The count that replicas share: one script call per admission, with a deadline on everything and a way back by itself.
//! It must not know what to decide while Redis is away: it says that it is away, and the policy is applied elsewhere.
//!
//! What is asked while a script is on its way goes together with the next, and what ended calls give back rides in front of
//! it. Each worker sends its own batches over its own connection, so no question changes threads; what no call waits for is
//! done on a thread of the limits' own. A worker that is busy must not take its own lateness for Redis': see [`line::Flight`].
//!
//! All keys of one gateway carry one hash tag, so that the rules of a call (its caller's, its model's, the whole gateway's)
//! may be taken in one atomic script also on a Redis Cluster. The price: one node of the cluster does all the counting.

mod back;
mod batch;
mod clerk;
mod line;
mod link;
mod question;
mod script;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Client;
use tokio::runtime::{self, Handle};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::ledger::{Ledger, Ledgers};
use super::memory::Clock;
use super::observer::{BackendState, Observer, OnFailure};
use super::rule::{Rule, Span};
use crate::worker::PerWorker;
use back::{Backs, GiveBack};
use line::Line;
use link::Link;
pub(super) use question::Answer;

/// Calls whose end Redis has not been told yet; more than that are forgotten, and expire there.
const UNTOLD: usize = 65_536;

/// Batches whose answers nobody waits for any more, but that may have taken something.
const ORPHANS: usize = 4_096;

/// Leases are renewed once a second at most; shorter ones would end between.
const SHORTEST_LEASE: Duration = Duration::from_secs(3);

/// See [`Shared::tick`]; shorter where the deadline is.
const TICK: Duration = Duration::from_millis(10);

/// As [`TICK`], for deadlines that nothing can keep.
const SHORTEST_TICK: Duration = Duration::from_millis(1);

/// How long leaving may take.
const LEAVE_WAIT: Duration = Duration::from_millis(500);

/// Where Redis is, and how patient to be with it.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS.
    pub url: String,
    /// The deadline of one decision.
    pub deadline: Duration,
    /// The deadline of connecting, which no call waits for.
    pub connect: Duration,
    /// What to decide while Redis does not.
    pub on_failure: OnFailure,
    /// How long a place among concurrent calls outlives a crash; 3 s at least. Living calls renew theirs three times as often.
    pub lease: Duration,
    /// What all keys begin with, in braces: gateways with the same prefix share their limits.
    pub prefix: String,
}

impl RedisOptions {
    /// The defaults: 50 ms to decide, 1 s to connect, `local` while Redis is gone, leases of 30 s, the prefix `choreoai`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            deadline: Duration::from_millis(50),
            connect: Duration::from_secs(1),
            on_failure: OnFailure::default(),
            lease: Duration::from_secs(30),
            prefix: "choreoai".to_owned(),
        }
    }
}

impl fmt::Debug for RedisOptions {
    /// Without the URL: it may hold a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RedisOptions")
            .field("deadline", &self.deadline)
            .field("connect", &self.connect)
            .field("on_failure", &self.on_failure)
            .field("lease", &self.lease)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Redis cannot be used: its URL cannot be read, or there is no thread to speak to it. The URL is not repeated here, for it
/// may hold a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRedis(String);

impl fmt::Display for BadRedis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for BadRedis {}

/// The keys of one rule.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    window: String,
    leases: String,
}

impl Keys {
    pub(super) fn of(prefix: &str, rule: &Rule) -> Self {
        let name = format!("{}:{}:{}", tag(prefix), rule.scope.label(), rule.name);
        let window = match rule.span {
            Span::Minute => "window",
            Span::Second => "second",
        };
        Self { window: format!("{name}:{window}"), leases: format!("{name}:leases") }
    }

    fn both(&self) -> [&str; 2] {
        [&self.window, &self.leases]
    }
}

/// The hash tag that all keys begin with. Braces of the prefix's own would end it early.
fn tag(prefix: &str) -> String {
    format!("{{{}}}", prefix.replace(['{', '}'], "-"))
}

/// What one call holds in Redis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    lease: u64,
    /// When it was admitted, by Redis' clock.
    at_ms: u64,
    /// The epoch whose count knows this call; `None`: no count does.
    epoch: Option<u64>,
}

/// What the clerk is asked to do.
enum Job {
    /// Give back what a question took that nobody waited for: only after what passed here instead was reported.
    GiveBack(GiveBack),
    /// Tell what passed without Redis, although it is there.
    Report,
    /// Say goodbye, when everything before this is done.
    Leave(oneshot::Sender<()>),
}

/// The shared count, seen from this replica.
pub(super) struct Shared {
    pub(super) options: RedisOptions,
    pub(super) observer: Arc<dyn Observer>,
    ledgers: Arc<Ledgers>,
    clock: Clock,
    client: Client,
    /// Where the clerk works, and where the batches of those are sent who are no workers.
    thread: Handle,
    lines: PerWorker<Arc<Line>>,
    backs: Backs,
    /// The name of this replica among the others, new with every start.
    replica: String,
    link: Link,
    replicas: AtomicU64,
    /// Redis' clock minus ours, in milliseconds.
    ahead: AtomicI64,
    /// When Redis last answered in time, by our clock.
    heard_ms: AtomicU64,
    /// The epoch of the data in Redis; 0 before the first contact.
    epoch: AtomicU64,
    /// The calls that run and hold a place, to renew it.
    running: Mutex<HashMap<u64, Vec<Arc<Ledger>>>>,
    next_lease: AtomicU64,
    jobs: mpsc::Sender<Job>,
    /// Whether the clerk is told already that there is something to report.
    owing: AtomicBool,
    orphans: Semaphore,
    /// How far tests have turned Redis' clock, in milliseconds.
    shift: Arc<AtomicI64>,
}

impl Shared {
    /// Starts the thread that speaks to Redis; it ends when this is dropped.
    pub(super) fn start(
        options: RedisOptions,
        observer: Arc<dyn Observer>,
        ledgers: Arc<Ledgers>,
        clock: Clock,
        shift: Arc<AtomicI64>,
    ) -> Result<Arc<Self>, BadRedis> {
        let client = Client::open(options.url.as_str())
            .map_err(|error| BadRedis(format!("the Redis URL cannot be read: {}", error.category())))?;
        let no_thread = |error: std::io::Error| BadRedis(format!("there is no thread to speak to Redis: {error}"));
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
        let (jobs, inbox) = mpsc::channel(UNTOLD);
        let options = RedisOptions { lease: options.lease.max(SHORTEST_LEASE), ..options };
        let shared = Arc::new(Self {
            observer,
            ledgers,
            clock,
            client,
            thread: runtime.handle().clone(),
            lines: PerWorker::new(),
            backs: Backs::default(),
            replica: format!("{:016x}", fastrand::u64(..)),
            link: Link::default(),
            replicas: AtomicU64::new(1),
            ahead: AtomicI64::new(0),
            heard_ms: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            running: Mutex::default(),
            next_lease: AtomicU64::new(1),
            jobs,
            owing: AtomicBool::new(false),
            orphans: Semaphore::new(ORPHANS),
            shift,
            options,
        });
        let work = clerk::serve(Arc::downgrade(&shared), shared.link.trouble.clone(), inbox);
        std::thread::Builder::new().name("limits".to_owned()).spawn(move || runtime.block_on(work)).map_err(no_thread)?;
        Ok(shared)
    }

    pub(super) fn state(&self) -> BackendState {
        self.link.state()
    }

    /// How many replicas were alive when Redis was last seen, this one included.
    pub(super) fn replicas(&self) -> u64 {
        self.replicas.load(Ordering::Relaxed)
    }

    /// How often a line looks whether what it sent was answered.
    fn tick(&self) -> Duration {
        (self.options.deadline / LOOKS).clamp(SHORTEST_TICK, TICK)
    }

    /// The deadline in ticks; what is sent between two of them has that of the next.
    fn patience(&self) -> u32 {
        u32::try_from(self.options.deadline.as_micros().div_ceil(self.tick().as_micros())).map_or(u32::MAX, |ticks| ticks + 1)
    }

    fn lease_name(&self, lease: u64) -> String {
        format!("{}-{lease}", self.replica)
    }

    /// Whether Redis answered a call in time since then, by our clock.
    fn heard_since(&self, ms: u64) -> bool {
        self.heard_ms.load(Ordering::Relaxed) > ms
    }

    /// What Redis' clock shows now, as far as is known.
    fn redis_ms(&self) -> i64 {
        self.local_ms() + self.ahead.load(Ordering::Relaxed) + self.shift.load(Ordering::Relaxed)
    }

    fn local_ms(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }

    /// Redis' clock shows `redis_ms`, turned by `shift` when it was asked.
    fn set_clock(&self, redis_ms: i64, shift: i64) {
        self.ahead.store(redis_ms - shift - self.local_ms(), Ordering::Relaxed);
    }

    /// The name under which a call that nobody counted for all holds its places, so that they are renewed once Redis is back.
    pub(super) fn grant_alone(&self, ledgers: &[Arc<Ledger>]) -> Grant {
        let lease = self.next_lease.fetch_add(1, Ordering::Relaxed);
        self.hold(lease, ledgers);
        Grant { lease, at_ms: 0, epoch: None }
    }

    /// Whether the count that Redis has now knows this call.
    pub(super) fn knows(&self, grant: &Grant) -> bool {
        grant.epoch == Some(self.epoch.load(Ordering::Relaxed))
    }

    fn hold(&self, lease: u64, ledgers: &[Arc<Ledger>]) {
        let places: Vec<_> = ledgers.iter().filter(|ledger| ledger.rule.max_concurrent.is_some()).cloned().collect();
        if !places.is_empty() {
            self.running().insert(lease, places);
        }
    }

    /// The call of this lease holds these no longer; says whether it held a place.
    fn forget(&self, lease: u64, ledgers: &[Arc<Ledger>]) -> bool {
        let mut running = self.running();
        let Some(places) = running.get_mut(&lease) else { return false };
        let held = places.len();
        places.retain(|place| !ledgers.iter().any(|ledger| Arc::ptr_eq(place, ledger)));
        let left = places.len();
        if left == 0 {
            running.remove(&lease);
        }
        left < held
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Vec<Arc<Ledger>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what a call held: at once for this replica's leases, with the next batch in Redis. Never waits.
    pub(super) fn release(self: &Arc<Self>, ledgers: Vec<Arc<Ledger>>, grant: Grant, reserved: u64, used: u64) {
        let held = self.forget(grant.lease, &ledgers);
        let tokens = i64::try_from(used).unwrap_or(i64::MAX).saturating_sub(i64::try_from(reserved).unwrap_or(i64::MAX));
        let tokens = if self.knows(&grant) { tokens } else { 0 };
        if tokens < 0 {
            ledgers.iter().for_each(|ledger| ledger.note_return());
        }
        if tokens != 0 || (held && (grant.epoch.is_some() || self.state() == BackendState::Shared)) {
            let urgent = ledgers.iter().any(|ledger| ledger.is_crowded());
            Line::here(self).give_back(self, GiveBack::new(ledgers, grant, 0, tokens), urgent);
        }
    }

    fn tell(&self, back: GiveBack) {
        if self.jobs.try_send(Job::GiveBack(back)).is_err() {
            self.observer.lost(1);
        }
    }

    /// Has the clerk report what passed without Redis. While Redis is gone it does so anyway when it is back.
    pub(super) fn report_soon(&self) {
        if self.state() == BackendState::Shared && !self.owing.swap(true, Ordering::Relaxed) {
            // An inbox that is full is worked off, and the next beat reports as well.
            let _ = self.jobs.try_send(Job::Report);
        }
    }

    /// Tells Redis everything that is still to be told, and that this replica leaves. Bounded in time.
    pub(super) async fn leave(&self) {
        if self.state() != BackendState::Shared {
            return;
        }
        let (done, left) = oneshot::channel();
        let goodbye = async {
            if self.jobs.send(Job::Leave(done)).await.is_ok() {
                let _ = left.await;
            }
        };
        // A Redis that does not hear the goodbye finds out within seconds that this replica is gone.
        let _ = timeout(LEAVE_WAIT, goodbye).await;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("options", &self.options).field("state", &self.state()).finish_non_exhaustive()
    }
}

/// How many looks a deadline is made of.
const LOOKS: u32 = 5;

/// Waits for as long as `deadline`, in looks of which each begins when the last is over: time in which this thread itself was
/// held up is not held against Redis, for an answer that came meanwhile is read before the next look ends.
async fn patiently<F: Future>(deadline: Duration, mut future: Pin<&mut F>) -> Option<F::Output> {
    for _ in 0..LOOKS {
        if let Ok(output) = timeout(deadline / LOOKS, future.as_mut()).await {
            return Some(output);
        }
    }
    None
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
