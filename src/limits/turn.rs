//! Waiting for a place among concurrent calls that replicas share: nobody says when one comes free, so the first in line looks
//! now and then, and only the first.
//! It must not know who counts the places.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use super::answer::{Denied, Reason};
use super::rule::Limit;

/// How often the first in line looks, give or take a half: not all replicas at once.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Those of this process who wait for a place under one rule.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: AtomicUsize,
    /// Held by the first; fair.
    first: Mutex<()>,
}

/// One who waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Line {
    /// Whether anybody waits.
    pub(super) fn is_formed(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Asks until there is a place, another answer, or the time is over. Whoever finds others waiting waits behind them.
    pub(super) async fn wait<T, F>(&self, until: Instant, ask: impl Fn() -> F) -> Result<T, Denied>
    where
        F: Future<Output = Result<T, Denied>>,
    {
        if !self.is_formed() {
            match ask().await {
                Err(denied) if is_full(&denied) => {}
                decided => return decided,
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let Ok(_first) = timeout_at(until, self.first.lock()).await else { return ask().await };
        loop {
            match ask().await {
                Err(denied) if is_full(&denied) && Instant::now() < until => {
                    sleep(LOOK_EVERY.mul_f64(0.5 + fastrand::f64())).await;
                }
                decided => return decided,
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether it is but a place that is missing.
fn is_full(denied: &Denied) -> bool {
    denied.limit == Limit::Concurrency && denied.reason == Reason::Exhausted
}
