//! The connections to one provider that one worker keeps: idle ones of HTTP/1.1, the last used first,
//! and shared ones of HTTP/2, as many as the provider's limit on streams makes needful.
//! It must not know what is sent, or whether it will be tried again.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body as _, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use reqwest::Url;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::connect::{Route, Stream};
use super::http1::{self, Broken};
use crate::metrics::Counter;

/// Idle connections kept.
const MAX_IDLE: usize = 1024;
/// How long an idle connection is kept; less than what load balancers usually allow.
const IDLE: Duration = Duration::from_secs(55);
/// Addresses that are remembered, so that they are read once; a path may name the model.
const MAX_ADDRESSES: usize = 256;
/// How often it is looked for connections that were idle for too long.
const SWEEP: Duration = Duration::from_secs(10);

/// Where a request goes, in each of the forms in which a connection may want to see it.
#[derive(Debug)]
pub(super) struct Address {
    /// As it is signed.
    pub(super) url: Url,
    /// The whole URL: for HTTP/2, and for a proxy that forwards.
    pub(super) whole: Uri,
    /// Its path and query: for HTTP/1.1.
    pub(super) path: Uri,
    /// The `Host` header of HTTP/1.1.
    pub(super) host: HeaderValue,
}

/// Why a request was not answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unanswered {
    /// There is no connection.
    Connect,
    /// It broke.
    Broken,
}

/// Nothing was sent, and here is the request again; or it was sent and not answered.
type Failed = Result<Request<Bytes>, Unanswered>;

/// Boxed: most calls find a connection and need no room for making one.
type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Dialled, Unanswered>> + Send + 'a>>;

/// The connections of one worker to one provider.
#[derive(Debug)]
pub(super) struct Pool {
    route: Arc<Route>,
    created: Counter,
    state: Mutex<State>,
    /// HTTP/2 without TLS: nobody is asked.
    only_http2: bool,
    /// Whether TLS has settled on HTTP/2 before.
    speaks_http2: AtomicBool,
    /// Held while a shared connection is made: whoever waits for it uses it.
    dialling: tokio::sync::Mutex<()>,
    failed_dials: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// By path.
    addresses: HashMap<String, Arc<Address>>,
    idle: VecDeque<(Stream, Instant)>,
    shared: Vec<Shared>,
    is_swept: bool,
}

/// A connection of HTTP/2.
#[derive(Clone, Debug)]
struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    running: Arc<AtomicUsize>,
    /// The provider's limit on streams at once.
    room: Arc<AtomicUsize>,
}

enum Dialled {
    Own(Stream),
    Shared(Shared, Place),
}

/// The body of an answer, and what it holds of its connection until it is over.
#[derive(Debug)]
pub(super) enum Body {
    /// All of it, which is idle in the pool afterwards; `None` when it is over.
    Own(Arc<Pool>, Option<http1::Body>),
    /// One stream of it.
    Shared { incoming: Incoming, _place: Place },
}

impl Body {
    /// The next bytes, `None` at the end.
    pub(super) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        match self {
            Self::Own(pool, own) => {
                let Some(body) = own else { return Poll::Ready(Ok(None)) };
                let chunk = ready!(body.poll_chunk(context))?;
                if chunk.is_none()
                    && let Some(stream) = own.take().and_then(http1::Body::leave)
                {
                    pool.keep(stream);
                }
                Poll::Ready(Ok(chunk))
            }
            Self::Shared { incoming, .. } => loop {
                match ready!(Pin::new(&mut *incoming).poll_frame(context)).transpose().map_err(|_| Broken)?.map(Frame::into_data)
                {
                    None => return Poll::Ready(Ok(None)),
                    Some(Ok(bytes)) => return Poll::Ready(Ok(Some(bytes))),
                    // Trailers tell nothing that is waited for.
                    Some(Err(_)) => {}
                }
            },
        }
    }
}

