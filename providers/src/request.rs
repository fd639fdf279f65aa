//! `ChatRequest`: the client's own bytes, and the few facts the gateway reads from them without
//! parsing the rest. Fields can be replaced, added or taken out in place; all others stay as they came.
//! It must not know any provider, caller or limit.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::call::Endpoint;
use crate::error::Refusal;
use crate::form;
use crate::json::{self, Fault, Member, Scanner, Shape};
use crate::passage::{Form, Passage};

/// The headers that belong to what is asked and not to who asks or how; no others of a client's go on.
const CARRIED: [HeaderName; 3] = [
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("openai-beta"),
];

/// A client's request: well-formed JSON (or a form, where it is passed on), its facts read once.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    raw: Bytes,
    members: Vec<Member>,
    /// What is asked for.
    pub endpoint: Endpoint,
    /// Those of the client's headers that belong to the request; only of endpoints whose words go on as they came.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Where it goes, when it is passed on.
    pub passage: Option<Box<Passage>>,
    /// The model the client named; empty only where none is meant.
    pub model: String,
    /// Whether the client wants a stream.
    pub stream: bool,
    /// `stream_options.include_usage`, when the client said.
    pub include_usage: Option<bool>,
    /// The most tokens the answer may have, when the client said.
    pub max_tokens: Option<u64>,
    /// How many choices are asked for.
    pub choices: u64,
    /// Bytes of text in the whole request (keys and embedded files left out).
    pub text_bytes: u64,
}

/// A change to one top-level field.
#[derive(Clone, Debug)]
pub enum Edit<'a> {
    /// Put this JSON in place of the field's value, or add the field.
    Set(&'a str, &'a [u8]),
    /// Take the field out.
    Remove(&'a str),
    /// Give the field another name.
    Rename(&'a str, &'a str),
}

impl ChatRequest {
    /// Reads the facts of `raw`.
    ///
    /// # Errors
    /// A [`Refusal`] that names the fault: no JSON, no object, not UTF-8, nested too deep, a field twice, a
    /// required field missing or of the wrong type.
    pub fn parse(raw: Bytes, endpoint: Endpoint) -> Result<Self, Refusal> {
        let (members, text_bytes) = scan(&raw)?;
        let fields = Fields { raw: &raw, members: &members };
        let model = fields.string("model")?.ok_or_else(|| missing("model"))?;
        if model.is_empty() {
            return Err(missing("model"));
        }
        match endpoint {
            Endpoint::Chat | Endpoint::Messages | Endpoint::CountTokens => {
                fields.required("messages", Shape::Array, "an array")?;
            }
            Endpoint::Completions => fields.present("prompt")?,
            Endpoint::Embeddings => fields.present("input")?,
            Endpoint::Responses => fields.text_or_array("input")?,
            Endpoint::Passed | Endpoint::Account => {}
        }
        let max_tokens = fields.limit(endpoint)?;
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let include_usage = fields.include_usage()?;
        let choices = fields.choices(endpoint)?;
        let (headers, passage) = (Vec::new(), None);
        Ok(Self { raw, members, endpoint, headers, passage, model, stream, include_usage, max_tokens, choices, text_bytes })
    }

    /// A request that is passed on: of its body only the model is read, if it names one.
    ///
    /// # Errors
    /// A [`Refusal`] of a body that is neither JSON nor a form, or names its model in a doubtful way.
    pub fn passed(raw: Bytes, mut passage: Passage) -> Result<Self, Refusal> {
        let mut request = Self {
            raw,
            members: Vec::new(),
            endpoint: Endpoint::Account,
            headers: Vec::new(),
            passage: None,
            model: String::new(),
            stream: false,
            include_usage: None,
            max_tokens: None,
            choices: 1,
            text_bytes: 0,
        };
        if !request.raw.is_empty() {
            passage.model_at = request.read_model(passage.form()?)?;
        }
        if !request.model.is_empty() {
            request.endpoint = Endpoint::Passed;
        }
        request.passage = Some(Box::new(passage));
        Ok(request)
    }

