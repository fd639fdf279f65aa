//! May they, now: rules and an estimate of tokens become a [`Permit`], which gives everything back when it is dropped.
//! It must not know HTTP, configuration files, metrics libraries, or what a call is for.
//!
//! *Per minute* means: in any span of 60 seconds no more than that, with the whole limit free to a lone burst. A call
//! takes from all its rules in one atomic step or from none; it reserves tokens and settles on what it used.

mod answer;
mod ledger;
mod memory;
mod observer;
mod queue;
mod redis;
mod rule;
mod slots;
mod turn;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use tokio::time::Instant;

pub use answer::{Denied, Reason, Standing, Window};
pub use ledger::Ledger;
pub use observer::{BackendState, Observer, OnFailure};
pub use queue::{Queue, QueueOptions, QueueReason, QueueRefused, Slot};
pub use redis::{BadRedis, RedisOptions};
pub use rule::{Limit, Rule, Scope, Span};

use ledger::Ledgers;
use memory::{Alone, Clock, Refusal, Return};
use redis::{Answer, Grant, Shared};

/// When to ask again while Redis is away and the policy is `closed`: by then it may be back.
const CLOSED_RETRY: Duration = Duration::from_secs(5);

/// All limits of this process. Cheap to clone; clones share what they count.
#[derive(Debug, Clone)]
pub struct Limits {
    house: Arc<House>,
}

#[derive(Debug)]
struct House {
    clock: Clock,
    ledgers: Arc<Ledgers>,
    shared: Option<Arc<Shared>>,
}

impl Limits {
    /// Limits that this process counts for itself.
    #[must_use]
    pub fn memory() -> Self {
        Self { house: Arc::new(House { clock: Clock::start(), ledgers: Arc::default(), shared: None }) }
    }

    /// Limits that all replicas count together in Redis. Connects in the background; nothing here waits for Redis.
    ///
    /// # Errors
    /// [`BadRedis`] when the URL cannot be read, or there is no thread to be had.
    pub fn redis(options: RedisOptions, observer: Arc<dyn Observer>) -> Result<Self, BadRedis> {
        Self::redis_with_clock(options, observer, Arc::default())
    }

    /// As [`Limits::redis`], with a clock in Redis that tests can turn: `shift` is added to its time, in milliseconds.
    ///
    /// # Errors
    /// As [`Limits::redis`].
    pub fn redis_with_clock(options: RedisOptions, observer: Arc<dyn Observer>, shift: Arc<AtomicI64>) -> Result<Self, BadRedis> {
        let (clock, ledgers) = (Clock::start(), Arc::<Ledgers>::default());
        let shared = Shared::start(options, observer, ledgers.clone(), clock, shift)?;
        Ok(Self { house: Arc::new(House { clock, ledgers, shared: Some(shared) }) })
    }

    /// Opens the ledger of a rule: once per rule, when the configuration is read. Ledgers of the same scope and name share
    /// one count, each with its own figures.
    #[must_use]
    pub fn ledger(&self, rule: Rule) -> Arc<Ledger> {
        let prefix = self.house.shared.as_ref().map_or("", |shared| shared.options.prefix.as_str());
        self.house.ledgers.open(rule, prefix)
    }

    /// Takes one call and `tokens` from every ledger in one atomic step. A ledger that is named twice counts once.
    /// With Redis this takes no longer than the deadline. Dropping the future takes nothing.
    ///
    /// # Errors
    /// [`Denied`] when one of them has no room; then nothing was taken from any.
    pub async fn admit(&self, ledgers: impl Into<Cow<'_, [Arc<Ledger>]>>, tokens: u64) -> Result<Permit, Denied> {
        let ledgers = memory::in_order(ledgers.into().into_owned());
        if let Some((index, limit)) = never_fits(&ledgers, tokens) {
            let refusal = Refusal { index, limit, wait: Duration::MAX, standing: memory::standing(&ledgers, self.house.clock) };
            return Err(Denied { reason: Reason::TooLarge, retry_after: None, ..denied(&ledgers, refusal, false) });
        }
        let Some(shared) = &self.house.shared else { return self.decide(ledgers, tokens, Alone::Always) };
        if ledgers.iter().all(|ledger| ledger.rule.limits_nothing()) {
            return Ok(self.permit(ledgers, tokens, Standing::default(), None));
        }
        match shared.ask(&ledgers, tokens).await {
            Answer::Admitted(held, standing) => {
                let (ledgers, at_ms, grant) = held.keep(self.house.clock);
                Ok(Permit { house: self.house.clone(), ledgers, at_ms, reserved: tokens, used: 0, standing, grant: Some(grant) })
            }
            Answer::Refused(refusal) => Err(denied(&ledgers, refusal, false)),
            Answer::Late => self.decide_without(shared, ledgers, tokens, Alone::Unsure(shared.replicas())),
            Answer::Away => self.decide_without(shared, ledgers, tokens, Alone::Among(shared.replicas())),
        }
    }

