//! A cloud on loopback: services that hand out keys and tokens, a clock that is told, a way to the provider,
//! and a verifier of signatures that shares nothing with the signer. It must not know any one story.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use choreoai::config::Config;
use choreoai::metrics::Metrics;
use choreoai::upstream::{Clock, Failure, Upstream};
use http::Method;
use providers::UpstreamRequest;
use providers::frames::Framing;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::PATIENCE;
use super::provider::{Exchange, FakeProvider, Reply};

/// 2026-02-03T04:05:06Z
pub const NOW: u64 = 1_770_091_506;
/// Every secret of these tests holds this word.
pub const MARK: &str = "never-seen";

/// A clock that stands until it is moved.
#[derive(Clone)]
pub struct Watch(Arc<AtomicU64>);

impl Watch {
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOW)))
    }

    pub fn forward(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }

    pub fn clock(&self) -> Clock {
        let seconds = Arc::clone(&self.0);
        Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed)))
    }
}

/// The way to the one provider of this configuration.
pub fn way(kind: &str, more: &str, fake: &FakeProvider, environment: &[(&str, &str)], watch: &Watch) -> Upstream {
    let base = format!("http://{}", fake.address);
    let text = format!("[providers.cloud]\nkind = \"{kind}\"\nbase_url = \"{base}\"\nregion = \"us-east-1\"\n{more}\n");
    let variable = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let config = Config::from_text(&text, &variable).unwrap();
    let auth = providers::provider(kind).unwrap().auth();
    Upstream::new(&config.providers[0], auth, &Metrics::new().unwrap(), watch.clock()).unwrap()
}

/// A request to send.
pub fn request(path: &str) -> UpstreamRequest {
    UpstreamRequest {
        method: Method::POST,
        path: path.to_owned(),
        headers: Vec::new(),
        body: "{\"a\":1}".into(),
        framing: Framing::Sse,
        dropped: Vec::new(),
    }
}

/// One call to `/call`.
pub async fn call(way: &Upstream) -> Result<u16, Failure> {
    way.send(request("/call"), PATIENCE, Instant::now() + PATIENCE).await.map(|answer| answer.status.as_u16())
}

/// The message of a call that was not sent.
pub async fn trouble(way: &Upstream) -> String {
    match call(way).await {
        Err(Failure::Credentials(trouble)) => trouble.message,
        other => panic!("{other:?}"),
    }
}

/// Requests of the provider itself.
pub fn calls(fake: &FakeProvider) -> Vec<Exchange> {
    fake.exchanges("").into_iter().filter(|exchange| exchange.path == "/call").collect()
}

/// Requests whose path begins so.
pub fn asked(fake: &FakeProvider, path: &str) -> Vec<Exchange> {
    fake.exchanges("").into_iter().filter(|exchange| exchange.path.starts_with(path)).collect()
}

/// A fake that answers `/call`, and everything else as `services` says.
pub async fn fake(services: impl Fn(&Exchange) -> Reply + Send + Sync + 'static) -> FakeProvider {
    let fake = FakeProvider::start().await;
    fake.on("", move |exchange| if exchange.path == "/call" { Reply::json(200, &json!({})) } else { services(exchange) });
    fake
}

pub fn header(exchange: &Exchange, name: &str) -> String {
    exchange.head.header(name).unwrap_or_default().to_owned()
}

pub fn form(exchange: &Exchange) -> Vec<(String, String)> {
    assert_eq!(header(exchange, "content-type"), "application/x-www-form-urlencoded");
    pairs(&String::from_utf8_lossy(&exchange.body))
}

/// The pairs of a form or a query.
pub fn pairs(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

pub fn file(name: &str, text: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("signing-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// HMAC-SHA-256 as RFC 2104 has it: the verifier shares nothing with what it verifies.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether what arrived bears the signature of this key, recomputed from the bytes on the wire.
pub fn is_signed(exchange: &Exchange, secret: &str, place: &str) -> bool {
    let authorization = header(exchange, "authorization");
    let part = |name: &str| authorization.split(&format!("{name}=")).nth(1).unwrap().split(',').next().unwrap().to_owned();
    let names = part("SignedHeaders");
    for needed in ["content-type", "host", "x-amz-date"] {
        assert!(names.split(';').any(|name| name == needed), "{needed} is not signed: {names}");
    }
    let mut canonical = format!("{}\n", exchange.head.first_line.split(' ').next().unwrap());
    canonical += &exchange.path.replace('%', "%25");
    canonical += "\n\n";
    for name in names.split(';') {
        canonical += &format!("{name}:{}\n", header(exchange, name));
    }
    canonical += &format!("\n{names}\n{}", hex(&Sha256::digest(&exchange.body)));
    let time = header(exchange, "x-amz-date");
    let scope = format!("{}/{place}/aws4_request", &time[..8]);
    assert!(part("Credential").ends_with(&scope), "{authorization}");
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let first = format!("AWS4{secret}").into_bytes();
    let key = scope.split('/').fold(first, |key, word| hmac(&key, word.as_bytes()));
    hex(&hmac(&key, to_sign.as_bytes())) == part("Signature")
}

pub const PLACE: &str = "us-east-1/bedrock";

/// The secret key of the last call's signature is this one, and so are its id and session token.
pub fn assert_signed(fake: &FakeProvider, id: &str, secret: &str, session: &str) {
    let call = calls(fake).pop().expect("no call arrived");
    assert!(header(&call, "authorization").contains(&format!("Credential={id}/")), "{:?}", call.head);
    assert_eq!(header(&call, "x-amz-security-token"), session);
    assert!(is_signed(&call, secret, PLACE), "{:?}", call.head);
    assert!(!is_signed(&call, "another secret", PLACE), "the verifier can say no");
}

/// A time on the clock of the tests, as AWS writes it.
pub fn at(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW + seconds)).to_string()
}

pub fn token(name: &str, seconds: u64) -> Reply {
    Reply::json(200, &json!({"access_token": format!("{name}-{MARK}"), "expires_in": seconds, "token_type": "Bearer"}))
}
