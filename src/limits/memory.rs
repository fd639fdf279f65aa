//! What this process counts for itself: one ledger per rule, taken from all at once or from none.
//! It must not know Redis, nor why a limit is shared out; it is told by how many replicas to divide.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Standing, Window};
use super::ledger::Ledger;
use super::redis::Keys;
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

/// The count behind all ledgers of the same scope and name. Ordered by `id`: whoever locks several, locks them in this order.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) id: u64,
    /// Its keys in Redis; unused when this process counts for itself.
    pub(super) keys: Keys,
    count: Mutex<Count>,
}

/// What this process admitted in the last minute.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) requests: Slots,
    pub(super) tokens: Slots,
    pub(super) in_flight: u64,
    elsewhere: Option<Elsewhere>,
    /// Calls, and their tokens, that the shared count was asked about and has not answered: they may turn out to have passed.
    asked: (u64, u64),
    /// What passed here while the shared count was away, and is still to be told it.
    owed: Passed,
}

/// Calls and tokens by slot.
#[derive(Debug, Default)]
struct Passed {
    requests: Slots,
    tokens: Slots,
}

/// Calls and tokens of one slot, as they are told to the shared count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) slot: u64,
    pub(super) requests: u64,
    pub(super) tokens: u64,
}

/// What other replicas had admitted when the shared count was last seen. While the shared count is away, this much of
/// the limit is known to be gone for up to a minute.
#[derive(Debug, Clone, Copy)]
struct Elsewhere {
    requests: u64,
    tokens: u64,
    seen_ms: u64,
}

/// For whom this process decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alone {
    /// It is the only one.
    Always,
    /// The shared count is away: it has its share of the limit, and owes the shared count what it lets pass.
    Among(u64),
}

impl Alone {
    const fn replicas(self) -> u64 {
        match self {
            Self::Always => 1,
            Self::Among(replicas) => replicas,
        }
    }
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
    /// Whether the shared count does not know this call.
    pub(super) owed: bool,
}

impl Cell {
    pub(super) fn new(id: u64, keys: Keys) -> Self {
        Self { id, keys, count: Mutex::default() }
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
pub(super) fn admit(ledgers: &[Arc<Ledger>], tokens: u64, clock: Clock, alone: Alone) -> Result<Taken, Refusal> {
    let replicas = alone.replicas();
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
            count.take(&ledger.rule, tokens, slot_of(now_ms), alone != Alone::Always);
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

/// A call that the shared count is asked about, for as long as this lives. Whoever has to decide alone meanwhile leaves it room:
/// else both might let the same last call pass.
pub(super) struct Asked<'a> {
    ledgers: &'a [Arc<Ledger>],
    tokens: u64,
}

impl<'a> Asked<'a> {
    pub(super) fn about(ledgers: &'a [Arc<Ledger>], tokens: u64) -> Self {
        for ledger in ledgers {
            let mut count = ledger.cell.lock();
            count.asked = (count.asked.0 + 1, count.asked.1.saturating_add(tokens));
        }
        Self { ledgers, tokens }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        for ledger in self.ledgers {
            let mut count = ledger.cell.lock();
            count.asked = (count.asked.0.saturating_sub(1), count.asked.1.saturating_sub(self.tokens));
        }
    }
}

/// Counts a call that somebody else admitted, and says in which slot. With `owed`, the shared count is to be told of it.
pub(super) fn record(ledgers: &[Arc<Ledger>], tokens: u64, clock: Clock, owed: bool) -> u64 {
    let now = slot_of(clock.now_ms());
    for ledger in ledgers {
        ledger.cell.lock().take(&ledger.rule, tokens, now, owed);
    }
    now
}

/// The room left in the tightest ledgers, by what this process knows of itself and of others.
pub(super) fn standing(ledgers: &[Arc<Ledger>], clock: Clock) -> Standing {
    let (now_ms, mut standing) = (clock.now_ms(), Standing::default());
    for ledger in ledgers {
        ledger.cell.lock().narrow(&mut standing, &ledger.rule, now_ms, 1);
    }
    standing
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
        let (caps, asked) = (self.caps(rule, now_ms, replicas), self.asked);
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
            let wanted = self.requests.sum(now).saturating_add(asked.0).saturating_add(1);
            if wanted > cap {
                refuse(Limit::Requests, until(&self.requests, wanted - cap));
            }
        }
        if let Some(cap) = caps.tokens {
            let wanted = self.tokens.sum(now).saturating_add(asked.1).saturating_add(tokens);
            if wanted > cap {
                refuse(Limit::Tokens, until(&self.tokens, wanted - cap));
            }
        }
        if caps.concurrent.is_some_and(|cap| self.in_flight + asked.0 >= cap) {
            refuse(Limit::Concurrency, CONCURRENCY_RETRY);
        }
        longest
    }

