//! The way from one thread to Redis: gathers its questions while others are on their way, and sends them together.
//! It must not know what a question says, nor what an answer means.
//!
//! A worker has a connection of its own, served by its own runtime, so that no question changes threads. Until it is there, and
//! for everybody who is no worker, there is the one on the limits' own thread.
//!
//! What has a deadline is watched by one clock per line, which runs only while there is something to watch: to set a timer for
//! each batch would wake the worker for each.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::back::Then;
use super::batch::Batch;
use super::link::{self, Connection};
use super::question::Question;
use super::{GiveBack, Shared};
use crate::limits::observer::BackendState;
use crate::worker;

/// Questions, and calls that ended, in one batch: bounds how long it may hold Redis.
pub(super) const BATCH: usize = 512;

/// Questions that may wait to be sent; more are not asked.
const WAITING: usize = 16_384;

/// A connection that was not used for so long may have been closed at the other end.
const UNUSED: Duration = Duration::from_secs(10);

/// How long after one try to connect the next may begin.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// See the head of this file.
pub(super) struct Line {
    runtime: Handle,
    gathered: Mutex<Gathered>,
    /// A worker's own connection; `None`: this is no worker's line.
    own: Option<Mutex<Own>>,
    /// Batches that are on their way and watched.
    flights: AtomicUsize,
    /// Whether the line's clock runs.
    ticking: Mutex<bool>,
    ticks: Notify,
}

#[derive(Default)]
struct Gathered {
    questions: Vec<Question>,
    /// Whether somebody carries them to Redis.
    carried: bool,
}

#[derive(Default)]
struct Own {
    connection: Option<Connection>,
    used: Option<Instant>,
    tried: Option<Instant>,
}

/// The connection that a batch goes by.
pub(super) struct Carrier {
    pub(super) multiplexed: MultiplexedConnection,
    pub(super) generation: u64,
    /// The line that the batch goes by.
    pub(super) line: Arc<Line>,
    /// Whether the connection is that line's own.
    is_own: bool,
}

impl Carrier {
    /// Takes the connection away if it is a line's own, and says whether it was. Whether Redis is gone is for the common
    /// connection to tell, which the line goes by from now on.
    pub(super) fn lose(&self) -> bool {
        if let Some(own) = self.line.own.as_ref().filter(|_| self.is_own) {
            lock(own).connection = None;
        }
        self.is_own
    }
}

impl Line {
    /// The line of this thread.
    pub(super) fn here(shared: &Shared) -> &Arc<Self> {
        shared.lines.here(|| {
            let runtime = worker::runtime();
            let own = runtime.is_some().then(Mutex::default);
            Arc::new(Self {
                runtime: runtime.unwrap_or_else(|| shared.thread.clone()),
                gathered: Mutex::default(),
                own,
                flights: AtomicUsize::new(0),
                ticking: Mutex::new(false),
                ticks: Notify::new(),
            })
        })
    }

    /// Takes a question along; says whether there was room.
    pub(super) fn ask(self: &Arc<Self>, shared: &Arc<Shared>, question: Question) -> bool {
        {
            let mut gathered = lock(&self.gathered);
            if gathered.questions.len() >= WAITING {
                return false;
            }
            gathered.questions.push(question);
        }
        self.set_off(shared);
        true
    }

    /// Takes along what an ended call gives back: at once if it is urgent, else with the next questions or a little later.
    pub(super) fn give_back(self: &Arc<Self>, shared: &Arc<Shared>, back: GiveBack, urgent: bool) {
        match shared.backs.push(back, urgent) {
            // While Redis is gone they wait for the clerk.
            Then::Send if shared.state() == BackendState::Shared => self.set_off(shared),
            Then::Nothing | Then::Send => {}
            Then::Watch => self.start_clock(shared),
            Then::Lost => shared.observer.lost(1),
        }
    }

    /// Has somebody carry what is gathered, if nobody does. On a worker's own runtime that is after all that is ready to run
    /// now, so what they ask is gathered as well.
    fn set_off(self: &Arc<Self>, shared: &Arc<Shared>) {
        if !std::mem::replace(&mut lock(&self.gathered).carried, true) {
            self.runtime.spawn(carry(Carrying { line: self.clone(), is_done: false }, shared.clone()));
        }
    }

    /// Has the clock run for a batch that sets off, until what is returned is dropped.
    pub(super) fn take_flight(self: &Arc<Self>, shared: &Arc<Shared>) -> Flight {
        self.flights.fetch_add(1, Ordering::Relaxed);
        self.start_clock(shared);
        Flight(self.clone())
    }

    fn start_clock(self: &Arc<Self>, shared: &Arc<Shared>) {
        if !std::mem::replace(&mut *lock(&self.ticking), true) {
            self.runtime.spawn(self.clone().tick(shared.clone()));
        }
    }

