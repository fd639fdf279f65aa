//! The only file that calls out. It adds the credentials, keeps one pool of connections per provider,
//! and turns every way a connection can fail into one of a few words.
//! It must not know what a request means, or whether it will be tried again.

mod aws;
mod credentials;
mod entra;
mod exchange;
mod google;
mod lease;
mod profile;
mod sigv4;

use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use providers::frames::Framing;
use providers::{Auth, UpstreamRequest};
use reqwest::{Client, Url};
use tokio::time::{Instant, timeout, timeout_at};

use self::credentials::Credentials;
pub use self::lease::{Clock, Trouble};
use crate::config::{self, Timeouts};
use crate::metrics::{Counter, Metrics};

/// Idle connections kept per provider.
const MAX_IDLE_CONNECTIONS: usize = 1024;
/// How long an idle connection is kept; less than what load balancers usually allow.
const IDLE_CONNECTION: Duration = Duration::from_secs(55);
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
}

/// The way to one configured provider.
#[derive(Debug)]
pub struct Upstream {
    client: Client,
    base_url: String,
    /// The address of the path that was called first; nearly all calls go to that one.
    usual: OnceLock<(String, Url)>,
    credentials: Credentials,
    /// How long each stage may take.
    pub timeouts: Timeouts,
    requests: Counter,
    reused: Counter,
    created: Counter,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    body: reqwest::Response,
}

impl Upstream {
    /// The way to `provider`.
    ///
    /// # Errors
    /// When the key holds characters that no header can carry, or the TLS roots cannot be read.
    pub fn new(provider: &config::Provider, auth: Auth, metrics: &Metrics, clock: Clock) -> Result<Self, config::ConfigError> {
        // The process needs one default cryptography; a second call finds it already chosen.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wrong = |what: &str| config::ConfigError(format!("providers.{}: {what}", provider.name));
        let credentials = Credentials::new(&provider.name, &provider.credentials, auth, clock)
            .ok_or_else(|| wrong("the API key holds characters that a header cannot carry"))?;
        let created = metrics.upstream_connections_created.with_label_values(&[&provider.name]);
        let mut builder = Client::builder()
            .connect_timeout(provider.timeouts.connect)
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http2_adaptive_window(true)
            .connector_layer(CountConnections(created.clone()));
        if provider.http2_prior_knowledge {
            builder = builder.http2_prior_knowledge();
        }
        if is_loopback(&provider.base_url) {
            // The environment's proxy stands elsewhere, where this address means another machine.
            builder = builder.no_proxy();
        }
        Ok(Self {
            client: builder.build().map_err(|error| wrong(&format!("no HTTP client: {error}")))?,
            base_url: provider.base_url.clone(),
            usual: OnceLock::new(),
            credentials,
            timeouts: provider.timeouts,
            requests: Counter::new("requests", "requests sent").map_err(|error| wrong(&error.to_string()))?,
            reused: metrics.upstream_connections_reused.with_label_values(&[&provider.name]),
            created,
        })
    }

    /// Sends a request and waits for the head of its answer, until `deadline` at the latest.
    ///
    /// # Errors
    /// A [`Failure`] when no head came.
    pub async fn send(&self, request: UpstreamRequest, deadline: Instant) -> Result<Answer, Failure> {
        let url = self.url(&request.path).ok_or(Failure::Connect)?;
        let mut headers = HeaderMap::with_capacity(request.headers.len() + 3);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(request.headers);
        let attaching = self.credentials.attach((&request.method, &url, &mut headers), &request.body, deadline);
        attaching.await.map_err(Failure::Credentials)?;
        let mut outgoing = reqwest::Request::new(request.method, url);
        *outgoing.body_mut() = Some(request.body.into());
        *outgoing.headers_mut() = headers;
        self.requests.inc();
        let first_byte = (Instant::now() + self.timeouts.first_byte).min(deadline);
        let answered = timeout_at(first_byte, self.client.execute(outgoing)).await;
        let mut answer = answered.map_err(|_| Failure::Timeout)?.map_err(|error| failure(&error))?;
        Ok(Answer { status: answer.status(), headers: std::mem::take(answer.headers_mut()), body: answer })
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
        match self.send(request, deadline).await {
            // Read to its end, so that the connection can serve again.
            Ok(answer) => !answer.status.is_server_error() && answer.whole(wait, deadline).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Brings the counter of reused connections up to date: every request that did not open a connection
    /// used one that was open. For whoever is about to read the counters; one at a time.
    pub fn count_reuse(&self) {
        let behind = self.requests.get().saturating_sub(self.created.get()).saturating_sub(self.reused.get());
        self.reused.inc_by(behind);
    }

    fn url(&self, path: &str) -> Option<Url> {
        let parse = || Url::parse(&format!("{}{path}", self.base_url)).ok();
        match self.usual.get() {
            Some((usual, url)) if usual == path => Some(url.clone()),
            Some(_) => parse(),
            None => {
                let url = parse()?;
                // Another call may have been quicker; then its path is the usual one.
                let _ = self.usual.set((path.to_owned(), url.clone()));
                Some(url)
            }
        }
    }
}

impl Answer {
    /// The next piece of the body, or `None` at its end.
    ///
    /// # Errors
    /// [`Failure::Broken`] when the connection broke.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        self.body.chunk().await.map_err(|_| Failure::Broken)
    }

    /// The whole body.
    ///
    /// # Errors
    /// A [`Failure`] when it broke off, came too slowly or is too large.
    pub async fn whole(mut self, idle: Duration, deadline: Instant) -> Result<Bytes, Failure> {
        let mut first = Bytes::new();
        let mut body = BytesMut::new();
        loop {
            let next = timeout_at(deadline, timeout(idle, self.chunk())).await;
            let Some(chunk) = next.map_err(|_| Failure::Timeout)?.map_err(|_| Failure::Timeout)?? else { break };
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
}

fn failure(error: &reqwest::Error) -> Failure {
    if error.is_connect() {
        Failure::Connect
    } else if error.is_timeout() {
        Failure::Timeout
    } else {
        Failure::Broken
    }
}

fn is_loopback(base_url: &str) -> bool {
    let url = Url::parse(base_url).ok();
    let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Counts the connections that a client opens.
#[derive(Clone)]
struct CountConnections(Counter);

#[derive(Clone)]
struct Counted<S> {
    connect: S,
    created: Counter,
}

impl<S> tower::Layer<S> for CountConnections {
    type Service = Counted<S>;

    fn layer(&self, connect: S) -> Counted<S> {
        Counted { connect, created: self.0.clone() }
    }
}

impl<S: tower::Service<R>, R> tower::Service<R> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.connect.poll_ready(context)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.created.inc();
        self.connect.call(request)
    }
}
