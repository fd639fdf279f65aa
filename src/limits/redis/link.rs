//! The one connection to Redis, and the breaker: there is a connection to ask, or there is none.
//! It must not know scripts, nor how a connection is made.

use std::fmt::Display;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::limits::observer::{BackendState, Observer};

/// A connection, and which one it is: trouble with an earlier one is no trouble with this.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) multiplexed: MultiplexedConnection,
    pub(super) generation: u64,
}

/// The connection while it is good. A call that has trouble with it takes it away for all at once; only the clerk brings
/// another.
pub(super) struct Link {
    open: RwLock<Option<Connection>>,
    state: watch::Sender<BackendState>,
    /// Wakes the clerk.
    pub(super) trouble: Arc<Notify>,
}

impl Default for Link {
    fn default() -> Self {
        Self { open: RwLock::default(), state: watch::Sender::new(BackendState::Starting), trouble: Arc::default() }
    }
}

impl Link {
    pub(super) fn state(&self) -> BackendState {
        *self.state.borrow()
    }

    /// The connection, if it is good. Only before the very first is known to be good or bad, this waits for it, and only the
    /// first calls do: when they waited in vain, the rest need not.
    pub(super) async fn connection(&self, until: Instant, observer: &dyn Observer) -> Option<Connection> {
        if self.state() == BackendState::Starting {
            let mut state = self.state.subscribe();
            if timeout_at(until, state.wait_for(|state| *state != BackendState::Starting)).await.is_err() {
                let open = self.lock();
                if open.is_none() {
                    self.tell(BackendState::Degraded, observer, &"it has not answered yet");
                }
            }
        }
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this connection is the one in use.
    pub(super) fn is_open(&self, generation: u64) -> bool {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().is_some_and(|connection| connection.generation == generation)
    }

    /// Opens the door to a connection that was seen to work.
    pub(super) fn up(&self, connection: Connection, observer: &dyn Observer) {
        let mut open = self.lock();
        *open = Some(connection);
        self.tell(BackendState::Shared, observer, &"it answers");
    }

    /// Takes a connection away that gave trouble.
    pub(super) fn trip(&self, generation: u64, why: &dyn Display, observer: &dyn Observer) {
        let mut open = self.lock();
        if open.as_ref().is_some_and(|connection| connection.generation == generation) {
            *open = None;
            self.tell(BackendState::Degraded, observer, why);
            self.trouble.notify_one();
        }
    }

    /// Says that there is no connection to be had.
    pub(super) fn down(&self, why: &dyn Display, observer: &dyn Observer) {
        let mut open = self.lock();
        *open = None;
        self.tell(BackendState::Degraded, observer, why);
    }

    /// Held while the state changes, so that all hear of changes in their order.
    fn lock(&self) -> RwLockWriteGuard<'_, Option<Connection>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: BackendState, observer: &dyn Observer, why: &dyn Display) {
        if self.state.send_replace(state) != state {
            match state {
                BackendState::Degraded => tracing::warn!(reason = %why, "limits are counted without Redis"),
                _ => tracing::info!("limits are counted in Redis"),
            }
            observer.backend(state);
        }
    }
}
