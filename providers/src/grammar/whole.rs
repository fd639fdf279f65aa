//! Whole answers in OpenAI's wire: looked at once, passed untouched when in grammar, else rebuilt.
//! It must not know which provider speaks.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::calls::Calls;
use super::mend::{self, Finish};
use super::stream::minted_id;
use super::usage;
use crate::call::{Answer, Call};
use crate::error::{Class, UpstreamError};
use crate::failure;
use crate::json::{self, Fault, Scanner, Shape};
use crate::usage::{Tier, Usage};

/// A whole chat completion.
///
/// # Errors
/// An [`UpstreamError`] when the body is an error, or no JSON object.
pub(crate) fn chat_answer(call: &Call<'_>, headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
    let seen = Look::at(&body).ok();
    if let Some(seen) = seen
        && !seen.is_foreign
        && let Some(usage) = seen.usage
    {
        let usage = Usage { tier: seen.tier, ..usage };
        return Ok(Answer { body, usage: Some(usage), text: String::new(), tool_calls: seen.tool_calls });
    }
    rebuild(call, headers, &body, seen.is_some_and(|seen| !seen.is_foreign).then_some(&body))
}

/// A whole list of embeddings.
///
/// # Errors
/// An [`UpstreamError`] when the body is an error, or no JSON object.
pub(crate) fn embeddings_answer(headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
    let mut has_data = false;
    let mut usage = None;
    let scanned = Scanner::new(&body).object(|member| match &body[member.key.clone()] {
        b"\"data\"" => has_data = member.shape == Shape::Array,
        b"\"usage\"" if member.shape == Shape::Object => usage = usage::read(&body[member.value.clone()]),
        _ => {}
    });
    if scanned.is_ok() && has_data {
        let usage = usage.map(|reported| reported.usage);
        return Ok(Answer { body, usage, text: String::new(), tool_calls: 0 });
    }
    match std::str::from_utf8(&body).ok().and_then(mend::parse) {
        Some(value @ Value::Object(_)) => Err(failure_in(headers, &value, &body)),
        _ => Err(unreadable(headers, &body)),
    }
}

/// What one look at an answer tells.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    is_foreign: bool,
    usage: Option<Usage>,
    tier: Tier,
    tool_calls: usize,
}

/// Counts of the members that OpenAI always writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Members {
    id: bool,
    object: bool,
    created: bool,
    model: bool,
    choices: bool,
}

const ALL_MEMBERS: Members = Members { id: true, object: true, created: true, model: true, choices: true };

impl Look {
    fn at(body: &[u8]) -> Result<Self, Fault> {
        let mut look = Self::default();
        let mut found = Members::default();
        let mut scanner = Scanner::new(body);
        scanner.members(|scanner, name| {
            match name {
                b"choices" if scanner.shape() == Some(Shape::Array) => {
                    scanner.elements(|scanner| {
                        found.choices = true;
                        look.choice(body, scanner)
                    })?;
                }
                b"usage" if scanner.shape() == Some(Shape::Object) => {
                    let reported = usage::pass(body, scanner)?;
                    look.is_foreign |= reported.is_some_and(|reported| !reported.is_plain);
                    look.usage = reported.map(|reported| reported.usage);
                }
                name => {
                    let (value, shape) = scanner.value()?;
                    look.member(name, &body[value], shape, &mut found);
                }
            }
            Ok(())
        })?;
        scanner.end()?;
        if !scanner.is_ascii() {
            std::str::from_utf8(body).map_err(|fault| Fault::Syntax(fault.valid_up_to()))?;
        }
        look.is_foreign |= found != ALL_MEMBERS;
        Ok(look)
    }

    fn member(&mut self, name: &[u8], value: &[u8], shape: Shape, found: &mut Members) {
        match name {
            b"id" => found.id = shape == Shape::String && value.len() > 2,
            b"object" => found.object = value == b"\"chat.completion\"",
            b"created" => found.created = shape == Shape::Number && value.iter().all(u8::is_ascii_digit),
            b"model" => found.model = shape == Shape::String && value.len() > 2,
            b"service_tier" => {
                self.tier = json::text(value).map(|name| Tier::from_name(&name)).unwrap_or_default();
            }
            b"error" => self.is_foreign |= shape != Shape::Null,
            other => self.is_foreign |= other.contains(&b'\\'),
        }
    }

