//! A validating scanner over JSON bytes that builds nothing: it finds where members stand, so that a
//! body can be looked into, or changed in one place, while the rest stays as it came.
//! It must not know what the JSON is about.

mod special;

use std::borrow::Cow;
use std::ops::Range;

use special::Window;

/// Deepest nesting that is read; deeper input is a fault, not a stack overflow.
pub const MAX_DEPTH: u32 = 128;

/// Why some bytes are not acceptable JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not JSON, at this byte.
    Syntax(usize),
    /// Nested deeper than [`MAX_DEPTH`], at this byte.
    TooDeep(usize),
}

/// What kind of value stands somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// A number.
    Number,
    /// `true`
    True,
    /// `false`
    False,
    /// `null`
    Null,
}

/// A cursor over JSON text.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
    string_bytes: u64,
    window: Window,
}

/// A member of an object: where its key (quotes included) and its value stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The key with its quotes.
    pub key: Range<usize>,
    /// The value.
    pub value: Range<usize>,
    /// The value's kind.
    pub shape: Shape,
}

impl<'a> Scanner<'a> {
    /// A scanner at the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0, string_bytes: 0, window: Window::default() }
    }

    /// A scanner at byte `at` of `bytes`, e.g. at a value found before.
    #[must_use]
    pub fn at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, depth: 0, string_bytes: 0, window: Window::default() }
    }

    /// Bytes of text in all string values passed so far; embedded files (`data:` URLs) do not count.
    #[must_use]
    pub fn string_bytes(&self) -> u64 {
        self.string_bytes
    }

    /// Whether the text passed so far is ASCII, and so UTF-8: other bytes can only stand in strings.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        !self.window.is_wide
    }

    /// Reads one object and tells each member to `visit`.
    ///
    /// # Errors
    /// A [`Fault`] where the text stops being JSON, or is not an object.
    pub fn object(&mut self, mut visit: impl FnMut(Member)) -> Result<(), Fault> {
        self.keys(|scanner, key| {
            let (value, shape) = scanner.value()?;
            visit(Member { key, value, shape });
            Ok(())
        })
    }

    /// Reads one object; `visit` is told each key (without its quotes, as it is written) with the scanner
    /// before the member's value, and must pass exactly that value. So nested values are read in one go.
    ///
    /// # Errors
    /// A [`Fault`] where the text stops being JSON, or is not an object.
    pub fn members(&mut self, mut visit: impl FnMut(&mut Self, &'a [u8]) -> Result<(), Fault>) -> Result<(), Fault> {
        let bytes = self.bytes;
        self.keys(|scanner, key| visit(scanner, &bytes[key.start + 1..key.end - 1]))
    }

    /// Reads one object; `visit` is told where each key stands, with its quotes.
    fn keys(&mut self, mut visit: impl FnMut(&mut Self, Range<usize>) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut has_more = self.open(b'{', b'}')?;
        while has_more {
            self.space();
            let key = self.string()?;
            self.space();
            self.expect(b':')?;
            visit(self, key)?;
            has_more = self.has_more(b'}')?;
        }
        Ok(())
    }

    /// Reads one array and tells where each element stands to `visit`.
    ///
    /// # Errors
    /// A [`Fault`] where the text stops being JSON, or is not an array.
    pub fn array(&mut self, mut visit: impl FnMut(Range<usize>, Shape)) -> Result<(), Fault> {
        self.elements(|scanner| {
            let (value, shape) = scanner.value()?;
            visit(value, shape);
            Ok(())
        })
    }

    /// Reads one array; `visit` is called with the scanner before each element and must pass exactly
    /// that element.
    ///
    /// # Errors
    /// A [`Fault`] where the text stops being JSON, or is not an array.
    pub fn elements(&mut self, mut visit: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut has_more = self.open(b'[', b']')?;
        while has_more {
            visit(self)?;
            has_more = self.has_more(b']')?;
        }
        Ok(())
    }

    /// The kind of value that begins here, judged by its first byte.
    pub fn shape(&mut self) -> Option<Shape> {
        self.space();
        match self.peek()? {
            b'{' => Some(Shape::Object),
            b'[' => Some(Shape::Array),
            b'"' => Some(Shape::String),
            b't' => Some(Shape::True),
            b'f' => Some(Shape::False),
            b'n' => Some(Shape::Null),
            b'-' | b'0'..=b'9' => Some(Shape::Number),
            _ => None,
        }
    }

    /// How many bytes were passed so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// Passes one value of any kind.
    ///
    /// # Errors
    /// A [`Fault`] where the text stops being JSON.
    pub fn value(&mut self) -> Result<(Range<usize>, Shape), Fault> {
        self.space();
        let start = self.at;
        let shape = match self.peek() {
            Some(b'{') => {
                self.object(|_| {})?;
                Shape::Object
            }
            Some(b'[') => {
                self.array(|_, _| {})?;
                Shape::Array
            }
            Some(b'"') => {
                let span = self.string()?;
                if !is_embedded_file(&self.bytes[span.start + 1..span.end - 1]) {
                    self.string_bytes += (span.len() - 2) as u64;
                }
                Shape::String
            }
            Some(b't') => self.literal(b"true", Shape::True)?,
            Some(b'f') => self.literal(b"false", Shape::False)?,
            Some(b'n') => self.literal(b"null", Shape::Null)?,
            _ => self.number()?,
        };
        Ok((start..self.at, shape))
    }

    /// Checks that nothing but white space follows.
    ///
    /// # Errors
    /// A [`Fault`] at the first other byte.
    pub fn end(&mut self) -> Result<(), Fault> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.fault()) }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn fault(&self) -> Fault {
        Fault::Syntax(self.at)
    }

    /// Most JSON is written without white space, and all that is white space is at most a space.
    #[inline]
    fn space(&mut self) {
        if self.peek().is_some_and(|byte| byte <= b' ') {
            self.pass_space();
        }
    }

    #[inline(never)]
    fn pass_space(&mut self) {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        self.at += self.bytes[self.at..].iter().take_while(|byte| is_space(byte)).count();
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.take(byte) { Ok(()) } else { Err(self.fault()) }
    }

    /// Enters an object or array; whether something is in it.
    fn open(&mut self, open: u8, close: u8) -> Result<bool, Fault> {
        self.space();
        self.expect(open)?;
        if self.depth == MAX_DEPTH {
            return Err(Fault::TooDeep(self.at));
        }
        self.space();
        let is_empty = self.take(close);
        self.depth += u32::from(!is_empty);
        Ok(!is_empty)
    }

    /// Passes what follows a member or an element; whether another one is next.
    fn has_more(&mut self, close: u8) -> Result<bool, Fault> {
        self.space();
        if self.take(b',') {
            return Ok(true);
        }
        self.expect(close)?;
        self.depth -= 1;
        Ok(false)
    }

    fn literal(&mut self, word: &[u8], shape: Shape) -> Result<Shape, Fault> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.fault());
        }
        self.at += word.len();
        Ok(shape)
    }

    fn string(&mut self) -> Result<Range<usize>, Fault> {
        let start = self.at;
        self.expect(b'"')?;
        match self.window.closing_quote(self.bytes, self.at) {
            Ok(quote) => {
                self.at = quote + 1;
                Ok(start..self.at)
            }
            Err(at) => Err(Fault::Syntax(at)),
        }
    }

    fn number(&mut self) -> Result<Shape, Fault> {
        self.take(b'-');
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Shape::Number)
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let count = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count > 0 { Ok(()) } else { Err(self.fault()) }
    }
}

