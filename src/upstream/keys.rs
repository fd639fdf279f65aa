//! The keys of one provider: used in turn, and one that the provider refused is left alone for a while.
//! It must not know what a key opens or why one was refused. Time is handed in.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};

/// Keys that travel in one header.
#[derive(Debug)]
pub(super) struct Keys {
    header: HeaderName,
    /// Marked sensitive: no `Debug` shows them.
    values: Vec<HeaderValue>,
    turn: AtomicUsize,
    /// Until when each is left alone.
    rests: Mutex<Vec<Option<Instant>>>,
}

impl Keys {
    /// These keys in this header.
    pub(super) fn new(header: HeaderName, values: Vec<HeaderValue>) -> Self {
        let rests = Mutex::new(vec![None; values.len()]);
        Self { header, values, turn: AtomicUsize::new(0), rests }
    }

    /// The next one: its number, and its header. When all are left alone, the one whose rest ends first: the
    /// provider's own words say better than ours what is wrong.
    pub(super) fn next(&self, now: impl FnOnce() -> Instant) -> (usize, HeaderName, Option<HeaderValue>) {
        let number = if self.values.len() > 1 { self.choose(now()) } else { 0 };
        (number, self.header.clone(), self.values.get(number).cloned())
    }

    fn choose(&self, now: Instant) -> usize {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let rests = self.rests();
        let in_turn = (0..rests.len()).map(|step| (turn.wrapping_add(step)) % rests.len());
        let left = |number: &usize| {
            rests.get(*number).copied().flatten().map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
        };
        // Of several that are free the first in turn: `min_by_key` keeps the earliest.
        in_turn.min_by_key(left).unwrap_or(0)
    }

    /// Leaves a key alone; `true` when another one may be used meanwhile. The only key is never left alone.
    pub(super) fn set_aside(&self, number: usize, now: Instant, wait: Duration) -> bool {
        if self.values.len() < 2 {
            return false;
        }
        let mut rests = self.rests();
        if let Some(rest) = rests.get_mut(number) {
            *rest = Some(now + wait);
        }
        rests.iter().any(|until| until.is_none_or(|until| until <= now))
    }

    /// How many are left alone.
    pub(super) fn resting(&self, now: Instant) -> usize {
        self.rests().iter().filter(|until| until.is_some_and(|until| until > now)).count()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    fn rests(&self) -> MutexGuard<'_, Vec<Option<Instant>>> {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize) -> Keys {
        let values = (0..count).map(|number| HeaderValue::from_str(&format!("k{number}")).unwrap());
        Keys::new(http::header::AUTHORIZATION, values.collect())
    }

    fn used(keys: &Keys, now: Instant, times: usize) -> Vec<usize> {
        (0..times).map(|_| keys.next(|| now).0).collect()
    }

    #[test]
    fn they_take_turns_and_a_refused_one_comes_back_after_its_rest() {
        let (keys, now) = (keys(3), Instant::now());
        assert_eq!(used(&keys, now, 6), [0, 1, 2, 0, 1, 2]);
        assert!(keys.set_aside(1, now, Duration::from_secs(60)));
        assert!(!used(&keys, now, 9).contains(&1));
        assert_eq!((keys.resting(now), keys.len()), (1, 3));
        let later = now + Duration::from_secs(61);
        assert!(used(&keys, later, 3).contains(&1));
        assert_eq!(keys.resting(later), 0);
    }

    #[test]
    fn when_all_rest_the_one_that_is_free_first_is_used() {
        let (keys, now) = (keys(2), Instant::now());
        assert!(keys.set_aside(0, now, Duration::from_secs(9)));
        assert!(!keys.set_aside(1, now, Duration::from_secs(5)), "none is left");
        assert_eq!(used(&keys, now, 3), [1, 1, 1]);
    }

    #[test]
    fn the_only_one_is_always_used() {
        let (keys, now) = (keys(1), Instant::now());
        assert!(!keys.set_aside(0, now, Duration::from_secs(60)));
        assert_eq!((used(&keys, now, 2), keys.resting(now)), (vec![0, 0], 0));
    }
}
