//! Turns what the limits tell into metrics.
//! It must not know how limits are counted.

use std::sync::Arc;
use std::time::Duration;

use crate::limits::{BackendState, Observer, OnFailure};
use crate::metrics::Metrics;

/// Counts what it hears.
#[derive(Debug)]
pub struct LimitsObserver(pub Arc<Metrics>);

impl Observer for LimitsObserver {
    fn backend(&self, state: BackendState) {
        let (name, degraded) = match state {
            BackendState::Memory => ("memory", 0),
            BackendState::Starting | BackendState::Shared => ("redis", 0),
            BackendState::Degraded => ("redis", 1),
        };
        self.0.rate_limit_backend_state.with_label_values(&[name]).set(degraded);
        tracing::info!(target: "choreoai", backend = name, state = state.label(), "limits");
    }

    fn degraded(&self, _policy: OnFailure) {
        self.0.rate_limit_degraded.inc();
    }

    fn script(&self, took: Duration) {
        self.0.rate_limit_script.observe(took.as_secs_f64());
    }

    fn lost(&self, calls: u64) {
        tracing::warn!(target: "choreoai", calls, "reservations could not be given back; they expire within a minute");
    }

    fn queue(&self, provider: &str, waiting: usize, _in_flight: usize) {
        self.0.queue_size.with_label_values(&[provider]).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    fn queue_waited(&self, provider: &str, wait: Duration) {
        self.0.queue_wait.with_label_values(&[provider]).observe(wait.as_secs_f64());
    }
}