    /// Where the model's name stands, if it is in a form.
    fn read_model(&mut self, form: Form<'_>) -> Result<Option<Range<usize>>, Refusal> {
        match form {
            Form::Json => {
                (self.members, self.text_bytes) = scan(&self.raw)?;
                let fields = Fields { raw: &self.raw, members: &self.members };
                self.model = fields.string("model")?.unwrap_or_default();
                Ok(None)
            }
            Form::Multipart(boundary) => {
                let place = form::model(&self.raw, boundary)?;
                if let Some(place) = place.clone() {
                    let name = std::str::from_utf8(&self.raw[place]).map_err(|_| wrong_type("model", "text"))?;
                    name.clone_into(&mut self.model);
                }
                Ok(place)
            }
        }
    }

    /// The body with this model in place of the client's, where that names one.
    pub(crate) fn for_model(&self, model: &str) -> Bytes {
        if let Some(place) = self.passage.as_ref().and_then(|passage| passage.model_at.as_ref()) {
            let (before, after) = (&self.raw[..place.start], &self.raw[place.end..]);
            return Bytes::from([before, model.as_bytes(), after].concat());
        }
        if self.model.is_empty() || self.model == model {
            return self.raw.clone();
        }
        self.edited(&[Edit::Set("model", serde_json::Value::from(model).to_string().as_bytes())])
    }

    /// Whether making the call twice could do something twice that is not an answer.
    #[must_use]
    pub fn is_once(&self) -> bool {
        self.endpoint == Endpoint::Account && self.passage.as_ref().is_some_and(|passage| passage.method != Method::GET)
    }

    /// Whether the provider may charge for it.
    #[must_use]
    pub fn may_cost(&self) -> bool {
        let creates = |passage: &Passage| passage.method == Method::POST;
        self.endpoint != Endpoint::CountTokens && self.passage.as_deref().is_none_or(creates)
    }

    /// The request with those of the client's headers that belong to it, where its words go on as they came.
    #[must_use]
    pub fn with_headers(mut self, headers: &HeaderMap) -> Self {
        if !matches!(self.endpoint, Endpoint::Chat | Endpoint::Embeddings) {
            let carried = |name: &HeaderName| headers.get(name).map(|value| (name.clone(), value.clone()));
            self.headers = CARRIED.iter().filter_map(carried).collect();
        }
        self
    }

    /// Whether all that the model will read stands in the request, so that its size says something.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let refers = |name: &str| self.field(name).is_some_and(|value| value != b"null");
        self.endpoint != Endpoint::Responses || !["previous_response_id", "conversation", "prompt"].into_iter().any(refers)
    }

    /// The bytes as the client sent them.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The JSON of a top-level field, as the client sent it.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        find(&self.raw, &self.members, name).map(|member| &self.raw[member.value.clone()])
    }

    /// Whether the client asked for the usage chunk at the end of a stream.
    #[must_use]
    pub fn wants_usage(&self) -> bool {
        self.include_usage == Some(true)
    }

    /// The request with `edits` done and everything else as it came; the client's own bytes when
    /// nothing changes.
    #[must_use]
    pub fn edited(&self, edits: &[Edit<'_>]) -> Bytes {
        let fates: Vec<Fate<'_>> = self.members.iter().map(|member| self.fate(member, edits)).collect();
        let added = edits.iter().filter_map(|edit| match *edit {
            Edit::Set(name, value) if find(&self.raw, &self.members, name).is_none() => Some((name, value)),
            _ => None,
        });
        let mut added = added.peekable();
        if added.peek().is_none() && fates.iter().all(|fate| matches!(fate, Fate::Kept)) {
            return self.raw.clone();
        }
        let mut out = BytesMut::with_capacity(self.raw.len() + 128);
        let mut end = self.members.first().map_or(1, |member| member.key.start);
        out.extend_from_slice(&self.raw[..end]);
        let (mut is_first, mut is_joined) = (true, false);
        for (member, fate) in self.members.iter().zip(&fates) {
            if !matches!(fate, Fate::Gone) {
                // The comma and the space around it, as they stood between two neighbours.
                let between = if is_joined { &self.raw[end..member.key.start] } else { b"," };
                out.extend_from_slice(if is_first { b"" } else { between });
                self.write(&mut out, member, fate);
                is_first = false;
            }
            is_joined = !matches!(fate, Fate::Gone);
            end = member.value.end;
        }
        for (name, value) in added {
            out.extend_from_slice(if is_first { b"\"" } else { b",\"" });
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(value);
            is_first = false;
        }
        out.extend_from_slice(&self.raw[end..]);
        out.freeze()
    }

    fn fate<'a>(&self, member: &Member, edits: &[Edit<'a>]) -> Fate<'a> {
        let fates = edits.iter().filter_map(|edit| match *edit {
            Edit::Set(name, value) if is_named(&self.raw, member, name) && self.raw[member.value.clone()] != *value => {
                Some(Fate::Replaced(value))
            }
            Edit::Remove(name) if is_named(&self.raw, member, name) => Some(Fate::Gone),
            Edit::Rename(from, to) if is_named(&self.raw, member, from) => Some(Fate::Renamed(to)),
            _ => None,
        });
        fates.last().unwrap_or(Fate::Kept)
    }

    fn write(&self, out: &mut BytesMut, member: &Member, fate: &Fate<'_>) {
        let inside_key = member.key.start + 1..member.key.end - 1;
        let (key, value) = match *fate {
            Fate::Renamed(name) => (name.as_bytes(), &self.raw[member.value.clone()]),
            Fate::Replaced(value) => (&self.raw[inside_key], value),
            Fate::Kept | Fate::Gone => (&self.raw[inside_key], &self.raw[member.value.clone()]),
        };
        out.extend_from_slice(b"\"");
        out.extend_from_slice(key);
        out.extend_from_slice(&self.raw[member.key.end - 1..member.value.start]);
        out.extend_from_slice(value);
    }
}

