//! A provider's answer over HTTP/1.1: whatever comes in, it is heard the same however the bytes were cut.
//! It must not know what the exchange is used for.

#![no_main]

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::rt::{Read, ReadBufCursor, Write};
use libfuzzer_sys::fuzz_target;

/// What the exchange takes from its neighbour: here a provider that is all in memory.
mod connect {
    pub type Stream = super::Provider;
}

#[path = "../../src/upstream/http1.rs"]
mod http1;

#[derive(Debug)]
pub struct Provider {
    says: VecDeque<Bytes>,
    stays: bool,
}

impl Read for Provider {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut space: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.says.pop_front() else {
            return if self.stays { Poll::Pending } else { Poll::Ready(Ok(())) };
        };
        let rest = piece.split_off(piece.len().min(space.remaining()));
        space.put_slice(&piece);
        if !rest.is_empty() {
            self.says.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Provider {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, _: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()))
    }
}

type Heard = (StatusCode, HeaderMap, Vec<u8>, bool);

/// The answer, and whether its connection can be used again; `None` when it is none.
fn heard<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<Heard> {
    let says = pieces.filter(|piece| !piece.is_empty()).map(Bytes::copy_from_slice).collect();
    let mut request = Request::new(Bytes::from_static(b"{}"));
    *request.method_mut() = Method::POST;
    let mut context = Context::from_waker(Waker::noop());
    let exchange = pin!(http1::exchange(Provider { says, stays: false }, request));
    let Poll::Ready(answered) = exchange.poll(&mut context) else { panic!("nothing was to be waited for") };
    let (head, mut body) = answered.ok()?.into_parts();
    let mut bytes = Vec::new();
    loop {
        let Poll::Ready(chunk) = body.poll_chunk(&mut context) else { panic!("nothing was to be waited for") };
        let Some(chunk) = chunk.ok()? else { break };
        assert!(!chunk.is_empty(), "a piece of nothing");
        bytes.extend_from_slice(&chunk);
    }
    let is_reusable = body.leave().is_some_and(|mut provider| {
        provider.stays = true;
        http1::is_open(&mut provider)
    });
    Some((head.status, head.headers, bytes, is_reusable))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, said) = input;
    let cut = usize::from(cut) % 64 + 1;
    let whole = heard(std::iter::once(said));
    assert_eq!(whole, heard(said.chunks(cut)), "in pieces of {cut}");
    if let Some((_, headers, body, _)) = whole {
        assert!(body.len() < said.len() && headers.len() < said.len(), "nothing is made up");
    }
});
