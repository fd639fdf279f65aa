//! One look at one chunk of a stream, building nothing: is it already in OpenAI's grammar, and what
//! does it say? The common chunk of every provider is judged here alone.
//! It must not know what came before it in the stream.

use std::ops::Range;

use crate::json::{Fault, Scanner, Shape};

/// Where something stands in the chunk; strings with their quotes.
pub(super) type Span = Range<usize>;

/// What one chunk says.
#[derive(Debug, Default)]
pub(super) struct Glance {
    /// Something is not as OpenAI would write it; the chunk must be rebuilt.
    pub is_foreign: bool,
    /// `object` is missing; the only fault that a piece of text can mend at the top.
    pub lacks_object: bool,
    /// `id`.
    pub id: Option<Span>,
    /// `model`.
    pub model: Option<Span>,
    /// `created`.
    pub created: Option<Span>,
    /// `usage`, when it is an object.
    pub usage: Option<Span>,
    /// `x_groq.usage`, when it is an object.
    pub groq_usage: Option<Span>,
    /// `service_tier`.
    pub tier: Option<Span>,
    /// `choices` is a list.
    pub has_choices: bool,
    /// How many choices there are.
    pub choices: usize,
    /// The only choice, when there is one.
    pub choice: Choice,
}

/// What the only choice of a chunk says.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// `index`.
    pub index: usize,
    /// `finish_reason`, one of OpenAI's.
    pub finish: Option<Span>,
    /// Where `"finish_reason":null` must be put in, when it is missing.
    pub lacks_finish_at: Option<usize>,
    /// Text in the order it is told: content, reasoning, refusal, the older function call's name and arguments.
    pub text: [Option<Span>; 6],
    /// `reasoning_details`, when it is a list with something in it.
    pub details: Option<Span>,
    /// Something beyond text was generated (audio, an image, an annotation).
    pub has_other: bool,
    /// The only fragment of a tool call.
    pub tool: Option<Tool>,
}

/// One fragment of a tool call.
#[derive(Debug, Default)]
pub(super) struct Tool {
    /// `index`.
    pub index: usize,
    /// `id`, not empty.
    pub id: Option<Span>,
    /// `type` is told.
    pub has_type: bool,
    /// `function.name`, not empty.
    pub name: Option<Span>,
    /// `function.arguments`.
    pub arguments: Option<Span>,
}

const CONTENT: usize = 0;
const REASONING: usize = 1;
const OTHER_REASONING: usize = 2;
const REFUSAL: usize = 3;
const FUNCTION_NAME: usize = 4;
const FUNCTION_ARGUMENTS: usize = 5;

/// Looks at `chunk`.
///
/// # Errors
/// A [`Fault`] when it is not JSON, or not an object.
pub(super) fn glance(chunk: &[u8]) -> Result<Glance, Fault> {
    let mut look = Look { chunk, found: Glance { lacks_object: true, ..Glance::default() } };
    let mut scanner = Scanner::new(chunk);
    scanner.members(|scanner, key| look.member(scanner, key))?;
    scanner.end()?;
    let found = &mut look.found;
    found.is_foreign |= !found.has_choices || found.id.is_none() || found.model.is_none() || found.created.is_none();
    Ok(look.found)
}

struct Look<'a> {
    chunk: &'a [u8],
    found: Glance,
}

