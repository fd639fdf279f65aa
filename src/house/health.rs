//! How the targets are, as gauges: found out when somebody looks, because time alone changes it.
//! It must not know what made a target ill.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Instant;

use super::House;
use crate::router::State;

impl House {
    /// Sets the gauges of breakers and of models that can be called to how things are now.
    pub fn show_health(&self, now: Instant) {
        self.providers.values().for_each(|provider| provider.upstream.count_reuse());
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
}
