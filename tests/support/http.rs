//! HTTP/1.1 by hand, as far as both ends of a test need it: heads, bodies of known length, chunks.
//! It must not know who speaks.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A request's or an answer's first lines.
#[derive(Clone, Debug)]
pub struct Head {
    pub first_line: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The header's value; names are lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The second word of the first line of a request, or the status of an answer.
    pub fn second_word(&self) -> &str {
        self.first_line.split(' ').nth(1).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let first_line = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Self { first_line, headers }
    }
}

/// How the bytes after a head end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As its framing promised.
    Whole,
    /// The connection went away before.
    Cut,
}

/// The reading side of a connection.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    buffer: BytesMut,
    framing: Framing,
    chunk_left: usize,
    ended: Option<End>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(source: R) -> Self {
        Self { source, buffer: BytesMut::new(), framing: Framing::Length(0), chunk_left: 0, ended: None }
    }

    /// The socket itself.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// The next head, or `None` when the peer closed or reset before one.
    pub async fn head(&mut self, is_answer: bool) -> Option<Head> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = Head::parse(&String::from_utf8_lossy(&self.buffer[..end]));
                self.buffer.advance(end + 4);
                self.framing = framing(&head, is_answer);
                self.chunk_left = 0;
                self.ended = None;
                return Some(head);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next piece of the body, as it arrived; `None` when it is over.
    pub async fn piece(&mut self) -> Option<Bytes> {
        if self.ended.is_some() {
            return None;
        }
        match self.framing {
            Framing::Length(0) => self.over(End::Whole),
            Framing::Length(left) => {
                if self.buffer.is_empty() && !self.fill().await {
                    return self.over(End::Cut);
                }
                let take = left.min(self.buffer.len());
                self.framing = Framing::Length(left - take);
                Some(self.buffer.split_to(take).freeze())
            }
            Framing::UntilClose => {
                if self.buffer.is_empty() && !self.fill().await {
                    return self.over(End::Whole);
                }
                Some(self.buffer.split().freeze())
            }
            Framing::Chunked => self.chunk().await,
        }
    }

    /// The rest of the body and how it ended.
    pub async fn rest(&mut self) -> (Bytes, End) {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.piece().await {
            whole.extend_from_slice(&piece);
        }
        (whole.freeze(), self.ended.unwrap_or(End::Cut))
    }

    /// How the body ended, once it has.
    pub fn ended(&self) -> Option<End> {
        self.ended
    }

    fn over(&mut self, end: End) -> Option<Bytes> {
        self.ended = Some(end);
        None
    }

    async fn chunk(&mut self) -> Option<Bytes> {
        if self.chunk_left == 0 {
            let Some(size) = self.line().await else { return self.over(End::Cut) };
            let Ok(size) = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16) else {
                return self.over(End::Cut);
            };
            if size == 0 {
                let end = if self.line().await.is_some() { End::Whole } else { End::Cut };
                return self.over(end);
            }
            self.chunk_left = size;
        }
        if self.buffer.is_empty() && !self.fill().await {
            return self.over(End::Cut);
        }
        let take = self.chunk_left.min(self.buffer.len());
        let piece = self.buffer.split_to(take).freeze();
        self.chunk_left -= take;
        if self.chunk_left == 0 && self.line().await.is_none() {
            self.ended = Some(End::Cut);
        }
        Some(piece)
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.advance(end + 2);
                return Some(line);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn fill(&mut self) -> bool {
        matches!(self.source.read_buf(&mut self.buffer).await, Ok(read) if read > 0)
    }
}

fn framing(head: &Head, is_answer: bool) -> Framing {
    if head.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked;
    }
    match head.header("content-length").and_then(|value| value.parse().ok()) {
        Some(length) => Framing::Length(length),
        None if is_answer => Framing::UntilClose,
        None => Framing::Length(0),
    }
}