    /// As [`Limits::admit`], and in the same step also from those `ahead`, which the call will need in a moment. If they cannot be
    /// had as well, or others wait for them, it is `None`: they are to be asked for apart.
    ///
    /// # Errors
    /// As [`Limits::admit`], by the first of the two.
    pub async fn admit_ahead(
        &self,
        ledgers: impl Into<Cow<'_, [Arc<Ledger>]>>,
        ahead: &[Arc<Ledger>],
        tokens: u64,
    ) -> Result<(Permit, Option<Permit>), Denied> {
        let ledgers = ledgers.into();
        if !ahead.is_empty() && !ahead.iter().any(|ledger| ledger.cell.line.is_formed()) {
            match self.admit([&ledgers, ahead].concat(), tokens).await {
                Ok(permit) => {
                    let (permit, apart) = permit.split(ahead);
                    return Ok((permit, Some(apart)));
                }
                Err(denied) if denied.reason != Reason::Unavailable && is_by_one_of(&denied, ahead) => {}
                Err(denied) => return Err(denied),
            }
        }
        Ok((self.admit(ledgers, tokens).await?, None))
    }

    /// As [`Limits::admit`], but where only a place among concurrent calls is missing, waits for one until then: behind those of
    /// this process who wait already, beside those of other replicas. Whoever drops the future has left the line.
    ///
    /// # Errors
    /// As [`Limits::admit`].
    pub async fn admit_in_turn(&self, ledgers: &[Arc<Ledger>], tokens: u64, until: Instant) -> Result<Permit, Denied> {
        match ledgers.iter().find(|ledger| ledger.rule.max_concurrent.is_some()) {
            Some(ledger) => ledger.cell.line.wait(until, || self.admit(ledgers, tokens)).await,
            None => self.admit(ledgers, tokens).await,
        }
    }

    /// Whether replicas count together.
    #[must_use]
    pub fn are_shared(&self) -> bool {
        self.house.shared.is_some()
    }

    /// The room that is left in the tightest of these rules, as far as this process knows.
    #[must_use]
    pub fn standing(&self, ledgers: &[Arc<Ledger>]) -> Standing {
        memory::standing(ledgers, self.house.clock)
    }

    /// Where the limits are counted now.
    #[must_use]
    pub fn state(&self) -> BackendState {
        self.house.shared.as_ref().map_or(BackendState::Memory, |shared| shared.state())
    }

    /// How many replicas share the limits, by Redis' latest word.
    #[must_use]
    pub fn replicas(&self) -> u64 {
        self.house.shared.as_ref().map_or(1, |shared| shared.replicas())
    }

    /// Tells Redis what the ended calls gave back, and leaves the replicas. Call it when all permits are dropped; takes half
    /// a second at most.
    pub async fn close(&self) {
        if let Some(shared) = &self.house.shared {
            shared.leave().await;
        }
    }

    /// Applies the policy for a Redis that is away, or was too late for this call.
    fn decide_without(&self, shared: &Shared, ledgers: Vec<Arc<Ledger>>, tokens: u64, alone: Alone) -> Result<Permit, Denied> {
        shared.observer.degraded(shared.options.on_failure);
        let decided = match shared.options.on_failure {
            OnFailure::Local => self.decide(ledgers, tokens, alone),
            OnFailure::Open => {
                let grant = shared.grant_alone(&ledgers);
                let mut permit = self.permit(ledgers, tokens, Standing::default(), Some(grant));
                permit.standing = memory::standing(&permit.ledgers, self.house.clock);
                Ok(permit)
            }
            OnFailure::Closed => {
                let standing = memory::standing(&ledgers, self.house.clock);
                let refusal = Refusal { index: 0, limit: Limit::Requests, wait: CLOSED_RETRY, standing };
                return Err(Denied { reason: Reason::Unavailable, ..denied(&ledgers, refusal, true) });
            }
        };
        if decided.is_ok() {
            shared.report_soon();
        }
        decided
    }

