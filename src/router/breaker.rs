//! The circuit breaker of one target, and its record: closed while it is well, open after several failures in
//! a row, half-open for one call that finds out whether it is well again. Beside that it remembers how large a
//! share of the calls failed lately.
//! It must not know what a failure is; it is told. Time is handed in.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config;

/// How much one call counts in the share of calls that failed.
const WEIGHT: f64 = 0.1;
/// A target of which more than this share failed lately counts as failing: three in a row, or a quarter of all.
const FAILING: f64 = 0.2;

/// What a breaker does with the next call. The numbers are those of the gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It passes.
    Closed = 0,
    /// One call passes and decides.
    HalfOpen = 1,
    /// None passes.
    Open = 2,
}

/// Why a target is left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Why {
    /// It is not well.
    #[default]
    Unwell,
    /// It is well, and asked for a pause because calls came too fast.
    TooFast,
}

/// Leave for one call. What came of the call is told together with it, so that an answer to a call from before
/// the breaker opened does not close it.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// The number of the probe that this call is, if it is one.
    probe: Option<u64>,
}

/// A circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    rule: config::Breaker,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    failures: VecDeque<Instant>,
    open_until: Option<Instant>,
    why: Why,
    /// The probe that is running.
    probe: Option<u64>,
    probes: u64,
    /// The share of calls that failed lately, the latest counting most.
    failing: f64,
    last_failure: Option<Instant>,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(rule: config::Breaker) -> Self {
        Self { rule, inner: Mutex::default() }
    }

    /// Lets a call pass, if one may pass now; a half-open breaker lets one.
    #[must_use]
    pub fn admit(&self, now: Instant) -> Option<Pass> {
        let mut inner = self.lock();
        match inner.open_until {
            None => Some(Pass { probe: None }),
            Some(until) if now < until || inner.probe.is_some() => None,
            Some(_) => {
                inner.probes += 1;
                inner.probe = Some(inner.probes);
                Some(Pass { probe: inner.probe })
            }
        }
    }

    /// What it does now.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        match self.lock().open_until {
            None => State::Closed,
            Some(until) if now < until => State::Open,
            Some(_) => State::HalfOpen,
        }
    }

    /// How long it stays open, and why.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Option<(Duration, Why)> {
        let inner = self.lock();
        inner.open_until.map(|until| (until.saturating_duration_since(now), inner.why))
    }

    /// Whether so many calls failed lately that further tries must be counted.
    #[must_use]
    pub fn is_failing(&self, now: Instant) -> bool {
        let inner = self.lock();
        let is_recent = |at: Instant| now.saturating_duration_since(at) <= self.rule.window;
        inner.failing > FAILING && inner.last_failure.is_some_and(is_recent)
    }

    /// A call went well.
    pub fn succeeded(&self, pass: Pass) {
        let mut inner = self.lock();
        inner.failing -= WEIGHT * inner.failing;
        if inner.open_until.is_none() {
            inner.failures.clear();
        } else if inner.is_probe(pass) {
            (inner.open_until, inner.probe) = (None, None);
        }
    }

    /// A call ended without telling anything about the target.
    pub fn learned_nothing(&self, pass: Pass) {
        let mut inner = self.lock();
        if inner.is_probe(pass) {
            inner.probe = None;
        }
    }

    /// A call was turned away by a target that is well: too many calls, or the wrong key.
    pub fn declined(&self, now: Instant) {
        self.lock().note_failure(now);
    }

    /// A call failed; `true` when that opened the breaker.
    pub fn failed(&self, pass: Pass, now: Instant) -> bool {
        let mut inner = self.lock();
        inner.note_failure(now);
        if inner.open_until.is_some() {
            let was_probe = inner.is_probe(pass);
            if was_probe {
                inner.open(now + self.rule.open, Why::Unwell);
            }
            return was_probe;
        }
        inner.failures.push_back(now);
        while inner.failures.front().is_some_and(|&at| now.saturating_duration_since(at) > self.rule.window) {
            inner.failures.pop_front();
        }
        let opens = inner.failures.len() >= self.rule.failures as usize;
        if opens {
            inner.failures.clear();
            inner.open(now + self.rule.open, Why::Unwell);
        }
        opens
    }

    /// Leaves the target alone for at least this long.
    pub fn cool_down(&self, now: Instant, wait: Duration, why: Why) {
        let mut inner = self.lock();
        let until = now + wait;
        if inner.open_until.is_none_or(|known| known < until) {
            inner.open(until, why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn open(&mut self, until: Instant, why: Why) {
        (self.open_until, self.why, self.probe) = (Some(until), why, None);
    }

    fn is_probe(&self, pass: Pass) -> bool {
        pass.probe.is_some() && pass.probe == self.probe
    }

    fn note_failure(&mut self, now: Instant) {
        self.failing += WEIGHT * (1.0 - self.failing);
        self.last_failure = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: config::Breaker =
        config::Breaker { failures: 3, window: Duration::from_secs(30), open: Duration::from_secs(15), slow_first_token: None };

    fn breaker() -> (Breaker, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Breaker::new(RULE), move |seconds| start + Duration::from_secs(seconds))
    }

    fn fail(breaker: &Breaker, now: Instant) -> bool {
        breaker.failed(Pass { probe: None }, now)
    }

    #[test]
    fn it_opens_after_failures_within_the_window_and_closes_after_a_good_probe() {
        let (breaker, at) = breaker();
        assert!(!fail(&breaker, at(0)) && !fail(&breaker, at(1)));
        assert!(!fail(&breaker, at(40)), "the first two are too old");
        assert!(!fail(&breaker, at(41)) && fail(&breaker, at(42)));
        assert_eq!(breaker.state(at(43)), State::Open);
        assert!(breaker.admit(at(43)).is_none());
        assert_eq!(breaker.wait(at(43)), Some((Duration::from_secs(14), Why::Unwell)));
        assert_eq!(breaker.state(at(57)), State::HalfOpen);
        let probe = breaker.admit(at(57)).unwrap();
        assert!(breaker.admit(at(57)).is_none(), "one probe at a time");
        assert!(breaker.failed(probe, at(58)), "a failed probe opens it again");
        let probe = breaker.admit(at(74)).unwrap();
        breaker.succeeded(probe);
        assert_eq!(breaker.state(at(74)), State::Closed);
    }

    #[test]
    fn a_good_answer_starts_the_count_again() {
        let (breaker, at) = breaker();
        for _ in 0..10 {
            assert!(!fail(&breaker, at(0)) && !fail(&breaker, at(0)));
            breaker.succeeded(breaker.admit(at(0)).unwrap());
        }
    }

    #[test]
    fn what_began_before_it_opened_neither_closes_it_nor_decides_for_the_probe() {
        let (breaker, at) = breaker();
        let early = [breaker.admit(at(0)).unwrap(), breaker.admit(at(0)).unwrap()];
        let opened: Vec<bool> = (0..3).map(|_| fail(&breaker, at(0))).collect();
        assert_eq!(opened, [false, false, true]);
        breaker.succeeded(early[0]);
        assert_eq!(breaker.state(at(1)), State::Open);
        let probe = breaker.admit(at(20)).unwrap();
        assert!(!breaker.failed(early[1], at(21)));
        assert_eq!(breaker.state(at(21)), State::HalfOpen, "it is still the probe that decides");
        breaker.learned_nothing(early[0]);
        assert!(breaker.admit(at(21)).is_none(), "the probe is still running");
        breaker.succeeded(probe);
        assert_eq!(breaker.state(at(21)), State::Closed);
    }

    #[test]
    fn a_probe_that_learned_nothing_lets_the_next_one_try() {
        let (breaker, at) = breaker();
        breaker.cool_down(at(0), Duration::from_secs(5), Why::TooFast);
        assert!(breaker.admit(at(0)).is_none());
        let probe = breaker.admit(at(6)).unwrap();
        breaker.learned_nothing(probe);
        assert!(breaker.admit(at(6)).is_some());
    }

    #[test]
    fn it_tells_why_by_what_lasts_longest() {
        let (breaker, at) = breaker();
        breaker.cool_down(at(0), Duration::from_secs(60), Why::TooFast);
        breaker.cool_down(at(0), Duration::from_secs(5), Why::Unwell);
        assert_eq!(breaker.wait(at(1)), Some((Duration::from_secs(59), Why::TooFast)));
        let probe = breaker.admit(at(60)).unwrap();
        assert!(breaker.failed(probe, at(60)));
        assert_eq!(breaker.wait(at(60)), Some((RULE.open, Why::Unwell)), "it came back and was not well");
    }

    #[test]
    fn a_target_counts_as_failing_by_its_latest_calls() {
        let (breaker, at) = breaker();
        let success = || breaker.succeeded(Pass { probe: None });
        breaker.declined(at(0));
        breaker.declined(at(0));
        assert!(!breaker.is_failing(at(0)), "two may happen to anyone");
        breaker.declined(at(0));
        assert!(breaker.is_failing(at(0)));
        assert!(!breaker.is_failing(at(31)), "that was long ago");
        (0..4).for_each(|_| success());
        assert!(!breaker.is_failing(at(0)));
        for call in 0..100 {
            if call % 2 == 0 { breaker.declined(at(1)) } else { success() }
        }
        assert!(breaker.is_failing(at(1)), "every second one fails");
        for call in 0..200 {
            if call % 20 == 0 { breaker.declined(at(1)) } else { success() }
        }
        assert!(!breaker.is_failing(at(1)), "one of twenty fails");
    }
}
