//! The one connection to Redis, and the breaker: there is a connection to ask, or there is none.
//! It must not know scripts.

use std::fmt::Display;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::limits::observer::{BackendState, Observer};

/// A connection, and which one it is: trouble with an earlier one is no trouble with this.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) multiplexed: MultiplexedConnection,
    pub(super) generation: u64,
    /// What makes another to the same server.
    pub(super) client: Client,
}

/// Commands on their way to a connection.
const PIPELINE: usize = 1_024;

/// Connects, for as long as that may take, on the runtime of whoever calls.
pub(super) async fn connect(client: &Client, patience: Duration) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(PIPELINE);
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    timeout(patience, connecting).await.map_err(|_| late("connecting"))?
}

/// What there was no answer to in time.
pub(super) fn late(what: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Io, "no answer within the deadline", what.to_owned()))
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

    /// The connection, if it is good.
    pub(super) fn connection(&self) -> Option<Connection> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is a good connection. Only before the very first is known to be good or bad, this waits for it, and only
    /// the first calls do: when they waited in vain, the rest need not.
    pub(super) async fn is_up(&self, patience: Duration, observer: &dyn Observer) -> bool {
        if self.state() == BackendState::Starting {
            let mut state = self.state.subscribe();
            if timeout(patience, state.wait_for(|state| *state != BackendState::Starting)).await.is_err() {
                let open = self.lock();
                if open.is_none() {
                    self.tell(BackendState::Degraded, observer, &"it has not answered yet");
                }
            }
        }
        self.state() == BackendState::Shared
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
