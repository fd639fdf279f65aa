//! Sockets: accepts connections, speaks HTTP/1.1 and HTTP/2 on them, gives every request its id and
//! its client's address, and ends politely.
//! It must not know any path, or what an answer says.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::app::{self, App};
use crate::meter::Meter;
use crate::metrics::CountGauge;
use crate::pipeline::{Origin, new_request_id};
use crate::rarely::Rarely;
use crate::worker;

/// How long a client may take to send the head of a request, or to send another one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Streams at once on one HTTP/2 connection.
const MAX_H2_STREAMS: u32 = 1024;
/// How long connections are given to end by themselves when no call is running any more.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How often it is looked whether the last call has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Looks at a connection whose first letters could be either HTTP's; after that it is taken for HTTP/1.1.
const MAX_OPENING_LOOKS: u32 = 50;
/// Connections that wait for a worker to take them; the next one waits in the listener.
const MAX_ARRIVALS: usize = 256;
/// Pause after an accept that failed, e.g. for want of file descriptors.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);
/// The longest request id of a client that is taken over.
const MAX_REQUEST_ID: usize = 128;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Serves until `leave` is ready. From then on `/ready` says no; new calls are taken for the delay that
/// balancers need to notice, then refused, and running calls finish within the grace, or until `hurry` is
/// ready. Connections are accepted here and answered by workers.
///
/// # Errors
/// When the workers cannot be started.
pub async fn serve(
    listener: TcpListener,
    app: App,
    leave: impl Future<Output = ()>,
    hurry: impl Future<Output = ()>,
) -> io::Result<()> {
    let (closing, closed) = watch::channel(false);
    // The meter is the same in every house; a house itself is not held while its calls end.
    let (meter, active) = {
        let house = app.house();
        (house.meter.clone(), house.metrics.active_connections.clone())
    };
    let server = Server { routes: app::routes(&app), app: app.clone(), meter: meter.clone(), active, closed };
    let (crew, mut at_work) = Crew::hire(&server)?;
    let (mut leave, mut hurry) = (std::pin::pin!(leave), std::pin::pin!(hurry));
    loop {
        tokio::select! {
            () = &mut leave => break,
            () = crew.accept(&listener) => {}
        }
    }
    app.leave();
    let (delay, grace) = {
        let house = app.house();
        (house.config.server.shutdown_delay, house.config.server.shutdown_grace)
    };
    let open_until = Instant::now() + delay;
    let until = open_until + grace;
    tracing::info!(target: "choreoai", running = meter.running(), "shutting down");
    loop {
        let now = Instant::now();
        let is_closed = now >= open_until;
        if is_closed {
            app.close();
        }
        if is_closed && (meter.running() == 0 || now >= until) {
            break;
        }
        tokio::select! {
            () = &mut hurry => break,
            () = sleep(LOOK_EVERY) => {}
            () = crew.accept(&listener) => {}
        }
    }
    app.close();
    drop(listener);
    meter.stop();
    let _ = closing.send(true);
    // Their own waits are bounded; this one is for a worker that is stuck.
    let _ = timeout(3 * LAST_WORDS, at_work.recv()).await;
    Ok(())
}

/// A connection that a worker is given.
struct Arrived {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    open: Open,
}

/// The workers, seen from the door. Nobody is ever moved from one to another: connections are spread
/// evenly when they come.
struct Crew(Vec<Worker>);

struct Worker {
    door: mpsc::Sender<Arrived>,
    open: Arc<AtomicUsize>,
}

impl Crew {
    /// Starts the workers; what is returned beside them ends when all of them have ended.
    fn hire(server: &Server) -> io::Result<(Self, mpsc::Receiver<()>)> {
        let (working, at_work) = mpsc::channel(1);
        let hire = |nth| {
            let (door, arrivals) = mpsc::channel(MAX_ARRIVALS);
            let (server, working) = (server.clone(), working.clone());
            worker::start(nth, move || async move {
                server.work(arrivals).await;
                drop(working);
            })?;
            Ok(Worker { door, open: Arc::default() })
        };
        let crew = (0..worker::count()).map(hire).collect::<io::Result<_>>()?;
        Ok((Self(crew), at_work))
    }

    /// Accepts one connection and gives it to the worker that has the fewest.
    async fn accept(&self, listener: &TcpListener) {
        let accepted = match listener.accept().await {
            Ok((stream, peer)) => stream.into_std().map(|stream| (stream, peer)),
            Err(error) => Err(error),
        };
        match accepted {
            Ok((stream, peer)) => {
                let idlest = self.0.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed));
                if let Some(worker) = idlest {
                    let open = Open::one_more(&worker.open);
                    // A worker that is gone takes nobody: the connection ends here.
                    let _ = worker.door.send(Arrived { stream, peer, open }).await;
                }
            }
            Err(error) => {
                tracing::warn!(target: "choreoai", %error, "a connection could not be accepted");
                sleep(AFTER_FAILED_ACCEPT).await;
            }
        }
    }
}

/// What each worker has.
#[derive(Clone)]
struct Server {
    routes: Router,
    app: App,
    meter: Meter,
    active: CountGauge,
    closed: watch::Receiver<bool>,
}

