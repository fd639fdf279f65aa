//! The count that replicas share: one script call per admission, with a deadline on everything and a way back by itself.
//! It must not know what to decide while Redis is away: it says that it is away, and the policy is applied elsewhere.
//!
//! All keys of one gateway carry one hash tag, so that the rules of a call (its caller's, its model's, the whole gateway's)
//! may be taken in one atomic script also on a Redis Cluster. The price: one node of the cluster does all the counting.

mod clerk;
mod link;
mod script;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Client, RedisResult, Value};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Standing, Window};
use super::ledger::{Ledger, Ledgers};
use super::memory::{self, Clock, Refusal};
use super::observer::{BackendState, Observer, OnFailure};
use super::rule::{Limit, Scope};
use super::slots::leaves_at;
use link::{Connection, Link};
use script::{Ruling, SCRIPTS, Sum, Verdict};

/// Calls whose end Redis has not been told yet; more than that are forgotten, and expire there.
const UNTOLD: usize = 65_536;

/// Answers that nobody waits for any more, but that may have taken something.
const ORPHANS: usize = 4_096;

/// How long such an answer is awaited. Longer than [`SLACK`], so that what is taken is seen to be taken.
const ORPHAN_WAIT: Duration = Duration::from_secs(2);

/// How far the estimate of Redis' clock may be off before a script that is in time is taken for late.
const SLACK: Duration = Duration::from_secs(1);

/// Leases are renewed once a second at most; shorter ones would end between.
const SHORTEST_LEASE: Duration = Duration::from_secs(3);

/// How long leaving may take.
const LEAVE_WAIT: Duration = Duration::from_millis(500);

/// Where Redis is, and how patient to be with it.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS.
    pub url: String,
    /// The deadline of one decision, everything included.
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

/// The URL of Redis cannot be read. It is not repeated here, for it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRedisUrl(String);

impl fmt::Display for BadRedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the Redis URL cannot be read: {}", self.0)
    }
}

impl std::error::Error for BadRedisUrl {}

/// The keys of one rule.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    window: String,
    leases: String,
}

impl Keys {
    pub(super) fn of(prefix: &str, scope: Scope, name: &str) -> Self {
        let rule = format!("{}:{}:{name}", tag(prefix), scope.label());
        Self { window: format!("{rule}:window"), leases: format!("{rule}:leases") }
    }

    fn both(&self) -> [&str; 2] {
        [&self.window, &self.leases]
    }
}

/// The hash tag that all keys begin with. Braces of the prefix's own would end it early.
fn tag(prefix: &str) -> String {
    format!("{{{}}}", prefix.replace(['{', '}'], "-"))
}

/// What Redis says about one call.
#[derive(Debug)]
pub(super) enum Answer {
    Admitted(Grant, Standing),
    Refused(Refusal),
    /// It says nothing in time, or nothing that helps.
    Away,
}

/// What one call holds in Redis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    lease: u64,
    slot: u64,
    /// The epoch whose count knows this call; `None`: no count does.
    epoch: Option<u64>,
}

/// What a call that ended gives back. Calls and tokens are changes: below zero gives back, above zero charges.
struct GiveBack {
    ledgers: Vec<Arc<Ledger>>,
    grant: Grant,
    requests: i64,
    tokens: i64,
}

/// What the clerk is asked to do.
enum Job {
    GiveBack(GiveBack),
    /// Say goodbye, when everything before this is done.
    Leave(oneshot::Sender<()>),
}

type Reply = Pin<Box<dyn Future<Output = RedisResult<Value>> + Send>>;

/// The shared count, seen from this replica.
pub(super) struct Shared {
    pub(super) options: RedisOptions,
    pub(super) observer: Arc<dyn Observer>,
    ledgers: Arc<Ledgers>,
    clock: Clock,
    client: Client,
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
    /// The clerk's inbox, until the clerk begins.
    inbox: Mutex<Option<mpsc::Receiver<Job>>>,
    orphans: Arc<Semaphore>,
    /// How far tests have turned Redis' clock, in milliseconds.
    shift: Arc<AtomicI64>,
}

