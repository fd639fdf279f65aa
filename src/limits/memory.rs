//! What this process counts for itself: one ledger per rule, taken from all at once or from none.
//! It must not know Redis, nor why a limit is shared out; it is told by how many replicas to divide.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Standing, Window};
use super::ledger::Ledger;
use super::redis::Keys;
use super::rule::{Limit, Rule, Span};
use super::slots::{Grid, Slots};
use super::turn::Line;

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
    pub(super) span: Span,
    /// Who waits for a place.
    pub(super) line: Line,
    count: Mutex<Count>,
}

/// What this process admitted within the span.
#[derive(Debug)]
pub(super) struct Count {
    grid: Grid,
    passed: Passed,
    pub(super) in_flight: u64,
    elsewhere: Option<Elsewhere>,
    asked: Questions,
    /// What passed here while the shared count was away, and is still to be told it.
    owed: Passed,
}

/// Calls and tokens by slot.
#[derive(Debug)]
struct Passed {
    requests: Slots,
    tokens: Slots,
}

impl Passed {
    const fn over(grid: Grid) -> Self {
        Self { requests: Slots::over(grid), tokens: Slots::over(grid) }
    }
}

/// What the shared count was asked about.
#[derive(Debug)]
struct Questions {
    /// Calls, and their tokens, that it has not answered: they may turn out to have passed.
    open: (u64, u64),
    /// All of the last half second at least: what the other replicas ask meanwhile is likely to be as much.
    lately: Passed,
}

/// See [`Questions::lately`].
const LATELY: Grid = Grid { slot_ms: 500, reach: 1 };

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
    /// The shared count is away for all of so many: it has its share of the limit, and owes the shared count what it lets pass.
    Among(u64),
    /// The shared count goes on, with so many replicas, but did not answer this call in time: the call passes only where there
    /// was room for all that may have been asked since. It is owed as well.
    Unsure(u64),
}

