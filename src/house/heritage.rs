//! What a house takes over from the one before it when the configuration changes while calls run: what
//! was learned, what is ill, what is counted and what is connected, as far as the change leaves it true.
//! It must not know why a house is rebuilt, or what becomes of the old one.

use std::sync::{Arc, PoisonError};

use super::{House, Lane, OTHER, Provider, Rooms, prices, queue_options};
use crate::config::{Config, ConfigError};
use crate::limits::Limit;

impl House {
    /// The house as `config` wants it. Calls that run in the old one are not disturbed; limits, lines,
    /// health and connections are shared by both.
    ///
    /// # Errors
    /// As [`House::build`]; then nothing has changed.
    pub fn rebuild(&self, config: Config) -> Result<Self, ConfigError> {
        let prices = prices(&config, self.prices.table())?;
        let (metrics, limits) = (Arc::clone(&self.metrics), self.limits.clone());
        let mut providers = Vec::new();
        for provider in &config.providers {
            let before = self.providers.get(&provider.name);
            providers.push(match before.filter(|before| before.config == *provider) {
                Some(same) => Arc::clone(same),
                None => Arc::new(Provider::new(provider, &metrics, &limits, before.map(AsRef::as_ref))?),
            });
        }
        let providers = providers.into_iter().map(|provider| (provider.config.name.clone(), provider)).collect();
        let mut house = Self::furnish(config, Rooms { metrics, meter: self.meter.clone(), limits, prices, providers });
        house.auth.take_over(&self.auth);
        house.lost = Arc::clone(&self.lost);
        if house.config.rate_limit.per_ip_per_second == self.config.rate_limit.per_ip_per_second {
            house.flood.clone_from(&self.flood);
        }
        house.take_over_lanes(self);
        house.set_lines();
        house.present_at_zero();
        Ok(house)
    }

    /// Lines that were taken over are as long as they shall be now.
    fn set_lines(&self) {
        for provider in self.providers.values() {
            if let Some((queue, options)) = provider.queue.as_ref().zip(queue_options(&provider.config)) {
                queue.change(options);
            }
        }
    }

    fn take_over_lanes(&self, before: &Self) {
        let known = before.lanes.read().unwrap_or_else(PoisonError::into_inner);
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        for ((provider, model), old) in known.iter() {
            let Some(new) = self.make_lane(provider, model).filter(|lane| lane.account.model != OTHER) else { continue };
            lanes.insert((provider.clone(), model.clone()), new.heir_of(old));
        }
    }

    /// Takes away the gauges of what this house does not have any more, so that nothing which is gone
    /// goes on being ill. Counters stay. To be called when the old house is no longer looked at.
    pub fn forget(&self, before: &Self) {
        let metrics = &self.metrics;
        for provider in before.providers.keys().filter(|name| !self.providers.contains_key(*name)) {
            // A gauge that was never set is not there to be taken away.
            let _ = metrics.circuit_breaker_state.remove_label_values(&[provider]);
            let _ = metrics.queue_size.remove_label_values(&[provider]);
            let _ = metrics.upstream_keys_resting.remove_label_values(&[provider]);
            for kind in ["requests", "tokens"] {
                let _ = metrics.upstream_ratelimit_remaining.remove_label_values(&[provider.as_str(), kind]);
            }
        }
        for key in before.keys.keys() {
            // What is still there is shown again when somebody looks.
            for limit in [Limit::Requests, Limit::Tokens] {
                let _ = metrics.rate_limit_remaining.remove_label_values(&[key.as_str(), limit.label()]);
            }
        }
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        for (target, lane) in before.lanes.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if !lanes.contains_key(target) {
                let labels = [lane.account.provider.as_str(), &lane.account.model];
                let _ = metrics.model_available.remove_label_values(&labels);
            }
        }
    }
}

impl Lane {
    /// This lane with what stays true of `old`, its like in the house before: health and quirks where it
    /// is still the same place, what was learned of its tokens in any case.
    fn heir_of(mut self, old: &Arc<Self>) -> Arc<Self> {
        let has_same_price = self.account.has_price_of(&old.account);
        if Arc::ptr_eq(&self.provider, &old.provider) && has_same_price {
            return Arc::clone(old);
        }
        self.account = if has_same_price { Arc::clone(&old.account) } else { Arc::new(old.account.at_price_of(&self.account)) };
        if self.provider.config.is_same_place(&old.provider.config) {
            *self.asks_usage.get_mut() = old.asks_usage();
            if self.provider.config.breaker == old.provider.config.breaker {
                self.target = Arc::clone(&old.target);
            }
        }
        Arc::new(self)
    }
}