    fn choice(&mut self, body: &[u8], scanner: &mut Scanner<'_>) -> Result<(), Fault> {
        let (mut has_index, mut has_message, mut has_finish) = (false, false, false);
        scanner.members(|scanner, name| {
            match name {
                b"message" if scanner.shape() == Some(Shape::Object) => {
                    has_message = true;
                    let mut has_content = false;
                    scanner.members(|scanner, name| self.message(scanner, name, &mut has_content))?;
                    self.is_foreign |= !has_content;
                }
                name => {
                    let (value, shape) = scanner.value()?;
                    match name {
                        b"index" => has_index = shape == Shape::Number && body[value].iter().all(u8::is_ascii_digit),
                        b"finish_reason" => has_finish = is_finish(&body[value]),
                        b"error" => self.is_foreign |= shape != Shape::Null,
                        _ => self.is_foreign |= *name == *b"delta" || name.contains(&b'\\'),
                    }
                }
            }
            Ok(())
        })?;
        self.is_foreign |= !(has_index && has_message && has_finish);
        Ok(())
    }

    fn message(&mut self, scanner: &mut Scanner<'_>, name: &[u8], has_content: &mut bool) -> Result<(), Fault> {
        match name {
            b"tool_calls" if scanner.shape() == Some(Shape::Array) => scanner.elements(|scanner| self.tool(scanner)),
            b"content" => {
                *has_content = true;
                self.is_foreign |= !matches!(scanner.value()?.1, Shape::String | Shape::Null);
                Ok(())
            }
            _ => scanner.value().map(|_| ()),
        }
    }

    /// A whole call has an id, a type, and a function whose arguments are text.
    fn tool(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Fault> {
        self.tool_calls += 1;
        let (mut has_id, mut has_type, mut has_body) = (false, false, false);
        scanner.members(|scanner, name| {
            match name {
                b"function" if scanner.shape() == Some(Shape::Object) => scanner.members(|scanner, name| {
                    has_body |= scanner.value()?.1 == Shape::String && name == b"arguments";
                    Ok(())
                })?,
                name => {
                    let (value, shape) = scanner.value()?;
                    has_id |= name == b"id" && shape == Shape::String && value.len() > 2;
                    has_type |= name == b"type" && shape == Shape::String;
                    has_body |= name == b"custom" && shape == Shape::Object;
                }
            }
            Ok(())
        })?;
        self.is_foreign |= !(has_id && has_type && has_body);
        Ok(())
    }
}

fn is_finish(quoted: &[u8]) -> bool {
    matches!(quoted, b"\"stop\"" | b"\"length\"" | b"\"tool_calls\"" | b"\"content_filter\"" | b"\"function_call\"")
}

/// The answer through its values. `untouched`: the body, when only the text is wanted from it.
fn rebuild(call: &Call<'_>, headers: &HeaderMap, body: &[u8], untouched: Option<&Bytes>) -> Result<Answer, UpstreamError> {
    let Some(Value::Object(mut answer)) = mend::parse(&String::from_utf8_lossy(body)) else {
        return Err(unreadable(headers, body));
    };
    // No choices but a bill is an answer, if an empty one.
    let is_billed = answer.get("usage").is_some_and(Value::is_object);
    let choices = answer.get("choices").and_then(Value::as_array);
    let has_choices = choices.is_some_and(|choices| is_billed || choices.iter().any(Value::is_object));
    if failure::is_failure(&answer) || !has_choices {
        return Err(failure_in(headers, &Value::Object(answer), body));
    }
    if let Some(Value::Array(choices)) = answer.get_mut("choices") {
        choices.retain(Value::is_object);
    }
    envelope(call, &mut answer);
    let tier = answer.get("service_tier").and_then(Value::as_str).map(Tier::from_name).unwrap_or_default();
    let groq = answer.get("x_groq").and_then(|own| own.get("usage")).cloned();
    let told = answer.get("usage").filter(|usage| usage.is_object()).cloned().or(groq);
    let reported = told.as_ref().and_then(|told| usage::read(told.to_string().as_bytes()));
    if let (Some(Value::Object(mut object)), Some(reported)) = (told, reported) {
        if !reported.is_plain {
            usage::mend(&mut object, &reported.usage);
        }
        answer.insert("usage".to_owned(), Value::Object(object));
    }
    let id = answer.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut text = String::new();
    let mut tool_calls = 0;
    for (index, choice) in answer.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
        if let Value::Object(choice) = choice {
            tool_calls += mend_choice(choice, &id, index, &mut text)?;
        }
    }
    if reported.is_some() {
        text.clear();
    }
    let body = untouched.cloned().unwrap_or_else(|| Bytes::from(Value::Object(answer).to_string()));
    Ok(Answer { body, usage: reported.map(|reported| Usage { tier, ..reported.usage }), text, tool_calls })
}

