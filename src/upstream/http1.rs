//! One exchange over a connection of HTTP/1.1: a request is written, the head of its answer read, and the body divided
//! as the head says. Heads and the sizes of chunks are read by the parser that hyper uses as well; hyper's own client
//! would keep 20 KB of buffers for each connection, and a task between the provider's bytes and whoever waits for them.
//! It must not know where connections come from, or what an answer means.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use httparse::{ParserConfig, Status};
use hyper::rt::{Read as _, ReadBuf, Write as _};

use super::connect::Stream;

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The most headers of an answer.
const MAX_HEADERS: usize = 100;
/// The longest line with the size of a chunk, and the longest trailers.
const MAX_LINE: usize = 8 * 1024;
/// The most trailers.
const MAX_TRAILERS: usize = 32;
/// The most that is read at once. It is read onto the stack, so that a connection that waits holds no buffer.
const MAX_READ: usize = 16 * 1024;

/// The connection ended too early, or what came over it is no HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// Why there is no answer: the request, as nothing of it was written, or the connection broke.
type Unsent = Result<Request<Bytes>, Broken>;

/// Sends a request and waits for the head of its answer, which may come before all of the request is written.
pub(super) async fn exchange(stream: Stream, request: Request<Bytes>) -> Result<Response<Body>, Unsent> {
    let outgoing = Outgoing { head: opening(&request), body: request.body().clone(), written: 0, writing: Writing::On };
    let mut exchange = Exchange { stream, outgoing, ahead: Bytes::new() };
    let Ok(head) = poll_fn(|context| exchange.poll_head(context)).await else {
        return Err(if exchange.outgoing.written == 0 { Ok(request) } else { Err(Broken) });
    };
    let Exchange { stream, outgoing, ahead } = exchange;
    let unwritten = (outgoing.writing != Writing::Done).then(|| Box::new(outgoing));
    let mut answer = Response::new(Body { stream, unwritten, ahead, left: head.left, is_reusable: head.is_reusable });
    (*answer.status_mut(), *answer.headers_mut()) = (head.status, head.headers);
    Ok(answer)
}

/// Whether an idle connection can be used: the provider has not closed it, and says nothing unasked.
pub(super) fn is_open(stream: &mut Stream) -> bool {
    let mut space = [MaybeUninit::uninit(); 1];
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(stream).poll_read(&mut context, ReadBuf::uninit(&mut space).unfilled()).is_pending()
}

/// The head of a request as it is written.
fn opening(request: &Request<Bytes>) -> Vec<u8> {
    let (uri, headers, body) = (request.uri(), request.headers(), request.body());
    let mut head = Vec::with_capacity(1024);
    let mut say = |parts: &[&[u8]]| parts.iter().for_each(|part| head.extend_from_slice(part));
    say(&[request.method().as_str().as_bytes(), b" "]);
    match uri.path_and_query() {
        Some(path) if uri.scheme().is_none() => say(&[path.as_str().as_bytes()]),
        _ => say(&[uri.to_string().as_bytes()]),
    }
    say(&[b" HTTP/1.1\r\n"]);
    for (name, value) in headers.iter().filter(|(name, _)| *name != CONTENT_LENGTH) {
        say(&[name.as_ref(), b": ", value.as_bytes(), b"\r\n"]);
    }
    if !body.is_empty() || *request.method() != Method::GET {
        say(&[b"content-length: ", itoa::Buffer::new().format(body.len()).as_bytes(), b"\r\n"]);
    }
    say(&[b"\r\n"]);
    head
}

struct Exchange {
    stream: Stream,
    outgoing: Outgoing,
    /// What was read and not yet understood.
    ahead: Bytes,
}

impl Exchange {
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Head, Broken>> {
        self.outgoing.go_on(&mut self.stream, context);
        if self.outgoing.writing == Writing::Refused && self.outgoing.written == 0 {
            return Poll::Ready(Err(Broken));
        }
        loop {
            let before = self.ahead.len();
            if !ready!(poll_more(&mut self.stream, &mut self.ahead, context)).unwrap_or(false) {
                return Poll::Ready(Err(Broken));
            }
            // A head that trickles is looked at once for each of its lines, not for each byte.
            if before > 0 && self.ahead.len() < MAX_HEAD && memchr::memchr(b'\n', &self.ahead[before..]).is_none() {
                continue;
            }
            while let Some((head, length)) = Head::read(&self.ahead)? {
                self.ahead.advance(length);
                if !head.status.is_informational() {
                    return Poll::Ready(Ok(head));
                }
            }
        }
    }
}

