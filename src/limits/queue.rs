//! The line in front of a provider: so many calls at once, a bounded and fair line behind them, a longest wait.
//! It must not know what a call is, nor which provider it stands for beyond its name.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::observer::Observer;

/// The shortest and the longest `retry_after` that a refusal names.
const RETRY_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How much of the known time per call each new call replaces.
const LEARNING: f64 = 0.1;

/// How long the line may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueOptions {
    /// The provider's configured name; only the [`Observer`] reads it.
    pub provider: String,
    /// Calls that may run at once.
    pub max_concurrent: usize,
    /// Calls that may wait behind them, over all keys.
    pub size: usize,
    /// The longest wait of one call.
    pub wait: Duration,
}

/// Why a call may not wait, or may wait no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueReason {
    /// The line is full.
    Full,
    /// It waited as long as it may.
    TooLong,
}

/// A refusal by the queue. The place in the line is free again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueRefused {
    /// Why.
    pub reason: QueueReason,
    /// When the line that stands now should be through, by the time calls lately took; from 1 s to 60 s.
    pub retry_after: Duration,
}

/// One provider's queue. Places go round by key, so that one busy key cannot keep another waiting behind all its calls.
/// Cheap to clone; clones are the same line.
#[derive(Clone)]
pub struct Queue {
    house: Arc<House>,
}

struct House {
    line: Mutex<Line>,
    observer: Arc<dyn Observer>,
}

struct Line {
    options: QueueOptions,
    running: usize,
    waiting: usize,
    next_ticket: u64,
    by_key: HashMap<Arc<str>, VecDeque<Waiter>>,
    /// The keys that wait, the next to be served in front.
    turns: VecDeque<Arc<str>>,
    seconds_per_call: f64,
}

struct Waiter {
    ticket: u64,
    place: oneshot::Sender<Slot>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Queue").field(&self.house.lock().options).finish()
    }
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(options: QueueOptions, observer: Arc<dyn Observer>) -> Self {
        let line = Line {
            options,
            running: 0,
            waiting: 0,
            next_ticket: 0,
            by_key: HashMap::new(),
            turns: VecDeque::new(),
            seconds_per_call: 0.0,
        };
        Self { house: Arc::new(House { line: Mutex::new(line), observer }) }
    }

    /// From now on the line is as long as this. Who runs goes on, who waits stays in line.
    pub fn change(&self, options: QueueOptions) {
        self.house.lock().options = options;
        self.house.let_in();
    }

    /// Waits for a place to run. Whoever stops waiting (by dropping this future) has left the line at once.
    ///
    /// # Errors
    /// [`QueueRefused`] when the line is full, or the longest wait is over.
    pub async fn enter(&self, key: &str) -> Result<Slot, QueueRefused> {
        let (mut waiting, place) = match self.house.join(key) {
            Joined::Running(slot) => return Ok(slot),
            Joined::Refused(refused) => return Err(refused),
            Joined::Waiting(waiting, place) => (waiting, place),
        };
        match tokio::time::timeout(waiting.longest, place).await {
            Ok(Ok(slot)) => {
                waiting.served = true;
                self.house.observer.queue_waited(&self.house.lock().options.provider, waiting.since.elapsed());
                Ok(slot)
            }
            Ok(Err(_)) | Err(_) => {
                drop(waiting);
                Err(QueueRefused { reason: QueueReason::TooLong, retry_after: self.house.lock().estimate() })
            }
        }
    }

    /// Calls that run now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.house.lock().running
    }

    /// Calls that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.house.lock().waiting
    }
}

enum Joined {
    Running(Slot),
    Waiting(Waiting, oneshot::Receiver<Slot>),
    Refused(QueueRefused),
}