/// What becomes of one field.
enum Fate<'a> {
    Kept,
    Replaced(&'a [u8]),
    Renamed(&'a str),
    Gone,
}

fn is_named(raw: &[u8], member: &Member, name: &str) -> bool {
    raw[member.key.start + 1..member.key.end - 1] == *name.as_bytes()
}

fn find<'m>(raw: &[u8], members: &'m [Member], name: &str) -> Option<&'m Member> {
    members.iter().find(|member| is_named(raw, member, name))
}

/// The members of a body that is one JSON object, and how much text is in it.
fn scan(raw: &[u8]) -> Result<(Vec<Member>, u64), Refusal> {
    let mut members = Vec::with_capacity(16);
    let mut scanner = Scanner::new(raw);
    let read = scanner.object(|member| members.push(member)).and_then(|()| scanner.end());
    if read.is_err() || !scanner.is_ascii() {
        std::str::from_utf8(raw).map_err(|fault| invalid_json(format!("not valid UTF-8 at byte {}", fault.valid_up_to())))?;
    }
    read.map_err(|fault| another_value(raw).unwrap_or_else(|| describe(fault)))?;
    refuse_duplicates(raw, &members)?;
    Ok((members, scanner.string_bytes()))
}

fn invalid_json(reason: String) -> Refusal {
    Refusal { message: format!("the request body is not valid JSON: {reason}"), param: None, code: "invalid_json" }
}

fn describe(fault: Fault) -> Refusal {
    invalid_json(match fault {
        Fault::Syntax(at) => format!("unexpected byte or end at position {at}"),
        Fault::TooDeep(at) => format!("nested deeper than {} levels at position {at}", json::MAX_DEPTH),
    })
}

/// The refusal of a body that is JSON, but no object.
fn another_value(raw: &[u8]) -> Option<Refusal> {
    let mut scanner = Scanner::new(raw);
    let (_, shape) = scanner.value().ok()?;
    scanner.end().ok()?;
    let what = match shape {
        Shape::Object => return None,
        Shape::Array => "an array",
        Shape::String => "a string",
        Shape::Number => "a number",
        Shape::True | Shape::False => "a boolean",
        Shape::Null => "null",
    };
    Some(Refusal { message: format!("the request body must be a JSON object, not {what}"), param: None, code: "invalid_type" })
}

fn missing(name: &str) -> Refusal {
    Refusal::field(name, "missing_required_parameter", format!("missing required parameter: `{name}`"))
}

fn wrong_type(name: &str, expected: &str) -> Refusal {
    Refusal::field(name, "invalid_type", format!("invalid type for `{name}`: expected {expected}"))
}