    /// Decides by this process's own count.
    fn decide(&self, ledgers: Vec<Arc<Ledger>>, tokens: u64, alone: Alone) -> Result<Permit, Denied> {
        match memory::admit(&ledgers, tokens, self.house.clock, alone) {
            Ok(taken) => {
                let grant = self.house.shared.as_ref().map(|shared| shared.grant_alone(&ledgers));
                let (house, at_ms, standing) = (self.house.clone(), taken.at_ms, taken.standing);
                Ok(Permit { house, ledgers, at_ms, reserved: tokens, used: 0, standing, grant })
            }
            Err(refusal) => Err(denied(&ledgers, refusal, alone != Alone::Always)),
        }
    }

    /// A permit that was decided elsewhere; this process counts it too, for the day it has to decide alone.
    fn permit(&self, ledgers: Vec<Arc<Ledger>>, tokens: u64, standing: Standing, grant: Option<Grant>) -> Permit {
        let owed = match (&self.house.shared, &grant) {
            (Some(shared), Some(grant)) => !shared.knows(grant),
            _ => false,
        };
        let at_ms = memory::record(&ledgers, tokens, self.house.clock, owed);
        Permit { house: self.house.clone(), ledgers, at_ms, reserved: tokens, used: 0, standing, grant }
    }
}

fn denied(ledgers: &[Arc<Ledger>], refusal: Refusal, degraded: bool) -> Denied {
    let ledger = ledgers.get(refusal.index);
    Denied {
        scope: ledger.map_or(Scope::Gateway, |ledger| ledger.rule.scope),
        limit: ledger.map_or(refusal.limit, |ledger| ledger.rule.limit(refusal.limit)),
        rule: ledger.map_or_else(|| "".into(), |ledger| ledger.name.clone()),
        reason: Reason::Exhausted,
        retry_after: Some(refusal.wait),
        standing: refusal.standing,
        degraded,
    }
}

fn is_by_one_of(denied: &Denied, ledgers: &[Arc<Ledger>]) -> bool {
    ledgers.iter().any(|ledger| ledger.rule.scope == denied.scope && ledger.name == denied.rule)
}

/// The rule, and its figure, by which no passing of time can let this call in.
fn never_fits(ledgers: &[Arc<Ledger>], tokens: u64) -> Option<(usize, Limit)> {
    ledgers.iter().enumerate().find_map(|(index, ledger)| {
        let rule = &ledger.rule;
        if rule.tokens.is_some_and(|limit| tokens > limit) {
            Some((index, Limit::Tokens))
        } else if rule.requests == Some(0) {
            Some((index, Limit::Requests))
        } else if rule.max_concurrent == Some(0) {
            Some((index, Limit::Concurrency))
        } else {
            None
        }
    })
}

/// The right to run one call. Dropping it gives the place among concurrent calls back at once, returns the tokens that were
/// reserved and not used, and charges those used beyond the reservation. The call itself stays counted.
#[must_use = "a permit that is dropped has given everything back"]
#[derive(Debug)]
pub struct Permit {
    house: Arc<House>,
    ledgers: Vec<Arc<Ledger>>,
    at_ms: u64,
    reserved: u64,
    used: u64,
    standing: Standing,
    grant: Option<Grant>,
}

impl Permit {
    /// Says how many tokens the call used in the end; the last word counts. Never said, it used none.
    /// Booked when the permit is dropped.
    pub const fn settle(&mut self, used: u64) {
        self.used = used;
    }

    /// The room that was left in the tightest rules once this call was in.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// Two of one: the second with what was taken from these.
    fn split(mut self, apart: &[Arc<Ledger>]) -> (Self, Self) {
        let is_apart = |ledger: &Arc<Ledger>| apart.iter().any(|other| Arc::ptr_eq(ledger, other));
        let (apart, own) = std::mem::take(&mut self.ledgers).into_iter().partition(is_apart);
        self.ledgers = own;
        let Self { at_ms, reserved, used, standing, grant, .. } = self;
        let apart = Self { house: self.house.clone(), ledgers: apart, at_ms, reserved, used, standing, grant };
        (self, apart)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let shared = self.house.shared.as_ref().zip(self.grant);
        let owed = shared.is_some_and(|(shared, grant)| !shared.knows(&grant));
        let back = Return { at_ms: self.at_ms, reserved: self.reserved, used: self.used, owed };
        memory::give_back(&self.ledgers, back, self.house.clock);
        if let Some((shared, grant)) = shared {
            shared.release(std::mem::take(&mut self.ledgers), grant, self.reserved, self.used);
        }
    }
}
