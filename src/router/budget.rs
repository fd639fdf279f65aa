//! The retry budget of one provider: attempts beyond a call's first are allowed as a share of first attempts,
//! and a few a second in any case, so that a provider that fails is not buried under what others try again.
//! It must not know what failed or who asks. Time is handed in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::config;

/// How many attempts may be saved up: what a calm time earns must not become a storm.
const MOST: f64 = 3.0;

/// A budget.
#[derive(Debug)]
pub struct Budget {
    share: f64,
    per_second: f64,
    /// First attempts since the last look.
    firsts: AtomicU64,
    purse: Mutex<Purse>,
}

#[derive(Debug)]
struct Purse {
    attempts: f64,
    looked: Option<Instant>,
}

impl Budget {
    /// A full budget.
    #[must_use]
    pub fn new(rule: config::Retry) -> Self {
        Self {
            share: rule.budget,
            per_second: rule.min_per_second,
            firsts: AtomicU64::new(0),
            purse: Mutex::new(Purse { attempts: MOST, looked: None }),
        }
    }

    /// A call makes its first attempt here.
    pub fn earn(&self) {
        self.firsts.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one attempt out; `false` when there is none.
    #[must_use]
    pub fn spend(&self, now: Instant) -> bool {
        let mut purse = self.purse.lock().unwrap_or_else(PoisonError::into_inner);
        let since = purse.looked.map_or(0.0, |looked| now.saturating_duration_since(looked).as_secs_f64());
        let firsts = self.firsts.swap(0, Ordering::Relaxed) as f64;
        // The larger of the two, not both: the few a second are for those who have hardly any calls.
        let earned = (self.share * firsts).max(self.per_second * since);
        purse.attempts = (purse.attempts + earned).min(MOST);
        purse.looked = Some(now);
        let has_one = purse.attempts >= 1.0;
        if has_one {
            purse.attempts -= 1.0;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn budget(budget: f64, min_per_second: f64) -> Budget {
        let second = Duration::from_secs(1);
        Budget::new(config::Retry { attempts: 3, base: second, max: second, budget, min_per_second })
    }

    /// Calls for ten seconds that all want more; how many got it.
    fn storm(budget: &Budget, per_second: u64, wants: u32) -> u32 {
        let start = Instant::now();
        let calls = (0..10 * per_second).map(|call| start + Duration::from_micros(call * 1_000_000 / per_second));
        calls
            .map(|at| {
                budget.earn();
                (0..wants).map(|_| u32::from(budget.spend(at))).sum::<u32>()
            })
            .sum()
    }

    #[test]
    fn a_storm_gets_its_share_and_what_was_saved() {
        let got = storm(&budget(0.1, 1.0), 200, 2);
        assert!((190..=204).contains(&got), "{got} of 2000 calls");
        assert_eq!(storm(&budget(0.0, 0.0), 200, 2), 3, "only what was saved");
    }

    #[test]
    fn the_few_a_second_are_for_those_who_have_few_calls() {
        let got = storm(&budget(0.1, 1.0), 2, 5);
        assert!((11..=13).contains(&got), "3 saved and about one a second, got {got}");
    }
}
