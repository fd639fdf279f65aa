//! What is left of each caller's limits, as gauges: found out when somebody looks.
//! It must not know how limits are counted.

use super::House;
use crate::limits::{Limit, Window};

impl House {
    /// Shows it, where the configuration asks for it.
    pub fn show_remaining(&self) {
        if !self.config.rate_limit.report_remaining {
            return;
        }
        for (key, ledgers) in &self.keys {
            let standing = self.limits.standing(&ledgers.all);
            for (limit, window) in [(Limit::Requests, standing.requests), (Limit::Tokens, standing.tokens)] {
                if let Some(window) = window {
                    self.metrics.rate_limit_remaining.with_label_values(&[key.as_str(), limit.label()]).set(ratio(window));
                }
            }
        }
    }
}

/// A limit of nothing has nothing left.
fn ratio(window: Window) -> f64 {
    if window.limit == 0 { 0.0 } else { window.remaining as f64 / window.limit as f64 }
}
