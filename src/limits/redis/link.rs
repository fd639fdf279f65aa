//! The one connection to Redis, and the breaker: there is a connection to ask, or there is none.
//! It must not know scripts, nor how a connection is made.

use std::fmt::Display;
use std::sync::{Arc, PoisonError, RwLock};

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

    /// The connection, if it is good. Only before the very first is known to be good or bad, this waits for it.
    pub(super) async fn connection(&self, until: Instant) -> Option<Connection> {
        if self.state() == BackendState::Starting {
            let mut state = self.state.subscribe();
            let _ = timeout_at(until, state.wait_for(|state| *state != BackendState::Starting)).await;
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
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        if self.state.send_replace(BackendState::Shared) != BackendState::Shared {
            tracing::info!("limits are counted in Redis");
            observer.backend(BackendState::Shared);
        }
    }

    /// Takes a connection away that gave trouble.
    pub(super) fn trip(&self, generation: u64, why: &dyn Display, observer: &dyn Observer) {
        {
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            if open.as_ref().is_none_or(|connection| connection.generation != generation) {
                return;
            }
            *open = None;
        }
        self.down(why, observer);
        self.trouble.notify_one();
    }

    /// Says that there is no connection to be had.
    pub(super) fn down(&self, why: &dyn Display, observer: &dyn Observer) {
        if self.state.send_replace(BackendState::Degraded) != BackendState::Degraded {
            tracing::warn!(reason = %why, "limits are not counted in Redis: the policy for its absence applies");
            observer.backend(BackendState::Degraded);
        }
    }
}
