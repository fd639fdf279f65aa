//! One question about one call: may it pass. Put on the thread that speaks to Redis, awaited where the call runs.
//! It must not know what is decided when there is no answer.
//!
//! A question goes on when nobody waits for its answer any more, by deadline or because the client left: what it took is
//! given back, and until it is known what it took, room is left for it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::RedisResult;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::link::Connection;
use super::script::{Ruling, SCRIPTS, Sum, Verdict};
use super::{GiveBack, Grant, Shared, millis, patiently};
use crate::limits::answer::{Standing, Window};
use crate::limits::ledger::Ledger;
use crate::limits::memory::{self, Asked, Refusal};
use crate::limits::rule::{Limit, Rule, Span};

/// How long an answer is awaited in the end. Longer than [`SLACK`], so that what is taken is seen to be taken.
const ORPHAN_WAIT: Duration = Duration::from_secs(2);

/// How far the estimate of Redis' clock may be off before a script that is in time is taken for late.
const SLACK: Duration = Duration::from_secs(1);

/// How much longer than the deadline a call waits when Redis is only busy, or this process was held up: the deadline is
/// Redis', this is ours.
const OURS: Duration = Duration::from_millis(40);

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
    pub(in crate::limits) const fn grant(&self) -> Grant {
        self.grant
    }

    /// It is in the right hands, and counted there.
    pub(in crate::limits) fn keep(mut self) {
        self.question = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(question) = &self.question else { return };
        self.shared.forget(self.grant.lease);
        let ledgers = question.ledgers().to_vec();
        let tokens = -i64::try_from(question.tokens()).unwrap_or(i64::MAX);
        self.shared.tell(GiveBack { ledgers, grant: self.grant, requests: -1, tokens });
    }
}

/// One question.
struct Question {
    shared: Arc<Shared>,
    connection: Connection,
    asked: Asked,
    lease: u64,
    epoch: u64,
}

impl Shared {
    /// Asks Redis whether a call may pass, for no longer than the deadline and a little, see [`OURS`].
    pub(in crate::limits) async fn ask(self: &Arc<Self>, ledgers: &[Arc<Ledger>], tokens: u64) -> Answer {
        let until = Instant::now() + self.options.deadline;
        let Some(connection) = self.link.connection(until, &*self.observer).await else { return Answer::Away };
        if let Some(refusal) = self.shut(ledgers, tokens) {
            return Answer::Refused(refusal);
        }
        let asked = Asked::about(ledgers, tokens, self.clock);
        let Ok(Ok(seat)) = timeout_at(until, self.seats.clone().acquire_owned()).await else { return Answer::Late };
        if !self.link.is_open(connection.generation) {
            return Answer::Away;
        }
        if let Some(refusal) = self.shut(ledgers, tokens) {
            return Answer::Refused(refusal);
        }
        let lease = self.next_lease.fetch_add(1, Ordering::Relaxed);
        let epoch = self.epoch.load(Ordering::Relaxed);
        let question = Question { shared: self.clone(), connection, asked, lease, epoch };
        let (answer, heard) = oneshot::channel();
        self.thread.spawn(question.put(answer, seat));
        match timeout_at(until + OURS, heard).await {
            Ok(Ok(answer)) => answer,
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

    fn learn(&self, ledgers: &[Arc<Ledger>], verdict: &Verdict) {
        let now_ms = self.clock.now_ms();
        // An admitted call of our own is in the sums already, and in our own count only when it was recorded.
        let ours = u64::from(verdict.ruling == Ruling::Admitted);
        for (ledger, sum) in ledgers.iter().zip(&verdict.sums) {
            ledger.cell.lock().learn(sum.requests.saturating_sub(ours), sum.tokens, now_ms);
        }
    }

    fn admit_command(&self, ledgers: &[Arc<Ledger>], tokens: u64, lease: u64) -> redis::Cmd {
        let keys: Vec<&str> = ledgers.iter().flat_map(|ledger| ledger.cell.keys.both()).collect();
        let mut command = SCRIPTS.admit.call(&keys);
        let shift = self.shift.load(Ordering::Relaxed);
        let latest = self.redis_ms() + millis(self.options.deadline + SLACK);
        command
            .arg(shift)
            .arg(latest)
            .arg(self.lease_name(lease))
            .arg(tokens)
            .arg(millis(self.options.lease))
            .arg(millis(memory::CONCURRENCY_RETRY));
        for Rule { span, requests, tokens, max_concurrent, .. } in ledgers.iter().map(|ledger| &ledger.rule) {
            for figure in [requests, tokens, max_concurrent] {
                command.arg(figure.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX)));
            }
            command.arg(span.grid().slot_ms).arg(span.grid().reach);
        }
        command
    }
}

