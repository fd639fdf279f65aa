//! HTTP/2 without TLS on both sides of the gateway, and TLS to a provider: the same answers, the same
//! bill. One gateway stands behind another, so that both ends are the real thing.
//! It must not know what is said, beyond that it arrives.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::support::client::Request;
use crate::support::dialect::{openai, request, usage};
use crate::support::gateway::{Gateway, Setup};
use crate::support::has_tool;
use crate::support::provider::FakeProvider;

const MODELS: &str = "models = [\"plain\", \"fake/plain\"]";

async fn behind(fake: &FakeProvider) -> Gateway {
    fake.on("plain", |exchange| openai().answer(exchange, 12, &usage(17, 12)));
    Gateway::start(format!(
        "[server]\nallow_anonymous = true\n[providers.fake]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"sk-fake\"\n{MODELS}\n",
        fake.url()
    ))
    .await
}

fn http2_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().http2_prior_knowledge().build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_on_both_sides() {
    let fake = FakeProvider::start().await;
    let behind = behind(&fake).await;
    let front = Gateway::start(format!(
        "[server]\nallow_anonymous = true\n[providers.behind]\nkind = \"openai\"\nbase_url = \"http://{}/v1\"\napi_key = \"sk-fake\"\nhttp2_prior_knowledge = true\n{MODELS}\n",
        behind.address
    ))
    .await;
    let client = http2_client();
    let url = format!("http://{}/v1/chat/completions", front.address);
    let mut body = request("behind/fake/plain", 10);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    for _ in 0..3 {
        let answer = client.post(&url).header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("data: [DONE]\n\n") && text.matches("\"prompt_tokens\":17").count() == 1, "{text}");
    }
    let scrape = front.settled("fake/plain", 3).await;
    assert_eq!(scrape.count("choreoai_tokens_total", &[("model", "fake/plain")]), 3 * 29);
    assert_eq!(
        scrape.count("choreoai_upstream_connections_created_total", &[("provider", "behind")]),
        1,
        "one connection for all"
    );
    behind.settled("plain", 3).await;
}

/// The first letters tell which HTTP a client speaks, also when they come one at a time and `POST` begins as HTTP/2 does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openings_that_arrive_letter_by_letter_are_told_apart() {
    let fake = FakeProvider::start().await;
    let gateway = behind(&fake).await;
    let body = request("fake/plain", 3).to_string();
    let head =
        format!("host: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let http1 = format!("POST /v1/chat/completions HTTP/1.1\r\n{head}{body}");
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let http2 = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), settings].concat();
    let address = gateway.address;
    let answers = tokio::task::spawn_blocking(move || {
        [http1.into_bytes(), http2, b"P".to_vec(), Vec::new()].map(|opening| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            opening.iter().for_each(|byte| stream.write_all(&[*byte]).unwrap());
            if opening.len() < 2 {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let mut answer = vec![0; 4096];
            let read = stream.read(&mut answer).unwrap();
            answer.truncate(read);
            answer
        })
    });
    let [http1, http2, half, nothing] = answers.await.unwrap();
    assert!(http1.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&http1));
    assert_eq!(http2.get(3), Some(&4), "a SETTINGS frame: {http2:?}");
    assert_eq!((half.len(), nothing.len()), (0, 0), "nothing was asked");
    gateway.settled("plain", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_its_http2_stream_has_left() {
    let fake = FakeProvider::start().await;
    let gateway = behind(&fake).await;
    fake.on("plain", |exchange| {
        let steps = openai().answer(exchange, 400, &usage(17, 400)).steps;
        let pause = crate::support::provider::Step::Pause(std::time::Duration::from_millis(40));
        crate::support::provider::Reply::stream(steps.into_iter().flat_map(|step| [step, pause.clone()]).collect())
    });
    let client = http2_client();
    let mut body = request("fake/plain", 10);
    body["stream"] = json!(true);
    let url = format!("http://{}/v1/chat/completions", gateway.address);
    let mut answer = client.post(&url).header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
    for _ in 0..3 {
        assert!(answer.chunk().await.unwrap().is_some());
    }
    drop(answer);
    let exchanges = fake.until("plain", |all| all.len() == 1 && all[0].over).await;
    assert!(exchanges[0].left_early);
    let scrape = gateway.settled("plain", 1).await;
    assert_eq!(scrape.count("choreoai_settlements_total", &[("model", "plain"), ("outcome", "client_disconnect")]), 1);
}

/// A certificate for 127.0.0.1 of an authority of its own, made by `openssl`: `(certificate, key)`.
fn certificate() -> (PathBuf, PathBuf) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (certificate, key) = (folder.join("tls-certificate.pem"), folder.join("tls-key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}

/// Takes TLS off and passes the bytes on, connection by connection, until the test ends.
fn terminate_tls(certificate: &Path, key: &Path, to: SocketAddr) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from_pem_file(certificate).unwrap()], PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for inside in listener.incoming().map_while(Result::ok) {
            let config = config.clone();
            std::thread::spawn(move || relay(inside, config, to));
        }
    });
    address
}

/// One request and its whole answer; enough for a test.
fn relay(socket: TcpStream, config: Arc<rustls::ServerConfig>, to: SocketAddr) -> Option<()> {
    let mut inside = rustls::StreamOwned::new(rustls::ServerConnection::new(config).ok()?, socket);
    let mut outside = TcpStream::connect(to).ok()?;
    let mut request = Vec::new();
    while !is_whole(&request) {
        let mut part = [0; 4096];
        let read = inside.read(&mut part).ok().filter(|read| *read > 0)?;
        request.extend_from_slice(&part[..read]);
    }
    outside.write_all(&request).ok()?;
    outside.set_read_timeout(Some(std::time::Duration::from_secs(5))).ok()?;
    let mut part = [0; 4096];
    while let Ok(read) = outside.read(&mut part) {
        if read == 0 || inside.write_all(&part[..read]).is_err() || part[..read].ends_with(b"0\r\n\r\n") {
            break;
        }
    }
    inside.conn.send_close_notify();
    let _ = inside.flush();
    None
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|value| value.trim().parse().ok());
    request.len() >= head.len() + 4 + length.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_to_a_provider_trusts_the_systems_roots_and_no_others() {
    if !has_tool("openssl") {
        return;
    }
    let fake = FakeProvider::start().await;
    fake.on("plain", |exchange| openai().answer(exchange, 12, &usage(17, 12)));
    let (certificate, key) = certificate();
    let address = terminate_tls(&certificate, &key, fake.address);
    let toml = format!(
        "[server]\nallow_anonymous = true\n[providers.fake]\nkind = \"openai\"\nbase_url = \"https://{address}/v1\"\napi_key = \"sk-fake\"\nretry = {{ attempts = 1 }}\n{MODELS}\n"
    );
    let mut body = request("fake/plain", 10);
    body["stream"] = json!(true);
    let trusting = Setup::new(&toml).env("SSL_CERT_FILE", certificate.to_str().unwrap()).start().await;
    let saw = Request::chat(&body).open(trusting.address).await.rest().await;
    assert_eq!((saw.status, saw.dones()), (200, 1), "{:?}", saw.data());
    let wary = Setup::new(&toml).start().await;
    let answer = Request::chat(&body).send(wary.address).await;
    assert!(answer.status >= 500, "an unknown authority was trusted: {}", answer.text());
    assert_ne!(answer.error()["message"], Value::Null);
    assert_eq!(fake.count(), 1);
}
