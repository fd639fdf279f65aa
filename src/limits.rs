//! May they, now: rules and an estimate of tokens become a [`Permit`], which gives everything back when it is dropped.
//! It must not know HTTP, configuration files, metrics libraries, or what a call is for.
//!
//! *Per minute* means: in any span of 60 seconds no more than that, with the whole limit free to a lone burst. A call
//! takes from all its rules in one atomic step or from none; it reserves tokens and settles on what it used.

mod answer;
mod memory;
mod rule;
mod slots;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

pub use answer::{Denied, Reason, Standing, Window};
pub use memory::Ledger;
pub use rule::{Limit, Rule, Scope};

use memory::{Cell, Clock, Return};

/// All limits of this process. Cheap to clone; clones share what they count.
#[derive(Debug, Clone)]
pub struct Limits {
    house: Arc<House>,
}

#[derive(Debug)]
struct House {
    clock: Clock,
    /// One cell per scope and name, so that a rule which is configured again goes on where it was.
    /// Bounded by the configuration: only [`Limits::ledger`] adds to it.
    cells: Mutex<HashMap<Identity, Arc<Cell>>>,
}

/// What makes two rules the same one.
type Identity = (Scope, Arc<str>);

impl Limits {
    /// Limits that this process counts for itself.
    #[must_use]
    pub fn memory() -> Self {
        Self { house: Arc::new(House { clock: Clock::start(), cells: Mutex::default() }) }
    }

    /// Opens the ledger of a rule: once per rule, when the configuration is read. Ledgers of the same scope and name share
    /// one count, each with its own figures.
    #[must_use]
    pub fn ledger(&self, rule: Rule) -> Arc<Ledger> {
        let name: Arc<str> = rule.name.as_str().into();
        let mut cells = self.house.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let id = cells.len() as u64;
        let cell = cells.entry((rule.scope, name.clone())).or_insert_with(|| Arc::new(Cell::new(id)));
        Arc::new(Ledger { rule, name, cell: cell.clone() })
    }

    /// Takes one call and `tokens` from every ledger in one atomic step. A ledger that is named twice counts once.
    ///
    /// # Errors
    /// [`Denied`] when one of them has no room; then nothing was taken from any.
    pub async fn admit(&self, ledgers: &[Arc<Ledger>], tokens: u64) -> Result<Permit, Denied> {
        let ledgers = memory::in_order(ledgers);
        if let Some(denied) = never_fits(&ledgers, tokens) {
            return Err(denied);
        }
        match memory::admit(&ledgers, tokens, self.house.clock, 1) {
            Ok(taken) => Ok(Permit {
                house: self.house.clone(),
                ledgers,
                slot: taken.slot,
                reserved: tokens,
                used: 0,
                standing: taken.standing,
            }),
            Err(refusal) => {
                let ledger = &ledgers[refusal.index];
                Err(Denied {
                    scope: ledger.rule.scope,
                    limit: refusal.limit,
                    rule: ledger.name.clone(),
                    reason: Reason::Exhausted,
                    retry_after: Some(refusal.wait),
                    standing: refusal.standing,
                    degraded: false,
                })
            }
        }
    }
}

/// The refusal of a call that no passing of time can let in.
fn never_fits(ledgers: &[Arc<Ledger>], tokens: u64) -> Option<Denied> {
    ledgers.iter().find_map(|ledger| {
        let rule = &ledger.rule;
        let limit = if rule.tokens_per_minute.is_some_and(|limit| tokens > limit) {
            Limit::Tokens
        } else if rule.requests_per_minute == Some(0) {
            Limit::Requests
        } else if rule.max_concurrent == Some(0) {
            Limit::Concurrency
        } else {
            return None;
        };
        Some(Denied {
            scope: rule.scope,
            limit,
            rule: ledger.name.clone(),
            reason: Reason::TooLarge,
            retry_after: None,
            standing: Standing::default(),
            degraded: false,
        })
    })
}

/// The right to run one call. Dropping it gives the place among concurrent calls back at once, returns the tokens that were
/// reserved and not used, and charges those used beyond the reservation. The call itself stays counted.
#[must_use = "a permit that is dropped has given everything back"]
#[derive(Debug)]
pub struct Permit {
    house: Arc<House>,
    ledgers: Vec<Arc<Ledger>>,
    slot: u64,
    reserved: u64,
    used: u64,
    standing: Standing,
}

impl Permit {
    /// Says how many tokens the call used in the end; the last word counts. Never said, it used none.
    /// Booked when the permit is dropped.
    pub const fn settle(&mut self, used: u64) {
        self.used = used;
    }

    /// The room that was left in the tightest rules once this call was in.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.standing
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let back = Return { slot: self.slot, reserved: self.reserved, used: self.used };
        memory::give_back(&self.ledgers, back, self.house.clock);
    }
}
