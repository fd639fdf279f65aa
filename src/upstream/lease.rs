//! Something that is good for a while: fetched once for all who wait, renewed before it ends.
//! It must not know what it is or where it comes from.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// How long before its end something is renewed; Google's and AWS's metadata services hand out the next one
/// from then on.
const AHEAD: Duration = Duration::from_secs(5 * 60);
/// What is left when it is no longer used: a request takes a moment to arrive.
const LAST: Duration = Duration::from_secs(10);
/// How long nothing is fetched after a fetch that failed, or brought what has to be renewed at once.
const REST: Duration = Duration::from_secs(5);
/// The longest that one fetch may take; it may ask several services in turn.
const MAX_FETCH: Duration = Duration::from_secs(20);

/// Tells the time; another one is told in tests.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// A clock that says what `now` says.
    #[must_use]
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Clock")
    }
}

/// Why there are no credentials: what is missing or who refused, never with a secret or a path in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For the operator and the client.
    pub message: String,
    /// Whether it may be there at another time without anyone doing anything.
    pub is_passing: bool,
}

impl Trouble {
    /// Something that somebody must mend.
    pub(super) fn lasting(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_passing: false }
    }

    /// A service that could not be reached, or was not well.
    pub(super) fn passing(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_passing: true }
    }
}

/// What was fetched.
pub(super) struct Granted<T> {
    pub(super) value: T,
    /// `None`: it does not end.
    pub(super) until: Option<SystemTime>,
}

/// Where it comes from.
pub(super) trait Source: fmt::Debug + Send + Sync + 'static {
    type Value: Send + Sync + 'static;

    /// Fetches it anew.
    fn fetch(&self, now: SystemTime) -> impl Future<Output = Result<Granted<Self::Value>, Trouble>> + Send;
}

type Landed<T> = Option<Result<Arc<T>, Trouble>>;

struct Held<T> {
    value: Arc<T>,
    renew_at: Option<SystemTime>,
    last_use: Option<SystemTime>,
}

struct State<T> {
    held: Option<Held<T>>,
    flight: Option<watch::Receiver<Landed<T>>>,
    /// When the last fetch ended, and the trouble with it.
    landed: Option<(SystemTime, Option<Trouble>)>,
}

struct Inner<S: Source> {
    owner: String,
    source: S,
    clock: Clock,
    state: Mutex<State<S::Value>>,
}

/// Something that is good for a while. At most one fetch of it is under way.
pub(super) struct Lease<S: Source>(Arc<Inner<S>>);

impl<S: Source> fmt::Debug for Lease<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Lease").field(&self.0.source).finish()
    }
}

impl<S: Source> Lease<S> {
    /// Nothing is fetched yet. `owner` is the provider that log lines name.
    pub(super) fn new(owner: &str, source: S, clock: Clock) -> Self {
        let state = Mutex::new(State { held: None, flight: None, landed: None });
        Self(Arc::new(Inner { owner: owner.to_owned(), source, clock, state }))
    }

    /// What is good now. Waits only while there is none, until `deadline` at the latest.
    pub(super) async fn get(&self, deadline: Instant) -> Result<Arc<S::Value>, Trouble> {
        let now = self.0.clock.now();
        let mut flight = {
            let mut state = self.0.lock();
            let rests = state.rests(now);
            if let Some(held) = state.held.as_ref().filter(|held| held.last_use.is_none_or(|last| now < last)) {
                let value = Arc::clone(&held.value);
                let is_due = held.renew_at.is_some_and(|renew_at| now >= renew_at);
                if is_due && rests.is_none() {
                    self.flight(&mut state, now);
                }
                return Ok(value);
            }
            if let Some(Some(trouble)) = rests {
                return Err(trouble);
            }
            self.flight(&mut state, now)
        };
        let landed = timeout_at(deadline, flight.wait_for(Option::is_some)).await;
        let landed = landed.map_err(|_| Trouble::passing("the credentials did not come in time"))?;
        let lost = || Trouble::passing("the fetch of the credentials was lost");
        landed.map_err(|_| lost())?.clone().unwrap_or_else(|| Err(lost()))
    }

    /// The fetch that is under way, or a new one. It goes on when those who wait for it leave.
    fn flight(&self, state: &mut State<S::Value>, now: SystemTime) -> watch::Receiver<Landed<S::Value>> {
        // One whose task is gone will never land.
        if let Some(flight) = state.flight.as_ref().filter(|flight| flight.has_changed().is_ok()) {
            return flight.clone();
        }
        let (sender, receiver) = watch::channel(None);
        state.flight = Some(receiver.clone());
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let fetched = timeout(MAX_FETCH, inner.source.fetch(now)).await;
            let fetched = fetched.unwrap_or_else(|_| Err(Trouble::passing("the credentials did not come in time")));
            sender.send_replace(Some(inner.land(fetched)));
        });
        receiver
    }
}

impl<S: Source> Inner<S> {
    fn lock(&self) -> MutexGuard<'_, State<S::Value>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn land(&self, fetched: Result<Granted<S::Value>, Trouble>) -> Result<Arc<S::Value>, Trouble> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.flight = None;
        state.landed = Some((now, fetched.as_ref().err().cloned()));
        match fetched {
            Ok(granted) => {
                let held = Held::new(granted, now);
                let value = Arc::clone(&held.value);
                state.held = Some(held);
                Ok(value)
            }
            Err(trouble) => {
                let (provider, what) = (self.owner.as_str(), trouble.message.as_str());
                tracing::warn!(target: "choreoai", provider, what, "no new credentials");
                Err(trouble)
            }
        }
    }
}

impl<T> State<T> {
    /// Whether nothing is to be fetched just now, and the trouble that is the reason.
    fn rests(&self, now: SystemTime) -> Option<Option<Trouble>> {
        let (landed, trouble) = self.landed.as_ref()?;
        now.duration_since(*landed).is_ok_and(|since| since < REST).then(|| trouble.clone())
    }
}

impl<T> Held<T> {
    fn new(granted: Granted<T>, now: SystemTime) -> Self {
        let renew_at = granted.until.map(|until| {
            let life = until.duration_since(now).unwrap_or_default();
            now + life.saturating_sub(AHEAD).max(life / 2)
        });
        let last_use = granted.until.and_then(|until| until.checked_sub(LAST));
        Self { value: Arc::new(granted.value), renew_at, last_use }
    }
}