/// A key written with escapes could hide a second spelling of a field that the gateway owns, so none is
/// taken. The keys are sorted: a body may hold tens of thousands, too many to compare each with each.
fn refuse_duplicates(raw: &[u8], members: &[Member]) -> Result<(), Refusal> {
    let mut keys: Vec<&[u8]> = members.iter().map(|member| &raw[member.key.clone()]).collect();
    keys.sort_unstable();
    let escaped = keys.iter().find(|key| memchr::memchr(b'\\', key).is_some());
    let twice = keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| &pair[0]);
    let Some(key) = escaped.or(twice) else { return Ok(()) };
    let name = json::text(key).ok_or_else(|| invalid_json("a key is not text".to_owned()))?;
    let message = format!("the field `{name}` is given twice or with an escaped name");
    Err(Refusal::field(&name, "invalid_json", message))
}

struct Fields<'a> {
    raw: &'a [u8],
    members: &'a [Member],
}

impl Fields<'_> {
    /// The member, unless it is missing or null.
    fn get(&self, name: &str) -> Option<(&Member, &[u8])> {
        let member = find(self.raw, self.members, name).filter(|member| member.shape != Shape::Null)?;
        Some((member, &self.raw[member.value.clone()]))
    }

    fn string(&self, name: &str) -> Result<Option<String>, Refusal> {
        let Some((_, value)) = self.get(name) else { return Ok(None) };
        json::text(value).map(|text| Some(text.into_owned())).ok_or_else(|| wrong_type(name, "a string"))
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.get(name).map(|(member, _)| member.shape) {
            None => Ok(None),
            Some(Shape::True) => Ok(Some(true)),
            Some(Shape::False) => Ok(Some(false)),
            Some(_) => Err(wrong_type(name, "a boolean")),
        }
    }

    fn integer(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some((_, value)) = self.get(name) else { return Ok(None) };
        let parsed = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        parsed.map(Some).ok_or_else(|| wrong_type(name, "a non-negative integer"))
    }

    /// The most tokens of an answer, under the name that it has at this endpoint.
    fn limit(&self, endpoint: Endpoint) -> Result<Option<u64>, Refusal> {
        match endpoint {
            Endpoint::Responses => self.integer("max_output_tokens"),
            Endpoint::Completions | Endpoint::Messages => self.integer("max_tokens"),
            Endpoint::CountTokens | Endpoint::Passed | Endpoint::Account => Ok(None),
            Endpoint::Chat | Endpoint::Embeddings => {
                let limit = self.integer("max_completion_tokens")?;
                if limit.is_some() { Ok(limit) } else { self.integer("max_tokens") }
            }
        }
    }

    /// How many answers are made: of the older completions also those that are not shown.
    fn choices(&self, endpoint: Endpoint) -> Result<u64, Refusal> {
        let shown = self.integer("n")?.unwrap_or(1).max(1);
        let made = if endpoint == Endpoint::Completions { self.integer("best_of")? } else { None };
        Ok(shown.max(made.unwrap_or(1)))
    }

    fn text_or_array(&self, name: &str) -> Result<(), Refusal> {
        match self.get(name).map(|(member, _)| member.shape) {
            None | Some(Shape::String | Shape::Array) => Ok(()),
            Some(_) => Err(wrong_type(name, "a string or an array")),
        }
    }

    fn present(&self, name: &str) -> Result<(), Refusal> {
        self.get(name).map(|_| ()).ok_or_else(|| missing(name))
    }

    fn required(&self, name: &str, shape: Shape, expected: &str) -> Result<(), Refusal> {
        let (member, _) = self.get(name).ok_or_else(|| missing(name))?;
        if member.shape == shape { Ok(()) } else { Err(wrong_type(name, expected)) }
    }

    fn include_usage(&self) -> Result<Option<bool>, Refusal> {
        let Some((member, _)) = self.get("stream_options") else { return Ok(None) };
        if member.shape != Shape::Object {
            return Err(wrong_type("stream_options", "an object"));
        }
        let mut found = None;
        let visited = Scanner::at(self.raw, member.value.start).object(|inner| {
            if is_named(self.raw, &inner, "include_usage") {
                found = Some(inner.shape);
            }
        });
        visited.map_err(describe)?;
        match found {
            None | Some(Shape::Null) => Ok(None),
            Some(Shape::True) => Ok(Some(true)),
            Some(Shape::False) => Ok(Some(false)),
            Some(_) => Err(wrong_type("stream_options.include_usage", "a boolean")),
        }
    }
}
