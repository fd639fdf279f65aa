//! What the limits tell whoever counts their metrics.
//! It must not know a metrics library, and nothing here may wait: it is called on the path of a call.

use std::time::Duration;

/// Where the limits are counted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendState {
    /// In this process, by configuration.
    Memory,
    /// In Redis, which has not yet answered for the first time.
    Starting,
    /// In Redis.
    Shared,
    /// By the policy for a Redis that is gone.
    Degraded,
}

impl BackendState {
    /// The text of this state in metrics and health checks.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Starting => "starting",
            Self::Shared => "shared",
            Self::Degraded => "degraded",
        }
    }
}

/// What to decide while Redis is gone, frozen, full or read-only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// This replica's share of each limit: the limit divided by the replicas that were lately seen in Redis.
    #[default]
    Local,
    /// Every call passes.
    Open,
    /// No call passes.
    Closed,
}

impl OnFailure {
    /// The text of this policy in the configuration and in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// Hears what the limits and the queues do, in order: changes are told under the lock that guards them, so an observer only
/// notes what it hears and asks nothing back. Every method does nothing unless it is written.
pub trait Observer: Send + Sync + 'static {
    /// The backend's state changed.
    fn backend(&self, _state: BackendState) {}
    /// One decision was taken without the shared count.
    fn degraded(&self, _policy: OnFailure) {}
    /// Redis answered for one call, after this long.
    fn script(&self, _took: Duration) {}
    /// So many calls ended whose reservations could not be given back in Redis; they expire there within a minute.
    fn lost(&self, _calls: u64) {}
    /// A provider's queue changed: so many calls wait, so many run.
    fn queue(&self, _provider: &str, _waiting: usize, _in_flight: usize) {}
    /// A call got its place on a provider after waiting this long.
    fn queue_waited(&self, _provider: &str, _wait: Duration) {}
}

/// Nobody listens.
impl Observer for () {}
