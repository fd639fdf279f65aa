//! How a connection to a provider is made: name, address, the environment's proxy, TLS.
//! It must not know what is sent over it, or how long it is kept.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, Write};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt, service_fn};

/// When the other family of addresses is tried as well, while the first does not answer.
const HAPPY_EYEBALLS: Duration = Duration::from_millis(300);

/// A provider that is gone without a word, as after a cut line, is noticed after this long: a whole answer may be
/// silent for much longer, and nothing else would tell.
const GONE: Duration = Duration::from_secs(60);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection to the provider or to a proxy, with TLS to a proxy that wants it.
type Hop = MaybeHttpsStream<TokioIo<TcpStream>>;
/// A connection to the provider. Boxed, so that one without TLS takes no room for what TLS, and TLS within TLS, would need.
pub(super) type Stream = Box<dyn ReadWrite>;

/// What a connection's bytes are read from and written to.
pub(super) trait ReadWrite: Read + Write + Send + Unpin + fmt::Debug {}

impl<T: Read + Write + Send + Unpin + fmt::Debug> ReadWrite for T {}

type Connecting = Pin<Box<dyn Future<Output = Result<MaybeHttpsStream<Hop>, BoxError>> + Send>>;

/// The way from here to one address.
#[derive(Debug)]
pub(super) struct Route {
    to: Uri,
    hop: BoxCloneSyncService<Uri, Hop, BoxError>,
    tls: Option<Arc<ClientConfig>>,
    limit: Duration,
    /// What an HTTP proxy that is asked for the whole URL wants to see with every request.
    forward: Option<Option<HeaderValue>>,
}

impl Route {
    /// The way to the scheme and host of `to`, through the proxy that the environment names for it;
    /// loopback is never reached through one. Making a connection may take `limit`.
    ///
    /// # Errors
    /// In words: the proxy is of a kind that is not spoken, or the TLS roots cannot be read.
    pub(super) fn new(to: Uri, limit: Duration) -> Result<Self, String> {
        let tcp = tcp();
        let is_tls = to.scheme() == Some(&Scheme::HTTPS);
        let tls = is_tls.then(|| tls(true)).transpose()?;
        let proxy = if is_loopback(&to) { None } else { Matcher::from_env().intercept(&to) };
        let Some(proxy) = proxy else {
            let hop = tcp.map_response(MaybeHttpsStream::Http).map_err(BoxError::from);
            return Ok(Self { to, hop: BoxCloneSyncService::new(hop), tls, limit, forward: None });
        };
        let (hop, forward) = through(&proxy, tcp, is_tls)?;
        Ok(Self { to, hop, tls, limit, forward })
    }

    /// What a request must carry for the proxy, when there is one that is asked for the whole URL.
    pub(super) fn forward(&self) -> Option<&Option<HeaderValue>> {
        self.forward.as_ref()
    }

    /// Makes a connection, and says whether both sides have settled on HTTP/2 for it.
    ///
    /// # Errors
    /// When there is none in time.
    pub(super) async fn connect(&self) -> io::Result<(Stream, bool)> {
        // None of these services has to be waited for before it is called.
        let connecting: Connecting = match &self.tls {
            Some(tls) => HttpsConnector::from((self.hop.clone(), Arc::clone(tls))).call(self.to.clone()),
            None => {
                let hop = self.hop.clone().call(self.to.clone());
                Box::pin(async move { hop.await.map(MaybeHttpsStream::Http) })
            }
        };
        let stream = timeout(self.limit, connecting).await?.map_err(io::Error::other)?;
        let is_http2 = stream.connected().is_negotiated_h2();
        let stream: Stream = match stream {
            MaybeHttpsStream::Http(MaybeHttpsStream::Http(plain)) => Box::new(plain),
            secured => Box::new(secured),
        };
        Ok((stream, is_http2))
    }
}

/// How a TCP connection is made, and kept an eye on.
fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS));
    // Often enough, too, that nothing on the way forgets a connection that waits for a model.
    tcp.set_keepalive(Some(GONE / 4));
    tcp.set_keepalive_interval(Some(GONE / 4));
    tcp.set_keepalive_retries(Some(3));
    // What was sent and never confirmed is not probed, but sent again: for a quarter of an hour, without this.
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(GONE));
    tcp
}

type Through = (BoxCloneSyncService<Uri, Hop, BoxError>, Option<Option<HeaderValue>>);

/// A tunnel through the proxy for TLS, else the proxy itself.
fn through(proxy: &Intercept, tcp: HttpConnector, is_tls: bool) -> Result<Through, String> {
    let (address, auth) = (proxy.uri().clone(), proxy.basic_auth().cloned());
    let to_proxy = match address.scheme_str() {
        Some("http") => BoxCloneSyncService::new(tcp.map_response(MaybeHttpsStream::Http).map_err(BoxError::from)),
        Some("https") => BoxCloneSyncService::new(HttpsConnector::from((tcp, tls(false)?))),
        other => {
            return Err(format!(
                "the environment names a proxy of the kind \"{}\"; http and https are spoken",
                other.unwrap_or("none")
            ));
        }
    };
    if is_tls {
        let mut tunnel = Tunnel::new(address, to_proxy);
        if let Some(auth) = auth {
            tunnel = tunnel.with_auth(auth);
        }
        return Ok((BoxCloneSyncService::new(tunnel.map_err(BoxError::from)), None));
    }
    let forward = service_fn(move |_: Uri| to_proxy.clone().oneshot(address.clone()));
    Ok((BoxCloneSyncService::new(forward), Some(auth)))
}

/// TLS with the roots of this machine, which are read once; offering HTTP/2 as well, or not.
fn tls(offers_http2: bool) -> Result<Arc<ClientConfig>, String> {
    static PLAIN: OnceLock<ClientConfig> = OnceLock::new();
    let mut config = match PLAIN.get() {
        Some(config) => config.clone(),
        None => {
            let builder = ClientConfig::builder().try_with_platform_verifier();
            let builder = builder.map_err(|error| format!("the TLS roots cannot be read: {error}"))?;
            PLAIN.get_or_init(|| builder.with_no_client_auth()).clone()
        }
    };
    config.alpn_protocols = if offers_http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(Arc::new(config))
}

/// The environment's proxy stands elsewhere, where such an address means another machine.
pub(super) fn is_loopback(to: &Uri) -> bool {
    let host = to.host().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
