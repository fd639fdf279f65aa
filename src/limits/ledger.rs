//! A rule with the place where it is counted, resolved once.
//! It must not know how anything is counted.

use std::collections::HashMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use super::memory::Cell;
use super::redis::Keys;
use super::rule::{Rule, Scope};

/// A rule with the place where it is counted, resolved once when the configuration is read, so that a call hashes nothing.
/// Get it from [`Limits::ledger`](super::Limits::ledger).
#[derive(Debug)]
pub struct Ledger {
    pub(super) rule: Rule,
    pub(super) name: Arc<str>,
    pub(super) cell: Arc<Cell>,
    /// Until when Redis is known to have no room for another call under this rule, in Redis' milliseconds.
    pub(super) shut_until: AtomicI64,
}

impl Ledger {
    /// The rule that is counted here.
    #[must_use]
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// How many admitted calls of this process run under this rule now.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.cell.lock().in_flight
    }
}

/// What makes two rules the same one.
type Identity = (Scope, Arc<str>);

/// One cell per scope and name, so that a rule which is configured again goes on where it was.
/// Bounded by the configuration: only [`Ledgers::open`] adds to it.
#[derive(Debug, Default)]
pub(super) struct Ledgers {
    cells: Mutex<HashMap<Identity, Arc<Cell>>>,
}

impl Ledgers {
    /// The ledger of a rule. `prefix` opens its keys in Redis.
    pub(super) fn open(&self, rule: Rule, prefix: &str) -> Arc<Ledger> {
        let name: Arc<str> = rule.name.as_str().into();
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let id = cells.len() as u64;
        let new = || Arc::new(Cell::new(id, Keys::of(prefix, rule.scope, &name)));
        let cell = cells.entry((rule.scope, name.clone())).or_insert_with(new).clone();
        Arc::new(Ledger { rule, name, cell, shut_until: AtomicI64::new(0) })
    }

    /// Every cell there is.
    pub(super) fn cells(&self) -> Vec<Arc<Cell>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
