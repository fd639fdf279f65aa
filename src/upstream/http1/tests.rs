//! Exchanges with a provider that is played by the test: what it may say, cut anywhere, and what it may not.
//! It must not know any real socket.

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::yield_now;

use super::*;

mod beside_hyper;

fn request(method: Method, body: &'static str) -> Request<Bytes> {
    Request::builder()
        .method(method)
        .uri("/v1/x?y=z")
        .header("host", "provider")
        .body(Bytes::from_static(body.as_bytes()))
        .unwrap()
}

fn connection(room: usize) -> (Stream, DuplexStream) {
    let (near, far) = duplex(room);
    (Box::new(TokioIo::new(near)), far)
}

/// Status, body, and whether the connection can be used again; `None` when it broke.
type Heard = Option<(u16, String, bool)>;

async fn whole(stream: Stream, request: Request<Bytes>) -> Heard {
    let (head, mut body) = exchange(stream, request).await.ok()?.into_parts();
    let mut text = Vec::new();
    while let Some(bytes) = poll_fn(|context| body.poll_chunk(context)).await.ok()? {
        text.extend_from_slice(&bytes);
    }
    Some((head.status.as_u16(), String::from_utf8(text).unwrap(), body.leave().is_some()))
}

/// What is heard when the provider says `answer` in pieces of this length, then nothing more.
async fn heard(answer: &str, piece: usize) -> Heard {
    let (stream, mut far) = connection(64 * 1024);
    let saying = async move {
        for piece in answer.as_bytes().chunks(piece) {
            if far.write_all(piece).await.is_err() {
                return;
            }
            yield_now().await;
        }
        drop(far);
    };
    tokio::join!(whole(stream, request(Method::POST, "{}")), saying).0
}

