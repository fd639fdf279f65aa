//! A strict reading of OpenAI's grammar, and simple code that takes the meaning out of recorded
//! bytes of any dialect. Both are written apart from the adapters, so that they can disagree.
//! It must not use anything of the crate under test.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What an answer said.
#[derive(Debug, Default)]
pub struct Said {
    /// By index.
    pub choices: BTreeMap<u64, Spoken>,
    /// The last usage object.
    pub usage: Value,
    /// The message of an error in mid-stream.
    pub error: Option<String>,
    /// Whether the answer ended as complete answers do.
    pub is_complete: bool,
}

/// What one choice said.
#[derive(Debug, Default, PartialEq)]
pub struct Spoken {
    /// Visible text.
    pub content: String,
    /// Thought.
    pub reasoning: String,
    /// Refusal.
    pub refusal: String,
    /// Calls: name, arguments.
    pub calls: Vec<(String, String)>,
    /// The finish reason.
    pub finish: Option<String>,
}

/// `Ok` when both are the same.
pub fn same(got: &Value, expected: &Value, what: &str) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(format!("{what}: got {got:.600}, expected {expected:.600}")) }
}

fn demand(holds: bool, rule: &str, chunk: &Value) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{rule}: {chunk:.500}")) }
}

/// Reads a client's stream; any departure from OpenAI's grammar is an error.
pub fn grammar(bytes: &str, wants_usage: bool) -> Result<Said, String> {
    let mut said = Said::default();
    let mut ids: BTreeMap<(u64, u64), String> = BTreeMap::new();
    let mut id = None;
    for event in bytes.split_inclusive("\n\n") {
        let data = event.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n")).filter(|data| !data.contains('\n'));
        let data = data.ok_or_else(|| format!("not one data line and a blank line: {event:?}"))?;
        demand(!said.is_complete, "something after [DONE]", &json!(data))?;
        if data == "[DONE]" {
            said.is_complete = true;
            continue;
        }
        let chunk: Value = serde_json::from_str(data).map_err(|fault| format!("no JSON ({fault}): {data:.300}"))?;
        demand(said.usage.is_null(), "something after the usage chunk", &chunk)?;
        demand(chunk["object"] == "chat.completion.chunk", "object", &chunk)?;
        demand(chunk["id"].as_str().is_some_and(|id| !id.is_empty()), "id", &chunk)?;
        demand(*id.get_or_insert_with(|| chunk["id"].clone()) == chunk["id"], "one id", &chunk)?;
        demand(
            chunk["created"].is_u64() && chunk["model"].as_str().is_some_and(|model| !model.is_empty()),
            "created and model",
            &chunk,
        )?;
        demand(chunk.get("error").is_none_or(Value::is_null), "an error inside a chunk", &chunk)?;
        let choices = chunk["choices"].as_array().ok_or_else(|| format!("choices: {chunk:.300}"))?;
        if choices.is_empty() {
            demand(
                wants_usage && chunk["usage"].is_object(),
                "a chunk without choices that is no usage chunk asked for",
                &chunk,
            )?;
            said.usage = chunk["usage"].clone();
            continue;
        }
        demand(chunk.get("usage").is_none_or(Value::is_null), "usage beside choices", &chunk)?;
        choices.iter().try_for_each(|choice| strict_choice(&mut said, &mut ids, choice))?;
    }
    demand(
        !said.is_complete || said.choices.values().all(|choice| choice.finish.is_some()),
        "[DONE] before every finish",
        &Value::Null,
    )?;
    Ok(said)
}

