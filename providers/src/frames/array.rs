//! The objects of one JSON array, however the bytes arrive: what Google streams when it is not asked
//! for server-sent events, and in what some wrap an error where a stream was expected.
//! It must not know what an object means.

use bytes::{Buf, Bytes, BytesMut};

use super::{BadFrame, Frame, MAX_FRAME_BYTES};

/// Cuts objects out of bytes.
#[derive(Debug, Default)]
pub(super) struct Elements {
    /// What arrived and is not yet divided.
    chunk: Bytes,
    /// The beginning of an object whose end has not arrived.
    partial: BytesMut,
    position: Position,
}

impl Elements {
    /// Gives the next bytes, when all frames before have been taken.
    pub(super) fn push(&mut self, chunk: Bytes) {
        self.chunk = chunk;
    }

    /// The next whole object, or `None` when more bytes are needed.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, BadFrame> {
        if self.position.depth == 0 {
            // Between objects stand white space, commas and the array's brackets.
            let start = memchr::memchr(b'{', &self.chunk).unwrap_or(self.chunk.len());
            self.chunk.advance(start);
        }
        let mut end = None;
        for (at, byte) in self.chunk.iter().copied().enumerate() {
            if self.position.ends_with(byte) {
                end = Some(at);
                break;
            }
        }
        let taken = self.chunk.split_to(end.map_or(self.chunk.len(), |end| end + 1));
        if self.partial.len() + taken.len() > MAX_FRAME_BYTES {
            return Err(BadFrame::TooLarge);
        }
        if end.is_some() && self.partial.is_empty() {
            return Ok(Some(Frame { name: None, data: taken }));
        }
        self.partial.extend_from_slice(&taken);
        Ok(end.map(|_| Frame { name: None, data: self.partial.split().freeze() }))
    }

    /// What stands unfinished at the end of the stream.
    pub(super) fn finish(&mut self) -> Result<Option<Frame>, BadFrame> {
        if let Some(frame) = self.next_frame()? {
            return Ok(Some(frame));
        }
        let rest = self.partial.split().freeze();
        Ok((!rest.is_empty()).then_some(Frame { name: None, data: rest }))
    }
}

/// Where in an object the last byte stood.
#[derive(Debug, Default)]
struct Position {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Position {
    /// Whether an object ends with this byte.
    fn ends_with(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.in_string = byte != b'"' || self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}