/// One stream of a shared connection, counted while this lives.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// No connection is made yet.
    pub(super) fn new(route: Arc<Route>, only_http2: bool, created: Counter) -> Arc<Self> {
        Arc::new(Self {
            route,
            created,
            state: Mutex::default(),
            only_http2,
            speaks_http2: AtomicBool::new(only_http2),
            dialling: tokio::sync::Mutex::default(),
            failed_dials: AtomicU64::new(0),
        })
    }

    /// The address of a path; `read` reads one that is not known yet.
    pub(super) fn address(&self, path: &str, read: impl FnOnce() -> Option<Address>) -> Option<Arc<Address>> {
        let mut state = self.lock();
        if let Some(address) = state.addresses.get(path) {
            return Some(Arc::clone(address));
        }
        let address = Arc::new(read()?);
        if state.addresses.len() >= MAX_ADDRESSES {
            // A path may name what is asked for only once.
            state.addresses.clear();
        }
        state.addresses.insert(path.to_owned(), Arc::clone(&address));
        Some(address)
    }

    /// Sends a request and waits for the head of its answer. A connection that turns out to be closed
    /// before anything was written on it is replaced; what was written is never sent again.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<Bytes>,
        address: &Address,
        now: Instant,
    ) -> Result<Response<Body>, Unanswered> {
        while let Some(stream) = self.take_idle(now) {
            match self.on_own(stream, request, address).await {
                Ok(answered) => return Ok(answered),
                Err(failed) => request = failed?,
            }
        }
        while let Some((shared, place)) = self.take_shared() {
            match on_shared((shared, place), request, address).await {
                Ok(answered) => return Ok(answered),
                Err(failed) => request = failed?,
            }
        }
        let dialling: Dialling<'_> = Box::pin(self.dial());
        let answered = match dialling.await? {
            Dialled::Own(stream) => self.on_own(stream, request, address).await,
            Dialled::Shared(shared, place) => on_shared((shared, place), request, address).await,
        };
        answered.map_err(|failed| failed.err().unwrap_or(Unanswered::Broken))
    }

    async fn on_own(
        self: &Arc<Self>,
        stream: Stream,
        mut request: Request<Bytes>,
        address: &Address,
    ) -> Result<Response<Body>, Failed> {
        *request.uri_mut() = address.path.clone();
        request.headers_mut().insert(HOST, address.host.clone());
        if let Some(pass) = self.route.forward() {
            *request.uri_mut() = address.whole.clone();
            if let Some(pass) = pass {
                request.headers_mut().insert(PROXY_AUTHORIZATION, pass.clone());
            }
        }
        let answered = http1::exchange(stream, request).await;
        let answer = answered.map_err(|unsent| unsent.map_err(|Broken| Unanswered::Broken))?;
        Ok(answer.map(|body| Body::Own(Arc::clone(self), Some(body))))
    }

    /// A connection that is made now, or one that somebody else has made meanwhile.
    async fn dial(&self) -> Result<Dialled, Unanswered> {
        if !self.speaks_http2.load(Ordering::Relaxed) {
            return self.connect().await.map_err(|_| Unanswered::Connect);
        }
        let failed_before = self.failed_dials.load(Ordering::Relaxed);
        let _dialling = self.dialling.lock().await;
        if let Some((shared, place)) = self.take_shared() {
            return Ok(Dialled::Shared(shared, place));
        }
        // Whoever waited for a connection that did not come has waited long enough.
        if self.failed_dials.load(Ordering::Relaxed) != failed_before {
            return Err(Unanswered::Connect);
        }
        self.connect().await.map_err(|_| {
            self.failed_dials.fetch_add(1, Ordering::Relaxed);
            Unanswered::Connect
        })
    }

    async fn connect(&self) -> io::Result<Dialled> {
        self.created.inc();
        let (stream, is_http2) = self.route.connect().await?;
        if !self.only_http2 && !is_http2 {
            return Ok(Dialled::Own(stream));
        }
        self.speaks_http2.store(true, Ordering::Relaxed);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).adaptive_window(true);
        let (sender, mut connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        let room = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        let shared = Shared { sender, running: Arc::default(), room: Arc::clone(&room) };
        tokio::spawn(poll_fn(move |context| {
            let polled = Pin::new(&mut connection).poll(context);
            room.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled.map(drop)
        }));
        let mut state = self.lock();
        let place = shared.one_more();
        state.shared.push(shared.clone());
        Ok(Dialled::Shared(shared, place))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked left a list of connections, which is as good as before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The idle connection that was used last.
    fn take_idle(&self, now: Instant) -> Option<Stream> {
        let mut state = self.lock();
        while let Some((mut stream, since)) = state.idle.pop_back() {
            if is_usable(&mut stream, since, now) {
                return Some(stream);
            }
        }
        None
    }

    fn take_shared(&self) -> Option<(Shared, Place)> {
        let mut state = self.lock();
        state.shared.retain(|shared| !shared.sender.is_closed());
        let shared = state.shared.iter().find(|shared| shared.has_room())?;
        Some((shared.clone(), shared.one_more()))
    }

    /// Keeps a connection whose answer is over.
    fn keep(self: &Arc<Self>, stream: Stream) {
        let mut state = self.lock();
        if state.idle.len() >= MAX_IDLE {
            return;
        }
        state.idle.push_back((stream, Instant::now()));
        if !state.is_swept
            && let Ok(runtime) = Handle::try_current()
        {
            state.is_swept = true;
            runtime.spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes what was idle for too long. False when nothing is idle any more.
    fn forget_old(&self) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        state.idle.retain_mut(|(stream, since)| is_usable(stream, *since, now));
        state.is_swept = !state.idle.is_empty();
        state.is_swept
    }
}

fn is_usable(stream: &mut Stream, since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < IDLE && http1::is_open(stream)
}

impl Shared {
    fn has_room(&self) -> bool {
        self.running.load(Ordering::Relaxed) < self.room.load(Ordering::Relaxed)
    }

    fn one_more(&self) -> Place {
        self.running.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(&self.running))
    }
}

async fn on_shared(
    (mut shared, place): (Shared, Place),
    mut request: Request<Bytes>,
    address: &Address,
) -> Result<Response<Body>, Failed> {
    *request.uri_mut() = address.whole.clone();
    request.headers_mut().remove(HOST);
    let sent = shared.sender.try_send_request(request.map(Full::new)).await;
    let answer = sent.map_err(|mut error| {
        let (head, body) = error.take_message().ok_or(Unanswered::Broken)?.into_parts();
        Ok(Request::from_parts(head, body.into_inner().ok_or(Unanswered::Broken)?))
    })?;
    Ok(answer.map(|incoming| Body::Shared { incoming, _place: place }))
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        if !pool.forget_old() {
            return;
        }
    }
}
