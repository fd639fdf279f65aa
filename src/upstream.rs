//! The only file that calls out. It adds the credentials, keeps one pool of connections per provider,
//! and turns every way a connection can fail into one of a few words.
//! It must not know what a request means, or whether it will be tried again.

mod aws;
mod collector;
mod connect;
mod credentials;
mod entra;
mod exchange;
mod google;
mod http1;
mod keys;
mod lease;
mod pool;
mod profile;
mod program;
mod sigv4;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use providers::frames::Framing;
use providers::{Auth, UpstreamRequest};
use reqwest::Url;
use tokio::time::{Instant, timeout_at};

pub use self::collector::to_collector;
use self::connect::Route;
use self::credentials::Credentials;
use self::http1::Broken;
pub use self::lease::{Clock, Trouble};
use self::pool::{Address, Body, Pool, Unanswered};
use crate::config;
use crate::metrics::{Counter, Metrics};
use crate::worker::PerWorker;

/// The largest whole answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Why no answer, or no more of it, came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was sent: there are no credentials to send.
    Credentials(Trouble),
    /// No connection: name, address, TLS.
    Connect,
    /// Nothing came in time.
    Timeout,
    /// The connection broke.
    Broken,
    /// The answer is larger than is read.
    TooLarge,
    /// The answer is compressed, although that was not asked for.
    Compressed,
}

/// The way to one configured provider.
#[derive(Debug)]
pub struct Upstream {
    route: Arc<Route>,
    only_http2: bool,
    pools: PerWorker<Arc<Pool>>,
    base_url: String,
    credentials: Credentials,
    requests: Counter,
    reused: Counter,
    created: Counter,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, until the body is read.
    pub headers: HeaderMap,
    /// The number of the key that was used.
    pub key: usize,
    body: Body,
}

impl Upstream {
    /// The way to `provider`.
    ///
    /// # Errors
    /// When the key holds characters that no header can carry, the environment's proxy is of an unknown
    /// kind, or the TLS roots cannot be read.
    pub fn new(provider: &config::Provider, auth: Auth, metrics: &Metrics, clock: Clock) -> Result<Self, config::ConfigError> {
        // The process needs one default cryptography; a second call finds it already chosen.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wrong = |what: &str| config::ConfigError(format!("providers.{}: {what}", provider.name));
        let credentials = Credentials::new(&provider.name, &provider.credentials, auth, clock)
            .ok_or_else(|| wrong("the API key holds characters that a header cannot carry"))?;
        let address = address(&provider.base_url).ok_or_else(|| wrong("the base_url cannot be read"))?;
        let route = Route::new(address.whole, provider.timeouts.connect).map_err(|what| wrong(&what))?;
        Ok(Self {
            route: Arc::new(route),
            only_http2: provider.http2_prior_knowledge,
            pools: PerWorker::new(),
            base_url: provider.base_url.clone(),
            credentials,
            requests: Counter::new("requests", "requests sent").map_err(|error| wrong(&error.to_string()))?,
            reused: metrics.upstream_connections_reused.with_label_values(&[&provider.name]),
            created: metrics.upstream_connections_created.with_label_values(&[&provider.name]),
        })
    }

    /// Sends a request and waits for the head of its answer, for `first_byte` once it is sent and until
    /// `deadline` at the latest.
    ///
    /// # Errors
    /// A [`Failure`] when no head came.
    pub async fn send(&self, request: UpstreamRequest, first_byte: Duration, deadline: Instant) -> Result<Answer, Failure> {
        let pool = self.pools.here(|| Pool::new(Arc::clone(&self.route), self.only_http2, self.created.clone()));
        let address = pool.address(&request.path, || address(&format!("{}{}", self.base_url, request.path)));
        let address = address.ok_or(Failure::Connect)?;
        // Room for what the connection adds as well, so that the table is made once.
        let mut headers = HeaderMap::with_capacity(request.headers.len() + 7);
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        // Events must not wait in a compressor, and nothing here can grow to more than what came over the wire.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.extend(request.headers);
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        let attaching = self.credentials.attach((&request.method, &address.url, &mut headers), &request.body, deadline);
        let key = attaching.await.map_err(Failure::Credentials)?;
        let mut outgoing = Request::new(request.body);
        *outgoing.method_mut() = request.method;
        *outgoing.headers_mut() = headers;
        self.requests.inc();
        let now = Instant::now();
        let first_byte = (now + first_byte).min(deadline);
        let answered = timeout_at(first_byte, pool.send(outgoing, &address, now)).await.map_err(|_| Failure::Timeout)?;
        let answer = answered.map_err(|unanswered| match unanswered {
            Unanswered::Connect => Failure::Connect,
            Unanswered::Broken => Failure::Broken,
        })?;
        let (head, body) = answer.into_parts();
        if is_compressed(&head.headers) && head.status.is_success() {
            return Err(Failure::Compressed);
        }
        Ok(Answer { status: head.status, headers: head.headers, key, body })
    }

