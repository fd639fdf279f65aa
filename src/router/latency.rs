//! How long a target takes: a mean that follows a slower answer at once and a quicker one by and by (peak-EWMA),
//! and the last few waits for whoever asks for a percentile.
//! It must not know what is waited for. Time is handed in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// In this time the memory of an answer fades to a third, in seconds.
const FADES: f64 = 10.0;
/// Waits that are remembered for percentiles.
const KEPT: usize = 128;
/// With fewer, no percentile is told.
const ENOUGH: usize = 20;

/// The waits of one target.
#[derive(Debug, Default)]
pub struct Latency {
    mean: Mutex<Mean>,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Mean {
    seconds: f64,
    at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Recent {
    /// In milliseconds.
    waits: Vec<u32>,
    next: usize,
}

impl Latency {
    /// An answer took so long to begin.
    pub fn observe(&self, now: Instant, took: Duration) {
        let mut mean = lock(&self.mean);
        let took = took.as_secs_f64();
        mean.seconds = if took > mean.seconds {
            took
        } else {
            let known = mean.share_left(now);
            mean.seconds * known + took * (1.0 - known)
        };
        mean.at = Some(now);
    }

    /// The mean now, in seconds; it fades while nothing is measured, so that a target that was slow once is tried
    /// again. 0 when nothing was ever measured.
    #[must_use]
    pub fn seconds(&self, now: Instant) -> f64 {
        let mean = lock(&self.mean);
        mean.seconds * mean.share_left(now)
    }

    /// A whole answer took so long.
    pub fn remember(&self, took: Duration) {
        let took = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        let mut recent = lock(&self.recent);
        let next = recent.next;
        match recent.waits.get_mut(next) {
            Some(oldest) => *oldest = took,
            None => recent.waits.push(took),
        }
        recent.next = (next + 1) % KEPT;
    }

    /// The time in which `percentile` of a hundred of the last whole answers had come; `None` while few are known.
    #[must_use]
    pub fn percentile(&self, percentile: f64) -> Option<Duration> {
        let mut waits = lock(&self.recent).waits.clone();
        if waits.len() < ENOUGH {
            return None;
        }
        let rank = (percentile / 100.0 * waits.len() as f64).ceil() as usize;
        let at = rank.saturating_sub(1).min(waits.len() - 1);
        let (_, wait, _) = waits.select_nth_unstable(at);
        Some(Duration::from_millis(u64::from(*wait)))
    }
}

impl Mean {
    fn share_left(&self, now: Instant) -> f64 {
        self.at.map_or(0.0, |at| (-now.saturating_duration_since(at).as_secs_f64() / FADES).exp())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_at_once_and_falls_by_and_by() {
        let (latency, start) = (Latency::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(latency.seconds(start) < f64::EPSILON);
        latency.observe(at(0), Duration::from_millis(100));
        latency.observe(at(1), Duration::from_secs(3));
        assert!((latency.seconds(at(1)) - 3.0).abs() < 1e-9, "the peak counts at once");
        latency.observe(at(2), Duration::from_millis(100));
        let after = latency.seconds(at(2));
        assert!((2.5..3.0).contains(&after), "one quick answer does not make it quick: {after}");
        assert!(latency.seconds(at(62)) < 0.01, "after a minute of silence it is worth a try");
    }

    #[test]
    fn percentiles_are_of_the_last_waits_and_only_of_enough() {
        let latency = Latency::default();
        (1..20).for_each(|wait| latency.remember(Duration::from_millis(wait)));
        assert_eq!(latency.percentile(95.0), None);
        latency.remember(Duration::from_millis(20));
        assert_eq!(latency.percentile(95.0), Some(Duration::from_millis(19)));
        assert_eq!(latency.percentile(50.0), Some(Duration::from_millis(10)));
        (0..KEPT).for_each(|_| latency.remember(Duration::from_millis(7)));
        assert_eq!(latency.percentile(99.9), Some(Duration::from_millis(7)), "the first are forgotten");
    }
}
