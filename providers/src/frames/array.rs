//! The objects of one JSON array, however the bytes arrive: what Google streams when it is not asked
//! for server-sent events, and in what some wrap an error where a stream was expected.
//! It must not know what an object means.

use bytes::{Buf, Bytes, BytesMut};

use super::{FrameTooLarge, MAX_FRAME_BYTES};

/// Cuts objects out of bytes.
#[derive(Debug, Default)]
pub(super) struct Elements {
    /// The beginning of an object whose end has not arrived.
    partial: BytesMut,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Elements {
    /// The next whole object of `chunk`, or `None` when more bytes are needed.
    pub(super) fn next(&mut self, chunk: &mut Bytes) -> Result<Option<Bytes>, FrameTooLarge> {
        if self.depth == 0 {
            // Between objects stand white space, commas and the array's brackets.
            let start = memchr::memchr(b'{', chunk).unwrap_or(chunk.len());
            chunk.advance(start);
        }
        let end = chunk.iter().position(|&byte| self.ends_with(byte));
        let taken = chunk.split_to(end.map_or(chunk.len(), |end| end + 1));
        if self.partial.len() + taken.len() > MAX_FRAME_BYTES {
            return Err(FrameTooLarge);
        }
        if end.is_some() && self.partial.is_empty() {
            return Ok(Some(taken));
        }
        self.partial.extend_from_slice(&taken);
        Ok(end.map(|_| self.partial.split().freeze()))
    }

    /// What stands unfinished at the end of the stream.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        let rest = self.partial.split().freeze();
        (!rest.is_empty()).then_some(rest)
    }

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
