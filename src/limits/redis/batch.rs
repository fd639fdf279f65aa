//! One script call: what ended calls give back, then the questions that were gathered. Its answers go to whoever asked.
//! It must not know what is decided when there is no answer.
//!
//! A batch goes on when nobody waits for its answers any more, by deadline or because the clients left: what its questions took
//! is given back, and until it is known what they took, room is left for it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Cmd, RedisResult};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::back::once_more;
use super::line::{Carrier, Line};
use super::question::{Answer, Asking, Question};
use super::script::{Reply, Ruling, SCRIPTS, Verdicts};
use super::{GiveBack, Shared, millis};
use crate::limits::ledger::Ledger;
use crate::limits::memory;
use crate::limits::rule::Rule;

/// How long an answer is awaited in the end. Longer than [`SLACK`], so that what is taken is seen to be taken.
const ORPHAN_WAIT: Duration = Duration::from_secs(2);

/// How far the estimate of Redis' clock may be off before a script that is in time is taken for late.
const SLACK: Duration = Duration::from_secs(1);

/// How many ticks longer than the deadline a call waits when Redis is only busy: the deadline is Redis', this is ours.
const OURS: u32 = 2;

/// See the head of this file.
pub(super) struct Batch {
    shared: Arc<Shared>,
    carrier: Carrier,
    askers: Vec<Asker>,
    open: Open,
    named: Named,
}

/// Who waits for an answer, and since when.
type Asker = (oneshot::Sender<Answer>, Instant);

/// What a batch says, until it is known whether Redis heard it. What was not is told again as far as that does no harm: the
/// places of calls that ended, and those that questions without an answer may have taken.
struct Open {
    shared: Arc<Shared>,
    line: Arc<Line>,
    questions: Vec<Asking>,
    backs: Vec<GiveBack>,
    told: AtomicBool,
}

impl Drop for Open {
    fn drop(&mut self) {
        let backs = if *self.told.get_mut() { Vec::new() } else { std::mem::take(&mut self.backs) };
        let (again, lost) = once_more(backs);
        if lost > 0 {
            self.shared.observer.lost(lost as u64);
        }
        let taken =
            self.questions.iter().filter_map(|asking| GiveBack::places(asking.ledgers().to_vec(), asking.lease()).once_more());
        for back in taken.chain(again) {
            self.line.give_back(&self.shared, back, true);
        }
    }
}

impl Batch {
    pub(super) fn new(shared: Arc<Shared>, carrier: Carrier, questions: Vec<Question>, backs: Vec<GiveBack>) -> Self {
        let waiting = questions.into_iter().filter_map(Question::put);
        let (questions, askers): (Vec<_>, Vec<_>) = waiting.map(|(asking, asker, since)| (asking, (asker, since))).unzip();
        let named = Named::in_batch(&questions, &backs);
        let line = carrier.line.clone();
        let open = Open { shared: shared.clone(), line, questions, backs, told: AtomicBool::new(false) };
        Self { shared, carrier, askers, open, named }
    }

    /// Puts it, and hands its answers to those who still wait.
    pub(super) async fn put(mut self) {
        if self.open.questions.is_empty() && self.open.backs.is_empty() {
            return;
        }
        let (shared, generation, askers) = (self.shared.clone(), self.carrier.generation, std::mem::take(&mut self.askers));
        let (began_ms, flight) = (shared.clock.now_ms(), self.carrier.line.take_flight(&shared));
        let mut answering = pin!(self.answers());
        let mut answers = flight.watch(shared.patience(), answering.as_mut()).await;
        if answers.is_none() && shared.heard_since(began_ms) {
            // It answers others, so the answer is likely on its way.
            answers = flight.watch(OURS, answering.as_mut()).await;
        }
        if let Some(answers) = answers {
            return hand_out(askers, answers, &shared);
        }
        let count = askers.len() as u64;
        for (asker, _) in askers {
            let _ = asker.send(Answer::Late);
        }
        let Ok(_place) = shared.orphans.try_acquire() else { return shared.observer.lost(count) };
        if flight.watch(shared.patience(), answering.as_mut()).await.is_some() {
            return;
        }
        drop(flight);
        // One that answered others in time since we asked is busy, not gone.
        if !shared.heard_since(began_ms) {
            shared.link.trip(generation, &"no answer within twice the deadline", &*shared.observer);
        }
        see_out(answering).await;
    }

