//! The demo provider's answers in the words of the APIs beside chat completions: completions, responses and
//! messages. A request becomes a chat's, the answer to that is said in its own words.
//! It must not know what is answered.

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{Answer, CREATED};

/// An API beside chat completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Completions,
    Responses,
    Messages,
}

impl Api {
    /// The request as a chat would ask it.
    pub(super) fn as_chat(self, request: &Value) -> Value {
        let (limit, turns) = match self {
            Self::Completions => ("max_tokens", &request["prompt"]),
            Self::Responses => ("max_output_tokens", &request["input"]),
            Self::Messages => ("max_tokens", &request["messages"]),
        };
        let messages = match turns {
            Value::Array(turns) if self != Self::Completions => turns.iter().map(message).collect(),
            one => vec![json!({"role": "user", "content": one})],
        };
        let tools = request["tools"].as_array().into_iter().flatten().map(|tool| {
            let parameters = tool.get("parameters").or_else(|| tool.get("input_schema"));
            json!({"type": "function", "function": {"name": tool["name"], "parameters": parameters}})
        });
        let mut chat = json!({"model": request["model"], "messages": messages, "max_tokens": request[limit]});
        chat["tools"] = tools.collect();
        if let Some(schema) = request.pointer("/text/format/schema") {
            chat["response_format"] = json!({"type": "json_schema", "json_schema": {"schema": schema}});
        }
        chat["stream_options"] = request["stream_options"].clone();
        chat
    }

    /// The answer as one JSON object.
    pub(super) fn whole(self, answer: &Answer) -> Value {
        let mut body = match self {
            Self::Completions => completion(answer, &answer.text, Some("stop")),
            Self::Responses => response(answer, "completed"),
            Self::Messages => message_of(answer, blocks(answer), Some(stop_reason(answer))),
        };
        if let Some(usage) = self.usage(answer) {
            body["usage"] = usage;
        }
        body
    }

    /// The answer as the events of a stream.
    pub(super) fn events(self, answer: &Answer) -> Vec<Bytes> {
        match self {
            Self::Completions => self.completion_events(answer),
            Self::Responses => self.response_events(answer),
            Self::Messages => self.message_events(answer),
        }
    }

