//! How the targets are: found out when somebody looks, because time alone changes it.
//! It must not know what made a target ill.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::{House, Lane, Provider};
use crate::router::{State, Why};

/// How long the loss of log lines is spoken of.
const LATELY: Duration = Duration::from_secs(300);

/// How the targets are.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Targets that are known: those of the configuration, and those that were called.
    pub known: usize,
    /// Those that are left alone for now, as `provider/model`.
    pub resting: Vec<String>,
    /// How many of them are not well; the others asked for a pause, which clients must hear from here.
    unwell: usize,
    /// Whether there is a provider of which no target is known, so that nothing speaks against it.
    has_untried: bool,
}

impl Health {
    /// Whether a call could be sent anywhere that is well.
    #[must_use]
    pub fn can_route(&self) -> bool {
        self.has_untried || self.unwell < self.known
    }
}

/// Lines that were lost, as far as somebody looked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lost {
    lines: u64,
    noticed: Option<Instant>,
}

impl House {
    /// How the targets are now.
    #[must_use]
    pub fn health(&self, now: Instant) -> Health {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        let (mut resting, mut unwell) = (Vec::new(), 0);
        for ((provider, model), lane) in lanes.iter().filter(|(_, lane)| lane.target.breaker.state(now) == State::Open) {
            resting.push(format!("{provider}/{model}"));
            unwell += usize::from(lane.target.breaker.wait(now).is_some_and(|(_, why)| why == Why::Unwell));
        }
        resting.sort_unstable();
        let is_untried = |name: &String| !lanes.keys().any(|(provider, _)| provider == name);
        Health { known: lanes.len(), resting, unwell, has_untried: self.providers.keys().any(is_untried) }
    }

    /// Sets the gauges of breakers, of keys and of models that can be called to how things are now.
    pub fn show_health(&self, now: Instant) {
        for (name, provider) in &self.providers {
            provider.upstream.count_reuse();
            let resting = i64::try_from(provider.upstream.keys_resting(now)).unwrap_or(i64::MAX);
            self.metrics.upstream_keys_resting.with_label_values(&[name]).set(resting);
        }
        let mut worst: HashMap<&str, State> =
            self.config.providers.iter().map(|provider| (provider.name.as_str(), State::Closed)).collect();
        for lane in self.lanes.read().unwrap_or_else(PoisonError::into_inner).values() {
            let state = lane.target.breaker.state(now);
            let labels = [lane.account.provider.as_str(), &lane.account.model];
            self.metrics.model_available.with_label_values(&labels).set(i64::from(state != State::Open));
            if let Some(known) = worst.get_mut(lane.account.provider.as_str()) {
                *known = state.max(*known);
            }
        }
        for (provider, state) in worst {
            self.metrics.circuit_breaker_state.with_label_values(&[provider]).set(state as i64);
        }
    }

    /// The providers that are to be asked from time to time whether they are there.
    pub fn probed(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.providers.values().filter(|provider| provider.config.probe.is_some())
    }

    /// Leaves every known target of this provider alone for a while.
    pub fn rest(&self, provider: &str, now: Instant, wait: Duration) {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        let of_provider = |lane: &&Arc<Lane>| lane.account.provider == provider;
        lanes.values().filter(of_provider).for_each(|lane| lane.target.breaker.cool_down(now, wait, Why::Unwell));
    }

    /// Whether log lines, and with them usage records, were lost within the last minutes, as far as
    /// somebody looked.
    #[must_use]
    pub fn lost_lines_lately(&self, now: Instant) -> bool {
        let lines = self.metrics.dropped_lines();
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if lines > lost.lines {
            *lost = Lost { lines, noticed: Some(now) };
        }
        lost.noticed.is_some_and(|at| now.saturating_duration_since(at) < LATELY)
    }
}

impl Provider {
    /// Whether it is there: asks something that costs nothing, and says so in the metrics.
    pub async fn is_there(&self) -> bool {
        let Some(probe) = self.config.probe else { return true };
        self.upstream.is_there(self.wire.0.health_path(), probe.timeout).await
    }
}
