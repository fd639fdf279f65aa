//! What ended calls give back to Redis, and how long it may wait for company: it rides in front of the next questions, or goes by
//! itself when nobody asks.
//! It must not know how it is sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Grant, UNTOLD};
use crate::limits::ledger::Ledger;

/// How long what a call gives back waits for questions to ride with, and for the clock that looks after it: a tick more at most.
const RIDE: Duration = Duration::from_millis(10);

/// How often places are told again. A connection that breaks under load may take them with it more than once.
const AGAIN: u8 = 3;

/// What a call that ended gives back. Calls and tokens are changes: below zero gives back, above zero charges.
pub(super) struct GiveBack {
    pub(super) ledgers: Vec<Arc<Ledger>>,
    pub(super) grant: Grant,
    pub(super) requests: i64,
    pub(super) tokens: i64,
    /// How often it may still be told again.
    again: u8,
}

impl GiveBack {
    pub(super) const fn new(ledgers: Vec<Arc<Ledger>>, grant: Grant, requests: i64, tokens: i64) -> Self {
        Self { ledgers, grant, requests, tokens, again: AGAIN }
    }

    /// The places alone, of a call that may hold some.
    pub(super) const fn places(ledgers: Vec<Arc<Ledger>>, lease: u64) -> Self {
        Self::new(ledgers, Grant { lease, at_ms: 0, epoch: None }, 0, 0)
    }

    /// What may be told once more although nobody knows whether it was heard: a place goes by its lease, and is free once
    /// however often that is said. Calls and tokens are not: given back twice, they would let too much pass.
    pub(super) fn once_more(mut self) -> Option<Self> {
        let again = self.again.checked_sub(1)?;
        self.ledgers.retain(|ledger| ledger.rule.max_concurrent.is_some());
        (!self.ledgers.is_empty()).then(|| Self { again, ..Self::places(self.ledgers, self.grant.lease) })
    }
}

/// What may be told once more of what there was no answer to, and of how many calls something is lost: held in Redis until
/// it expires there.
pub(super) fn once_more(backs: Vec<GiveBack>) -> (Vec<GiveBack>, usize) {
    let mut lost = 0;
    let again = backs.into_iter().filter_map(|back| {
        let is_counted = back.requests != 0 || back.tokens != 0;
        let again = back.once_more();
        lost += usize::from(is_counted || again.is_none());
        again
    });
    (again.collect(), lost)
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
}

/// What is to be done for what was put there.
pub(super) enum Then {
    /// It will be taken along.
    Nothing,
    /// It is the first: somebody has to see to it that they do not wait too long.
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
        let is_first = waiting.since.is_none();
        waiting.since.get_or_insert_with(Instant::now);
        waiting.backs.push(back);
        waiting.urgent |= urgent;
        match (urgent, is_first) {
            (true, _) => Then::Send,
            (false, true) => Then::Watch,
            (false, false) => Then::Nothing,
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

    /// Whether anything waits here.
    pub(super) fn wait(&self) -> bool {
        self.lock().since.is_some()
    }

    /// Whether what waits here has waited long enough, and is to be sent now.
    pub(super) fn are_due(&self) -> bool {
        let mut waiting = self.lock();
        waiting.urgent |= waiting.since.is_some_and(|since| since.elapsed() >= RIDE);
        waiting.urgent
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(lease: u64) -> GiveBack {
        GiveBack::places(Vec::new(), lease)
    }

    fn leases(backs: &[GiveBack]) -> Vec<u64> {
        backs.iter().map(|back| back.grant.lease).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_waits_for_company_but_not_for_long() {
        let backs = Backs::default();
        assert!(matches!(backs.push(back(1), false), Then::Watch), "the first is watched for all");
        assert!(matches!(backs.push(back(2), false), Then::Nothing));
        assert!(backs.take(9, false).is_empty(), "nobody asks yet");
        assert_eq!(leases(&backs.take(9, true)), [1, 2], "they ride with who does");
        assert!(!backs.wait() && !backs.are_due());

        assert!(matches!(backs.push(back(3), false), Then::Watch));
        tokio::time::advance(RIDE / 2).await;
        assert!(matches!(backs.push(back(4), false), Then::Nothing));
        assert!(backs.wait() && !backs.are_due());
        tokio::time::advance(RIDE / 2).await;
        assert!(backs.are_due(), "the first has waited long enough");
        assert_eq!(leases(&backs.take(9, false)), [3, 4], "they go by themselves");
    }

    #[test]
    fn what_is_urgent_does_not_wait() {
        let backs = Backs::default();
        for lease in 1..=3 {
            backs.push(back(lease), false);
        }
        assert!(matches!(backs.push(back(4), true), Then::Send));
        assert_eq!(leases(&backs.take(3, false)), [1, 2, 3], "all go, the oldest first");
        assert_eq!(leases(&backs.take(3, false)), [4]);
        assert!(backs.take(3, false).is_empty());
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let backs = Backs::default();
        let lost = (0..=UNTOLD as u64).filter(|lease| matches!(backs.push(back(*lease), false), Then::Lost)).count();
        assert_eq!(lost, 1);
    }
}
