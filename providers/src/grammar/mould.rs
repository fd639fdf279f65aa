//! Most chunks of a stream are the one before with another text in it. A [`Mould`] is such a chunk
//! without its text: a chunk that fits is known by comparing bytes, and only its text is looked at.
//! It must not know what is done with a text, or what a stream is.

use super::glance::{Glance, Span};
use crate::json::{Scanner, Shape};

/// Chunks that did not fit the one before; after so many no more moulds are made of a stream.
const MAX_MISFITS: u8 = 8;

/// OpenAI hides the length of a text by one of another length, which means nothing.
const FILLER: &[u8] = b"\"obfuscation\":";

/// The last plain chunk of text.
#[derive(Debug, Default)]
pub(super) struct Mould {
    chunk: Vec<u8>,
    /// Where the text stands, quotes included.
    text: Span,
    /// Where the filler stands, quotes included; empty at the end when there is none.
    filler: Span,
    misfits: u8,
}

impl Mould {
    /// The text, with its quotes, of a chunk that is the mould's but for its text (and its filler).
    /// Never an empty text: an empty one may mean something else to the stream.
    pub fn text<'a>(&self, chunk: &'a [u8]) -> Option<&'a str> {
        if self.text.is_empty() {
            return None;
        }
        let (text, rest) = string(chunk.strip_prefix(&self.chunk[..self.text.start])?)?;
        let rest = rest.strip_prefix(&self.chunk[self.text.end..self.filler.start])?;
        let rest = if self.filler.is_empty() { rest } else { string(rest)?.1 };
        (*rest == self.chunk[self.filler.end..] && text.len() > 2).then_some(text)
    }

    /// Makes the mould of a chunk that goes out as it came, if it says one text and nothing else.
    pub fn take(&mut self, seen: &Glance, chunk: &[u8]) {
        let choice = &seen.choice;
        let mut texts = choice.text.iter().flatten();
        let (Some(text), None) = (texts.next(), texts.next()) else { return };
        let says_more = choice.tool.is_some()
            || choice.finish.is_some()
            || choice.details.is_some()
            || choice.has_other
            || seen.usage.is_some()
            || seen.groq_usage.is_some();
        let is_mended = seen.lacks_object || choice.lacks_finish_at.is_some();
        if seen.choices != 1 || says_more || is_mended || self.misfits == MAX_MISFITS {
            return;
        }
        self.misfits += 1;
        self.text = text.clone();
        self.filler = filler(chunk, text.end);
        self.chunk.clear();
        self.chunk.extend_from_slice(chunk);
    }
}

/// Where the filler stands after `from`. The bytes of its key cannot stand within a string (the quotes
/// there are escaped), and what follows a key is its value.
fn filler(chunk: &[u8], from: usize) -> Span {
    let none = chunk.len()..chunk.len();
    let Some(at) = memchr::memmem::find(&chunk[from..], FILLER) else { return none };
    let start = from + at + FILLER.len();
    string(&chunk[start..]).map_or(none, |(value, _)| start..start + value.len())
}

/// The string, with its quotes, that `bytes` begin with, and what follows it.
fn string(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (span, shape) = Scanner::new(bytes).value().ok()?;
    if shape != Shape::String || span.start != 0 {
        return None;
    }
    let (value, rest) = bytes.split_at(span.end);
    Some((std::str::from_utf8(value).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::super::glance::glance;
    use super::{MAX_MISFITS, Mould};

    fn chunk(text: &str, filler: &str) -> String {
        format!(
            r#"{{"id":"a","object":"chat.completion.chunk","created":1,"model":"m","choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]{filler}}}"#
        )
    }

    fn mould(of: &str) -> Mould {
        let mut mould = Mould::default();
        mould.take(&glance(of.as_bytes()).unwrap(), of.as_bytes());
        mould
    }

    #[test]
    fn the_same_with_another_text_fits() {
        for (filler, other) in [("", ""), (r#","obfuscation":"aB3""#, r#","obfuscation":"x""#), (r#","n":1"#, r#","n":1"#)] {
            let mould = mould(&chunk("one", filler));
            for text in ["two", " ", r#"\"obfuscation\":\"x\""#, "\\n\\u00e9é€😀", &"long ".repeat(100)] {
                assert_eq!(mould.text(chunk(text, other).as_bytes()), Some(format!("\"{text}\"").as_str()), "{filler}");
            }
        }
    }

    #[test]
    fn whatever_else_differs_does_not_fit() {
        let plain = chunk("one", r#","obfuscation":"aB3""#);
        let fits = mould(&plain);
        let others = [
            chunk("", r#","obfuscation":"aB3""#),
            chunk("two", r#","obfuscation":null"#),
            chunk("two", r#","obfuscation":"aB3","usage":{}"#),
            chunk("two", ""),
            chunk("tw\u{1}o", r#","obfuscation":"aB3""#),
            chunk(r"tw\xo", r#","obfuscation":"aB3""#),
            chunk(r#"two","role":"assistant"#, r#","obfuscation":"aB3""#),
            plain.replace("null", "\"stop\""),
            plain.replace("\"id\":\"a\"", "\"id\":\"b\""),
            plain.replace("\"content\":\"", "\"content\": \""),
            plain.replace("\"one\"", "null"),
            format!("{plain} "),
            plain[..plain.len() - 1].to_owned(),
        ];
        for other in others {
            assert_eq!(fits.text(other.as_bytes()), None, "{other}");
        }
        assert_eq!(fits.text(&[plain.as_bytes().split_at(110).0, b"\xff\xfe"].concat()), None);
        let not_utf8 = String::from_utf8_lossy(plain.as_bytes()).replace("one", "?").into_bytes();
        let not_utf8: Vec<u8> = not_utf8.into_iter().map(|byte| if byte == b'?' { 0xff } else { byte }).collect();
        assert_eq!(fits.text(&not_utf8), None);
    }

    #[test]
    fn a_chunk_that_says_more_is_no_mould() {
        let plain = chunk("one", "");
        for more in [
            plain.replace("null", "\"stop\""),
            plain.replace("\"content\"", "\"reasoning\":\"a\",\"content\""),
            plain.replace("\"content\"", "\"audio\":{\"data\":\"a\"},\"content\""),
            plain.replace("\"object\":\"chat.completion.chunk\",", ""),
            chunk("one", r#","usage":{"prompt_tokens":1}"#),
        ] {
            assert_eq!(mould(&more).text(more.as_bytes()), None, "{more}");
        }
    }

    #[test]
    fn a_stream_that_never_repeats_itself_is_left_alone() {
        let mut mould = Mould::default();
        let chunks: Vec<String> = (0..20).map(|number| chunk("one", "").replace("\"a\"", &format!("\"{number}\""))).collect();
        for chunk in &chunks {
            mould.take(&glance(chunk.as_bytes()).unwrap(), chunk.as_bytes());
        }
        assert!(mould.text(chunks[usize::from(MAX_MISFITS) - 1].as_bytes()).is_some());
        assert!(mould.text(chunks[19].as_bytes()).is_none());
    }
}
