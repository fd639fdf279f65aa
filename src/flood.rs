//! So much per time from one address: what slows those who flood the door, and those who try keys.
//! It must not know what is counted, keys, models or limits.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// From this many addresses on, the idle ones are forgotten.
const FORGET_FROM: usize = 10_000;

/// Counts by address.
#[derive(Debug)]
pub struct PerAddress {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    /// How many addresses there may be before the idle ones are forgotten; twice those that were left
    /// the last time, so that looking for them costs each call little.
    forget_from: AtomicUsize,
}

impl PerAddress {
    /// So many in a second, all of them at once if need be.
    #[must_use]
    pub fn per_second(times: NonZeroU32) -> Self {
        Self::new(Quota::per_second(times))
    }

    /// So many in a minute, all of them at once if need be.
    #[must_use]
    pub fn per_minute(times: NonZeroU32) -> Self {
        Self::new(Quota::per_minute(times))
    }

    fn new(quota: Quota) -> Self {
        Self { limiter: RateLimiter::keyed(quota), forget_from: AtomicUsize::new(FORGET_FROM) }
    }

    /// Counts one more from this address.
    ///
    /// # Errors
    /// How long it has to wait, when that was one too many.
    pub fn count(&self, address: IpAddr) -> Result<(), Duration> {
        if self.limiter.len() > self.forget_from.load(Ordering::Relaxed) {
            self.limiter.retain_recent();
            self.forget_from.store(FORGET_FROM.max(2 * self.limiter.len()), Ordering::Relaxed);
        }
        let until = self.limiter.check_key(&address);
        until.map_err(|until| until.wait_time_from(DefaultClock::default().now()).max(Duration::from_secs(1)))
    }
}
