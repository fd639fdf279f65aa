//! What the demo provider answers: a function of the request alone.
//! It must not know sockets, delays or failures.

use bytes::Bytes;
use serde_json::{Value, json};

/// The time that every answer bears: 2026-01-01, so that the same request gets the same bytes.
pub(super) const CREATED: u64 = 1_767_225_600;
/// Numbers in an embedding unless the request says otherwise.
const DIMENSIONS: usize = 8;

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) model: String,
    pub(super) text: String,
    /// Names and arguments of the tools that are called.
    pub(super) calls: Vec<(String, String)>,
    /// In a chat's words.
    pub(super) usage: Option<Value>,
    pub(super) asks_usage: bool,
}

impl Answer {
    /// The answer to a chat request.
    pub(super) fn to(request: &Value, tells_usage: bool) -> Self {
        let prompt: String = messages(request).map(content).collect::<Vec<_>>().join(" ");
        let last = messages(request).last();
        let is_tool_result = last.is_some_and(|message| message["role"] == "tool");
        let calls = if is_tool_result { Vec::new() } else { calls(request) };
        let said = last.map(content).unwrap_or_default();
        let text = match request.pointer("/response_format/json_schema/schema") {
            _ if !calls.is_empty() => String::new(),
            Some(schema) => example(schema).to_string(),
            None if request.pointer("/response_format/type") == Some(&json!("json_object")) => json!({"echo": said}).to_string(),
            None => limited(&format!("You said: {said}"), request),
        };
        let output = words(&text) + calls.iter().map(|(name, arguments)| words(name) + words(arguments)).sum::<u64>();
        let input = words(&prompt).max(1);
        let usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
        Self {
            model: request["model"].as_str().unwrap_or_default().to_owned(),
            text,
            calls,
            usage: tells_usage.then_some(usage),
            asks_usage: request.pointer("/stream_options/include_usage") == Some(&Value::Bool(true)),
        }
    }

    /// As one JSON object.
    pub(super) fn whole(&self) -> Value {
        let calls: Vec<Value> =
            self.calls.iter().enumerate().map(|(index, (name, arguments))| call(index, name, arguments)).collect();
        let content = if calls.is_empty() { json!(self.text) } else { Value::Null };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !calls.is_empty() {
            message["tool_calls"] = Value::from(calls);
        }
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": self.finish_reason()});
        let mut body = json!({"id": "chatcmpl-demo", "object": "chat.completion", "created": CREATED, "model": self.model, "choices": [choice]});
        if let Some(usage) = &self.usage {
            body["usage"] = usage.clone();
        }
        body
    }

    /// As the events of a stream.
    pub(super) fn events(&self) -> Vec<Bytes> {
        let mut events = vec![self.chunk(&json!({"role": "assistant", "content": ""}), None)];
        events.extend(self.text.split_inclusive(' ').map(|word| self.chunk(&json!({"content": word}), None)));
        for (index, (name, arguments)) in self.calls.iter().enumerate() {
            let mut opening = call(index, name, "");
            opening["index"] = json!(index);
            events.push(self.chunk(&json!({"tool_calls": [opening]}), None));
            let piece = |text: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]});
            events.extend(arguments.split_inclusive(',').map(|text| self.chunk(&piece(text), None)));
        }
        events.push(self.chunk(&json!({}), Some(self.finish_reason())));
        if let (Some(usage), true) = (&self.usage, self.asks_usage) {
            events.push(sse(&json!({
                "id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": CREATED, "model": self.model, "choices": [], "usage": usage,
            })));
        }
        events.push(Bytes::from_static(b"data: [DONE]\n\n"));
        events
    }

    fn finish_reason(&self) -> &'static str {
        if self.calls.is_empty() { "stop" } else { "tool_calls" }
    }

    fn chunk(&self, delta: &Value, finish_reason: Option<&str>) -> Bytes {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
        sse(
            &json!({"id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": CREATED, "model": self.model, "choices": [choice]}),
        )
    }
}

/// An embedding per input, made of the text's own bytes.
pub(super) fn embeddings(request: &Value) -> Value {
    let inputs: Vec<String> = match &request["input"] {
        Value::Array(items) => items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect(),
        one => vec![one.as_str().map_or_else(|| one.to_string(), str::to_owned)],
    };
    let dimensions =
        request["dimensions"].as_u64().and_then(|asked| usize::try_from(asked).ok()).unwrap_or(DIMENSIONS).clamp(1, 4096);
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, text)| json!({"object": "embedding", "index": index, "embedding": embedding(text, dimensions)}))
        .collect();
    let tokens: u64 = inputs.iter().map(|text| words(text).max(1)).sum();
    json!({"object": "list", "data": data, "model": request["model"], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
}

fn embedding(text: &str, dimensions: usize) -> Vec<f64> {
    let mut sums = vec![0_u32; dimensions];
    for (at, byte) in text.bytes().enumerate() {
        sums[at % dimensions] += u32::from(byte);
    }
    sums.into_iter().map(|sum| f64::from(sum % 2000) / 1000.0 - 1.0).collect()
}

fn messages(request: &Value) -> impl Iterator<Item = &Value> {
    request["messages"].as_array().into_iter().flatten()
}

fn content(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

/// A token of the demo provider is a word.
fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

fn limited(text: &str, request: &Value) -> String {
    let limit = request["max_completion_tokens"].as_u64().or_else(|| request["max_tokens"].as_u64()).unwrap_or(u64::MAX);
    text.split_inclusive(' ').take(usize::try_from(limit).unwrap_or(usize::MAX)).collect()
}

/// Calls the function that is asked for, else the first one, unless told not to.
fn calls(request: &Value) -> Vec<(String, String)> {
    let asked = request.pointer("/tool_choice/function/name").and_then(Value::as_str);
    let tools = request["tools"].as_array().into_iter().flatten().filter_map(|tool| tool.get("function"));
    let mut wanted = tools.filter(|function| asked.is_none_or(|name| function["name"] == name));
    match (request["tool_choice"].as_str(), wanted.next()) {
        (Some("none"), _) | (_, None) => Vec::new(),
        (_, Some(function)) => {
            vec![(function["name"].as_str().unwrap_or_default().to_owned(), example(&function["parameters"]).to_string())]
        }
    }
}

fn call(index: usize, name: &str, arguments: &str) -> Value {
    json!({"id": format!("call_demo_{index}"), "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// The plainest value that fits a JSON Schema.
fn example(schema: &Value) -> Value {
    if let Some(one) = schema.get("const").or_else(|| schema.pointer("/enum/0")) {
        return one.clone();
    }
    if let Some(first) = schema.pointer("/anyOf/0") {
        return example(first);
    }
    let kind = schema["type"].as_str().or_else(|| schema.pointer("/type/0").and_then(Value::as_str));
    match kind {
        Some("string") => json!("demo"),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        Some("boolean") => json!(true),
        Some("array") => json!([example(&schema["items"])]),
        Some("null") => Value::Null,
        _ => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            Value::Object(properties.map(|(name, property)| (name.clone(), example(property))).collect())
        }
    }
}

fn sse(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}
