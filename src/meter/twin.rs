//! Two attempts of one call at the same time: each has a record of its own that settles by itself, and the call's
//! record adds up what they used, also when one of them ends after the call.
//! It must not know why there are two.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Account;
use super::call::{Call, OnEnd};

/// What the attempts of twins used.
#[derive(Default)]
pub(super) struct Beside {
    pub(super) attempts: AtomicU32,
    pub(super) tokens: AtomicU64,
    pub(super) cost: AtomicU64,
    /// Told when the last one has ended.
    on_end: Mutex<Option<OnEnd>>,
}

impl Beside {
    pub(super) fn add(&self, tokens: u64, cost: u64) {
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        self.cost.fetch_add(cost, Ordering::Relaxed);
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let on_end = self.on_end.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(on_end) = on_end {
            on_end(*self.tokens.get_mut());
        }
    }
}

impl Call {
    /// Records for two attempts that may run at once, the first of them on the target of `account`. What they use counts
    /// for this call; one that is dropped unfinished settles as left by the client.
    pub fn twins(&mut self, account: &Arc<Account>) -> (Self, Self) {
        let beside = self.beside.take().unwrap_or_else(|| {
            let beside = Beside::default();
            beside.add(self.tokens, 0);
            *beside.on_end.lock().unwrap_or_else(PoisonError::into_inner) = self.on_end.take();
            Arc::new(beside)
        });
        self.beside = Some(Arc::clone(&beside));
        self.account = Some(Arc::clone(account));
        (self.twin(&beside), self.twin(&beside))
    }

    fn twin(&self, beside: &Arc<Beside>) -> Self {
        let mut twin = Self::new(self.meter.clone(), self.facts.clone());
        (twin.is_twin, twin.key, twin.beside) = (true, self.key.clone(), Some(Arc::clone(beside)));
        twin.trace = self.trace.as_ref().map(|trace| Box::new(trace.beside()));
        self.meter.begun();
        twin
    }

    /// The answer, or the failure, of one of the twins is this call's.
    pub fn joined(&mut self, mut twin: Self) {
        self.account = twin.account.take().or(self.account.take());
        self.last = twin.last.take();
        self.not_ours += twin.not_ours;
    }
}