impl Shared {
    pub(super) fn new(
        options: RedisOptions,
        observer: Arc<dyn Observer>,
        ledgers: Arc<Ledgers>,
        clock: Clock,
        shift: Arc<AtomicI64>,
    ) -> Result<Arc<Self>, BadRedisUrl> {
        let client = Client::open(options.url.as_str()).map_err(|error| BadRedisUrl(error.category().to_owned()))?;
        let (jobs, inbox) = mpsc::channel(UNTOLD);
        let options = RedisOptions { lease: options.lease.max(SHORTEST_LEASE), ..options };
        Ok(Arc::new(Self {
            observer,
            ledgers,
            clock,
            client,
            replica: format!("{:016x}", fastrand::u64(..)),
            link: Link::default(),
            replicas: AtomicU64::new(1),
            ahead: AtomicI64::new(0),
            heard_ms: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            running: Mutex::default(),
            next_lease: AtomicU64::new(1),
            jobs,
            inbox: Mutex::new(Some(inbox)),
            orphans: Arc::new(Semaphore::new(ORPHANS)),
            shift,
            options,
        }))
    }

    /// Sets the clerk to work, once, as soon as there is a runtime to work in.
    pub(super) fn start(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(inbox) = inbox {
            runtime.spawn(clerk::serve(Arc::downgrade(self), self.link.trouble.clone(), inbox));
        }
    }

    pub(super) fn state(&self) -> BackendState {
        self.link.state()
    }

    /// How many replicas were alive when Redis was last seen, this one included.
    pub(super) fn replicas(&self) -> u64 {
        self.replicas.load(Ordering::Relaxed)
    }

    /// Asks Redis whether a call may pass, for no longer than the deadline.
    pub(super) async fn ask(self: &Arc<Self>, ledgers: &[Arc<Ledger>], tokens: u64) -> Answer {
        if self.state() == BackendState::Starting {
            self.start();
        }
        let until = Instant::now() + self.options.deadline;
        let Some(connection) = self.link.connection(until, &*self.observer).await else { return Answer::Away };
        if let Some(refusal) = self.shut(ledgers) {
            return Answer::Refused(refusal);
        }
        // The second time is for a clock in Redis that was set forward: then the first answer says what time it is there.
        for _ in 0..2 {
            let Some(verdict) = self.ask_once(&connection, ledgers, tokens, until).await else { return Answer::Away };
            let (grant, verdict) = verdict;
            self.learn(ledgers, &verdict);
            match verdict.ruling {
                Ruling::Admitted => {
                    self.hold(grant.lease, ledgers);
                    return Answer::Admitted(grant, standing(ledgers, &verdict));
                }
                Ruling::Refused { index, limit, wait } => {
                    if let (Limit::Requests, Some(ledger)) = (limit, ledgers.get(index)) {
                        ledger.shut_until.store(verdict.ms + millis(wait), Ordering::Relaxed);
                    }
                    return Answer::Refused(Refusal { index, limit, wait, standing: standing(ledgers, &verdict) });
                }
                Ruling::TooLate => self.set_clock(verdict.ms),
            }
        }
        Answer::Away
    }

    /// The refusal that Redis is known to give. Calls are never given back, so a window that was full of them stays full
    /// until its oldest slot leaves: a caller who hammers at it costs Redis nothing.
    fn shut(&self, ledgers: &[Arc<Ledger>]) -> Option<Refusal> {
        let now = self.redis_ms();
        let left = |ledger: &Ledger| ledger.shut_until.load(Ordering::Relaxed) - now;
        let (index, ledger) = ledgers.iter().enumerate().max_by_key(|(_, ledger)| left(ledger))?;
        let wait = Duration::from_millis(u64::try_from(left(ledger)).ok().filter(|left| *left > 0)?);
        let mut standing = memory::standing(ledgers, self.clock);
        if let Some(limit) = ledger.rule.requests_per_minute {
            let reset = standing.requests.map_or(wait, |known| known.reset.max(wait));
            Standing::narrow(&mut standing.requests, Window { limit, remaining: 0, reset });
        }
        Some(Refusal { index, limit: Limit::Requests, wait, standing })
    }

