//! What is passed on, as an adapter says it: addresses, bodies, and answers cut anywhere.
//! It must not know what any path is for.

use bytes::Bytes;
use http::{HeaderValue, Method};
use providers::frames::{Decoder, Framing};
use providers::{Account, Call, ChatRequest, Kind, Passage, Plain, Provider, StreamTranslator, UpstreamRequest};
use serde_json::json;

use crate::play;

fn request(method: Method, path: &str, body: &str) -> ChatRequest {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let json = HeaderValue::from_static("application/json");
    ChatRequest::passed(Bytes::copy_from_slice(body.as_bytes()), Passage::new(&method, path, query, Some(&json)).unwrap())
        .unwrap()
}

fn send(wire: &dyn Provider, request: &ChatRequest, account: &Account) -> UpstreamRequest {
    wire.request(&Call { endpoint: request.endpoint, ..play::call(request, "there", account) }).unwrap()
}

#[test]
fn addresses_and_bodies_are_those_of_the_provider() {
    let account = |version: Option<&str>| Account { api_version: version.map(str::to_owned), ..Account::default() };
    let image = request(Method::POST, "/images/generations", r#"{"model": "here", "n": 1.0}"#);
    let file = request(Method::GET, "/files?limit=2", "");
    let cases = [
        ("openai", None, &image, "/images/generations"),
        ("openai", None, &file, "/files?limit=2"),
        ("azure", None, &image, "/openai/v1/images/generations"),
        ("azure", None, &file, "/openai/v1/files?limit=2"),
        ("azure", Some("2024-10-21"), &image, "/openai/deployments/there/images/generations?api-version=2024-10-21"),
        ("azure", Some("2024-10-21"), &file, "/openai/files?limit=2&api-version=2024-10-21"),
    ];
    for (kind, version, call, path) in cases {
        let sent = send(providers::provider(kind).unwrap(), call, &account(version));
        assert_eq!(sent.path, path, "{kind} {version:?}");
        let has_body = !call.raw().is_empty();
        assert_eq!(&sent.body[..], if has_body { &br#"{"model": "there", "n": 1.0}"#[..] } else { b"" }, "{kind}");
        assert_eq!(sent.method, if has_body { Method::POST } else { Method::GET });
        assert_eq!(sent.headers.len(), usize::from(has_body), "its type, where there is a body");
    }
}

#[test]
fn a_form_has_its_models_name_changed_and_nothing_else() {
    let body = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nhere\r\n--x\r\n\
                Content-Disposition: form-data; name=\"model\"\r\n\r\nhere\r\n--x--\r\n";
    let form = HeaderValue::from_static("multipart/form-data; boundary=x");
    let passage = Passage::new(&Method::POST, "/audio/transcriptions", None, Some(&form)).unwrap();
    let request = ChatRequest::passed(Bytes::from_static(body.as_bytes()), passage).unwrap();
    assert_eq!(request.model, "here");
    let sent = send(providers::provider("groq").unwrap(), &request, &Account::default());
    let (head, _) = body.rsplit_once("here").unwrap();
    assert_eq!(sent.body, format!("{head}there\r\n--x--\r\n"));
    assert_eq!(sent.headers, [(http::header::CONTENT_TYPE, form)]);
}

#[test]
fn events_say_the_same_however_they_are_cut_and_tell_what_was_used() {
    let events = "event: transcript.text.delta\ndata: {\"type\":\"transcript.text.delta\",\"delta\":\"né\"}\n\n\
                  event: transcript.text.done\ndata: {\"type\":\"transcript.text.done\",\"text\":\"né\",\
                  \"usage\":{\"type\":\"tokens\",\"input_tokens\":14,\"input_token_details\":{\"text_tokens\":4,\"audio_tokens\":10},\
                  \"output_tokens\":3,\"total_tokens\":17}}\n\n";
    let wire = providers::provider("openai").unwrap();
    let (request, account) = (request(Method::POST, "/audio/transcriptions", r#"{"model":"here"}"#), Account::default());
    let call = Call { endpoint: request.endpoint, ..play::call(&request, "there", &account) };
    let played = play::stream_every_way(wire, &call, Framing::Sse, events.as_bytes());
    assert_eq!((played.bytes.as_str(), played.done, played.malformed), (events, true, 0));
    let usage = played.usage.unwrap();
    assert_eq!((usage.input, usage.output, usage.audio_in), (14, 3, 10));
    let failed = play::stream_every_way(
        wire,
        &call,
        Framing::Sse,
        b"data: {\"error\":{\"message\":\"oh\",\"type\":\"server_error\"}}\n\n",
    );
    assert_eq!((failed.done, failed.error.map(|error| error.message)), (false, Some("oh".to_owned())));
}

#[test]
fn answers_tell_what_was_used_where_it_was_used_and_not_where_it_is_read_again() {
    let wire = providers::provider("openai").unwrap();
    let usage = |method: Method, path: &str, body: serde_json::Value| {
        let (request, account) = (request(method, path, ""), Account::default());
        let call = Call { endpoint: request.endpoint, ..play::call(&request, "there", &account) };
        let (sent, headers) = (Bytes::from(body.to_string()), http::HeaderMap::new());
        let answer = wire.answer(&call, &headers, sent.clone()).unwrap();
        assert_eq!(answer.body, sent);
        answer.usage.map(|usage| (usage.input, usage.output, usage.image_in, usage.image_out))
    };
    let picture = json!({"data": [], "usage": {"input_tokens": 50, "input_tokens_details": {"image_tokens": 40, "text_tokens": 10},
        "output_tokens": 60, "total_tokens": 110}});
    assert_eq!(usage(Method::POST, "/images/edits", picture), Some((50, 60, 40, 60)));
    let seconds = json!({"text": "né", "usage": {"type": "duration", "seconds": 9}});
    assert_eq!(usage(Method::POST, "/audio/transcriptions", seconds), None);
    let again = json!({"id": "resp_1", "usage": {"input_tokens": 50, "output_tokens": 60, "total_tokens": 110}});
    assert_eq!(usage(Method::GET, "/responses/resp_1", again), None);
    assert_eq!(usage(Method::POST, "/moderations", json!({"id": "modr-1", "results": [{"flagged": false}]})), None);
}

#[test]
fn bytes_pass_as_they_come() {
    let mut decoder = Decoder::new(Framing::Pieces);
    let (mut out, mut ends) = (Vec::new(), 0);
    for piece in [&b"ID3\0"[..], b"", b"data: \r\n\xff"] {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(frame) = decoder.next_frame().unwrap() {
            Plain.frame(&frame, &mut |event| out.extend_from_slice(event.bytes));
        }
    }
    assert_eq!(decoder.finish(), Ok(None));
    Plain.end(&mut |event| ends += usize::from(matches!(event.kind, Kind::Done)));
    assert_eq!((out.as_slice(), ends), (&b"ID3\0data: \r\n\xff"[..], 1));
}