    async fn answers(mut self) -> Vec<Answer> {
        match self.reply().await {
            Ok(Reply { ms, verdicts: Some(verdicts) }) => self.rule(ms, &verdicts),
            // They took nothing.
            Ok(Reply { verdicts: None, .. }) => self.open.questions.drain(..).map(|_| Answer::Late).collect(),
            Err(error) if error.is_io_error() && self.carrier.lose() => {
                self.open.questions.iter().map(|_| Answer::Late).collect()
            }
            Err(error) => {
                self.shared.link.trip(self.carrier.generation, &error, &*self.shared.observer);
                self.open.questions.iter().map(|_| Answer::Away).collect()
            }
        }
    }

    /// What the script says. The second time is for a clock in Redis that was set forward: then the first answer says what
    /// time it is there. Questions that really are late are not put again: nobody waits for what they would take.
    async fn reply(&self) -> RedisResult<Reply> {
        let (shift, first) = (self.shared.shift.load(Ordering::Relaxed), Instant::now());
        let reply = self.run(&self.open.backs).await?;
        self.open.told.store(true, Ordering::Relaxed);
        if reply.verdicts.is_some() || self.open.questions.is_empty() {
            return Ok(reply);
        }
        self.shared.set_clock(reply.ms, shift);
        if first.elapsed() > self.shared.options.deadline { Ok(reply) } else { self.run(&[]).await }
    }

    async fn run(&self, backs: &[GiveBack]) -> RedisResult<Reply> {
        let began = Instant::now();
        let command = self.named.command(&self.shared, &self.open.questions, backs);
        let answer = SCRIPTS.count.run(self.carrier.multiplexed.clone(), command).await?;
        let reply = Reply::read(answer, self.named.ledgers.len(), self.open.questions.len())?;
        if began.elapsed() <= self.shared.options.deadline {
            self.shared.heard_ms.fetch_max(self.shared.clock.now_ms(), Ordering::Relaxed);
        }
        Ok(reply)
    }

    /// Takes note of what the answer says about the rules, then answers each question.
    fn rule(&mut self, ms: i64, verdicts: &Verdicts) -> Vec<Answer> {
        let questions = std::mem::take(&mut self.open.questions);
        let ledgers = &self.named.ledgers;
        // Calls that were admitted now are in the sums already, and in our own count only when they are recorded.
        let mut ours = vec![(0_u64, 0_u64); ledgers.len()];
        let mut named = self.named.by_questions.iter();
        for (asking, ruling) in questions.iter().zip(&verdicts.rulings) {
            for &place in named.by_ref().take(asking.ledgers().len()).filter(|_| *ruling == Ruling::Admitted) {
                ours[place].0 += 1;
                ours[place].1 += asking.tokens();
            }
        }
        let now_ms = self.shared.clock.now_ms();
        for ((ledger, sum), ours) in ledgers.iter().zip(&verdicts.sums).zip(ours) {
            ledger.cell.lock().learn(sum.requests.saturating_sub(ours.0), sum.tokens.saturating_sub(ours.1), now_ms);
            ledger.note_crowd(sum.tokens, sum.running);
        }
        let mut named = self.named.by_questions.as_slice();
        let answers = questions.into_iter().zip(&verdicts.rulings).map(|(asking, ruling)| {
            let (its, rest) = named.split_at(asking.ledgers().len().min(named.len()));
            named = rest;
            asking.rule(&self.shared, *ruling, ms, its.iter().filter_map(|&place| verdicts.sums.get(place)))
        });
        answers.collect()
    }
}