    async fn ask_once(
        self: &Arc<Self>,
        connection: &Connection,
        ledgers: &[Arc<Ledger>],
        tokens: u64,
        until: Instant,
    ) -> Option<(Grant, Verdict)> {
        let lease = self.next_lease.fetch_add(1, Ordering::Relaxed);
        let epoch = self.epoch.load(Ordering::Relaxed);
        let command = self.admit_command(ledgers, tokens, lease);
        let reply: Reply = Box::pin(SCRIPTS.admit.run(connection.multiplexed.clone(), command));
        let mut asked =
            Asked { shared: self, ledgers, tokens, grant: Grant { lease, slot: 0, epoch: Some(epoch) }, reply: Some(reply) };
        let (began, began_ms) = (Instant::now(), self.clock.now_ms());
        let answer = timeout_at(until, asked.reply.as_mut()?).await;
        let Ok(answer) = answer else {
            // One that answered others in time since we asked is busy, not gone: this call decides alone, the next may ask.
            if !self.heard_since(began_ms) {
                self.link.trip(connection.generation, &"no answer within the deadline", &*self.observer);
            }
            return None;
        };
        asked.reply = None;
        match answer.and_then(Verdict::read) {
            Ok(verdict) => {
                self.heard_ms.fetch_max(self.clock.now_ms(), Ordering::Relaxed);
                self.observer.script(began.elapsed());
                Some((Grant { lease, slot: verdict.slot, epoch: Some(epoch) }, verdict))
            }
            Err(error) => {
                self.link.trip(connection.generation, &error, &*self.observer);
                None
            }
        }
    }

