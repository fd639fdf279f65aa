//! Answers that are mutated and cut anywhere, heard by the exchange and by hyper's own client: what the exchange takes,
//! hyper takes for the same, and where the exchange is stricter there is a reason.
//! It must not know how either of them reads.

use std::cell::Cell;

use fastrand::Rng;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;

use super::*;

/// How often each seed is mutated.
const ROUNDS: usize = 250;
/// Turns after which either side has noticed what was said last.
const TURNS: usize = 8;

const SEEDS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\nx: \r\ny:\t z \r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ncontent-length: 05\r\nserver: caf\u{e9}\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=\"y\"\r\n, provider\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n05 \t;x\r\nhello\r\n000;y\r\ntook: 1\r\nmore: 2\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: x , Chunked\r\n\r\n2\r\nok\r\n0\r\nt: 1\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: \u{e9}, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a\nb\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\n\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n \r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n000000000000000002\r\nok\r\n0\r\na: b\nc: d\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nconnection: keep-alive, Close\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nconnection: \u{e9}, close\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n\r\nuntil it closes",
    "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok",
    "HTTP/1.0 200\r\n\r\nuntil it closes",
    "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n",
    "HTTP/1.1 404 Not Found\ncontent-length: 2\nx: y\n\nno",
    "\r\n\nHTTP/1.1 500 \u{e9}\r\nContent-Length:0\r\n\r\n",
    "HTTP/1.1 200 OK\r\na: b\r\n folded\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nb(d: c\r\n: d\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.1 099 OK\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.1 999 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
];

const WORDS: &[&str] = &[
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    "\n\n",
    " ",
    "\t",
    "\0",
    "\u{e9}",
    ":",
    ",",
    ";",
    "\"",
    "-",
    "+",
    "0",
    "1",
    "5",
    "f",
    "0x",
    "00000000000000000",
    "99999999999999999999",
    "chunked",
    "gzip",
    "close",
    "keep-alive",
    "HTTP/1.0 ",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "content-length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "connection: close\r\n",
    "0\r\n\r\n",
    "x: y\r\n",
];

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    is_reusable: bool,
}

type Is = fn(&[u8], &Answer) -> bool;

/// Why an answer that hyper takes is none here.
const STRICTER: &[(&str, Is)] = &[
    ("nobody asked for another protocol", |_, answer| answer.status == StatusCode::SWITCHING_PROTOCOLS),
    ("a coding that is no text could be any", |_, answer| !is_text(&answer.headers, &TRANSFER_ENCODING)),
    ("no chunk's size needs more than 16 digits", |said, _| {
        said.split(|byte| !byte.is_ascii_hexdigit()).any(|digits| digits.len() > 16)
    }),
    ("a trailer ends with both characters", |said, answer| answer.headers.contains_key(TRANSFER_ENCODING) && has_bare_lf(said)),
];

/// Why a connection that hyper uses again is left here.
const LEFT: &[(&str, Is)] = &[
    ("who says the length twice may mean either", |_, answer| {
        answer.headers.contains_key(TRANSFER_ENCODING) && answer.headers.contains_key(CONTENT_LENGTH)
    }),
    ("HTTP/1.0 is not worth keeping", |said, _| said.windows(8).any(|word| word == b"HTTP/1.0")),
    ("what is no text may say close as well", |_, answer| !is_text(&answer.headers, &CONNECTION)),
];

fn is_text(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().all(|value| value.to_str().is_ok())
}

fn mutated(random: &mut Rng) -> Vec<u8> {
    let seed = |random: &mut Rng| SEEDS[random.usize(..SEEDS.len())].as_bytes();
    let mut said = seed(random).to_vec();
    for _ in 0..random.usize(..4) {
        let from = random.usize(..=said.len());
        let until = random.usize(from..=said.len().min(from + 12));
        match random.u8(..6) {
            0 => drop(said.drain(from..until)),
            1 => said.truncate(from),
            2 => said.splice(from..from, said[from..until].to_vec()).for_each(drop),
            3 => said.splice(from..until, [random.u8(..)]).for_each(drop),
            4 => {
                let other = seed(random);
                said.splice(from.., other[random.usize(..other.len())..].iter().copied()).for_each(drop);
            }
            _ => said.splice(from..from, WORDS[random.usize(..WORDS.len())].bytes()).for_each(drop),
        }
    }
    said
}