    /// The line's clock: runs while anything is on its way, or waits to be given back.
    async fn tick(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            sleep(shared.tick()).await;
            self.ticks.notify_waiters();
            if shared.backs.are_due() && shared.state() == BackendState::Shared {
                self.set_off(&shared);
            }
            let mut ticking = lock(&self.ticking);
            // What waits while Redis is gone waits for the clerk.
            let is_awaited = shared.backs.wait() && shared.state() == BackendState::Shared;
            if self.flights.load(Ordering::Relaxed) == 0 && !is_awaited {
                *ticking = false;
                return;
            }
        }
    }

    /// Waits for so many ticks.
    async fn watch<F: Future>(&self, ticks: u32, mut future: Pin<&mut F>) -> Option<F::Output> {
        for _ in 0..ticks {
            tokio::select! {
                biased;
                output = future.as_mut() => return Some(output),
                () = self.ticks.notified() => {}
            }
        }
        None
    }

    /// What is to be sent next; `None`: nothing, and nobody carries any more.
    fn next(self: &Arc<Self>, shared: &Arc<Shared>) -> Option<Batch> {
        let connection = shared.link.connection();
        let mut gathered = lock(&self.gathered);
        let count = gathered.questions.len().min(BATCH);
        let questions: Vec<Question> = gathered.questions.drain(..count).collect();
        let Some(connection) = connection else {
            gathered.carried = count > 0;
            drop(gathered);
            questions.into_iter().for_each(Question::turn_away);
            return if count > 0 { self.next(shared) } else { None };
        };
        let backs = shared.backs.take(BATCH, count > 0);
        gathered.carried = count > 0 || !backs.is_empty();
        if !gathered.carried {
            return None;
        }
        drop(gathered);
        Some(Batch::new(shared.clone(), self.carrier(shared, connection), questions, backs))
    }

    /// This line's own connection, if there is a good one; else the common one, and its own the next time.
    fn carrier(self: &Arc<Self>, shared: &Arc<Shared>, common: Connection) -> Carrier {
        let now = Instant::now();
        if let Some(own) = &self.own {
            let mut own = lock(own);
            let is_fresh = own.used.is_some_and(|used| now < used + UNUSED);
            own.used = Some(now);
            own.connection.take_if(|connection| connection.generation != common.generation || !is_fresh);
            if let Some(connection) = &own.connection {
                let Connection { multiplexed, generation, .. } = connection.clone();
                return Carrier { multiplexed, generation, line: self.clone(), is_own: true };
            }
            if own.tried.is_none_or(|tried| now > tried + TRY_AGAIN) {
                own.tried = Some(now);
                self.runtime.spawn(self.clone().connect(shared.clone(), common.clone()));
            }
        }
        Carrier { multiplexed: common.multiplexed, generation: common.generation, line: self.clone(), is_own: false }
    }

    /// Makes a connection of this line's own to where the common one leads. Where none is to be had, the common one does.
    async fn connect(self: Arc<Self>, shared: Arc<Shared>, common: Connection) {
        match link::connect(&common.client, shared.options.connect).await {
            Ok(multiplexed) => {
                if let Some(own) = &self.own {
                    lock(own).connection = Some(Connection { multiplexed, ..common });
                }
            }
            Err(error) => tracing::debug!(reason = %error, "a worker has no connection to Redis of its own"),
        }
    }
}

/// Who carries what a line gathered.
struct Carrying {
    line: Arc<Line>,
    is_done: bool,
}

impl Drop for Carrying {
    /// Where nobody carries on, because the runtime ends or something broke, nobody is left waiting.
    fn drop(&mut self) {
        if !self.is_done {
            let mut gathered = lock(&self.line.gathered);
            gathered.carried = false;
            gathered.questions.clear();
        }
    }
}

/// Sends batch after batch until there is nothing to send. The next waits for the answer of the one before, so that what is
/// asked meanwhile goes together; but no longer than a tick, so that a Redis that is late is not waited for twice.
async fn carry(mut carrying: Carrying, shared: Arc<Shared>) {
    while let Some(batch) = carrying.line.next(&shared) {
        let mut putting = Box::pin(batch.put());
        if carrying.line.watch(1, putting.as_mut()).await.is_none() {
            tokio::spawn(putting);
        }
    }
    carrying.is_done = true;
}

/// A batch on its way.
pub(super) struct Flight(Arc<Line>);

impl Flight {
    /// Waits for so many ticks of the line's clock. Each begins when the last is over, and an answer that has come is read before
    /// a tick ends: time in which this thread itself was held up is not held against Redis.
    pub(super) async fn watch<F: Future>(&self, ticks: u32, future: Pin<&mut F>) -> Option<F::Output> {
        self.0.watch(ticks, future).await
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.flights.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
