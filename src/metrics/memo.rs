//! Handles of metrics that were looked up by their labels before: what every call counts is found by
//! comparing a few words instead of hashing all labels.
//! It must not know which metrics there are.

use std::sync::{Arc, PoisonError, RwLock};

/// Handles that are remembered; more combinations of labels than that are looked up each time.
const MAX_REMEMBERED: usize = 64;

/// Handles by what tells them apart.
#[derive(Debug)]
pub struct Memo<K, V>(RwLock<Vec<(K, Arc<V>)>>);

impl<K: PartialEq, V> Memo<K, V> {
    /// The handle of `key`; `look_up` finds it the first time.
    pub fn get(&self, key: K, look_up: impl FnOnce() -> V) -> Arc<V> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, handle)) = known.iter().find(|(known, _)| *known == key) {
            return Arc::clone(handle);
        }
        drop(known);
        let handle = Arc::new(look_up());
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_REMEMBERED && known.iter().all(|(known, _)| *known != key) {
            known.push((key, Arc::clone(&handle)));
        }
        handle
    }
}

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_looked_up_once_and_no_more_are_kept_than_agreed() {
        let memo = Memo::default();
        for key in 0..2 * MAX_REMEMBERED {
            assert_eq!(*memo.get(key, || key), key);
        }
        assert_eq!(*memo.get(1, || unreachable!("known")), 1);
        assert_eq!(*memo.get(MAX_REMEMBERED, || 7), 7, "not kept, so looked up again");
        assert_eq!(memo.0.read().expect("not poisoned").len(), MAX_REMEMBERED);
    }
}
