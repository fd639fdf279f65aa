//! Bytes into frames: server-sent events, JSON lines, JSON arrays and AWS's event stream. A push parser: it is given
//! whatever the network delivers, cut anywhere, and gives back whole frames. Its only buffer is bounded.
//! It must not know what a frame means.

mod array;
mod aws;
mod lines;

use std::fmt;

use bytes::Bytes;

use array::Elements;
use aws::Messages;
use lines::Lines;

/// The largest frame that is accepted, in bytes. A frame holds at most one answer's images or audio in base64;
/// the last event of OpenAI's responses holds all of an answer once more.
pub const MAX_FRAME_BYTES: usize = 8 * 1024 * 1024;

/// How a stream of bytes is divided into frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events: <https://html.spec.whatwg.org/multipage/server-sent-events.html>. A stream that
    /// opens with a bracket is no such stream, and is read as one JSON array whose elements are the frames.
    Sse,
    /// One JSON value a line.
    JsonLines,
    /// No frames: each piece as it comes from the network.
    Pieces,
    /// AWS's binary messages: <https://smithy.io/2.0/aws/amazon-eventstream.html>
    AwsEventStream,
}

/// One frame of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The frame's own name, when it has one: the `event:` of server-sent events, the `:event-type` of
    /// AWS's messages. An exception of AWS is `exception:` and its type.
    pub name: Option<Bytes>,
    /// The payload.
    pub data: Bytes,
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// A frame is larger than [`MAX_FRAME_BYTES`].
    TooLarge,
    /// A frame's lengths or checksums do not agree.
    Corrupt,
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "an event of the stream is too large",
            Self::Corrupt => "an event of the stream is corrupt",
        })
    }
}

impl std::error::Error for BadFrame {}

/// Divides the bytes of one stream into frames.
#[derive(Debug)]
pub struct Decoder(Inner);

#[derive(Debug)]
enum Inner {
    /// Nothing but white space has come of what should be server-sent events.
    Opening,
    Lines(Lines),
    Elements(Elements),
    Messages(Messages),
    Piece(Option<Bytes>),
}

impl Decoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Sse => Inner::Opening,
            Framing::JsonLines => Inner::Lines(Lines::new(false)),
            Framing::AwsEventStream => Inner::Messages(Messages::default()),
            Framing::Pieces => Inner::Piece(None),
        })
    }

    /// Gives the next bytes. All frames must have been taken with [`next_frame`](Self::next_frame) before.
    pub fn push(&mut self, chunk: Bytes) {
        if matches!(self.0, Inner::Opening) {
            match chunk.trim_ascii_start().first() {
                // Blank lines before the first event mean nothing.
                None => return,
                Some(b'[') => self.0 = Inner::Elements(Elements::default()),
                Some(_) => self.0 = Inner::Lines(Lines::new(true)),
            }
        }
        match &mut self.0 {
            Inner::Opening => {}
            Inner::Lines(lines) => lines.push(chunk),
            Inner::Elements(elements) => elements.push(chunk),
            Inner::Messages(messages) => messages.push(&chunk),
            Inner::Piece(piece) => *piece = Some(chunk),
        }
    }

    /// The next whole frame, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// A [`BadFrame`]; the decoder must not be used after that.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BadFrame> {
        match &mut self.0 {
            Inner::Opening => Ok(None),
            Inner::Lines(lines) => lines.next_frame(),
            Inner::Elements(elements) => elements.next_frame(),
            Inner::Messages(messages) => messages.next_frame(),
            Inner::Piece(piece) => Ok(piece.take().map(|data| Frame { name: None, data })),
        }
    }

    /// The frame that stands unfinished at the end of the stream, if any: providers leave out the
    /// last blank line. A binary message that is not whole is none.
    ///
    /// # Errors
    /// A [`BadFrame`] as for [`next_frame`](Self::next_frame).
    pub fn finish(&mut self) -> Result<Option<Frame>, BadFrame> {
        match &mut self.0 {
            Inner::Opening => Ok(None),
            Inner::Lines(lines) => lines.finish(),
            Inner::Elements(elements) => elements.finish(),
            Inner::Messages(messages) => messages.next_frame(),
            Inner::Piece(piece) => Ok(piece.take().map(|data| Frame { name: None, data })),
        }
    }
}