fn envelope(call: &Call<'_>, answer: &mut Map<String, Value>) {
    let is_empty = |answer: &Map<String, Value>, name: &str| answer.get(name).and_then(Value::as_str).is_none_or(str::is_empty);
    if is_empty(answer, "id") {
        answer.insert("id".to_owned(), Value::from(call.id));
    }
    answer.insert("object".to_owned(), Value::from("chat.completion"));
    answer.shift_remove("error");
    let created = answer.get("created").and_then(mend::whole_seconds).unwrap_or(call.created);
    answer.insert("created".to_owned(), Value::from(created));
    if is_empty(answer, "model") {
        answer.insert("model".to_owned(), Value::from(call.model));
    }
}

/// Says how many tools the choice calls.
fn mend_choice(choice: &mut Map<String, Value>, id: &str, place: usize, text: &mut String) -> Result<usize, UpstreamError> {
    if let Some(error) = choice.shift_remove("error").filter(Value::is_object) {
        return Err(failure::from_value(&error));
    }
    let delta = choice.shift_remove("delta");
    let plain = choice.get("text").and_then(Value::as_str).map(str::to_owned);
    let mut message = match (choice.get_mut("message").map(Value::take), delta, plain) {
        (Some(Value::Object(message)), ..) | (_, Some(Value::Object(message)), _) => message,
        (.., plain) => Map::from_iter([("content".to_owned(), Value::from(plain))]),
    };
    let index = choice.get("index").and_then(Value::as_u64).unwrap_or(place as u64);
    mend::flatten_content(&mut message);
    mend::only_text(&mut message);
    mend::drop_hollow(&mut message);
    message.entry("role").or_insert_with(|| Value::from("assistant"));
    message.entry("content").or_insert(Value::Null);
    let tool_calls = mend_calls(&mut message, id, place);
    mend::spoken(&message, text);
    let reason = match mend::finish(choice.get("finish_reason")) {
        Finish::Reason(reason) => reason,
        Finish::None => mend::unsaid_finish(tool_calls > 0),
        Finish::Failure(class) => return Err(failed_choice(choice, class)),
    };
    choice.insert("index".to_owned(), Value::from(index));
    choice.insert("message".to_owned(), Value::Object(message));
    choice.insert("finish_reason".to_owned(), Value::from(reason));
    Ok(tool_calls)
}

fn mend_calls(message: &mut Map<String, Value>, id: &str, choice: usize) -> usize {
    match message.get("tool_calls") {
        Some(Value::Array(_) | Value::Null) | None => {}
        Some(_) => drop(message.shift_remove("tool_calls")),
    }
    let Some(Value::Array(calls)) = message.get_mut("tool_calls") else { return 0 };
    calls.retain(Value::is_object);
    for (number, call) in calls.iter_mut().filter_map(Value::as_object_mut).enumerate() {
        // Each element of a whole answer is a call of its own, whatever its index or id says.
        call.shift_remove("index");
        Calls::default().place(call, |_| minted_id(id, choice, number));
        call.shift_remove("index");
    }
    calls.len()
}

fn failed_choice(choice: &Map<String, Value>, class: Class) -> UpstreamError {
    let reason = choice.get("finish_reason").and_then(Value::as_str).unwrap_or_default();
    UpstreamError::new(class, format!("the provider ended the answer with the reason `{reason}`"))
}

/// An error with a status that says success; the body may name its own status.
fn failure_in(headers: &HeaderMap, value: &Value, body: &[u8]) -> UpstreamError {
    let told = value.as_object().is_some_and(failure::is_failure);
    let mut error = if told { failure::from_value(value) } else { unreadable(headers, body) };
    error.retry_after = crate::retry::retry_after(headers);
    error
}

fn unreadable(headers: &HeaderMap, body: &[u8]) -> UpstreamError {
    let mut error = failure::from_answer(StatusCode::BAD_GATEWAY, headers, body);
    error.class = Class::Server;
    error.message = format!("the provider's answer is no chat completion: {}", error.message);
    error
}