impl Question {
    /// Puts it, and hands the answer on as long as somebody waits for it. Holds the seat no longer than somebody may.
    async fn put(self, answers: oneshot::Sender<Answer>, seat: OwnedSemaphorePermit) {
        let (shared, generation) = (self.shared.clone(), self.connection.generation);
        let (began, began_ms) = (Instant::now(), shared.clock.now_ms());
        let mut answering = pin!(self.answer());
        let deadline = shared.options.deadline;
        let mut answer = patiently(deadline, answering.as_mut()).await;
        if answer.is_none() && shared.heard_since(began_ms) {
            // It answers others, so the answer is likely on its way.
            answer = patiently(OURS, answering.as_mut()).await;
        }
        if let Some(answer) = answer {
            drop(seat);
            if matches!(answer, Answer::Admitted(..) | Answer::Refused(_)) {
                shared.observer.script(began.elapsed());
            }
            // What nobody hears gives back what it took.
            let _ = answers.send(answer);
            return;
        }
        drop(seat);
        let _ = answers.send(Answer::Late);
        let Ok(_place) = shared.orphans.try_acquire() else { return shared.observer.lost(1) };
        if patiently(deadline, answering.as_mut()).await.is_some() {
            return;
        }
        // One that answered others in time since we asked is busy, not gone.
        if !shared.heard_since(began_ms) {
            shared.link.trip(generation, &"no answer within twice the deadline", &*shared.observer);
        }
        see_out(answering).await;
    }

    async fn answer(self) -> Answer {
        match self.verdict().await {
            Ok(verdict) => self.rule(&verdict),
            Err(error) => {
                self.shared.link.trip(self.connection.generation, &error, &*self.shared.observer);
                Answer::Away
            }
        }
    }

    /// What the script says. The second time is for a clock in Redis that was set forward: then the first answer says what
    /// time it is there. A question that really is late is not put again: nobody waits for what it would take.
    async fn verdict(&self) -> RedisResult<Verdict> {
        let shift = self.shared.shift.load(Ordering::Relaxed);
        let first = Instant::now();
        let ask = async || {
            let command = self.shared.admit_command(self.asked.ledgers(), self.asked.tokens(), self.lease);
            let began = Instant::now();
            let verdict = SCRIPTS.admit.run(self.connection.multiplexed.clone(), command).await.and_then(Verdict::read);
            if verdict.is_ok() && began.elapsed() <= self.shared.options.deadline {
                self.shared.heard_ms.fetch_max(self.shared.clock.now_ms(), Ordering::Relaxed);
            }
            verdict
        };
        let verdict = ask().await?;
        if verdict.ruling != Ruling::TooLate {
            return Ok(verdict);
        }
        self.shared.set_clock(verdict.ms, shift);
        if first.elapsed() > self.shared.options.deadline { Ok(verdict) } else { ask().await }
    }

    fn rule(self, verdict: &Verdict) -> Answer {
        let (shared, ledgers) = (&self.shared, self.asked.ledgers());
        shared.learn(ledgers, verdict);
        match verdict.ruling {
            Ruling::Admitted => {
                shared.hold(self.lease, ledgers);
                let standing = standing(ledgers, verdict);
                let at_ms = u64::try_from(verdict.ms).unwrap_or(0);
                let grant = Grant { lease: self.lease, at_ms, epoch: Some(self.epoch) };
                Answer::Admitted(Held { shared: self.shared, grant, question: Some(self.asked) }, standing)
            }
            Ruling::Refused { index, limit, wait } => {
                if let Some(ledger) = ledgers.get(index) {
                    ledger.note_refusal(limit, self.asked.tokens(), verdict.ms, millis(wait));
                }
                Answer::Refused(Refusal { index, limit, wait, standing: standing(ledgers, verdict) })
            }
            Ruling::TooLate => Answer::Late,
        }
    }
}

/// Awaits an answer that nobody waits for, for what it may give back.
async fn see_out(answering: Pin<&mut impl Future<Output = Answer>>) {
    let _ = timeout(ORPHAN_WAIT, answering).await;
}

/// The room left in the tightest rules, by Redis' count.
fn standing(ledgers: &[Arc<Ledger>], verdict: &Verdict) -> Standing {
    let mut standing = Standing::default();
    let minutes = ledgers.iter().zip(&verdict.sums).filter(|(ledger, _)| ledger.rule.span == Span::Minute);
    for (ledger, sum) in minutes {
        if let Some(limit) = ledger.rule.requests {
            Standing::narrow(&mut standing.requests, window(limit, sum.requests, sum, verdict.ms));
        }
        if let Some(limit) = ledger.rule.tokens {
            Standing::narrow(&mut standing.tokens, window(limit, sum.tokens, sum, verdict.ms));
        }
    }
    standing
}

fn window(limit: u64, passed: u64, sum: &Sum, ms: i64) -> Window {
    let empty_at = sum.newest.filter(|_| passed > 0).map_or(0, |slot| Span::Minute.grid().leaves_at(slot));
    let reset = empty_at.saturating_sub(u64::try_from(ms).unwrap_or(0));
    Window { limit, remaining: limit.saturating_sub(passed), reset: Duration::from_millis(reset) }
}