fn strict_choice(said: &mut Said, ids: &mut BTreeMap<(u64, u64), String>, choice: &Value) -> Result<(), String> {
    let index = choice["index"].as_u64().ok_or_else(|| format!("index: {choice}"))?;
    let spoken = said.choices.entry(index).or_default();
    demand(spoken.finish.is_none(), "something after the finish reason", choice)?;
    let delta = choice["delta"].as_object().ok_or_else(|| format!("delta: {choice}"))?;
    demand(choice.get("message").is_none(), "a message beside the delta", choice)?;
    for name in ["content", "reasoning_content", "reasoning", "refusal", "role"] {
        demand(delta.get(name).is_none_or(|text| text.is_string() || text.is_null()), name, choice)?;
    }
    match choice.get("finish_reason") {
        Some(Value::Null) => {}
        Some(Value::String(reason)) if OPENAI_REASONS.contains(&reason.as_str()) => spoken.finish = Some(reason.clone()),
        _ => return Err(format!("finish_reason: {choice:.300}")),
    }
    hear(spoken, &choice["delta"]);
    for fragment in delta.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
        let at = fragment["index"].as_u64().ok_or_else(|| format!("index of a call: {choice}"))?;
        let known = spoken.calls.len() as u64;
        demand(at <= known, "calls are numbered in order", choice)?;
        if at == known {
            let id = fragment["id"].as_str().filter(|id| !id.is_empty()).ok_or_else(|| format!("id of a call: {choice}"))?;
            demand(ids.iter().all(|((of, _), other)| *of != index || other != id), "ids of calls differ", choice)?;
            demand(
                fragment["type"] == "function" && fragment["function"]["name"].is_string(),
                "type and name of a call",
                choice,
            )?;
            demand(fragment["function"]["arguments"].is_string(), "arguments of a call", choice)?;
            ids.insert((index, at), id.to_owned());
            spoken.calls.push((String::new(), String::new()));
        } else {
            demand(fragment.get("id").is_none_or(Value::is_null), "id repeated", choice)?;
            let is_unnamed = spoken.calls[usize::try_from(at).unwrap()].0.is_empty();
            demand(is_unnamed || fragment["function"].get("name").is_none_or(Value::is_null), "name repeated", choice)?;
        }
        let call = &mut spoken.calls[usize::try_from(at).unwrap()];
        call.0.push_str(fragment["function"]["name"].as_str().unwrap_or_default());
        call.1.push_str(fragment["function"]["arguments"].as_str().unwrap_or_default());
    }
    Ok(())
}

const OPENAI_REASONS: [&str; 5] = ["stop", "length", "tool_calls", "content_filter", "function_call"];

/// A whole answer in OpenAI's grammar.
pub fn whole_grammar(answer: &Value) -> Result<(), String> {
    demand(answer["object"] == "chat.completion", "object", answer)?;
    demand(answer["id"].as_str().is_some_and(|id| !id.is_empty()) && answer["created"].is_u64(), "id and created", answer)?;
    demand(answer["model"].as_str().is_some_and(|model| !model.is_empty()), "model", answer)?;
    for choice in answer["choices"].as_array().ok_or("choices")? {
        let message = &choice["message"];
        demand(choice["index"].is_u64() && choice.get("delta").is_none(), "index, no delta", choice)?;
        demand(message.get("content").is_some_and(|content| content.is_string() || content.is_null()), "content", choice)?;
        demand(choice["finish_reason"].as_str().is_some_and(|reason| OPENAI_REASONS.contains(&reason)), "finish_reason", choice)?;
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let is_whole = call["id"].as_str().is_some_and(|id| !id.is_empty()) && call["function"]["arguments"].is_string();
            demand(is_whole && call["type"] == "function", "a call", choice)?;
        }
    }
    Ok(())
}

