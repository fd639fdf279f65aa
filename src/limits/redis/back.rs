//! What ended calls give back to Redis, and how long it may wait for company: it rides in front of the next questions, or goes by
//! itself when nobody asks.
//! It must not know how it is sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Grant, Shared, UNTOLD};
use crate::limits::ledger::Ledger;

/// How long what a call gives back waits for questions to ride with, where nobody is likely to be refused for want of it.
const RIDE: Duration = Duration::from_millis(10);

/// What a call that ended gives back. Calls and tokens are changes: below zero gives back, above zero charges.
pub(super) struct GiveBack {
    pub(super) ledgers: Vec<Arc<Ledger>>,
    pub(super) grant: Grant,
    pub(super) requests: i64,
    pub(super) tokens: i64,
}

/// What waits to be given back, of all threads: whoever sends a batch next takes it along, so that a place which is free
/// here is free for all who ask from here.
#[derive(Default)]
pub(super) struct Backs(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    backs: Vec<GiveBack>,
    /// Since when the oldest of them waits.
    since: Option<Instant>,
    /// They go now, whether anybody asks or not.
    urgent: bool,
    /// Somebody sees to it that they do not wait too long.
    watched: bool,
}

/// What is to be done for what was put there.
pub(super) enum Then {
    /// It will be taken along.
    Nothing,
    /// Somebody has to see to it that it does not wait too long.
    Watch,
    /// It is to be sent now.
    Send,
    /// There is no room for more: it is lost.
    Lost,
}

impl Backs {
    /// Puts one there; with `urgent` it is not to wait.
    pub(super) fn push(&self, back: GiveBack, urgent: bool) -> Then {
        let mut waiting = self.lock();
        if waiting.backs.len() >= UNTOLD {
            return Then::Lost;
        }
        waiting.since.get_or_insert_with(Instant::now);
        waiting.backs.push(back);
        waiting.urgent |= urgent;
        match urgent {
            true => Then::Send,
            false if waiting.watched => Then::Nothing,
            false => {
                waiting.watched = true;
                Then::Watch
            }
        }
    }

    /// Takes so many at most: for somebody who asks anyway, or only what is not to wait.
    pub(super) fn take(&self, most: usize, anyway: bool) -> Vec<GiveBack> {
        let mut waiting = self.lock();
        if !anyway && !waiting.urgent {
            return Vec::new();
        }
        if waiting.backs.len() > most {
            return waiting.backs.drain(..most).collect();
        }
        (waiting.since, waiting.urgent) = (None, false);
        std::mem::take(&mut waiting.backs)
    }

    /// Until when what waits here may wait; `None`: nothing does any more, or what does is to be sent now.
    fn rest(&self) -> Option<Instant> {
        let mut waiting = self.lock();
        let until = waiting.since.map(|since| since + RIDE);
        if until.is_some_and(|until| Instant::now() < until) {
            return until;
        }
        waiting.urgent = until.is_some();
        waiting.watched = false;
        None
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until nothing waits any more, or has waited long enough.
pub(super) async fn watch(shared: &Shared) {
    let mut until = Instant::now() + RIDE;
    loop {
        tokio::time::sleep_until(until).await;
        match shared.backs.rest() {
            Some(later) => until = later,
            None => return,
        }
    }
}
