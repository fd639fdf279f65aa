//! AWS's event stream: messages with two lengths, typed headers, a payload and two checksums,
//! <https://smithy.io/2.0/aws/amazon-eventstream.html>.
//! It must not know what a frame means.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{BadFrame, Frame, MAX_FRAME_BYTES};

/// Both lengths and their checksum.
const PRELUDE_BYTES: usize = 12;

/// The checksum at the end.
const CHECKSUM_BYTES: usize = 4;

/// Divides the bytes of one stream into messages.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// What arrived and is not yet divided: less than a message and one read of the network.
    buffer: BytesMut,
}

impl Messages {
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, BadFrame> {
        let Some(mut prelude) = self.buffer.get(..PRELUDE_BYTES) else { return Ok(None) };
        let lengths = crc32(&prelude[..8]);
        let total = prelude.get_u32() as usize;
        let headers = prelude.get_u32() as usize;
        if prelude.get_u32() != lengths || total < PRELUDE_BYTES + headers + CHECKSUM_BYTES {
            return Err(BadFrame::Corrupt);
        }
        if total > MAX_FRAME_BYTES {
            return Err(BadFrame::TooLarge);
        }
        if self.buffer.len() < total {
            return Ok(None);
        }
        let message = self.buffer.split_to(total).freeze();
        let (checked, mut checksum) = message.split_at(total - CHECKSUM_BYTES);
        if checksum.get_u32() != crc32(checked) {
            return Err(BadFrame::Corrupt);
        }
        let payload = message.slice(PRELUDE_BYTES + headers..total - CHECKSUM_BYTES);
        frame(message.slice(PRELUDE_BYTES..PRELUDE_BYTES + headers), payload).map(Some).ok_or(BadFrame::Corrupt)
    }
}

/// The frame of a message. An `error` has no payload; its words stand in headers.
fn frame(mut headers: Bytes, payload: Bytes) -> Option<Frame> {
    let (mut kind, mut event, mut exception, mut code, mut words) = (None, None, None, None, None);
    while !headers.is_empty() {
        let (name, value) = header(&mut headers)?;
        match name.as_ref() {
            b":message-type" => kind = value,
            b":event-type" => event = value,
            b":exception-type" => exception = value,
            b":error-code" => code = value,
            b":error-message" => words = value,
            _ => {}
        }
    }
    let failure = |kind: Option<Bytes>| Bytes::from([b"exception:", kind.unwrap_or_default().as_ref()].concat());
    Some(match kind.as_deref() {
        Some(b"exception") => Frame { name: Some(failure(exception)), data: payload },
        Some(b"error") => Frame { name: Some(failure(code)), data: error_payload(&words.unwrap_or_default()) },
        _ => Frame { name: event, data: payload },
    })
}

fn error_payload(words: &[u8]) -> Bytes {
    let message = String::from_utf8_lossy(words);
    Bytes::from(serde_json::json!({"message": message}).to_string())
}

/// One header: its name and, if it is a string, its value.
fn header(headers: &mut Bytes) -> Option<(Bytes, Option<Bytes>)> {
    let name_bytes = usize::from(headers.try_get_u8().ok()?);
    let name = take(headers, name_bytes)?;
    let kind = headers.try_get_u8().ok()?;
    let value_bytes = match kind {
        0 | 1 => 0,
        2 => 1,
        3 => 2,
        4 => 4,
        5 | 8 => 8,
        6 | 7 => usize::from(headers.try_get_u16().ok()?),
        9 => 16,
        _ => return None,
    };
    let value = take(headers, value_bytes)?;
    Some((name, (kind == 7).then_some(value)))
}

fn take(bytes: &mut Bytes, count: usize) -> Option<Bytes> {
    (count <= bytes.len()).then(|| bytes.split_to(count))
}

/// CRC-32 as in zlib and Ethernet.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8))
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with string headers.
    fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
        let mut head = Vec::new();
        for (name, value) in headers {
            head.push(u8::try_from(name.len()).unwrap());
            head.extend_from_slice(name.as_bytes());
            head.push(7);
            head.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
            head.extend_from_slice(value.as_bytes());
        }
        let total = u32::try_from(PRELUDE_BYTES + head.len() + payload.len() + CHECKSUM_BYTES).unwrap();
        let mut out = total.to_be_bytes().to_vec();
        out.extend_from_slice(&u32::try_from(head.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&crc32(&out).to_be_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(payload);
        out.extend_from_slice(&crc32(&out).to_be_bytes());
        out
    }

    fn frames(pieces: &[&[u8]]) -> Result<Vec<Frame>, BadFrame> {
        let mut messages = Messages::default();
        let mut frames = Vec::new();
        for piece in pieces {
            messages.push(piece);
            while let Some(frame) = messages.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    fn named(name: &'static str, data: &'static str) -> Frame {
        Frame { name: Some(Bytes::from_static(name.as_bytes())), data: Bytes::from_static(data.as_bytes()) }
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn messages_are_read_however_they_are_cut() {
        let mut wire = message(&[(":message-type", "event"), (":event-type", "messageStart")], b"{}");
        wire.extend(message(
            &[(":exception-type", "throttlingException"), (":message-type", "exception")],
            b"{\"message\":\"slow\"}",
        ));
        wire.extend(message(&[(":message-type", "error"), (":error-code", "500"), (":error-message", "a \"b\"")], b""));
        let expected = vec![
            named("messageStart", "{}"),
            named("exception:throttlingException", "{\"message\":\"slow\"}"),
            named("exception:500", "{\"message\":\"a \\\"b\\\"\"}"),
        ];
        for cut in 0..wire.len() {
            assert_eq!(frames(&[&wire[..cut], &wire[cut..]]).unwrap(), expected, "cut at {cut}");
        }
        assert_eq!(frames(&[&wire[..wire.len() - 1]]).unwrap().len(), 2, "an unfinished message is none");
    }

    #[test]
    fn one_wrong_byte_anywhere_is_noticed() {
        let good = message(&[(":message-type", "event"), (":event-type", "chunk")], b"payload");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(frames(&[&bad]), Err(BadFrame::Corrupt), "byte {at}");
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_it_is_awaited() {
        let mut prelude = u32::MAX.to_be_bytes().to_vec();
        prelude.extend_from_slice(&0_u32.to_be_bytes());
        prelude.extend_from_slice(&crc32(&prelude).to_be_bytes());
        assert_eq!(frames(&[&prelude]), Err(BadFrame::TooLarge));
    }

    #[test]
    fn headers_of_every_type_are_passed_over() {
        let mut headers = BytesMut::new();
        for (kind, bytes) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (8, 8), (9, 16)] {
            headers.extend_from_slice(&[1, b'x', kind]);
            headers.extend_from_slice(&vec![0; bytes]);
        }
        headers.extend_from_slice(&[1, b'x', 6, 0, 2, 9, 9]);
        headers.extend_from_slice(b"\x0b:event-type\x07\x00\x05chunk");
        let frame_of = |headers: BytesMut| frame(headers.freeze(), Bytes::new());
        assert_eq!(frame_of(headers.clone()), Some(named("chunk", "")));
        headers.extend_from_slice(&[1, b'x', 10]);
        assert_eq!(frame_of(headers), None);
    }
}