/// What a stream in any dialect says.
pub fn from_events(body: &[u8]) -> Said {
    let mut said = Said::default();
    let text = String::from_utf8_lossy(body).replace("\r\n", "\n").replace('\r', "\n");
    let (mut is_marked, mut has_finish) = (false, false);
    let mut ids: BTreeMap<u64, Vec<(String, Value)>> = BTreeMap::new();
    for data in text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim) {
        if data == "[DONE]" {
            is_marked = true;
            break;
        }
        let Ok(chunk) = serde_json::from_str::<Value>(data) else { continue };
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            said.error = error["message"].as_str().or(error.as_str()).map(str::to_owned);
            break;
        }
        let usage = if chunk["usage"].is_object() { &chunk["usage"] } else { &chunk["x_groq"]["usage"] };
        if usage["prompt_tokens"].is_number() {
            said.usage = usage.clone();
        }
        for choice in chunk["choices"].as_array().into_iter().flatten() {
            let index = choice["index"].as_u64().unwrap_or(0);
            let spoken = said.choices.entry(index).or_default();
            hear(spoken, &choice["delta"]);
            for fragment in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                hear_call(spoken, ids.entry(index).or_default(), fragment);
            }
            if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
                has_finish = true;
                spoken.finish = Some(in_openais_words(reason).to_owned());
            }
        }
    }
    // One recorded provider never names a reason; what it billed and marked as done is complete.
    said.is_complete = has_finish || (is_marked && !said.usage.is_null());
    if !has_finish && said.is_complete {
        for spoken in said.choices.values_mut() {
            spoken.finish = Some(if spoken.calls.is_empty() { "stop" } else { "tool_calls" }.to_owned());
        }
    }
    said
}

fn hear_call(spoken: &mut Spoken, known: &mut Vec<(String, Value)>, fragment: &Value) {
    let id = fragment["id"].as_str().unwrap_or_default();
    let at = known.iter().position(|(other, number)| if id.is_empty() { *number == fragment["index"] } else { other == id });
    let at = at.unwrap_or_else(|| {
        known.push((id.to_owned(), fragment["index"].clone()));
        spoken.calls.push((String::new(), String::new()));
        known.len() - 1
    });
    let call = &mut spoken.calls[at];
    if call.0.is_empty() {
        call.0.push_str(fragment["function"]["name"].as_str().unwrap_or_default());
    }
    call.1.push_str(fragment["function"]["arguments"].as_str().unwrap_or_default());
}

fn hear(spoken: &mut Spoken, message: &Value) {
    match &message["content"] {
        Value::String(text) => spoken.content.push_str(text),
        Value::Array(parts) => {
            for part in parts {
                spoken.content.push_str(part["text"].as_str().unwrap_or_default());
                let thoughts = part["thinking"].as_array().into_iter().flatten();
                thoughts.for_each(|thought| spoken.reasoning.push_str(thought["text"].as_str().unwrap_or_default()));
            }
        }
        _ => {}
    }
    spoken.refusal.push_str(message["refusal"].as_str().unwrap_or_default());
    let thought =
        ["reasoning_content", "reasoning"].iter().find_map(|name| message[*name].as_str().filter(|text| !text.is_empty()));
    match thought {
        Some(thought) => spoken.reasoning.push_str(thought),
        None => {
            let details = message["reasoning_details"].as_array().into_iter().flatten();
            details.for_each(|detail| {
                spoken.reasoning.push_str(detail["text"].as_str().or(detail["summary"].as_str()).unwrap_or_default())
            });
        }
    }
}

/// What a whole answer in any dialect says.
pub fn from_answer(answer: &Value) -> Said {
    let mut said = Said { is_complete: true, usage: answer["usage"].clone(), ..Said::default() };
    for choice in answer["choices"].as_array().into_iter().flatten() {
        let mut spoken = Spoken::default();
        hear(&mut spoken, &choice["message"]);
        for call in choice["message"]["tool_calls"].as_array().into_iter().flatten() {
            let text = |name: &str| call["function"][name].as_str().unwrap_or_default().to_owned();
            spoken.calls.push((text("name"), text("arguments")));
        }
        let reason = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty());
        let unsaid = if spoken.calls.is_empty() { "stop" } else { "tool_calls" };
        spoken.finish = Some(reason.map_or(unsaid, in_openais_words).to_owned());
        said.choices.insert(choice["index"].as_u64().unwrap_or(0), spoken);
    }
    said
}

fn in_openais_words(reason: &str) -> &str {
    match reason {
        "eos" => "stop",
        "model_length" => "length",
        "sensitive" => "content_filter",
        known => known,
    }
}