impl House {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Self>, key: &str) -> Joined {
        let mut line = self.lock();
        let joined = if line.running < line.options.max_concurrent && line.waiting == 0 {
            line.running += 1;
            Joined::Running(Slot::of(self))
        } else if line.waiting >= line.options.size {
            return Joined::Refused(QueueRefused { reason: QueueReason::Full, retry_after: line.estimate() });
        } else {
            let (place, receiver) = oneshot::channel();
            let (key, ticket) = line.push(key, place);
            let (longest, since) = (line.options.wait, Instant::now());
            let waiting = Waiting { house: self.clone(), key, ticket, served: false, since, longest };
            Joined::Waiting(waiting, receiver)
        };
        self.report(&line);
        joined
    }

    /// Takes back the place of a call that ended, and lets in whoever now has room.
    fn give_back(self: &Arc<Self>) {
        let mut line = self.lock();
        line.running = line.running.saturating_sub(1);
        self.report(&line);
        drop(line);
        self.let_in();
    }

    /// Lets the next ones in line in while there is room; one whose call has just left is passed over.
    fn let_in(self: &Arc<Self>) {
        loop {
            let mut line = self.lock();
            if line.running >= line.options.max_concurrent {
                return;
            }
            let Some(waiter) = line.pop() else { return };
            line.running += 1;
            self.report(&line);
            drop(line);
            // Outside the lock: a place that nobody takes is given back by hand, not by dropping it, which would lock again.
            let Err(mut unwanted) = waiter.place.send(Slot::of(self)) else { continue };
            unwanted.house = None;
            let mut line = self.lock();
            line.running = line.running.saturating_sub(1);
            self.report(&line);
        }
    }

    /// Under the lock, so that the last word the observer hears is the latest.
    fn report(&self, line: &Line) {
        self.observer.queue(&line.options.provider, line.waiting, line.running);
    }
}

impl Line {
    fn push(&mut self, key: &str, place: oneshot::Sender<Slot>) -> (Arc<str>, u64) {
        self.next_ticket += 1;
        self.waiting += 1;
        let waiter = Waiter { ticket: self.next_ticket, place };
        let key = match self.by_key.get_key_value(key) {
            Some((known, _)) => known.clone(),
            None => {
                let new: Arc<str> = key.into();
                self.turns.push_back(new.clone());
                new
            }
        };
        self.by_key.entry(key.clone()).or_default().push_back(waiter);
        (key, self.next_ticket)
    }

    /// The next waiter: of the key whose turn it is, the first that came.
    fn pop(&mut self) -> Option<Waiter> {
        let key = self.turns.pop_front()?;
        let line = self.by_key.get_mut(&key)?;
        let waiter = line.pop_front();
        if line.is_empty() {
            self.by_key.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        self.waiting -= usize::from(waiter.is_some());
        waiter
    }

    fn leave(&mut self, key: &Arc<str>, ticket: u64) {
        let Some(line) = self.by_key.get_mut(key) else { return };
        let Some(index) = line.iter().position(|waiter| waiter.ticket == ticket) else { return };
        line.remove(index);
        self.waiting -= 1;
        if line.is_empty() {
            self.by_key.remove(key);
            self.turns.retain(|waiting| waiting != key);
        }
    }

    /// When the calls in line now should all have run.
    fn estimate(&self) -> Duration {
        let rounds = (self.waiting + 1) as f64 / self.options.max_concurrent.max(1) as f64;
        let (shortest, longest) = RETRY_BOUNDS;
        let seconds = (rounds * self.seconds_per_call).clamp(shortest.as_secs_f64(), longest.as_secs_f64());
        Duration::from_secs_f64(seconds)
    }
}

/// A place in the line, given up when dropped.
struct Waiting {
    house: Arc<House>,
    key: Arc<str>,
    ticket: u64,
    served: bool,
    since: Instant,
    /// How long it may wait.
    longest: Duration,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.served {
            let mut line = self.house.lock();
            line.leave(&self.key, self.ticket);
            self.house.report(&line);
        }
    }
}

/// The right to run one call on the provider; dropping it lets the next one in.
#[must_use = "a slot that is dropped is free again"]
pub struct Slot {
    /// `None` once its place was handed on.
    house: Option<Arc<House>>,
    since: Instant,
}

impl Slot {
    fn of(house: &Arc<House>) -> Self {
        Self { house: Some(house.clone()), since: Instant::now() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(house) = self.house.take() else { return };
        let took = self.since.elapsed().as_secs_f64();
        {
            let mut line = house.lock();
            line.seconds_per_call += LEARNING * (took - line.seconds_per_call);
        }
        house.give_back();
    }
}
