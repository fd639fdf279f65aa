//! The last exported trace that fell into each bucket of a histogram, so that a point of a latency
//! graph leads to a call. Only told while traces are on.
//! It must not know what is measured.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::text::write_label;

/// Label sets that are remembered for one histogram; they come from the configuration, so this is never
/// reached but by one that changes all the time.
const MAX_LABEL_SETS: usize = 4096;

/// One trace.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) trace_id: String,
    /// What was observed.
    pub(super) value: f64,
    /// When, in seconds since 1970.
    pub(super) at: f64,
}

/// What was seen last, by labels as they are written, a place for each bucket and one beyond the last.
type Buckets = HashMap<String, Vec<Option<Seen>>>;

/// What was seen last, by histogram.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<HashMap<&'static str, Buckets>>);

impl Exemplars {
    /// Remembers a trace. The labels are in the order of their names.
    pub(super) fn keep(&self, name: &'static str, bounds: &[f64], labels: &[(&str, &str)], (value, trace_id): (f64, &str)) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut key = String::new();
        labels.iter().for_each(|(name, value)| write_label(&mut key, name, value));
        let mut all = self.lock();
        let buckets = all.entry(name).or_default();
        if buckets.len() >= MAX_LABEL_SETS && !buckets.contains_key(&key) {
            buckets.clear();
        }
        let places = buckets.entry(key).or_insert_with(|| vec![None; bounds.len() + 1]);
        let nth = bounds.partition_point(|bound| *bound < value);
        if let Some(place) = places.get_mut(nth) {
            *place = Some(Seen { trace_id: trace_id.to_owned(), value, at });
        }
    }

    /// What was seen of one histogram, if anything.
    pub(super) fn of(&self, name: &str) -> Option<Buckets> {
        self.lock().get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Buckets>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
