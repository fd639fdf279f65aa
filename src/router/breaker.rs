//! The circuit breaker of one target: closed while it is well, open after several failures within a
//! short time, half-open for one call that finds out whether it is well again.
//! It must not know what a failure is; it is told. Time is handed in.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config;

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
    is_probing: bool,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(rule: config::Breaker) -> Self {
        Self { rule, inner: Mutex::default() }
    }

    /// Whether a call may pass now; a half-open breaker lets one.
    pub fn admits(&self, now: Instant) -> bool {
        let mut inner = self.lock();
        match inner.open_until {
            None => true,
            Some(until) if now < until || inner.is_probing => false,
            Some(_) => {
                inner.is_probing = true;
                true
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

    /// How long it stays open.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        self.lock().open_until.map(|until| until.saturating_duration_since(now))
    }

    /// A call went well.
    pub fn succeeded(&self) {
        let mut inner = self.lock();
        if inner.open_until.is_some() || !inner.failures.is_empty() {
            *inner = Inner::default();
        }
    }

    /// A call ended without telling anything about the target.
    pub fn learned_nothing(&self) {
        self.lock().is_probing = false;
    }

    /// A call failed; `true` when that opened the breaker.
    pub fn failed(&self, now: Instant) -> bool {
        let mut inner = self.lock();
        if inner.open_until.is_some() {
            let was_probe = std::mem::take(&mut inner.is_probing);
            if was_probe {
                inner.open_until = Some(now + self.rule.open);
            }
            return was_probe;
        }
        inner.failures.push_back(now);
        while inner.failures.front().is_some_and(|&at| now.saturating_duration_since(at) > self.rule.window) {
            inner.failures.pop_front();
        }
        let opens = inner.failures.len() >= self.rule.failures as usize;
        if opens {
            *inner = Inner { open_until: Some(now + self.rule.open), ..Inner::default() };
        }
        opens
    }

    /// Leaves the target alone for at least this long, as it asked.
    pub fn cool_down(&self, now: Instant, wait: Duration) {
        let mut inner = self.lock();
        let until = now + wait;
        if inner.open_until.is_none_or(|known| known < until) {
            inner.open_until = Some(until);
            inner.is_probing = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: config::Breaker = config::Breaker { failures: 3, window: Duration::from_secs(30), open: Duration::from_secs(15) };

    #[test]
    fn it_opens_after_failures_within_the_window_and_closes_after_a_good_probe() {
        let (breaker, start) = (Breaker::new(RULE), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!breaker.failed(at(0)) && !breaker.failed(at(1)));
        assert!(!breaker.failed(at(40)), "the first two are too old");
        assert!(!breaker.failed(at(41)) && breaker.failed(at(42)));
        assert_eq!(breaker.state(at(43)), State::Open);
        assert!(!breaker.admits(at(43)));
        assert_eq!(breaker.wait(at(43)), Some(Duration::from_secs(14)));
        assert_eq!(breaker.state(at(57)), State::HalfOpen);
        assert!(breaker.admits(at(57)) && !breaker.admits(at(57)), "one probe at a time");
        assert!(breaker.failed(at(58)), "a failed probe opens it again");
        assert!(breaker.admits(at(74)));
        breaker.succeeded();
        assert_eq!(breaker.state(at(74)), State::Closed);
    }

    #[test]
    fn a_probe_that_learned_nothing_lets_the_next_one_try() {
        let (breaker, start) = (Breaker::new(RULE), Instant::now());
        breaker.cool_down(start, Duration::from_secs(5));
        assert!(!breaker.admits(start));
        let later = start + Duration::from_secs(6);
        assert!(breaker.admits(later));
        breaker.learned_nothing();
        assert!(breaker.admits(later));
    }
}