/// What nobody hears gives back what it took.
fn hand_out(askers: Vec<Asker>, answers: Vec<Answer>, shared: &Shared) {
    let now = Instant::now();
    for ((asker, since), answer) in askers.into_iter().zip(answers) {
        if matches!(answer, Answer::Admitted(..) | Answer::Refused(_)) {
            shared.observer.script(now - since);
        }
        let _ = asker.send(answer);
    }
}

/// Awaits answers that nobody waits for, for what they may give back.
async fn see_out(answering: Pin<&mut impl Future<Output = Vec<Answer>>>) {
    let _ = timeout(ORPHAN_WAIT, answering).await;
}

/// The rules that a batch names, each once, and by whom they are named: places in `ledgers`, in the order of the batch.
#[derive(Default)]
pub(super) struct Named {
    ledgers: Vec<Arc<Ledger>>,
    by_questions: Vec<usize>,
    by_backs: Vec<usize>,
}

impl Named {
    pub(super) fn in_batch(questions: &[Asking], backs: &[GiveBack]) -> Self {
        let mut ledgers = Vec::<Arc<Ledger>>::new();
        // Searched from the first: most batches name a handful.
        let mut place = |ledger: &Arc<Ledger>| {
            ledgers.iter().position(|known| Arc::ptr_eq(known, ledger)).unwrap_or_else(|| {
                ledgers.push(ledger.clone());
                ledgers.len() - 1
            })
        };
        let by_questions = questions.iter().flat_map(Asking::ledgers).map(&mut place).collect();
        let by_backs = backs.iter().flat_map(|back| &back.ledgers).map(&mut place).collect();
        Self { ledgers, by_questions, by_backs }
    }

    /// The script call for these, which are those that name the rules; or for none that give back.
    pub(super) fn command(&self, shared: &Shared, questions: &[Asking], backs: &[GiveBack]) -> Cmd {
        let mut told = Numbers::default();
        told.add(shared.shift.load(Ordering::Relaxed))
            .add(shared.redis_ms() + millis(shared.options.deadline + SLACK))
            .add(millis(shared.options.lease))
            .add(millis(memory::CONCURRENCY_RETRY))
            .count(backs.len());
        for Rule { span, requests, tokens, max_concurrent, .. } in self.ledgers.iter().map(|ledger| &ledger.rule) {
            for figure in [requests, tokens, max_concurrent] {
                told.add(figure.map_or(-1, at_most));
            }
            told.add(at_most(span.grid().slot_ms)).add(at_most(span.grid().reach));
        }
        let mut named = self.by_backs.iter();
        for back in backs {
            // What was taken in an earlier epoch is gone with it.
            let known = i64::from(shared.knows(&back.grant));
            told.add(at_most(back.grant.at_ms))
                .add(known * back.requests)
                .add(known * back.tokens)
                .add(at_most(back.grant.lease));
            told.places(back.ledgers.len(), &mut named);
        }
        let mut named = self.by_questions.iter();
        for asking in questions {
            told.add(at_most(asking.lease())).add(at_most(asking.tokens()));
            told.places(asking.ledgers().len(), &mut named);
        }
        let keys: Vec<&str> = self.ledgers.iter().flat_map(|ledger| ledger.cell.keys.both()).collect();
        let mut command = SCRIPTS.count.call(&keys);
        command.arg(&shared.replica).arg(told.0);
        command
    }
}

/// What the script is told, in numbers of eight bytes each: to read and write them as words costs both sides more than
/// all the rest.
#[derive(Default)]
struct Numbers(Vec<u8>);

impl Numbers {
    fn add(&mut self, number: i64) -> &mut Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn count(&mut self, count: usize) -> &mut Self {
        self.add(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// How many rules, and which of them; Lua counts from one.
    fn places<'a>(&mut self, count: usize, named: &mut impl Iterator<Item = &'a usize>) {
        self.count(count);
        for place in named.take(count) {
            self.count(place + 1);
        }
    }
}

fn at_most(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
