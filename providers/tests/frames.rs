//! Bytes into frames: server-sent events as the standard says, cut anywhere, bounded.
//! It must not know what a frame means.

use bytes::Bytes;
use providers::frames::{BadFrame, Decoder, Framing, MAX_FRAME_BYTES};

use crate::play;

/// An event's name and data.
type Named = (Option<&'static str>, &'static str);

fn decode(framing: Framing, pieces: &[&[u8]]) -> Vec<(Option<String>, String)> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    play::frames(framing, pieces).iter().map(|frame| (frame.name.as_ref().map(text), text(&frame.data))).collect()
}

#[test]
fn events_are_divided_as_the_standard_says_wherever_the_bytes_are_cut() {
    let cases: [(&str, &[Named]); 19] = [
        ("data: a\n\ndata: b\n\n", &[(None, "a"), (None, "b")]),
        ("data: a\r\n\r\ndata: b\r\n\r\n", &[(None, "a"), (None, "b")]),
        ("data: a\r\rdata: b\r\r", &[(None, "a"), (None, "b")]),
        ("data: a\r\n\ndata: b\n\r\n", &[(None, "a"), (None, "b")]),
        ("\u{feff}data: a\n\n", &[(None, "a")]),
        (": keep-alive\n\n:\n\ndata: a\n\n", &[(None, "a")]),
        ("data: a\ndata: b\ndata:\ndata: c\n\n", &[(None, "a\nb\n\nc")]),
        ("event: error\ndata: {}\n\ndata: x\n\n", &[(Some("error"), "{}"), (None, "x")]),
        ("event: error\r\ndata: a\r\ndata: b\r\n\r\n", &[(Some("error"), "a\nb")]),
        ("data: a\rdata: b\r\r", &[(None, "a\nb")]),
        ("data:no space\n\ndata:  two\n\n", &[(None, "no space"), (None, " two")]),
        ("id: 7\nretry: 10\nunknown: x\ndata: a\n\n", &[(None, "a")]),
        ("event: nothing\n\ndata: a\n\n", &[(None, "a")]),
        ("data\n\n", &[(None, "")]),
        ("data: last without a blank line", &[(None, "last without a blank line")]),
        ("data: last\n", &[(None, "last")]),
        ("\n\n\n", &[]),
        ("data: é中😀\n\n", &[(None, "é中😀")]),
        ("{\n  \"error\": {\n    \"message\": \"no\"\n  }\n}\n", &[(None, "{\n  \"error\": {\n    \"message\": \"no\"\n  }\n}")]),
    ];
    for (wire, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|(name, data)| (name.map(str::to_owned), (*data).to_owned())).collect();
        let bytes = wire.as_bytes();
        assert_eq!(decode(Framing::Sse, &[bytes]), expected, "{wire:?} whole");
        assert_eq!(decode(Framing::Sse, &bytes.chunks(1).collect::<Vec<_>>()), expected, "{wire:?} byte by byte");
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(decode(Framing::Sse, &[head, tail]), expected, "{wire:?} cut at {cut}");
            assert_eq!(decode(Framing::Sse, &[head, b"", tail]), expected, "{wire:?} cut at {cut}, with an empty read");
        }
    }
}

#[test]
fn json_lines_are_one_frame_each() {
    let wire = b"{\"a\":1}\n\n  \r\n{\"b\":2}\r\n{\"c\":3}";
    let expected: Vec<_> = ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"].map(|line| (None, line.to_owned())).into();
    for cut in 0..=wire.len() {
        let (head, tail) = wire.split_at(cut);
        assert_eq!(decode(Framing::JsonLines, &[head, tail]), expected, "cut at {cut}");
    }
}

#[test]
fn a_frame_too_large_is_an_error_however_it_arrives() {
    let line = Bytes::from(vec![b'x'; 1024 * 1024]);
    let mut endless = Decoder::new(Framing::Sse);
    endless.push(Bytes::from_static(b"data: "));
    assert_eq!(endless.next_frame(), Ok(None));
    let refused = (0..MAX_FRAME_BYTES / line.len() + 1).find_map(|_| {
        endless.push(line.clone());
        endless.next_frame().err()
    });
    assert_eq!(refused, Some(BadFrame::TooLarge), "one endless line");

    let mut many = Decoder::new(Framing::Sse);
    let refused = (0..MAX_FRAME_BYTES / line.len() + 1).find_map(|_| {
        many.push([b"data: ", &line[..], b"\n"].concat().into());
        many.next_frame().err()
    });
    assert_eq!(refused, Some(BadFrame::TooLarge), "many lines of one event");

    let mut plain = Decoder::new(Framing::Sse);
    plain.push(Bytes::from_static(b"{\n"));
    assert_eq!(plain.next_frame(), Ok(None));
    let refused = (0..MAX_FRAME_BYTES / line.len() + 1).find_map(|_| {
        plain.push([&line[..], b"\n"].concat().into());
        plain.next_frame().err()
    });
    assert_eq!(refused, Some(BadFrame::TooLarge), "a plain JSON body");
}

#[test]
fn small_frames_go_on_for_ever() {
    let mut decoder = Decoder::new(Framing::Sse);
    let chunk = Bytes::from("data: 0123456789\n\n".repeat(1000));
    let mut frames = 0;
    for _ in 0..2 * MAX_FRAME_BYTES / chunk.len() {
        decoder.push(chunk.clone());
        while decoder.next_frame().unwrap().is_some() {
            frames += 1;
        }
    }
    assert_eq!(frames, 2 * MAX_FRAME_BYTES / chunk.len() * 1000);
}

#[test]
fn a_stream_that_opens_with_a_bracket_is_an_array_however_it_is_cut() {
    for (body, expected) in [
        ("[{\"a\":\"]}\\\"\"}\r\n,\r\n{\"b\":[{}]}]\n", vec!["{\"a\":\"]}\\\"\"}", "{\"b\":[{}]}"]),
        ("\n [{\"error\":{}}]", vec!["{\"error\":{}}"]),
        ("[{\"a\":1},{\"cut", vec!["{\"a\":1}", "{\"cut"]),
        ("[]", vec![]),
        ("\r\n\r\ndata: {\"a\":1}\r\n\r\n", vec!["{\"a\":1}"]),
    ] {
        let texts = |pieces: &[&[u8]]| decode(Framing::Sse, pieces).into_iter().map(|(_, data)| data).collect::<Vec<_>>();
        for cut in 0..=body.len() {
            let (head, tail) = body.as_bytes().split_at(cut);
            assert_eq!(texts(&[head, tail]), expected, "{body} cut at {cut}");
        }
        assert_eq!(texts(&body.as_bytes().chunks(1).collect::<Vec<_>>()), expected, "{body} byte by byte");
    }
}