impl Alone {
    /// By how many a limit is divided.
    const fn sharers(self) -> u64 {
        match self {
            Self::Always | Self::Unsure(_) => 1,
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
    pub(super) at_ms: u64,
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
    /// When the call was admitted.
    pub(super) at_ms: u64,
    /// The tokens it reserved.
    pub(super) reserved: u64,
    /// The tokens it used.
    pub(super) used: u64,
    /// Whether the shared count does not know this call.
    pub(super) owed: bool,
}

impl Cell {
    pub(super) fn new(id: u64, keys: Keys, span: Span) -> Self {
        Self { id, keys, span, line: Line::default(), count: Mutex::new(Count::over(span.grid())) }
    }

    /// The count is plain numbers, each change of it complete in itself: a panic elsewhere leaves nothing half done.
    pub(super) fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ledgers of one call, each cell once, in the order in which they are locked.
pub(super) fn in_order(mut ledgers: Vec<Arc<Ledger>>) -> Vec<Arc<Ledger>> {
    ledgers.sort_unstable_by_key(|ledger| ledger.cell.id);
    ledgers.dedup_by_key(|ledger| ledger.cell.id);
    ledgers
}

/// Takes one call and its tokens from all ledgers, or nothing from any. `ledgers` must come from [`in_order`].
pub(super) fn admit(ledgers: &[Arc<Ledger>], tokens: u64, clock: Clock, alone: Alone) -> Result<Taken, Refusal> {
    let mut held: Vec<MutexGuard<'_, Count>> = ledgers.iter().map(|ledger| ledger.cell.lock()).collect();
    // Read under the locks, so that no ledger sees time run backwards.
    let now_ms = clock.now_ms();
    let mut refused: Option<(usize, Limit, Duration)> = None;
    for (index, (count, ledger)) in held.iter_mut().zip(ledgers).enumerate() {
        if let Some((limit, wait)) = count.refuses(&ledger.rule, tokens, now_ms, alone)
            && refused.is_none_or(|(_, _, longest)| wait > longest)
        {
            refused = Some((index, limit, wait));
        }
    }
    if refused.is_none() {
        for (count, ledger) in held.iter_mut().zip(ledgers) {
            count.take(&ledger.rule, tokens, now_ms, alone != Alone::Always);
        }
    }
    let mut standing = Standing::default();
    for (count, ledger) in held.iter_mut().zip(ledgers) {
        count.narrow(&mut standing, &ledger.rule, now_ms, alone.sharers());
    }
    match refused {
        None => Ok(Taken { at_ms: now_ms, standing }),
        Some((index, limit, wait)) => Err(Refusal { index, limit, wait, standing }),
    }
}

/// A call that the shared count is asked about, for as long as this lives. Whoever has to decide alone meanwhile leaves it room:
/// else both might let the same last call pass.
pub(super) struct Asked {
    ledgers: Vec<Arc<Ledger>>,
    tokens: u64,
}

impl Asked {
    pub(super) fn about(ledgers: &[Arc<Ledger>], tokens: u64, clock: Clock) -> Self {
        for ledger in ledgers {
            ledger.cell.lock().asked.open(tokens, clock.now_ms());
        }
        Self { ledgers: ledgers.to_vec(), tokens }
    }

    /// The rules it is about.
    pub(super) fn ledgers(&self) -> &[Arc<Ledger>] {
        &self.ledgers
    }

    /// The tokens it is about.
    pub(super) const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The shared count let it pass: it is counted here as well, and no question any more. Gives its ledgers, and when.
    pub(super) fn passed(mut self, clock: Clock, owed: bool) -> (Vec<Arc<Ledger>>, u64) {
        let (ledgers, now_ms) = (std::mem::take(&mut self.ledgers), clock.now_ms());
        for ledger in &ledgers {
            let mut count = ledger.cell.lock();
            count.asked.close(self.tokens);
            count.take(&ledger.rule, self.tokens, now_ms, owed);
        }
        (ledgers, now_ms)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        for ledger in &self.ledgers {
            ledger.cell.lock().asked.close(self.tokens);
        }
    }
}

impl Questions {
    const fn none() -> Self {
        Self { open: (0, 0), lately: Passed::over(LATELY) }
    }

    fn open(&mut self, tokens: u64, now_ms: u64) {
        self.open = (self.open.0 + 1, self.open.1.saturating_add(tokens));
        self.lately.requests.add(LATELY.slot_of(now_ms), 1);
        self.lately.tokens.add(LATELY.slot_of(now_ms), tokens);
    }

    fn close(&mut self, tokens: u64) {
        self.open = (self.open.0.saturating_sub(1), self.open.1.saturating_sub(tokens));
    }

    /// Calls and tokens for which room is left: our questions that are open and, where the shared count goes on, as much
    /// for each other replica as we asked lately.
    fn room(&mut self, now_ms: u64, alone: Alone) -> (u64, u64) {
        let Alone::Unsure(replicas) = alone else { return self.open };
        let (now, others) = (LATELY.slot_of(now_ms), replicas.saturating_sub(1));
        let lately = (self.lately.requests.sum(now), self.lately.tokens.sum(now));
        (self.open.0.saturating_add(lately.0.saturating_mul(others)), self.open.1.saturating_add(lately.1.saturating_mul(others)))
    }
}

/// Counts a call that somebody else admitted, and says when. With `owed`, the shared count is to be told of it.
pub(super) fn record(ledgers: &[Arc<Ledger>], tokens: u64, clock: Clock, owed: bool) -> u64 {
    let now_ms = clock.now_ms();
    for ledger in ledgers {
        ledger.cell.lock().take(&ledger.rule, tokens, now_ms, owed);
    }
    now_ms
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
    let now_ms = clock.now_ms();
    for ledger in ledgers {
        ledger.cell.lock().give_back(&ledger.rule, back, now_ms);
    }
}

impl Count {
    const fn over(grid: Grid) -> Self {
        Self {
            grid,
            passed: Passed::over(grid),
            in_flight: 0,
            elsewhere: None,
            asked: Questions::none(),
            owed: Passed::over(grid),
        }
    }

    /// Whether, by which figure, and for how long this rule refuses the call.
    fn refuses(&mut self, rule: &Rule, tokens: u64, now_ms: u64, alone: Alone) -> Option<(Limit, Duration)> {
        let now = self.grid.slot_of(now_ms);
        let (caps, room) = (self.caps(rule, now_ms, alone.sharers()), self.asked.room(now_ms, alone));
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
            let wanted = self.passed.requests.sum(now).saturating_add(room.0).saturating_add(1);
            if wanted > cap {
                refuse(Limit::Requests, until(&self.passed.requests, wanted - cap));
            }
        }
        if let Some(cap) = caps.tokens {
            let wanted = self.passed.tokens.sum(now).saturating_add(room.1).saturating_add(tokens);
            if wanted > cap {
                refuse(Limit::Tokens, until(&self.passed.tokens, wanted - cap));
            }
        }
        if caps.concurrent.is_some_and(|cap| self.in_flight + self.asked.open.0 >= cap) {
            refuse(Limit::Concurrency, CONCURRENCY_RETRY);
        }
        longest
    }

    /// This process's part of the limits: its share, and never more than what others are known to have left.
    fn caps(&self, rule: &Rule, now_ms: u64, sharers: u64) -> Caps {
        let gone = self.elsewhere.filter(|seen| now_ms < seen.seen_ms + self.grid.span_ms());
        let part = |limit: u64, gone: u64| share(limit, sharers).min(limit.saturating_sub(gone));
        Caps {
            requests: rule.requests.map(|limit| part(limit, gone.map_or(0, |seen| seen.requests))),
            tokens: rule.tokens.map(|limit| part(limit, gone.map_or(0, |seen| seen.tokens))),
            concurrent: rule.max_concurrent.map(|limit| share(limit, sharers)),
        }
    }

    /// Counts one admitted call.
    fn take(&mut self, rule: &Rule, tokens: u64, now_ms: u64, owed: bool) {
        let now = self.grid.slot_of(now_ms);
        if rule.requests.is_some() {
            self.passed.requests.add(now, 1);
            self.owed.requests.add(now, u64::from(owed));
        }
        if rule.tokens.is_some() {
            self.passed.tokens.add(now, tokens);
            self.owed.tokens.add(now, if owed { tokens } else { 0 });
        }
        self.in_flight += 1;
    }

    fn give_back(&mut self, rule: &Rule, back: Return, now_ms: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if rule.tokens.is_none() {
            return;
        }
        let (now, slot) = (self.grid.slot_of(now_ms), self.grid.slot_of(back.at_ms));
        if back.used <= back.reserved {
            let unused = back.reserved - back.used;
            self.passed.tokens.take_back(slot, unused, now);
            self.owed.tokens.take_back(slot, if back.owed { unused } else { 0 }, now);
        } else {
            let beyond = back.used - back.reserved;
            self.passed.tokens.add(now, beyond);
            self.owed.tokens.add(now, if back.owed { beyond } else { 0 });
        }
    }

    /// Takes note of what the shared count says has passed in all.
    pub(super) fn learn(&mut self, requests: u64, tokens: u64, now_ms: u64) {
        let now = self.grid.slot_of(now_ms);
        // What it knows of ours is what it was told.
        let told = |passed: &mut Slots, owed: &mut Slots| passed.sum(now).saturating_sub(owed.sum(now));
        self.elsewhere = Some(Elsewhere {
            requests: requests.saturating_sub(told(&mut self.passed.requests, &mut self.owed.requests)),
            tokens: tokens.saturating_sub(told(&mut self.passed.tokens, &mut self.owed.tokens)),
            seen_ms: now_ms,
        });
    }

    /// What is to be told to the shared count: what it was not told yet, or all if it lost everything. It counts as told.
    pub(super) fn tell(&mut self, everything: bool, now_ms: u64) -> Vec<Told> {
        let now = self.grid.slot_of(now_ms);
        let mut owed = std::mem::replace(&mut self.owed, Passed::over(self.grid));
        let untold = if everything { &mut self.passed } else { &mut owed };
        untold.requests.sum(now);
        untold.tokens.sum(now);
        let told = untold.requests.iter().map(|(slot, requests)| Told { slot, requests, tokens: 0 });
        let spent = untold.tokens.iter().map(|(slot, tokens)| Told { slot, requests: 0, tokens });
        told.chain(spent).filter(|told| told.requests + told.tokens > 0).collect()
    }

    /// Owes again what could not be told. A slot more than once told is too much, never too little.
    pub(super) fn owe(&mut self, told: &[Told]) {
        for told in told {
            self.owed.requests.add(told.slot, told.requests);
            self.owed.tokens.add(told.slot, told.tokens);
        }
    }

    fn narrow(&mut self, standing: &mut Standing, rule: &Rule, now_ms: u64, sharers: u64) {
        if !rule.is_told() {
            return;
        }
        let now = self.grid.slot_of(now_ms);
        let caps = self.caps(rule, now_ms, sharers);
        let window = |slots: &mut Slots, limit: u64, cap: u64| Window {
            limit,
            remaining: cap.saturating_sub(slots.sum(now)),
            reset: Duration::from_millis(slots.empty_at().map_or(0, |at| at.saturating_sub(now_ms))),
        };
        if let (Some(limit), Some(cap)) = (rule.requests, caps.requests) {
            Standing::narrow(&mut standing.requests, window(&mut self.passed.requests, limit, cap));
        }
        if let (Some(limit), Some(cap)) = (rule.tokens, caps.tokens) {
            Standing::narrow(&mut standing.tokens, window(&mut self.passed.tokens, limit, cap));
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

    fn ledger() -> [Arc<Ledger>; 1] {
        let (requests, tokens, max_concurrent) = (Some(10), Some(100), Some(10));
        let rule = Rule { scope: Scope::Key, name: "asked".to_owned(), span: Span::Minute, requests, tokens, max_concurrent };
        [Limits::memory().ledger(rule)]
    }

    /// A question on its way to Redis may turn out to have passed; whoever decides alone meanwhile leaves it room.
    #[test]
    fn room_that_somebody_is_asked_for_is_not_given_away() {
        let (ledgers, clock) = (ledger(), Clock::start());
        let alone = |tokens| admit(&ledgers, tokens, clock, Alone::Among(1)).map(|_| ()).map_err(|refusal| refusal.limit);
        let asked: Vec<_> = (0..9).map(|_| Asked::about(&ledgers, 10, clock)).collect();
        assert_eq!(alone(11), Err(Limit::Tokens));
        assert_eq!(alone(10), Ok(()));
        assert!(alone(0).is_err(), "nine are asked about, one passed");
        drop(asked);
        assert_eq!(alone(90), Ok(()));
    }

    /// Where others may have asked as much as we did, a call that got no answer passes only if there was room for all of it.
    #[test]
    fn an_unsure_call_passes_where_there_was_room_for_all_replicas() {
        let (ledgers, clock) = (ledger(), Clock::start());
        let unsure = |replicas| admit(&ledgers, 1, clock, Alone::Unsure(replicas)).is_ok();
        let asked: Vec<_> = (0..3).map(|_| Asked::about(&ledgers, 1, clock)).collect();
        assert!(unsure(3), "three open, three each elsewhere, this one: 10");
        assert!(!unsure(3), "and one passed: 11");
        drop(asked);
        assert!(unsure(2), "none is open any more, but others may have asked: 5");
        ledgers[0].cell.lock().learn(7, 0, clock.now_ms());
        assert!(!unsure(2), "others are known to have taken all of the rest but one");
    }
}