fn cut<'a>(mut said: &'a [u8], random: &mut Rng) -> Vec<&'a [u8]> {
    let most = [1, 4, 40, said.len().max(1)][random.usize(..4)];
    let mut pieces = Vec::new();
    while !said.is_empty() {
        let (piece, rest) = said.split_at(random.usize(1..=most.min(said.len())));
        pieces.push(piece);
        said = rest;
    }
    pieces
}

async fn turns() {
    for _ in 0..TURNS {
        yield_now().await;
    }
}

/// Everything is said before it is looked whether the connection can be used again, and closed after that.
async fn all_said(is_all_said: &Cell<bool>) {
    while !is_all_said.get() {
        yield_now().await;
    }
    turns().await;
}

async fn by_the_exchange(stream: Stream, is_all_said: &Cell<bool>) -> Option<Answer> {
    let (head, mut body) = exchange(stream, request(Method::POST, "{}")).await.ok()?.into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = poll_fn(|context| body.poll_chunk(context)).await.ok()? {
        bytes.extend_from_slice(&chunk);
    }
    let left = body.leave();
    all_said(is_all_said).await;
    let is_reusable = left.is_some_and(|mut stream| is_open(&mut stream));
    Some(Answer { status: head.status, headers: head.headers, body: bytes, is_reusable })
}

async fn by_hyper(stream: Stream, is_all_said: &Cell<bool>) -> Option<Answer> {
    let (mut sender, connection) = handshake(stream).await.ok()?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request(Method::POST, "{}").map(Full::new)).await.ok()?.into_parts();
    let body = body.collect().await.ok()?.to_bytes().to_vec();
    all_said(is_all_said).await;
    Some(Answer { status: head.status, headers: head.headers, body, is_reusable: sender.is_ready() })
}

async fn say(mut far: DuplexStream, pieces: &[&[u8]], is_all_said: &Cell<bool>) {
    far.read_buf(&mut Vec::with_capacity(1024)).await.unwrap();
    for piece in pieces {
        if far.write_all(piece).await.is_err() {
            break;
        }
        yield_now().await;
    }
    is_all_said.set(true);
    // Long enough for whoever has heard all to look.
    turns().await;
    turns().await;
}

async fn heard_by_both(pieces: &[&[u8]]) -> (Option<Answer>, Option<Answer>) {
    let (stream, far) = connection(64 * 1024);
    let is_all_said = Cell::new(false);
    let ours = tokio::join!(by_the_exchange(stream, &is_all_said), say(far, pieces, &is_all_said)).0;
    let (stream, far) = connection(64 * 1024);
    let is_all_said = Cell::new(false);
    let theirs = tokio::join!(by_hyper(stream, &is_all_said), say(far, pieces, &is_all_said)).0;
    (ours, theirs)
}

fn is_listed(reasons: &[(&str, Is)], said: &[u8], answer: &Answer) -> bool {
    reasons.iter().any(|(_, is)| is(said, answer))
}

#[tokio::test]
async fn what_is_taken_for_an_answer_hyper_takes_for_the_same() {
    let mut random = Rng::with_seed(9112);
    let (mut taken, mut reusable, mut different) = (0, 0, Vec::new());
    let rounds = ROUNDS * SEEDS.len();
    for _ in 0..rounds {
        let said = mutated(&mut random);
        let pieces = cut(&said, &mut random);
        let (ours, theirs) = heard_by_both(&pieces).await;
        let is_fine = match (&ours, &theirs) {
            (None, None) => true,
            (None, Some(theirs)) => is_listed(STRICTER, &said, theirs),
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => {
                (taken, reusable) = (taken + 1, reusable + usize::from(ours.is_reusable));
                let is_left = theirs.is_reusable && is_listed(LEFT, &said, theirs);
                (ours.status, &ours.headers, &ours.body) == (theirs.status, &theirs.headers, &theirs.body)
                    && (ours.is_reusable == theirs.is_reusable || is_left)
            }
        };
        if !is_fine {
            let said = String::from_utf8_lossy(&said);
            different.push(format!("{said:?} in {} pieces: {ours:?} here, {theirs:?} with hyper", pieces.len()));
        }
    }
    assert_eq!(different, Vec::<String>::new());
    assert!(taken > rounds / 4 && reusable > rounds / 10, "of {rounds}, {taken} were answers and {reusable} left a connection");
}
