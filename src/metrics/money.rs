//! Counters of money: kept as whole numbers of 10⁻¹² USD, so that adding never rounds, and shown to
//! Prometheus in USD. It must not know what is being paid for.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, Opts};

/// 10⁻¹² USD in a USD.
const PICO_PER_USD: f64 = 1e12;

/// A counter of money; up to 18 million USD per series.
pub type MoneyCounter = IntCounter;

/// Counters of money by label.
#[derive(Clone, Debug)]
pub struct MoneyCounterVec(IntCounterVec);

impl MoneyCounterVec {
    /// Makes the family.
    ///
    /// # Errors
    /// When the name or a label is no valid metric name.
    pub fn new(opts: Opts, labels: &[&str]) -> prometheus::Result<Self> {
        IntCounterVec::new(opts, labels).map(Self)
    }

    /// The counter of these label values, in 10⁻¹² USD.
    #[must_use]
    pub fn with_label_values(&self, values: &[&str]) -> MoneyCounter {
        self.0.with_label_values(values)
    }
}

impl Collector for MoneyCounterVec {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        for metric in families.iter_mut().flat_map(|family| family.mut_metric()) {
            let mut counter = metric.get_counter().clone();
            counter.set_value(counter.get_value() / PICO_PER_USD);
            metric.set_counter(counter);
        }
        families
    }
}
