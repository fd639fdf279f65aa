//! One question about one call: may it pass. Asked where the call runs, answered with a batch of others.
//! It must not know how it comes to Redis, nor what is decided when there is no answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::line::Line;
use super::script::{Ruling, Sum};
use super::{GiveBack, Grant, Shared, millis};
use crate::limits::answer::{Standing, Window};
use crate::limits::ledger::Ledger;
use crate::limits::memory::{self, Asked, Clock, Refusal};
use crate::limits::rule::{Limit, Span};

/// What Redis says about one call.
pub(in crate::limits) enum Answer {
    Admitted(Held, Standing),
    Refused(Refusal),
    /// Redis is there, but did not answer this call in time.
    Late,
    /// Redis is gone.
    Away,
}

/// What a question took for its call. Dropped before it is kept, it is given back.
pub(in crate::limits) struct Held {
    shared: Arc<Shared>,
    grant: Grant,
    /// The question that took it; `None` once it is kept.
    question: Option<Asked>,
}

impl Held {
    /// It is in the right hands: this process counts it too, for the day it has to decide alone. Gives the ledgers, when the
    /// call was counted, and what it holds in Redis.
    pub(in crate::limits) fn keep(mut self, clock: Clock) -> (Vec<Arc<Ledger>>, u64, Grant) {
        let owed = !self.shared.knows(&self.grant);
        let (ledgers, at_ms) = self.question.take().map_or_else(Default::default, |question| question.passed(clock, owed));
        (ledgers, at_ms, self.grant)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(question) = &self.question else { return };
        let ledgers = question.ledgers().to_vec();
        self.shared.forget(self.grant.lease, &ledgers);
        let tokens = -i64::try_from(question.tokens()).unwrap_or(i64::MAX);
        self.shared.tell(GiveBack::new(ledgers, self.grant, -1, tokens));
    }
}

/// A question that waits to be put.
pub(super) struct Question {
    asking: Asking,
    asker: oneshot::Sender<Answer>,
    since: Instant,
}

/// What is asked.
pub(super) struct Asking {
    asked: Asked,
    lease: u64,
    epoch: u64,
}

impl Question {
    /// What is asked, by whom, and since when; `None` if the asker is gone.
    pub(super) fn put(self) -> Option<(Asking, oneshot::Sender<Answer>, Instant)> {
        if self.asker.is_closed() { None } else { Some((self.asking, self.asker, self.since)) }
    }

    /// Redis is gone.
    pub(super) fn turn_away(self) {
        let _ = self.asker.send(Answer::Away);
    }
}

impl Asking {
    pub(super) fn ledgers(&self) -> &[Arc<Ledger>] {
        self.asked.ledgers()
    }

    pub(super) const fn tokens(&self) -> u64 {
        self.asked.tokens()
    }

    pub(super) const fn lease(&self) -> u64 {
        self.lease
    }

    /// What Redis decided at `ms`, and how its rules stand.
    pub(super) fn rule<'a>(self, shared: &Arc<Shared>, ruling: Ruling, ms: i64, sums: impl Iterator<Item = &'a Sum>) -> Answer {
        let ledgers = self.asked.ledgers();
        let standing = standing(ledgers, sums, ms);
        match ruling {
            Ruling::Admitted => {
                shared.hold(self.lease, ledgers);
                let at_ms = u64::try_from(ms).unwrap_or(0);
                let grant = Grant { lease: self.lease, at_ms, epoch: Some(self.epoch) };
                Answer::Admitted(Held { shared: shared.clone(), grant, question: Some(self.asked) }, standing)
            }
            Ruling::Refused { index, limit, wait } => {
                if let Some(ledger) = ledgers.get(index) {
                    ledger.note_refusal(limit, self.asked.tokens(), ms, millis(wait));
                }
                Answer::Refused(Refusal { index, limit, wait, standing })
            }
        }
    }
}

impl Shared {
    /// Asks Redis whether a call may pass, for little longer than the deadline.
    pub(in crate::limits) async fn ask(self: &Arc<Self>, ledgers: &[Arc<Ledger>], tokens: u64) -> Answer {
        if !self.link.is_up(self.options.deadline, &*self.observer).await {
            return Answer::Away;
        }
        if let Some(refusal) = self.shut(ledgers, tokens) {
            return Answer::Refused(refusal);
        }
        let (asker, heard) = oneshot::channel();
        let asked = Asked::about(ledgers, tokens, self.clock);
        let lease = self.next_lease.fetch_add(1, Ordering::Relaxed);
        let asking = Asking { asked, lease, epoch: self.epoch.load(Ordering::Relaxed) };
        if !Line::here(self).ask(self, Question { asking, asker, since: Instant::now() }) {
            return Answer::Late;
        }
        match heard.await {
            Ok(answer @ (Answer::Admitted(..) | Answer::Refused(_) | Answer::Away)) => answer,
            _ => self.shut(ledgers, tokens).map_or(Answer::Late, Answer::Refused),
        }
    }

    /// The refusal that Redis is known to give. It stands for a moment, so that a caller who hammers at a limit costs Redis
    /// next to nothing.
    fn shut(&self, ledgers: &[Arc<Ledger>], tokens: u64) -> Option<Refusal> {
        let now = self.redis_ms();
        let known = ledgers.iter().enumerate().filter_map(|(index, ledger)| Some((index, ledger.known_refusal(tokens, now)?)));
        let (index, (limit, wait)) = known.max_by_key(|(_, (_, wait))| *wait)?;
        let (rule, wait) = (&ledgers.get(index)?.rule, Duration::from_millis(u64::try_from(wait).ok()?));
        let mut standing = memory::standing(ledgers, self.clock);
        if let (Some(limit), Limit::Requests, Span::Minute) = (rule.requests, limit, rule.span) {
            let reset = standing.requests.map_or(wait, |known| known.reset.max(wait));
            Standing::narrow(&mut standing.requests, Window { limit, remaining: 0, reset });
        }
        Some(Refusal { index, limit, wait, standing })
    }
}

/// The room left in the tightest rules, by Redis' count.
fn standing<'a>(ledgers: &[Arc<Ledger>], sums: impl Iterator<Item = &'a Sum>, ms: i64) -> Standing {
    let mut standing = Standing::default();
    let minutes = ledgers.iter().zip(sums).filter(|(ledger, _)| ledger.rule.is_told());
    for (ledger, sum) in minutes {
        if let Some(limit) = ledger.rule.requests {
            Standing::narrow(&mut standing.requests, window(limit, sum.requests, sum, ms));
        }
        if let Some(limit) = ledger.rule.tokens {
            Standing::narrow(&mut standing.tokens, window(limit, sum.tokens, sum, ms));
        }
    }
    standing
}

fn window(limit: u64, passed: u64, sum: &Sum, ms: i64) -> Window {
    let empty_at = sum.newest.filter(|_| passed > 0).map_or(0, |slot| Span::Minute.grid().leaves_at(slot));
    let reset = empty_at.saturating_sub(u64::try_from(ms).unwrap_or(0));
    Window { limit, remaining: limit.saturating_sub(passed), reset: Duration::from_millis(reset) }
}