impl Look<'_> {
    fn member(&mut self, scanner: &mut Scanner<'_>, key: &[u8]) -> Result<(), Fault> {
        match key {
            b"id" => self.found.id = self.filled(scanner)?,
            b"object" => {
                self.found.lacks_object = false;
                let (value, _) = scanner.value()?;
                self.found.is_foreign |= self.chunk[value] != *b"\"chat.completion.chunk\"";
            }
            b"created" => {
                let (value, shape) = scanner.value()?;
                let is_whole = shape == Shape::Number && self.chunk[value.clone()].iter().all(u8::is_ascii_digit);
                self.found.created = is_whole.then_some(value);
            }
            b"model" => self.found.model = self.filled(scanner)?,
            b"choices" if scanner.shape() == Some(Shape::Array) => {
                self.found.has_choices = true;
                scanner.elements(|scanner| self.choice(scanner))?;
            }
            b"usage" => self.found.usage = self.object(scanner)?,
            b"service_tier" => self.found.tier = self.filled(scanner)?,
            b"x_groq" if scanner.shape() == Some(Shape::Object) => scanner.members(|scanner, key| {
                if key == b"usage" {
                    self.found.groq_usage = self.object(scanner)?;
                    return Ok(());
                }
                scanner.value().map(|_| ())
            })?,
            b"error" | b"choices" => self.found.is_foreign |= scanner.value()?.1 != Shape::Null,
            other => {
                self.found.is_foreign |= other.contains(&b'\\');
                scanner.value()?;
            }
        }
        Ok(())
    }

    /// A string with something in it; anything else but null is foreign.
    fn filled(&mut self, scanner: &mut Scanner<'_>) -> Result<Option<Span>, Fault> {
        let (value, shape) = scanner.value()?;
        self.found.is_foreign |= !matches!(shape, Shape::String | Shape::Null);
        Ok((shape == Shape::String && value.len() > 2).then_some(value))
    }

    /// An object; anything else but null is foreign.
    fn object(&mut self, scanner: &mut Scanner<'_>) -> Result<Option<Span>, Fault> {
        let (value, shape) = scanner.value()?;
        self.found.is_foreign |= !matches!(shape, Shape::Object | Shape::Null);
        Ok((shape == Shape::Object).then_some(value))
    }

    fn integer(&mut self, scanner: &mut Scanner<'_>) -> Result<usize, Fault> {
        let (value, _) = scanner.value()?;
        let number = std::str::from_utf8(&self.chunk[value]).ok().and_then(|text| text.parse().ok());
        self.found.is_foreign |= number.is_none();
        Ok(number.unwrap_or(0))
    }

    fn choice(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Fault> {
        self.found.choices += 1;
        let (mut index, mut has_delta, mut has_finish) = (None, false, false);
        scanner.members(|scanner, key| {
            match key {
                b"index" => index = Some(self.integer(scanner)?),
                b"delta" if scanner.shape() == Some(Shape::Object) => {
                    has_delta = true;
                    scanner.members(|scanner, key| self.delta(scanner, key))?;
                }
                b"finish_reason" => {
                    has_finish = true;
                    let (value, shape) = scanner.value()?;
                    self.found.is_foreign |= shape != Shape::Null && !is_finish(&self.chunk[value.clone()]);
                    self.found.choice.finish = (shape == Shape::String).then_some(value);
                }
                other => {
                    let (_, shape) = scanner.value()?;
                    let is_odd = other == b"message" || (other == b"error" && shape != Shape::Null);
                    self.found.is_foreign |= is_odd || other.contains(&b'\\');
                }
            }
            Ok(())
        })?;
        self.found.choice.lacks_finish_at = (!has_finish).then(|| scanner.position() - 1);
        self.found.choice.index = index.unwrap_or(0);
        self.found.is_foreign |= !has_delta || index.is_none();
        Ok(())
    }

    fn delta(&mut self, scanner: &mut Scanner<'_>, key: &[u8]) -> Result<(), Fault> {
        match key {
            b"role" => self.found.is_foreign |= !matches!(scanner.value()?.1, Shape::String | Shape::Null),
            b"content" => self.text(scanner, CONTENT)?,
            b"reasoning_content" => self.text(scanner, REASONING)?,
            b"reasoning" => self.text(scanner, OTHER_REASONING)?,
            b"refusal" => self.text(scanner, REFUSAL)?,
            b"reasoning_details" => {
                let (value, shape) = scanner.value()?;
                self.found.choice.details = (shape == Shape::Array && value.len() > 2).then_some(value);
            }
            b"tool_calls" if scanner.shape() == Some(Shape::Array) => scanner.elements(|scanner| self.tool(scanner))?,
            b"tool_calls" => self.found.is_foreign |= scanner.value()?.1 != Shape::Null,
            b"function_call" if scanner.shape() == Some(Shape::Object) => scanner.members(|scanner, key| match key {
                b"name" => self.text(scanner, FUNCTION_NAME),
                b"arguments" => self.text(scanner, FUNCTION_ARGUMENTS),
                _ => scanner.value().map(|_| ()),
            })?,
            other => {
                self.found.is_foreign |= other.contains(&b'\\');
                let (value, shape) = scanner.value()?;
                self.found.choice.has_other |= matches!(shape, Shape::Object | Shape::Array) && value.len() > 2;
            }
        }
        Ok(())
    }

    fn text(&mut self, scanner: &mut Scanner<'_>, place: usize) -> Result<(), Fault> {
        let (value, shape) = scanner.value()?;
        self.found.is_foreign |= !matches!(shape, Shape::String | Shape::Null);
        self.found.choice.text[place] = (shape == Shape::String && value.len() > 2).then_some(value);
        Ok(())
    }

    fn tool(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Fault> {
        let mut tool = Tool::default();
        let mut index = None;
        scanner.members(|scanner, key| {
            match key {
                b"index" => index = Some(self.integer(scanner)?),
                b"id" => tool.id = self.piece(scanner)?,
                b"type" => {
                    let (value, shape) = scanner.value()?;
                    self.found.is_foreign |= shape != Shape::Null && self.chunk[value] != *b"\"function\"";
                    tool.has_type = shape == Shape::String;
                }
                b"function" if scanner.shape() == Some(Shape::Object) => scanner.members(|scanner, key| {
                    match key {
                        b"name" => tool.name = self.piece(scanner)?,
                        b"arguments" => {
                            let (value, shape) = scanner.value()?;
                            self.found.is_foreign |= !matches!(shape, Shape::String | Shape::Null);
                            tool.arguments = (shape == Shape::String).then_some(value);
                        }
                        other => {
                            self.found.is_foreign |= other.contains(&b'\\');
                            scanner.value()?;
                        }
                    }
                    Ok(())
                })?,
                other => {
                    self.found.is_foreign |= other == b"custom" || other.contains(&b'\\');
                    scanner.value()?;
                }
            }
            Ok(())
        })?;
        let is_second = self.found.choice.tool.is_some();
        self.found.is_foreign |= is_second || index.is_none();
        tool.index = index.unwrap_or(0);
        self.found.choice.tool = Some(tool);
        Ok(())
    }

    /// A string with something in it, or null; an empty one is foreign.
    fn piece(&mut self, scanner: &mut Scanner<'_>) -> Result<Option<Span>, Fault> {
        let (value, shape) = scanner.value()?;
        let is_filled = shape == Shape::String && value.len() > 2;
        self.found.is_foreign |= !is_filled && shape != Shape::Null;
        Ok(is_filled.then_some(value))
    }
}

fn is_finish(quoted: &[u8]) -> bool {
    matches!(quoted, b"\"stop\"" | b"\"length\"" | b"\"tool_calls\"" | b"\"content_filter\"" | b"\"function_call\"")
}
