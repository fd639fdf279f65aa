//! The load: what is sent to one contestant, and how an answer is read and checked.
//! It must not know which contestant answers.

pub mod closed;
pub mod hold;
pub mod open;

use std::io;
use std::net::SocketAddr;

use memchr::memmem::Finder;

use crate::http1::Message;
use crate::wire::{Plan, STAMP_DIGITS, STAMP_MARK, Wire};

/// Longest line of a streamed answer that is read, in bytes.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Bytes read from a socket at once.
const READ_BYTES: usize = 16 * 1024;

/// One kind of call to one contestant.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where the contestant listens.
    pub address: SocketAddr,
    /// The whole HTTP request, as it goes to the socket.
    pub request: Vec<u8>,
    /// What is asked for.
    pub plan: Plan,
    /// The wire of the answer.
    pub answer: Wire,
}

impl Target {
    /// The call, with its head written.
    #[must_use]
    pub fn new(address: SocketAddr, path: &str, key: &str, body: &[u8]) -> Self {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             accept: application/json\r\nuser-agent: bench/1\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        Self { address, request, plan: Plan::find(body), answer: Wire::of_path(path.as_bytes()) }
    }
}

/// Reads answers to one target, one after another.
#[derive(Debug)]
pub struct Answer {
    message: Message,
    lines: Lines,
    plan: Plan,
}

impl Answer {
    /// Ready for the first answer.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let lines = Lines {
            mark: Finder::new(target.answer.content_mark()),
            streamed: target.plan.events > 0,
            partial: Vec::new(),
            events: 0,
            bytes: 0,
        };
        Self { message: Message::default(), lines, plan: target.plan }
    }

    /// Takes what the socket delivered; `on_event` is told of each content event and its stamp.
    /// True once the answer is whole.
    ///
    /// # Errors
    /// When it is not HTTP/1.1, or a line is too long.
    pub fn feed(&mut self, input: &[u8], on_event: &mut impl FnMut(Option<u128>)) -> io::Result<bool> {
        let lines = &mut self.lines;
        let whole = self.message.feed(input, &mut |piece| lines.take(piece, on_event))?;
        if self.lines.partial.len() > MAX_LINE_BYTES {
            return Err(io::Error::other("a line of the answer is too long"));
        }
        Ok(whole)
    }

    /// Whether a connection that closes now has delivered a whole answer.
    #[must_use]
    pub fn whole_at_close(&self) -> bool {
        self.message.whole_at_close()
    }

    /// Whether the connection stays open after this answer.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        !self.message.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Whether the answer is what was asked for.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(&self) -> Result<(), String> {
        let status = self.message.status();
        if status != 200 {
            return Err(format!("status {status}"));
        }
        if self.lines.bytes == 0 {
            return Err("an empty answer".to_owned());
        }
        if self.lines.events != self.plan.events {
            return Err(format!("{} events instead of {}", self.lines.events, self.plan.events));
        }
        Ok(())
    }

    /// Makes ready for the next answer.
    pub fn reset(&mut self) {
        self.message.reset();
        self.lines.partial.clear();
        self.lines.events = 0;
        self.lines.bytes = 0;
    }
}

/// The lines of a streamed answer.
#[derive(Debug)]
struct Lines {
    mark: Finder<'static>,
    /// A whole answer has no lines to look into.
    streamed: bool,
    partial: Vec<u8>,
    events: u32,
    bytes: u64,
}

impl Lines {
    fn take(&mut self, mut piece: &[u8], on_event: &mut impl FnMut(Option<u128>)) {
        self.bytes += piece.len() as u64;
        if !self.streamed {
            return;
        }
        while let Some(end) = memchr::memchr(b'\n', piece) {
            if self.partial.is_empty() {
                self.line(&piece[..end], on_event);
            } else {
                self.partial.extend_from_slice(&piece[..end]);
                let mut line = std::mem::take(&mut self.partial);
                self.line(&line, on_event);
                line.clear();
                self.partial = line;
            }
            piece = &piece[end + 1..];
        }
        self.partial.extend_from_slice(piece);
    }

    /// A line with text in it is an event; the empty text of an opening or closing line is none.
    fn line(&mut self, line: &[u8], on_event: &mut impl FnMut(Option<u128>)) {
        let Some(at) = self.mark.find(line) else { return };
        let text = &line[at + self.mark.needle().len()..];
        if text.first() == Some(&b'"') {
            return;
        }
        self.events += 1;
        on_event(stamp_of(text));
    }
}

fn stamp_of(text: &[u8]) -> Option<u128> {
    let digits = text.strip_prefix(&[STAMP_MARK])?.get(..STAMP_DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Answer, Target};
    use crate::wire::{Answers, Plan, Wire, stamp};

    #[test]
    fn every_wire_is_understood_however_it_is_cut() {
        let answers = Answers::new();
        for wire in [Wire::OpenAi, Wire::Anthropic, Wire::Gemini] {
            let body = wire.request("m", Plan { events: 2, pace_us: 5 }, 1024);
            let target = Target::new(([127, 0, 0, 1], 1).into(), wire.path(), "k", &body);
            assert_eq!(target.plan, Plan { events: 2, pace_us: 5 });
            let stream = answers.stream(wire);
            let mut stamped = stream.stamped.clone();
            stamp(&mut stamped, stream.stamp_at, 1_760_000_000_123_456_789);
            let bytes = [&stream.opening[..], &stream.event, &stamped, &stream.closing].concat();
            for step in [1, 2, 7, 100, bytes.len()] {
                let mut answer = Answer::new(&target);
                let (mut stamps, mut whole) = (Vec::new(), false);
                for piece in bytes.chunks(step) {
                    whole = answer.feed(piece, &mut |stamp| stamps.push(stamp)).unwrap();
                }
                assert!(whole, "{wire:?} {step}");
                assert_eq!(answer.check(), Ok(()), "{wire:?} {step}");
                assert_eq!(stamps, [None, Some(1_760_000_000_123_456_789)], "{wire:?} {step}");
            }
        }
    }

    #[test]
    fn a_stream_with_a_missing_event_is_refused() {
        let answers = Answers::new();
        let body = Wire::OpenAi.request("m", Plan { events: 2, pace_us: 0 }, 1024);
        let target = Target::new(([127, 0, 0, 1], 1).into(), Wire::OpenAi.path(), "k", &body);
        let stream = answers.stream(Wire::OpenAi);
        let mut answer = Answer::new(&target);
        for piece in [&stream.opening, &stream.event, &stream.closing] {
            answer.feed(piece, &mut |_| {}).unwrap();
        }
        assert_eq!(answer.check(), Err("1 events instead of 2".to_owned()));
    }
}
