//! The bare pass-through: what axum and reqwest cost with nothing added. Each request goes to one
//! upstream, bodies flow both ways as they come. It is a reference, not a product.
//! It must not know what it carries.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// How long to wait for a connection to the upstream.
const CONNECT: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Upstream {
    client: reqwest::Client,
    base: String,
}

/// Serves until the process is ended.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    // Built together with the gateway, reqwest has TLS, and wants cryptography even where it speaks in the clear. A second
    // call finds it already chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client =
        reqwest::Client::builder().connect_timeout(CONNECT).tcp_nodelay(true).no_proxy().build().map_err(io::Error::other)?;
    let state = Upstream { client, base: format!("http://{upstream}") };
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let listener = axum::serve::ListenerExt::tap_io(listener, |socket| {
        // Without it events may wait for an acknowledgement; the connection works either way.
        let _ = socket.set_nodelay(true);
    });
    axum::serve(listener, Router::new().fallback(forward).with_state(state)).await
}

async fn forward(State(upstream): State<Upstream>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", upstream.base);
    for name in HOP_BY_HOP {
        parts.headers.remove(name);
    }
    let body = reqwest::Body::wrap_stream(body.into_data_stream());
    match upstream.client.request(parts.method, url).headers(parts.headers).body(body).send().await {
        Ok(answer) => relay(answer),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// Headers that belong to one connection.
const HOP_BY_HOP: [HeaderName; 3] = [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING];

fn relay(mut answer: reqwest::Response) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    std::mem::swap(response.headers_mut(), answer.headers_mut());
    for name in HOP_BY_HOP {
        response.headers_mut().remove(name);
    }
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_comes_through_and_back() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let echo = Router::new().fallback(|body: String| async move { (StatusCode::CREATED, body + "!") });
        tokio::spawn(async move { axum::serve(listener, echo).await });
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = free.local_addr().unwrap();
        drop(free);
        let served = tokio::spawn(serve(listen, upstream));
        while tokio::net::TcpStream::connect(listen).await.is_err() {
            assert!(!served.is_finished(), "{:?}", served.await);
            tokio::task::yield_now().await;
        }
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.post(format!("http://{listen}/any")).body("word").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        assert_eq!(answer.text().await.unwrap(), "word!");
    }
}
