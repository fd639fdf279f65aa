//! What this process counts for itself: one ledger per rule, taken from all at once or from none.
//! It must not know Redis, nor why a limit is shared out; it is told by how many replicas to divide.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Standing, Window};
use super::rule::{Limit, Rule};
use super::slots::{SPAN_MS, Slots, slot_of};

/// When to ask again for a place among concurrent calls: nobody knows when one of them ends.
pub(super) const CONCURRENCY_RETRY: Duration = Duration::from_secs(1);

/// Milliseconds since the limits were built. `tokio`'s clock, so that tests can pause and turn it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now_ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A rule with the place where it is counted, resolved once when the configuration is read, so that a call hashes nothing.
/// Get it from [`Limits::ledger`](super::Limits::ledger).
#[derive(Debug)]
pub struct Ledger {
    pub(super) rule: Rule,
    pub(super) name: Arc<str>,
    pub(super) cell: Arc<Cell>,
}

impl Ledger {
    /// The rule that is counted here.
    #[must_use]
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// How many admitted calls of this process run under this rule now.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.cell.lock().in_flight
    }
}

/// The count behind all ledgers of the same scope and name. Ordered by `id`: whoever locks several, locks them in this order.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) id: u64,
    count: Mutex<Count>,
}

/// What this process admitted in the last minute.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) requests: Slots,
    pub(super) tokens: Slots,
    pub(super) in_flight: u64,
    elsewhere: Option<Elsewhere>,
}

/// What other replicas had admitted when the shared count was last seen. While the shared count is away, this much of
/// the limit is known to be gone for up to a minute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elsewhere {
    pub(super) requests: u64,
    pub(super) tokens: u64,
    pub(super) seen_ms: u64,
}

/// A rule's figures as they bind this process now.
struct Caps {
    requests: Option<u64>,
    tokens: Option<u64>,
    concurrent: Option<u64>,
}

/// What an admission took: when, and what is left.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) slot: u64,
    pub(super) standing: Standing,
}

/// Which rule refused (by its place among the rules asked), which of its figures, and for how long.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) index: usize,
    pub(super) limit: Limit,
    pub(super) wait: Duration,
    pub(super) standing: Standing,
}

/// What goes back to a ledger when a call ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Return {
    /// The slot in which the call was admitted.
    pub(super) slot: u64,
    /// The tokens it reserved.
    pub(super) reserved: u64,
    /// The tokens it used.
    pub(super) used: u64,
}

impl Cell {
    pub(super) fn new(id: u64) -> Self {
        Self { id, count: Mutex::default() }
    }

    /// The count is plain numbers, each change of it complete in itself: a panic elsewhere leaves nothing half done.
    pub(super) fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ledgers of one call, each cell once, in the order in which they are locked.
pub(super) fn in_order(ledgers: &[Arc<Ledger>]) -> Vec<Arc<Ledger>> {
    let mut ordered = ledgers.to_vec();
    ordered.sort_unstable_by_key(|ledger| ledger.cell.id);
    ordered.dedup_by_key(|ledger| ledger.cell.id);
    ordered
}

/// Takes one call and its tokens from all ledgers, or nothing from any. `ledgers` must come from [`in_order`].
/// Each limit is divided by `replicas`, one at least.
pub(super) fn admit(ledgers: &[Arc<Ledger>], tokens: u64, clock: Clock, replicas: u64) -> Result<Taken, Refusal> {
    let mut held: Vec<MutexGuard<'_, Count>> = ledgers.iter().map(|ledger| ledger.cell.lock()).collect();
    // Read under the locks, so that no ledger sees time run backwards.
    let now_ms = clock.now_ms();
    let mut refused: Option<(usize, Limit, Duration)> = None;
    for (index, (count, ledger)) in held.iter_mut().zip(ledgers).enumerate() {
        if let Some((limit, wait)) = count.refuses(&ledger.rule, tokens, now_ms, replicas)
            && refused.is_none_or(|(_, _, longest)| wait > longest)
        {
            refused = Some((index, limit, wait));
        }
    }
    if refused.is_none() {
        for (count, ledger) in held.iter_mut().zip(ledgers) {
            count.take(&ledger.rule, tokens, slot_of(now_ms));
        }
    }
    let mut standing = Standing::default();
    for (count, ledger) in held.iter_mut().zip(ledgers) {
        count.narrow(&mut standing, &ledger.rule, now_ms, replicas);
    }
    match refused {
        None => Ok(Taken { slot: slot_of(now_ms), standing }),
        Some((index, limit, wait)) => Err(Refusal { index, limit, wait, standing }),
    }
}

/// Gives the place of a call back to every ledger, and the tokens it did not use; charges the tokens it used beyond.
pub(super) fn give_back(ledgers: &[Arc<Ledger>], back: Return, clock: Clock) {
    let now = slot_of(clock.now_ms());
    for ledger in ledgers {
        ledger.cell.lock().give_back(&ledger.rule, back, now);
    }
}

impl Count {
    /// Whether, by which figure, and for how long this rule refuses the call.
    fn refuses(&mut self, rule: &Rule, tokens: u64, now_ms: u64, replicas: u64) -> Option<(Limit, Duration)> {
        let now = slot_of(now_ms);
        let caps = self.caps(rule, now_ms, replicas);
        let until = |slots: &Slots, excess: u64| {
            slots.freed_at(excess).map_or(CONCURRENCY_RETRY, |at| Duration::from_millis(at.saturating_sub(now_ms)))
        };
        let mut longest: Option<(Limit, Duration)> = None;
        let mut refuse = |limit: Limit, wait: Duration| {
            if longest.is_none_or(|(_, known)| wait > known) {
                longest = Some((limit, wait));
            }
        };
        if let Some(cap) = caps.requests {
            let wanted = self.requests.sum(now).saturating_add(1);
            if wanted > cap {
                refuse(Limit::Requests, until(&self.requests, wanted - cap));
            }
        }
        if let Some(cap) = caps.tokens {
            let wanted = self.tokens.sum(now).saturating_add(tokens);
            if wanted > cap {
                refuse(Limit::Tokens, until(&self.tokens, wanted - cap));
            }
        }
        if caps.concurrent.is_some_and(|cap| self.in_flight >= cap) {
            refuse(Limit::Concurrency, CONCURRENCY_RETRY);
        }
        longest
    }

