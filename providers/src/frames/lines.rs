//! Lines, and what stands on them: server-sent events or one JSON value each. Cut anywhere, also
//! between CR and LF.
//! It must not know what a frame means.

use bytes::{Buf, Bytes, BytesMut};

use super::{BadFrame, Frame, MAX_FRAME_BYTES};

/// Divides the bytes of one stream at line ends.
#[derive(Debug)]
pub(super) struct Lines {
    /// Whether lines are those of server-sent events; else each is a frame.
    is_sse: bool,
    /// What arrived and is not yet divided.
    chunk: Bytes,
    /// The beginning of a line whose end has not arrived.
    partial_line: BytesMut,
    /// The last byte seen was a CR: an LF that follows belongs to it.
    after_cr: bool,
    at_start: bool,
    /// Inside a JSON body that is no event stream.
    in_json: bool,
    name: Option<Bytes>,
    data: Data,
}

/// The `data` lines of the event that is being read.
#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    One(Bytes),
    Many(BytesMut),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(line) => line.len(),
            Self::Many(lines) => lines.len(),
        }
    }

    fn push(&mut self, line: Bytes) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(line),
            Self::One(first) => {
                let mut lines = BytesMut::with_capacity(first.len() + line.len() + 1);
                lines.extend_from_slice(&first);
                Self::Many(lines).with_line(&line)
            }
            many @ Self::Many(_) => many.with_line(&line),
        };
    }

    fn with_line(mut self, line: &[u8]) -> Self {
        if let Self::Many(lines) = &mut self {
            lines.extend_from_slice(b"\n");
            lines.extend_from_slice(line);
        }
        self
    }

    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    fn take(&mut self) -> Option<Bytes> {
        match std::mem::take(self) {
            Self::None => None,
            Self::One(line) => Some(line),
            Self::Many(lines) => Some(lines.freeze()),
        }
    }
}

impl Lines {
    pub(super) fn new(is_sse: bool) -> Self {
        Self {
            is_sse,
            chunk: Bytes::new(),
            partial_line: BytesMut::new(),
            after_cr: false,
            at_start: true,
            in_json: false,
            name: None,
            data: Data::None,
        }
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        self.chunk = chunk;
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, BadFrame> {
        while let Some(line) = self.next_line()? {
            if let Some(frame) = self.line(line) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    pub(super) fn finish(&mut self) -> Result<Option<Frame>, BadFrame> {
        if let Some(frame) = self.next_frame()? {
            return Ok(Some(frame));
        }
        let line = self.partial_line.split().freeze();
        if !line.is_empty()
            && let Some(frame) = self.line(line)
        {
            return Ok(Some(frame));
        }
        Ok(self.event())
    }

    fn next_line(&mut self) -> Result<Option<Bytes>, BadFrame> {
        if std::mem::take(&mut self.after_cr) {
            if self.chunk.first() == Some(&b'\n') {
                self.chunk.advance(1);
            } else if self.chunk.is_empty() {
                self.after_cr = true;
            }
        }
        let Some(end) = memchr::memchr2(b'\n', b'\r', &self.chunk) else {
            let rest = std::mem::take(&mut self.chunk);
            self.partial_line.extend_from_slice(&rest);
            return self.bounded(self.partial_line.len()).map(|()| None);
        };
        let head = self.chunk.split_to(end);
        self.after_cr = self.chunk.first() == Some(&b'\r');
        self.chunk.advance(1);
        let line = if self.partial_line.is_empty() {
            head
        } else {
            self.partial_line.extend_from_slice(&head);
            self.partial_line.split().freeze()
        };
        self.bounded(line.len()).map(|()| Some(line))
    }

    fn bounded(&self, line_bytes: usize) -> Result<(), BadFrame> {
        if line_bytes + self.data.len() > MAX_FRAME_BYTES { Err(BadFrame::TooLarge) } else { Ok(()) }
    }

    fn line(&mut self, mut line: Bytes) -> Option<Frame> {
        if std::mem::take(&mut self.at_start) && line.starts_with("\u{feff}".as_bytes()) {
            line = line.slice(3..);
        }
        if self.is_sse {
            return self.sse_line(&line);
        }
        (!line.trim_ascii().is_empty()).then_some(Frame { name: None, data: line })
    }

    fn sse_line(&mut self, line: &Bytes) -> Option<Frame> {
        if line.is_empty() {
            return self.event();
        }
        // Some providers answer a call for a stream with a plain JSON body, mostly an error. No field
        // of an event begins with a brace, so such a body is one event's data, line by line.
        self.in_json |= line.first() == Some(&b'{') && self.data.is_none();
        if self.in_json {
            self.data.push(line.clone());
            return None;
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let after = (colon + 1).min(line.len());
        let value = line.slice(after + usize::from(line.get(after) == Some(&b' '))..);
        match &line[..colon] {
            b"data" => self.data.push(value),
            b"event" => self.name = Some(value),
            _ => {}
        }
        None
    }

    /// The event read so far; one without data is none.
    fn event(&mut self) -> Option<Frame> {
        self.in_json = false;
        let name = self.name.take();
        self.data.take().map(|data| Frame { name, data })
    }
}
