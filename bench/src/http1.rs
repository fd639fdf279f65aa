//! Just enough HTTP/1.1 to drive a load: reads one message from the pieces a socket delivers and says
//! where its body stands. Cheap, so that the load costs less than what is measured.
//! It must not know what the body means, nor any socket.

use std::io;

/// Longest head (start line and headers) that is read, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Reads one HTTP/1.1 message (a request or an answer, the start line is not judged) at a time.
#[derive(Debug, Default)]
pub struct Message {
    head: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Length(u64),
    ChunkSize {
        size: u64,
        /// A `;` was seen: the rest of the line says nothing we need.
        extension: bool,
    },
    Chunk(u64),
    ChunkEnd,
    Trailer {
        line_bytes: usize,
    },
    UntilClose,
    Whole,
}

impl Message {
    /// Takes what the socket delivered and gives the pieces of the body to `body`. True once the
    /// message is whole.
    ///
    /// # Errors
    /// When the bytes are not HTTP/1.1, or bytes follow the end (nobody here pipelines).
    pub fn feed(&mut self, mut input: &[u8], body: &mut impl FnMut(&[u8])) -> io::Result<bool> {
        while !input.is_empty() {
            input = match self.state {
                State::Head => self.take_head(input)?,
                State::Length(left) => self.take_body(input, left, body),
                State::Chunk(left) => self.take_chunk(input, left, body),
                State::ChunkSize { size, extension } => self.take_chunk_size(input[0], size, extension).map(|()| &input[1..])?,
                State::ChunkEnd => {
                    if input[0] == b'\n' {
                        self.state = State::ChunkSize { size: 0, extension: false };
                    }
                    &input[1..]
                }
                State::Trailer { line_bytes } => {
                    self.take_trailer(input[0], line_bytes);
                    &input[1..]
                }
                State::UntilClose => {
                    body(input);
                    &[]
                }
                State::Whole => return Err(malformed("bytes after the end of a message")),
            };
        }
        Ok(self.state == State::Whole)
    }

    /// Whether a connection that closes now has delivered a whole message.
    #[must_use]
    pub fn whole_at_close(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Whole)
    }

    /// The start line and the headers, once they were read.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The status of an answer; 0 when the head has not arrived.
    #[must_use]
    pub fn status(&self) -> u16 {
        let digits = self.head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// Makes ready for the next message on the same connection.
    pub fn reset(&mut self) {
        self.head.clear();
        self.state = State::Head;
    }

    fn take_head<'a>(&mut self, input: &'a [u8]) -> io::Result<&'a [u8]> {
        let before = self.head.len();
        self.head.extend_from_slice(input);
        let from = before.saturating_sub(3);
        let Some(at) = memchr::memmem::find(&self.head[from..], b"\r\n\r\n") else {
            return if self.head.len() > MAX_HEAD_BYTES { Err(malformed("head too long")) } else { Ok(&[]) };
        };
        let end = from + at + 4;
        self.head.truncate(end);
        self.state = self.body_state()?;
        Ok(&input[end - before..])
    }

    fn body_state(&self) -> io::Result<State> {
        if let Some(length) = self.header("content-length") {
            let length: u64 = length.parse().map_err(|_| malformed("content-length"))?;
            return Ok(if length == 0 { State::Whole } else { State::Length(length) });
        }
        if self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Ok(State::ChunkSize { size: 0, extension: false });
        }
        let is_answer = self.head.starts_with(b"HTTP/");
        Ok(if is_answer { State::UntilClose } else { State::Whole })
    }

    /// The value of a header of the head that was read.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let head = std::str::from_utf8(&self.head).ok()?;
        head.split("\r\n").skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn take_body<'a>(&mut self, input: &'a [u8], left: u64, body: &mut impl FnMut(&[u8])) -> &'a [u8] {
        let (piece, rest) = input.split_at(input.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        body(piece);
        let left = left - piece.len() as u64;
        self.state = if left == 0 { State::Whole } else { State::Length(left) };
        rest
    }

    fn take_chunk<'a>(&mut self, input: &'a [u8], left: u64, body: &mut impl FnMut(&[u8])) -> &'a [u8] {
        let (piece, rest) = input.split_at(input.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        body(piece);
        let left = left - piece.len() as u64;
        self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
        rest
    }

    fn take_chunk_size(&mut self, byte: u8, size: u64, extension: bool) -> io::Result<()> {
        self.state = match byte {
            b'\n' if size == 0 => State::Trailer { line_bytes: 0 },
            b'\n' => State::Chunk(size),
            b'\r' => State::ChunkSize { size, extension },
            _ if extension => State::ChunkSize { size, extension },
            b';' | b' ' => State::ChunkSize { size, extension: true },
            _ => {
                let digit = char::from(byte).to_digit(16).ok_or_else(|| malformed("chunk size"))?;
                let size = size.checked_mul(16).ok_or_else(|| malformed("chunk size"))?;
                State::ChunkSize { size: size + u64::from(digit), extension }
            }
        };
        Ok(())
    }

    fn take_trailer(&mut self, byte: u8, line_bytes: usize) {
        self.state = match byte {
            b'\n' if line_bytes == 0 => State::Whole,
            b'\n' => State::Trailer { line_bytes: 0 },
            b'\r' => State::Trailer { line_bytes },
            _ => State::Trailer { line_bytes: line_bytes + 1 },
        };
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP/1.1: {what}"))
}

#[cfg(test)]
mod tests {
    use super::Message;

    fn read(text: &[u8], step: usize) -> (bool, Vec<u8>, u16) {
        let mut message = Message::default();
        let mut body = Vec::new();
        let mut whole = false;
        for piece in text.chunks(step) {
            whole = message.feed(piece, &mut |bytes| body.extend_from_slice(bytes)).unwrap();
        }
        (whole, body, message.status())
    }

    #[test]
    fn a_message_is_the_same_however_it_is_cut() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n1a;x=1\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nt: 1\r\n\r\n";
        let sized = b"HTTP/1.1 429 No\r\ncontent-LENGTH: 3\r\n\r\nabc";
        for step in 1..chunked.len() {
            assert_eq!(read(chunked, step), (true, b"helloabcdefghijklmnopqrstuvwxyz".to_vec(), 200));
            assert_eq!(read(sized, step), (true, b"abc".to_vec(), 429));
        }
    }

    #[test]
    fn an_unfinished_message_is_not_whole() {
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", 7), (false, b"abc".to_vec(), 200));
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 7), (false, b"abc".to_vec(), 200));
    }

    #[test]
    fn bytes_after_the_end_are_an_error() {
        let mut message = Message::default();
        assert!(message.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", &mut |_| {}).is_err());
    }
}