    fn admit_command(&self, ledgers: &[Arc<Ledger>], tokens: u64, lease: u64) -> redis::Cmd {
        let keys: Vec<&str> = ledgers.iter().flat_map(|ledger| ledger.cell.keys.both()).collect();
        let mut command = SCRIPTS.admit.call(&keys);
        let latest = self.redis_ms() + millis(self.options.deadline + SLACK);
        command
            .arg(self.shift.load(Ordering::Relaxed))
            .arg(latest)
            .arg(self.lease_name(lease))
            .arg(tokens)
            .arg(millis(self.options.lease))
            .arg(millis(memory::CONCURRENCY_RETRY));
        for ledger in ledgers {
            let rule = &ledger.rule;
            for figure in [rule.requests_per_minute, rule.tokens_per_minute, rule.max_concurrent] {
                command.arg(figure.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX)));
            }
        }
        command
    }

    fn lease_name(&self, lease: u64) -> String {
        format!("{}-{lease:x}", self.replica)
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

    fn set_clock(&self, redis_ms: i64) {
        self.ahead.store(redis_ms - self.shift.load(Ordering::Relaxed) - self.local_ms(), Ordering::Relaxed);
    }

    fn learn(&self, ledgers: &[Arc<Ledger>], verdict: &Verdict) {
        let now_ms = self.clock.now_ms();
        // An admitted call of our own is in the sums already, and in our own count only when it was recorded.
        let ours = u64::from(verdict.ruling == Ruling::Admitted);
        for (ledger, sum) in ledgers.iter().zip(&verdict.sums) {
            ledger.cell.lock().learn(sum.requests.saturating_sub(ours), sum.tokens, now_ms);
        }
    }

    /// The name under which a call that nobody counted for all holds its places, so that they are renewed once Redis is back.
    pub(super) fn grant_alone(&self, ledgers: &[Arc<Ledger>]) -> Grant {
        let lease = self.next_lease.fetch_add(1, Ordering::Relaxed);
        self.hold(lease, ledgers);
        Grant { lease, slot: 0, epoch: None }
    }

    /// Whether the count that Redis has now knows this call.
    pub(super) fn knows(&self, grant: &Grant) -> bool {
        grant.epoch == Some(self.epoch.load(Ordering::Relaxed))
    }

    fn hold(&self, lease: u64, ledgers: &[Arc<Ledger>]) {
        let places: Vec<_> = ledgers.iter().filter(|ledger| ledger.rule.max_concurrent.is_some()).cloned().collect();
        if !places.is_empty() {
            self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(lease, places);
        }
    }

    /// Gives back what a call held: at once for this replica's leases, through the clerk in Redis. Never waits.
    pub(super) fn release(&self, ledgers: Vec<Arc<Ledger>>, grant: Grant, reserved: u64, used: u64) {
        let held = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&grant.lease).is_some();
        let tokens = i64::try_from(used).unwrap_or(i64::MAX).saturating_sub(i64::try_from(reserved).unwrap_or(i64::MAX));
        let tokens = if self.knows(&grant) { tokens } else { 0 };
        if tokens != 0 || (held && (grant.epoch.is_some() || self.state() == BackendState::Shared)) {
            self.tell(GiveBack { ledgers, grant, requests: 0, tokens });
        }
    }

    fn tell(&self, back: GiveBack) {
        if self.jobs.try_send(Job::GiveBack(back)).is_err() {
            self.observer.lost(1);
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

/// A question on its way. Whoever stops waiting for the answer, by deadline or by leaving, leaves it to the background, which
/// gives back what it took.
struct Asked<'a> {
    shared: &'a Arc<Shared>,
    ledgers: &'a [Arc<Ledger>],
    tokens: u64,
    grant: Grant,
    reply: Option<Reply>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(reply) = self.reply.take() else { return };
        let (Ok(runtime), Ok(seat)) = (tokio::runtime::Handle::try_current(), self.shared.orphans.clone().try_acquire_owned())
        else {
            return self.shared.observer.lost(1);
        };
        let (shared, ledgers, grant) = (self.shared.clone(), self.ledgers.to_vec(), self.grant);
        let tokens = i64::try_from(self.tokens).unwrap_or(i64::MAX);
        runtime.spawn(async move {
            let _seat = seat;
            let Ok(Ok(answer)) = timeout(ORPHAN_WAIT, reply).await else { return };
            let Ok(verdict) = Verdict::read(answer) else { return };
            if verdict.ruling == Ruling::Admitted {
                let grant = Grant { slot: verdict.slot, ..grant };
                shared.tell(GiveBack { ledgers, grant, requests: -1, tokens: -tokens });
            }
        });
    }
}

/// The room left in the tightest rules, by Redis' count.
fn standing(ledgers: &[Arc<Ledger>], verdict: &Verdict) -> Standing {
    let mut standing = Standing::default();
    for (ledger, sum) in ledgers.iter().zip(&verdict.sums) {
        if let Some(limit) = ledger.rule.requests_per_minute {
            Standing::narrow(&mut standing.requests, window(limit, sum.requests, sum, verdict.ms));
        }
        if let Some(limit) = ledger.rule.tokens_per_minute {
            Standing::narrow(&mut standing.tokens, window(limit, sum.tokens, sum, verdict.ms));
        }
    }
    standing
}

fn window(limit: u64, passed: u64, sum: &Sum, ms: i64) -> Window {
    let empty_at = sum.newest.filter(|_| passed > 0).map_or(0, leaves_at);
    let reset = empty_at.saturating_sub(u64::try_from(ms).unwrap_or(0));
    Window { limit, remaining: limit.saturating_sub(passed), reset: Duration::from_millis(reset) }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
