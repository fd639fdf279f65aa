//! A rule with the place where it is counted, resolved once.
//! It must not know how anything is counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::Cell;
use super::redis::Keys;
use super::rule::{Limit, Rule, Scope, Span};

/// A rule with the place where it is counted, resolved once when the configuration is read, so that a call hashes nothing.
/// Get it from [`Limits::ledger`](super::Limits::ledger).
#[derive(Debug)]
pub struct Ledger {
    pub(super) rule: Rule,
    pub(super) name: Arc<str>,
    pub(super) cell: Arc<Cell>,
    shut: Mutex<Shut>,
    /// Whether Redis lately saw half of the places or tokens taken, or more: somebody may soon wait for what is given back.
    crowded: AtomicBool,
}

/// The room that Redis lately had not under a rule.
#[derive(Debug, Default)]
struct Shut {
    calls: Option<Refused>,
    tokens: Option<Refused>,
}

/// A call of so many tokens was refused, and so will be one of as many for a moment. Times in Redis' milliseconds.
#[derive(Debug, Clone, Copy)]
struct Refused {
    tokens: u64,
    /// Until when that is taken for granted.
    until: i64,
    /// When there will be room, by what is counted now.
    freed_at: i64,
}

/// How long a refusal stands for others, in milliseconds: what nobody waited for may be given back elsewhere at any time.
const STANDS: i64 = 200;

impl Ledger {
    /// The rule that is counted here.
    #[must_use]
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Takes note of a refusal by Redis at `now`, for so many milliseconds.
    pub(super) fn note_refusal(&self, limit: Limit, tokens: u64, now: i64, wait: i64) {
        let refused = |tokens| Some(Refused { tokens, until: now + wait.min(STANDS), freed_at: now + wait });
        match limit {
            Limit::Requests => self.shut().calls = refused(0),
            Limit::Tokens => self.shut().tokens = refused(tokens),
            _ => {}
        }
    }

    /// By which figure, and for how many milliseconds, Redis is known to refuse such a call.
    pub(super) fn known_refusal(&self, tokens: u64, now: i64) -> Option<(Limit, i64)> {
        let shut = self.shut();
        let known = [(Limit::Requests, shut.calls), (Limit::Tokens, shut.tokens)].into_iter();
        let stands = known.filter_map(|(limit, refused)| {
            let refused = refused.filter(|refused| now < refused.until && tokens >= refused.tokens)?;
            Some((limit, refused.freed_at - now))
        });
        stands.max_by_key(|(_, wait)| *wait)
    }

    /// Takes note of how many tokens are counted and how many calls run, by Redis' count.
    pub(super) fn note_crowd(&self, tokens: u64, running: u64) {
        let is_half = |limit: Option<u64>, taken: u64| limit.is_some_and(|limit| taken >= limit / 2);
        self.crowded.store(is_half(self.rule.tokens, tokens) || is_half(self.rule.max_concurrent, running), Ordering::Relaxed);
    }

    /// Whether what is given back should not wait.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// This process gave tokens back.
    pub(super) fn note_return(&self) {
        self.shut().tokens = None;
    }

    fn shut(&self) -> MutexGuard<'_, Shut> {
        self.shut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many admitted calls of this process run under this rule now.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.cell.lock().in_flight
    }
}

/// What makes two rules the same one.
type Identity = (Scope, Span, Arc<str>);

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
        let new = || Arc::new(Cell::new(id, Keys::of(prefix, &rule), rule.span));
        let cell = cells.entry((rule.scope, rule.span, name.clone())).or_insert_with(new).clone();
        Arc::new(Ledger { rule, name, cell, shut: Mutex::default(), crowded: AtomicBool::new(false) })
    }

    /// Every cell there is.
    pub(super) fn cells(&self) -> Vec<Arc<Cell>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