    /// Leaves a key alone for `wait`, because the provider refused it; `true` when there is another one to use
    /// meanwhile. The only key is never left alone.
    pub fn set_key_aside(&self, key: usize, now: std::time::Instant, wait: Duration) -> bool {
        self.credentials.keys().is_some_and(|keys| keys.set_aside(key, now, wait))
    }

    /// How many keys are left alone.
    #[must_use]
    pub fn keys_resting(&self, now: std::time::Instant) -> usize {
        self.credentials.keys().map_or(0, |keys| keys.resting(now))
    }

    /// How many keys there are.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.credentials.keys().map_or(0, keys::Keys::len)
    }

    /// Whether the provider is there: it answers a GET that costs nothing within `wait`, with anything but
    /// a server error.
    pub async fn is_there(&self, path: &str, wait: Duration) -> bool {
        let request = UpstreamRequest {
            method: Method::GET,
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            framing: Framing::Sse,
            dropped: Vec::new(),
        };
        let deadline = Instant::now() + wait;
        match self.send(request, wait, deadline).await {
            // Read to its end, so that the connection can serve again.
            Ok(answer) => !answer.status.is_server_error() && answer.whole(wait, deadline).await.is_ok(),
            Err(_) => false,
        }
    }

    /// The host and port that calls go to.
    #[must_use]
    pub fn server(&self) -> Option<(String, u16)> {
        let url = Url::parse(&self.base_url).ok()?;
        Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
    }

    /// Brings the counter of reused connections up to date: every request that did not open a connection
    /// used one that was open. For whoever is about to read the counters; one at a time.
    pub fn count_reuse(&self) {
        let behind = self.requests.get().saturating_sub(self.created.get()).saturating_sub(self.reused.get());
        self.reused.inc_by(behind);
    }
}

/// A URL, cleaned up as the URL standard wants it; a name and a password in it are not sent.
fn address(url: &str) -> Option<Address> {
    let mut url = Url::parse(url).ok()?;
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    url.set_fragment(None);
    let name = url.host_str()?;
    let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    let whole: Uri = url.as_str().parse().ok()?;
    let path = Uri::from(whole.path_and_query()?.clone());
    Some(Address { url, whole, path, host: HeaderValue::try_from(host).ok()? })
}

impl Answer {
    /// The next piece of the body, or `None` at its end. The headers are given up by then: their values are
    /// views of the connection's read buffer, and would keep it for as long as the answer lasts.
    ///
    /// # Errors
    /// [`Failure::Broken`] when the connection broke.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    /// [`chunk`](Self::chunk), for whoever awaits it in a way of their own.
    ///
    /// # Errors
    /// As [`chunk`](Self::chunk).
    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failure>> {
        if !self.headers.is_empty() {
            self.headers = HeaderMap::new();
        }
        self.body.poll_chunk(context).map_err(|Broken| Failure::Broken)
    }

    /// The whole body.
    ///
    /// # Errors
    /// A [`Failure`] when it broke off, came too slowly or is too large.
    pub async fn whole(mut self, idle: Duration, deadline: Instant) -> Result<Bytes, Failure> {
        let mut first = Bytes::new();
        let mut body = BytesMut::new();
        loop {
            // What is there already needs no look at the clock.
            let next = match self.chunk().now_or_never() {
                Some(next) => next,
                None => timeout_at(deadline.min(Instant::now() + idle), self.chunk()).await.map_err(|_| Failure::Timeout)?,
            };
            let Some(chunk) = next? else { break };
            if first.is_empty() && body.is_empty() {
                first = chunk;
                continue;
            }
            body.extend_from_slice(&std::mem::take(&mut first));
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(Failure::TooLarge);
            }
        }
        Ok(if body.is_empty() { first } else { body.freeze() })
    }

    /// The beginning of the body, of at least `most` bytes unless it ends, breaks off or is not there until
    /// `deadline`; nothing of one that is compressed. For errors, which say what matters first.
    pub async fn beginning(mut self, most: usize, deadline: Instant) -> Bytes {
        let mut body = BytesMut::new();
        while !is_compressed(&self.headers)
            && body.len() < most
            && let Ok(Ok(Some(chunk))) = timeout_at(deadline, self.chunk()).await
        {
            body.extend_from_slice(&chunk);
        }
        body.freeze()
    }
}

/// Whether an answer would have to be unpacked.
fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}