/// Whether a string is a file rather than text: a `data:` URL, or long base64 without a space.
fn is_embedded_file(text: &[u8]) -> bool {
    text.starts_with(b"data:") || (text.len() > 1024 && memchr::memchr(b' ', &text[..1024]).is_none())
}

/// The text of a JSON string that stands, with its quotes, in `quoted`; `None` if it is not one.
#[must_use]
pub fn text(quoted: &[u8]) -> Option<Cow<'_, str>> {
    let inner = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_none() {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice::<String>(quoted).ok().map(Cow::Owned)
}

/// Appends the text of a JSON string that a [`Scanner`] has passed (`quoted` has its quotes) to
/// `out`. Half a surrogate pair, which some providers send when they cut a text, becomes U+FFFD.
pub fn append_text(quoted: &str, out: &mut String) {
    let mut rest = quoted.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(quoted);
    while let Some(stop) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..stop]);
        let (read, used) = unescape(&rest[stop..]);
        out.push(read);
        rest = &rest[stop + used..];
    }
    out.push_str(rest);
}

/// The character that the escape at the start of `text` stands for, and how many bytes it takes.
fn unescape(text: &str) -> (char, usize) {
    let read = match text.as_bytes().get(1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'u') => return unescape_unit(text),
        Some(&plain @ (b'"' | b'\\' | b'/')) => char::from(plain),
        _ => return (char::REPLACEMENT_CHARACTER, 1),
    };
    (read, 2)
}

/// The character of `\uXXXX`, or of two of them that are a surrogate pair.
fn unescape_unit(text: &str) -> (char, usize) {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(0) else { return (char::REPLACEMENT_CHARACTER, 1) };
    if let Some(plain) = char::from_u32(first) {
        return (plain, 6);
    }
    let second = unit(6).filter(|second| first < 0xDC00 && (0xDC00..0xE000).contains(second));
    let pair = second.and_then(|second| char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)));
    pair.map_or((char::REPLACEMENT_CHARACTER, 6), |pair| (pair, 12))
}