/// A request on its way.
#[derive(Debug)]
struct Outgoing {
    head: Vec<u8>,
    body: Bytes,
    /// How much of both.
    written: usize,
    writing: Writing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    On,
    Done,
    /// The provider takes nothing more; it may still say why.
    Refused,
}

impl Outgoing {
    /// Writes as much as the provider takes now.
    fn go_on(&mut self, stream: &mut Stream, context: &mut Context<'_>) {
        if self.writing == Writing::On {
            match self.poll_write(stream, context) {
                Poll::Ready(Ok(())) => self.writing = Writing::Done,
                Poll::Ready(Err(_)) => self.writing = Writing::Refused,
                Poll::Pending => {}
            }
        }
    }

    fn poll_write(&mut self, stream: &mut Stream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (head, body) = (&self.head, &self.body);
        while self.written < head.len() + body.len() {
            let left = [head.get(self.written..).unwrap_or_default(), &body[self.written.saturating_sub(head.len())..]];
            let written = ready!(Pin::new(&mut *stream).poll_write_vectored(context, &left.map(IoSlice::new)))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        Pin::new(stream).poll_flush(context)
    }
}

/// Reads what there is behind what was read before; false at the end.
fn poll_more(stream: &mut Stream, ahead: &mut Bytes, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
    let mut space = [const { MaybeUninit::uninit() }; MAX_READ];
    let mut buffer = ReadBuf::uninit(&mut space);
    ready!(Pin::new(stream).poll_read(context, buffer.unfilled()))?;
    let read = buffer.filled();
    *ahead = if ahead.is_empty() { Bytes::copy_from_slice(read) } else { [ahead, read].concat().into() };
    Poll::Ready(Ok(!read.is_empty()))
}

#[derive(Debug)]
struct Head {
    status: StatusCode,
    headers: HeaderMap,
    left: Left,
    /// Whether the connection may be used again when the body is over.
    is_reusable: bool,
}

impl Head {
    /// The head at the beginning of `read` and its length, if all of it is there. The values are views of `read`.
    fn read(read: &Bytes) -> Result<Option<(Self, usize)>, Broken> {
        let mut space = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut []);
        let length = match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, read, &mut space) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if read.len() < MAX_HEAD => return Ok(None),
            Ok(Status::Partial) | Err(_) => return Err(Broken),
        };
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Broken)?;
        let mut headers = HeaderMap::with_capacity(parsed.headers.len());
        for header in parsed.headers.iter() {
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Broken)?;
            let value = HeaderValue::from_maybe_shared(read.slice_ref(header.value)).map_err(|_| Broken)?;
            headers.append(name, value);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Broken);
        }
        let is_current = parsed.version == Some(1);
        let left = Left::of(status, &headers, is_current)?;
        // Who says the length twice may mean either.
        let is_clear = !(headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH));
        let says_close = listed(&headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"close"));
        let is_reusable = is_current && is_clear && left.has_end() && !says_close;
        Ok(Some((Self { status, headers, left, is_reusable }, length)))
    }
}

/// What stands in all the values of a header that is a list.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
}

/// A length is nothing but digits.
fn length(digits: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Whether a line ends here that does not end for everybody.
fn has_bare_lf(lines: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', lines).any(|at| !lines[..at].ends_with(b"\r"))
}

/// How much of a body is still to come.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    Bytes(u64),
    Chunks(Chunk),
    /// What comes until the connection is closed.
    All,
}

/// Where in a body of chunks its next byte stands.
#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    Size,
    /// So much of a chunk, and the end of its line.
    Data(u64),
    /// The trailers, or the empty line that stands for none.
    Trailers,
}

/// What could be taken of what was read.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Bytes(Bytes),
    Nothing,
    End,
}