    /// This process's part of the limits: its share, and never more than what others are known to have left.
    fn caps(&self, rule: &Rule, now_ms: u64, replicas: u64) -> Caps {
        let gone = self.elsewhere.filter(|seen| now_ms < seen.seen_ms + SPAN_MS);
        let part = |limit: u64, gone: u64| share(limit, replicas).min(limit.saturating_sub(gone));
        Caps {
            requests: rule.requests_per_minute.map(|limit| part(limit, gone.map_or(0, |seen| seen.requests))),
            tokens: rule.tokens_per_minute.map(|limit| part(limit, gone.map_or(0, |seen| seen.tokens))),
            concurrent: rule.max_concurrent.map(|limit| share(limit, replicas)),
        }
    }

    /// Counts one admitted call.
    fn take(&mut self, rule: &Rule, tokens: u64, now: u64, owed: bool) {
        if rule.requests_per_minute.is_some() {
            self.requests.add(now, 1);
            self.owed.requests.add(now, u64::from(owed));
        }
        if rule.tokens_per_minute.is_some() {
            self.tokens.add(now, tokens);
            self.owed.tokens.add(now, if owed { tokens } else { 0 });
        }
        self.in_flight += 1;
    }

    fn give_back(&mut self, rule: &Rule, back: Return, now: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if rule.tokens_per_minute.is_none() {
            return;
        }
        if back.used <= back.reserved {
            let unused = back.reserved - back.used;
            self.tokens.take_back(back.slot, unused, now);
            self.owed.tokens.take_back(back.slot, if back.owed { unused } else { 0 }, now);
        } else {
            let beyond = back.used - back.reserved;
            self.tokens.add(now, beyond);
            self.owed.tokens.add(now, if back.owed { beyond } else { 0 });
        }
    }

    /// Takes note of what the shared count says has passed in all.
    pub(super) fn learn(&mut self, requests: u64, tokens: u64, now_ms: u64) {
        let now = slot_of(now_ms);
        self.elsewhere = Some(Elsewhere {
            requests: requests.saturating_sub(self.requests.sum(now)),
            tokens: tokens.saturating_sub(self.tokens.sum(now)),
            seen_ms: now_ms,
        });
    }

    /// What is to be told to the shared count: what it was not told yet, or all if it lost everything. It counts as told.
    pub(super) fn tell(&mut self, everything: bool, now: u64) -> Vec<Told> {
        let owed = std::mem::take(&mut self.owed);
        let (mut requests, mut tokens) = (owed.requests, owed.tokens);
        let (requests, tokens) = if everything { (&mut self.requests, &mut self.tokens) } else { (&mut requests, &mut tokens) };
        requests.sum(now);
        tokens.sum(now);
        let told = requests.iter().map(|(slot, requests)| Told { slot, requests, tokens: 0 });
        let spent = tokens.iter().map(|(slot, tokens)| Told { slot, requests: 0, tokens });
        told.chain(spent).filter(|told| told.requests + told.tokens > 0).collect()
    }

    /// Owes again what could not be told. A slot more than once told is too much, never too little.
    pub(super) fn owe(&mut self, told: &[Told]) {
        for told in told {
            self.owed.requests.add(told.slot, told.requests);
            self.owed.tokens.add(told.slot, told.tokens);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Limits, Scope};

    /// A question on its way to Redis may turn out to have passed; whoever decides alone meanwhile leaves it room.
    #[test]
    fn room_that_somebody_is_asked_for_is_not_given_away() {
        let rule = Rule {
            scope: Scope::Key,
            name: "asked".to_owned(),
            requests_per_minute: Some(10),
            tokens_per_minute: Some(100),
            max_concurrent: Some(10),
        };
        let ledgers = [Limits::memory().ledger(rule)];
        let clock = Clock::start();
        let alone = |tokens| admit(&ledgers, tokens, clock, Alone::Among(1)).map(|_| ()).map_err(|refusal| refusal.limit);
        let asked: Vec<_> = (0..9).map(|_| Asked::about(&ledgers, 10)).collect();
        assert_eq!(alone(11), Err(Limit::Tokens));
        assert_eq!(alone(10), Ok(()));
        assert!(alone(0).is_err(), "nine are asked about, one passed");
        drop(asked);
        assert_eq!(alone(90), Ok(()));
    }
}