#[tokio::test]
async fn a_body_ends_where_its_head_says() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", (200, "hello", true)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello", (200, "hello", true)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5, 05\r\n\r\nhello", (200, "hello", true)),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", (404, "", true)),
        ("HTTP/1.1 204 No Content\r\n\r\n", (204, "", true)),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nhello\r\nA;x=\"y\"\r\n, provider\r\n0\r\n\r\n",
            (200, "hello, provider", true),
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n05\r\nhello\r\n0\r\ntook: 1\r\nmore: 2\r\n\r\n",
            (200, "hello", true),
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            (200, "ok", true),
        ),
        ("HTTP/1.1 200 OK\r\nconnection: keep-alive, Close\r\ncontent-length: 2\r\n\r\nok", (200, "ok", false)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", (200, "ok", false)),
        ("HTTP/1.1 200 OK\r\n\r\nuntil it closes", (200, "until it closes", false)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\nuntil it closes", (200, "until it closes", false)),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", (200, "ok", false)),
    ];
    for (answer, (status, body, is_reusable)) in cases {
        for piece in [1, 3, answer.len()] {
            let expected = Some((status, body.to_owned(), is_reusable));
            assert_eq!(heard(answer, piece).await, expected, "{answer:?} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn what_comes_behind_an_answer_ends_the_connection() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok, and more";
    assert_eq!(heard(answer, answer.len()).await, Some((200, "ok".to_owned(), false)));
}

#[tokio::test]
async fn what_is_no_answer_is_not_taken_for_one() {
    let chunked = |chunks: &str| format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
    let cases = [
        String::new(),
        "hello".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 5,\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: \u{e9}, chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nhello".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_owned(),
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1)),
        format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(MAX_HEAD)),
        chunked("5\r\nhello\r\n"),
        chunked("5\r\nhello\r\n0\r\n"),
        chunked("5\r\nhello0\r\n\r\n"),
        chunked("\r\n\r\n"),
        chunked("x\r\nhello\r\n0\r\n\r\n"),
        chunked("5;a\nb\r\nhello\r\n0\r\n\r\n"),
        chunked("0\r\n\n"),
        chunked("0\r\n \r\n\r\n"),
        chunked("0\r\nno trailer\r\n\r\n"),
        chunked("0\r\na: b\nc: d\r\n\r\n"),
        chunked("-5\r\nhello\r\n0\r\n\r\n"),
        chunked("11111111111111111\r\nhello"),
        chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(2 * MAX_READ))),
        chunked(&format!("0\r\na: {}\r\n\r\n", "b".repeat(2 * MAX_READ))),
        chunked(&format!("0\r\n{}\r\n", "a: b\r\n".repeat(MAX_TRAILERS + 1))),
    ];
    for answer in cases {
        let start = answer.get(..120).unwrap_or(&answer);
        for piece in if answer.len() < 200 { vec![1, 3, answer.len().max(1)] } else { vec![MAX_READ] } {
            assert_eq!(heard(&answer, piece).await, None, "{start:?} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn a_body_of_many_reads_is_whole() {
    let text = "0123456789abcdef".repeat(3 * 0x1000 + 1);
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    let chunk = format!("10000\r\n{}\r\n", &text[..0x10000]);
    let chunked =
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}{chunk}10\r\n{}\r\n0\r\n\r\n", &text[..16]);
    for answer in [whole, chunked] {
        for piece in [1000, MAX_READ, answer.len()] {
            let heard = heard(&answer, piece).await;
            assert!(heard == Some((200, text.clone(), true)), "in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn what_cannot_become_an_answer_is_not_waited_for() {
    let (stream, mut far) = connection(64);
    far.write_all(b"hello").await.unwrap();
    assert_eq!(whole(stream, request(Method::POST, "{}")).await, None);
}

#[test]
fn a_request_says_its_length_unless_it_is_a_question_without_a_body() {
    let cases = [
        (request(Method::POST, "{}"), "POST /v1/x?y=z HTTP/1.1\r\nhost: provider\r\ncontent-length: 2\r\n\r\n"),
        (request(Method::DELETE, ""), "DELETE /v1/x?y=z HTTP/1.1\r\nhost: provider\r\ncontent-length: 0\r\n\r\n"),
        (request(Method::GET, ""), "GET /v1/x?y=z HTTP/1.1\r\nhost: provider\r\n\r\n"),
    ];
    for (request, head) in cases {
        assert_eq!(String::from_utf8(opening(&request)).unwrap(), head);
    }
    let mut forwarded = request(Method::GET, "");
    *forwarded.uri_mut() = "http://provider/v1/x".parse().unwrap();
    assert!(opening(&forwarded).starts_with(b"GET http://provider/v1/x HTTP/1.1\r\n"));
}

#[tokio::test]
async fn who_answers_before_the_request_is_written_may_still_have_the_rest_of_it() {
    let (stream, mut far) = connection(80);
    let provider = async move {
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"enough\"}") {
            far.read_buf(&mut read).await.unwrap();
        }
        far.write_all(b"ok").await.unwrap();
    };
    let request = request(Method::POST, "{\"a body\": \"that is long enough\"}");
    assert_eq!(tokio::join!(whole(stream, request), provider).0, Some((200, "ok".to_owned(), true)));
}

#[tokio::test]
async fn who_answers_and_takes_no_more_of_the_request_is_heard_and_left() {
    // There is no room for the request, and nobody reads it.
    let (stream, mut far) = connection(80);
    far.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    assert_eq!(
        whole(stream, request(Method::POST, "{\"a body\": \"that is long enough\"}")).await,
        Some((413, "no".to_owned(), false))
    );
}

#[tokio::test]
async fn a_request_of_which_nothing_was_written_is_given_back() {
    let (stream, far) = connection(1024);
    drop(far);
    let given_back = exchange(stream, request(Method::POST, "{}")).await.unwrap_err();
    assert_eq!(given_back.unwrap().body().as_ref(), b"{}");
}

#[tokio::test]
async fn an_idle_connection_is_open_until_it_is_closed_or_says_something() {
    let (mut stream, far) = connection(64);
    assert!(is_open(&mut stream));
    drop(far);
    assert!(!is_open(&mut stream));
    let (mut stream, mut far) = connection(64);
    far.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
    assert!(!is_open(&mut stream));
}