impl Left {
    /// RFC 9112, 6.3; nothing is ever asked with HEAD or CONNECT.
    fn of(status: StatusCode, headers: &HeaderMap, is_current: bool) -> Result<Self, Broken> {
        if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Self::Bytes(0));
        }
        if let Some(last) = listed(headers, &TRANSFER_ENCODING).last() {
            // What is no text may be read as any coding.
            if !is_current || listed(headers, &TRANSFER_ENCODING).any(|coding| !coding.is_ascii()) {
                return Err(Broken);
            }
            return Ok(if last.eq_ignore_ascii_case(b"chunked") { Self::Chunks(Chunk::Size) } else { Self::All });
        }
        let mut lengths = listed(headers, &CONTENT_LENGTH).map(length);
        let Some(first) = lengths.next() else { return Ok(Self::All) };
        if lengths.any(|other| other != first) { Err(Broken) } else { first.map(Self::Bytes).ok_or(Broken) }
    }

    /// Whether the body ends by itself.
    fn has_end(&self) -> bool {
        *self != Self::All
    }

    /// The next of the body, taken from what was read.
    fn take(&mut self, ahead: &mut Bytes) -> Result<Taken, Broken> {
        match self {
            Self::Bytes(0) => Ok(Taken::End),
            Self::Bytes(left) => Ok(up_to(left, ahead)),
            Self::Chunks(chunk) => chunk.take(ahead),
            Self::All if ahead.is_empty() => Ok(Taken::Nothing),
            Self::All => Ok(Taken::Bytes(std::mem::take(ahead))),
        }
    }
}

impl Chunk {
    fn take(&mut self, ahead: &mut Bytes) -> Result<Taken, Broken> {
        while let Some(first) = ahead.first() {
            match self {
                Self::Size => match httparse::parse_chunk_size(ahead) {
                    // A line without a digit must not pass for the last chunk.
                    Ok(Status::Complete((line, size))) if first.is_ascii_hexdigit() && !has_bare_lf(&ahead[..line]) => {
                        ahead.advance(line);
                        *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                    }
                    Ok(Status::Partial) if ahead.len() < MAX_LINE => break,
                    Ok(_) | Err(_) => return Err(Broken),
                },
                Self::Data(0) if ahead.starts_with(b"\r\n") => {
                    ahead.advance(2);
                    *self = Self::Size;
                }
                Self::Data(0) if ahead.as_ref() == b"\r" => break,
                Self::Data(0) => return Err(Broken),
                Self::Data(left) => return Ok(up_to(left, ahead)),
                Self::Trailers => match httparse::parse_headers(ahead, &mut [httparse::EMPTY_HEADER; MAX_TRAILERS]) {
                    Ok(Status::Complete((length, _))) if !has_bare_lf(&ahead[..length]) => {
                        ahead.advance(length);
                        return Ok(Taken::End);
                    }
                    Ok(Status::Partial) if ahead.len() < MAX_LINE => break,
                    Ok(_) | Err(_) => return Err(Broken),
                },
            }
        }
        Ok(Taken::Nothing)
    }
}

/// As much of `left` as was read.
fn up_to(left: &mut u64, ahead: &mut Bytes) -> Taken {
    if ahead.is_empty() {
        return Taken::Nothing;
    }
    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(ahead.len());
    *left -= most as u64;
    Taken::Bytes(ahead.split_to(most))
}

/// The body of an answer, and its connection.
#[derive(Debug)]
pub(super) struct Body {
    stream: Stream,
    /// The rest of the request; usually there is none.
    unwritten: Option<Box<Outgoing>>,
    ahead: Bytes,
    left: Left,
    is_reusable: bool,
}

impl Body {
    /// The next bytes, `None` at the end.
    pub(super) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        if let Some(outgoing) = &mut self.unwritten {
            outgoing.go_on(&mut self.stream, context);
        }
        loop {
            match self.left.take(&mut self.ahead)? {
                Taken::Bytes(bytes) => return Poll::Ready(Ok(Some(bytes))),
                Taken::End => return Poll::Ready(Ok(None)),
                Taken::Nothing => match ready!(poll_more(&mut self.stream, &mut self.ahead, context)) {
                    Ok(true) => {}
                    Ok(false) if !self.left.has_end() => return Poll::Ready(Ok(None)),
                    Ok(false) | Err(_) => return Poll::Ready(Err(Broken)),
                },
            }
        }
    }

    /// The connection of a body that was read to its end, if it can be used again.
    pub(super) fn leave(self) -> Option<Stream> {
        let is_written = self.unwritten.is_none_or(|outgoing| outgoing.writing == Writing::Done);
        (self.is_reusable && is_written && self.ahead.is_empty()).then_some(self.stream)
    }
}

#[cfg(test)]
mod tests;
