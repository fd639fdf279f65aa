//! What came of a call, as an HTTP answer: whole bodies, streams and errors.
//! It must not know why it came to that.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body::Frame;
use tokio::time::sleep;

use super::attempt::{Reply, Stopped, Watched};
use super::told::Told;
use crate::error::{Error, Surface};
use crate::limits::Standing;
use crate::meter::Call;
use crate::status::Page;
use crate::stream::{COMMENT, Cut, KEEP_ALIVE, Pump};
use crate::upstream;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// Attempts that are still running.
type Running = Pin<Box<dyn Future<Output = Result<Reply, Stopped>> + Send>>;

/// A call that was refused before any attempt.
pub(super) fn refused(mut call: Call, error: &Error) -> Response {
    call.failed(error.label());
    call.answered(error.status().as_u16(), false);
    with(error.status(), error.headers(), Body::from(error.body(call.surface())))
}

/// A call that the gateway answered itself.
pub(super) fn here(mut call: Call, body: Bytes) -> Response {
    call.answered(StatusCode::OK.as_u16(), false);
    with(StatusCode::OK, HeaderMap::from_iter([(CONTENT_TYPE, JSON)]), Body::from(body))
}

/// A page about the gateway itself.
pub(super) fn page(mut call: Call, page: Page) -> Response {
    call.answered(page.status.as_u16(), false);
    with(page.status, page.headers, Body::from(page.body))
}

/// An error that belongs to no call.
pub(super) fn plain(error: &Error) -> Response {
    with(error.status(), error.headers(), Body::from(error.body(Surface::OpenAi)))
}

/// A call that no target answered: the headers name the one that was tried last.
pub(super) fn stopped(stopped: Stopped) -> Response {
    let mut response = match stopped.call {
        Some(call) => refused(call, &stopped.error),
        None => plain(&stopped.error),
    };
    if let Some(about) = stopped.about {
        response.headers_mut().extend(Told::of(&Standing::default()).about(&about).headers());
    }
    response
}

/// An answer that has begun.
pub(super) fn begun(reply: Reply, standing: &Standing) -> Response {
    let told = Told::of(standing);
    match reply {
        Reply::Whole { body, about, mut call } => {
            call.answered(StatusCode::OK.as_u16(), false);
            let mut headers = told.about(&about).headers();
            headers.insert(CONTENT_TYPE, JSON);
            with(StatusCode::OK, headers, Body::from(body))
        }
        Reply::Stream { mut pump, about, plain } => {
            pump.watch_mut(|watched| watched.call.answered(StatusCode::OK.as_u16(), plain.is_none()));
            let mut headers = told.about(&about).headers();
            match plain {
                Some(plain) => headers.extend(plain),
                None => event_stream(&mut headers),
            }
            with(StatusCode::OK, headers, Body::new(Streamed(pump)))
        }
    }
}

/// An answer that is long in coming: comments until it does, then itself or the error.
pub(super) fn late(running: Running, standing: &Standing) -> Response {
    let mut headers = Told::of(standing).headers();
    event_stream(&mut headers);
    // The first comment goes out at once: it carries the head of the answer.
    let body = unfold(Late::First(running), Late::next);
    with(StatusCode::OK, headers, Body::from_stream(body))
}

enum Late {
    First(Running),
    Waiting(Running),
    Streaming(Box<Pump<upstream::Answer, Watched>>),
    Over,
}

impl Late {
    async fn next(self) -> Option<(Result<Bytes, Cut>, Self)> {
        let comment = Bytes::from_static(COMMENT);
        match self {
            Self::First(running) => Some((Ok(comment), Self::Waiting(running))),
            Self::Waiting(mut running) => {
                tokio::select! {
                    biased;
                    ran = &mut running => Self::came(ran).await,
                    () = sleep(KEEP_ALIVE) => Some((Ok(comment), Self::Waiting(running))),
                }
            }
            Self::Streaming(mut pump) => pump.next().await.map(|bytes| (bytes, Self::Streaming(pump))),
            Self::Over => None,
        }
    }

    async fn came(ran: Result<Reply, Stopped>) -> Option<(Result<Bytes, Cut>, Self)> {
        match ran {
            Ok(Reply::Stream { mut pump, .. }) => {
                pump.watch_mut(|watched| watched.call.answered(StatusCode::OK.as_u16(), true));
                pump.next().await.map(|bytes| (bytes, Self::Streaming(pump)))
            }
            Ok(Reply::Whole { .. }) => None,
            Err(stopped) => {
                let surface = stopped.call.as_ref().map(|call| call.surface()).unwrap_or_default();
                if let Some(mut call) = stopped.call {
                    call.answered(StatusCode::OK.as_u16(), true);
                    call.broke(stopped.error.label());
                }
                Some((Ok(stopped.error.event(surface, 0)), Self::Over))
            }
        }
    }
}

/// The body of a streamed answer.
struct Streamed(Box<Pump<upstream::Answer, Watched>>);

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.0.poll_next(context).map(|next| next.map(|bytes| bytes.map(Frame::data)))
    }
}

fn event_stream(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, EVENTS);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Tells nginx, which many put before a gateway, not to hold events back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
}

fn with(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