    /// This process's part of the limits: its share, and never more than what others are known to have left.
    fn caps(&self, rule: &Rule, now_ms: u64, replicas: u64) -> Caps {
        let gone = self.elsewhere.filter(|seen| replicas > 1 && now_ms < seen.seen_ms + SPAN_MS);
        let part = |limit: u64, gone: u64| share(limit, replicas).min(limit.saturating_sub(gone));
        Caps {
            requests: rule.requests_per_minute.map(|limit| part(limit, gone.map_or(0, |seen| seen.requests))),
            tokens: rule.tokens_per_minute.map(|limit| part(limit, gone.map_or(0, |seen| seen.tokens))),
            concurrent: rule.max_concurrent.map(|limit| share(limit, replicas)),
        }
    }

    /// Counts one admitted call.
    pub(super) fn take(&mut self, rule: &Rule, tokens: u64, now: u64) {
        if rule.requests_per_minute.is_some() {
            self.requests.add(now, 1);
        }
        if rule.tokens_per_minute.is_some() {
            self.tokens.add(now, tokens);
        }
        self.in_flight += 1;
    }

    fn give_back(&mut self, rule: &Rule, back: Return, now: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if rule.tokens_per_minute.is_none() {
            return;
        }
        if back.used <= back.reserved {
            self.tokens.take_back(back.slot, back.reserved - back.used, now);
        } else {
            self.tokens.add(now, back.used - back.reserved);
        }
    }

    fn narrow(&mut self, standing: &mut Standing, rule: &Rule, now_ms: u64, replicas: u64) {
        let now = slot_of(now_ms);
        let caps = self.caps(rule, now_ms, replicas);
        let window = |slots: &mut Slots, limit: u64, cap: u64| Window {
            limit,
            remaining: cap.saturating_sub(slots.sum(now)),
            reset: Duration::from_millis(slots.empty_at().map_or(0, |at| at.saturating_sub(now_ms))),
        };
        if let (Some(limit), Some(cap)) = (rule.requests_per_minute, caps.requests) {
            Standing::narrow(&mut standing.requests, window(&mut self.requests, limit, cap));
        }
        if let (Some(limit), Some(cap)) = (rule.tokens_per_minute, caps.tokens) {
            Standing::narrow(&mut standing.tokens, window(&mut self.tokens, limit, cap));
        }
    }
}

/// A replica's share of a limit. One at least: a limit smaller than the number of replicas must not shut the door.
fn share(limit: u64, replicas: u64) -> u64 {
    if replicas <= 1 { limit } else { (limit / replicas).max(limit.min(1)) }
}