    fn usage(self, answer: &Answer) -> Option<Value> {
        let usage = answer.usage.as_ref()?;
        let (input, output) = (&usage["prompt_tokens"], &usage["completion_tokens"]);
        Some(match self {
            Self::Completions => usage.clone(),
            Self::Responses => {
                json!({"input_tokens": input, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": usage["total_tokens"]})
            }
            Self::Messages => json!({"input_tokens": input, "output_tokens": output}),
        })
    }

    fn completion_events(self, answer: &Answer) -> Vec<Bytes> {
        let words = answer.text.split_inclusive(' ').map(|word| completion(answer, word, None));
        let mut events: Vec<Value> = words.chain([completion(answer, "", Some("stop"))]).collect();
        if let (Some(usage), true) = (self.usage(answer), answer.asks_usage) {
            let mut bill = completion(answer, "", None);
            (bill["choices"], bill["usage"]) = (json!([]), usage);
            events.push(bill);
        }
        let done = Bytes::from_static(b"data: [DONE]\n\n");
        events.iter().map(|event| Bytes::from(format!("data: {event}\n\n"))).chain([done]).collect()
    }

    fn response_events(self, answer: &Answer) -> Vec<Bytes> {
        let mut begun = response(answer, "in_progress");
        begun["output"] = json!([]);
        let mut events = vec![json!({"type": "response.created", "response": begun})];
        for (index, item) in items(answer).into_iter().enumerate() {
            let (id, mut empty) = (item["id"].clone(), item.clone());
            let at = |kind: &str, more: Value| {
                let mut event = json!({"type": kind, "item_id": id, "output_index": index});
                more.as_object().into_iter().flatten().for_each(|(name, value)| event[name] = value.clone());
                event
            };
            if item["type"] == "message" {
                empty["content"] = json!([]);
                events.push(json!({"type": "response.output_item.added", "output_index": index, "item": empty}));
                let part = json!({"type": "output_text", "text": "", "annotations": []});
                events.push(at("response.content_part.added", json!({"content_index": 0, "part": part})));
                let delta = |word| at("response.output_text.delta", json!({"content_index": 0, "delta": word, "logprobs": []}));
                events.extend(answer.text.split_inclusive(' ').map(delta));
                events.push(at("response.output_text.done", json!({"content_index": 0, "text": answer.text, "logprobs": []})));
            } else {
                empty["arguments"] = json!("");
                events.push(json!({"type": "response.output_item.added", "output_index": index, "item": empty}));
                events.push(at("response.function_call_arguments.delta", json!({"delta": item["arguments"]})));
                events.push(at("response.function_call_arguments.done", json!({"arguments": item["arguments"]})));
            }
            events.push(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
        }
        events.push(json!({"type": "response.completed", "response": self.whole(answer)}));
        for (number, event) in events.iter_mut().enumerate() {
            event["sequence_number"] = json!(number);
        }
        events.iter().map(named).collect()
    }

    fn message_events(self, answer: &Answer) -> Vec<Bytes> {
        let mut opening = message_of(answer, json!([]), None);
        if let Some(usage) = self.usage(answer) {
            opening["usage"] = json!({"input_tokens": usage["input_tokens"], "output_tokens": 1});
        }
        let mut events = vec![json!({"type": "message_start", "message": opening})];
        for (index, block) in blocks(answer).as_array().into_iter().flatten().enumerate() {
            let is_text = block["type"] == "text";
            let mut empty = block.clone();
            empty[if is_text { "text" } else { "input" }] = if is_text { json!("") } else { json!({}) };
            events.push(json!({"type": "content_block_start", "index": index, "content_block": empty}));
            let deltas: Vec<Value> = if is_text {
                answer.text.split_inclusive(' ').map(|word| json!({"type": "text_delta", "text": word})).collect()
            } else {
                vec![json!({"type": "input_json_delta", "partial_json": block["input"].to_string()})]
            };
            let delta = |delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
            events.extend(deltas.into_iter().map(delta));
            events.push(json!({"type": "content_block_stop", "index": index}));
        }
        let mut last = json!({"type": "message_delta", "delta": {"stop_reason": stop_reason(answer), "stop_sequence": null}});
        if let Some(usage) = self.usage(answer) {
            last["usage"] = usage;
        }
        events.extend([last, json!({"type": "message_stop"})]);
        events.iter().map(named).collect()
    }
}

/// A turn of a conversation as a chat has it: the result of a tool is a message of its own there.
fn message(turn: &Value) -> Value {
    let parts = turn["content"].as_array();
    let is_result = |part: &Value| part["type"] == "tool_result";
    if turn["type"] == "function_call_output" || parts.is_some_and(|parts| parts.iter().any(is_result)) {
        return json!({"role": "tool", "content": turn["output"]});
    }
    json!({"role": turn["role"], "content": turn["content"]})
}

fn completion(answer: &Answer, text: &str, finish: Option<&str>) -> Value {
    let choice = json!({"text": text, "index": 0, "logprobs": null, "finish_reason": finish});
    json!({"id": "cmpl-demo", "object": "text_completion", "created": CREATED, "model": answer.model, "choices": [choice]})
}

fn response(answer: &Answer, status: &str) -> Value {
    json!({"id": "resp_demo", "object": "response", "created_at": CREATED, "status": status, "model": answer.model, "output": items(answer),
        "error": null, "incomplete_details": null, "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "usage": null})
}

/// What a response is made of.
fn items(answer: &Answer) -> Vec<Value> {
    if answer.calls.is_empty() {
        let part = json!({"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []});
        return vec![json!({"id": "msg_demo", "type": "message", "role": "assistant", "status": "completed", "content": [part]})];
    }
    let call = |(index, (name, arguments)): (usize, &(String, String))| {
        json!({"id": format!("fc_demo_{index}"), "type": "function_call", "call_id": format!("call_demo_{index}"), "name": name,
            "arguments": arguments, "status": "completed"})
    };
    answer.calls.iter().enumerate().map(call).collect()
}

fn message_of(answer: &Answer, content: Value, stop_reason: Option<&str>) -> Value {
    json!({"id": "msg_demo", "type": "message", "role": "assistant", "model": answer.model, "content": content,
        "stop_reason": stop_reason, "stop_sequence": null})
}

/// What a message is made of.
fn blocks(answer: &Answer) -> Value {
    if answer.calls.is_empty() {
        return json!([{"type": "text", "text": answer.text}]);
    }
    let call = |(index, (name, arguments)): (usize, &(String, String))| {
        let input: Value = serde_json::from_str(arguments).unwrap_or_default();
        json!({"type": "tool_use", "id": format!("toolu_demo_{index}"), "name": name, "input": input})
    };
    answer.calls.iter().enumerate().map(call).collect()
}

fn stop_reason(answer: &Answer) -> &'static str {
    if answer.calls.is_empty() { "end_turn" } else { "tool_use" }
}

/// One event under its own name.
fn named(event: &Value) -> Bytes {
    let name = event["type"].as_str().unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {event}\n\n"))
}