impl Server {
    /// A worker's day: answers on every connection it is given until the gateway closes, then lets
    /// them end.
    async fn work(mut self, mut arrivals: mpsc::Receiver<Arrived>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                arrived = arrivals.recv() => match arrived {
                    Some(arrived) => {
                        while connections.try_join_next().is_some() {}
                        connections.spawn(connection(arrived, self.clone()));
                    }
                    None => break,
                },
                _ = self.closed.changed() => break,
            }
        }
        let _ = timeout(LAST_WORDS, async { while connections.join_next().await.is_some() {} }).await;
        connections.shutdown().await;
        // What a client left behind is still being counted; its line belongs into the log.
        let settled = Instant::now() + LAST_WORDS;
        while self.meter.running() > 0 && Instant::now() < settled {
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Counts a connection of a worker while it is open.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn one_more(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a connection in the gauge while it is open.
struct Gauged(CountGauge);

impl Gauged {
    fn one_more(gauge: CountGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Gauged {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn connection(arrived: Arrived, server: Server) {
    let Arrived { stream, peer, open: _open } = arrived;
    let Server { routes, app, active, mut closed, .. } = server;
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let _gauged = Gauged::one_more(active);
    // Small events must not wait for an acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let is_closed = closed.clone();
    let closing = Box::pin(async move { closed.changed().await });
    let mut closing = Rarely::new(closing, move || is_closed.has_changed().unwrap_or(true));
    let is_http2 = tokio::select! {
        opening = timeout(HEAD_TIMEOUT, opens_http2(&stream)) => opening.unwrap_or(false),
        _ = &mut closing => return,
    };
    // Boxed: a connection keeps room for this future for as long as it lasts, also when it has answered.
    let service = service_fn(move |request: Request<Incoming>| Box::pin(answer(request, peer.ip(), routes.clone(), app.clone())));
    let stream = TokioIo::new(stream);
    let serving: Serving = if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_concurrent_streams(MAX_H2_STREAMS).adaptive_window(true);
        Box::pin(until_closed(Box::pin(builder.serve_connection(stream, service)), closing))
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        Box::pin(until_closed(Box::pin(builder.serve_connection(stream, service)), closing))
    };
    serving.await;
}

/// A connection on its way to its end. Boxed, so that one takes no room for what the other kind of HTTP would need.
type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether a client opens HTTP/2, which is told by its first letters: no method of HTTP/1.1 begins like this (RFC 9113,
/// 3.4). They are only looked at, so that the connection reads them itself.
async fn opens_http2(stream: &TcpStream) -> bool {
    const OPENING: &[u8; 3] = b"PRI";
    let mut first = [0; OPENING.len()];
    for _ in 0..MAX_OPENING_LOOKS {
        match stream.peek(&mut first).await {
            Ok(seen) if seen > 0 && seen < first.len() && OPENING.starts_with(&first[..seen]) => sleep(LOOK_EVERY).await,
            Ok(_) => return first == *OPENING,
            Err(_) => return false,
        }
    }
    false
}

/// Serves a connection to its end; when the gateway closes, what runs on it is its end.
async fn until_closed(mut serving: Pin<Box<impl GracefulConnection>>, closing: impl Future + Unpin) {
    tokio::select! {
        biased;
        _ = serving.as_mut() => return,
        _ = closing => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}

async fn answer(request: Request<Incoming>, peer: IpAddr, routes: Router, app: App) -> Result<Response, Infallible> {
    let mut request = request.map(Body::new);
    let is_http1 = request.version() < Version::HTTP_2;
    let address = client_address(request.headers(), peer, |proxy| app.trusts(proxy));
    let request_id = request_id(request.headers());
    let header = HeaderValue::from_str(&request_id);
    request.extensions_mut().insert(Origin { request_id, address });
    let mut response = app::answer(routes, request).await;
    if let Ok(header) = header {
        response.headers_mut().insert(REQUEST_ID, header);
    }
    // Who keeps its connection would come back to a gateway that is gone; HTTP/2 says it in its own way.
    if is_http1 && app.is_leaving() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// The address before the last trusted proxy.
fn client_address(headers: &HeaderMap, peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    if !is_trusted(peer) {
        return peer;
    }
    let hops = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let hops: Vec<IpAddr> = hops.filter_map(|hop| hop.trim().parse().ok()).collect();
    hops.into_iter().rev().find(|hop| !is_trusted(*hop)).unwrap_or(peer)
}

/// The client's own id when it is short and plain, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_sane = |id: &&str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(is_plain)
    };
    let own = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(is_sane);
    own.map_or_else(new_request_id, str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_FOR, HeaderValue::from_static("6.6.6.6, 203.0.113.9, 10.0.0.2"));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let is_trusted = |proxy| [address("10.0.0.1"), address("10.0.0.2")].contains(&proxy);
        assert_eq!(client_address(&headers, address("198.51.100.7"), is_trusted), address("198.51.100.7"));
        assert_eq!(client_address(&headers, address("10.0.0.1"), is_trusted), address("203.0.113.9"));
    }

    #[test]
    fn sane_request_ids_are_echoed_and_others_replaced() {
        let with = |id: &'static str| HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static(id))]);
        assert_eq!(request_id(&with("abc-1.2_3")), "abc-1.2_3");
        assert!(request_id(&with("a b")).starts_with("req_"));
        assert!(request_id(&HeaderMap::new()).starts_with("req_"));
    }
}
