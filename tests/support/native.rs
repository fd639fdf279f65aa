//! Answers of the endpoints that are carried on as they are, in the words of the APIs that they belong to:
//! OpenAI's completions and responses, Anthropic's messages. Written from those APIs' documentation.
//! It must not know the gateway, a price or a case.

use serde_json::{Value, json};

use super::provider::{Exchange, Reply, Step};
use super::words;

/// One of these APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Native {
    Completions,
    Responses,
    Messages,
}

pub const NATIVES: [Native; 3] = [Native::Completions, Native::Responses, Native::Messages];

impl Native {
    pub fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
        }
    }

    /// The kind of provider that it is asked of.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Completions => "vllm",
            Self::Responses => "openai",
            Self::Messages => "anthropic",
        }
    }

    /// A request whose prompt is so many words.
    pub fn request(self, model: &str, prompt_words: usize) -> Value {
        let prompt = words(prompt_words).concat();
        match self {
            Self::Completions => json!({"model": model, "prompt": prompt}),
            Self::Responses => json!({"model": model, "input": prompt}),
            Self::Messages => {
                json!({"model": model, "max_tokens": 4096, "messages": [{"role": "user", "content": prompt}]})
            }
        }
    }

    /// A bill in its words: input, output, cached input and reasoning, all parts of the first two.
    pub fn bill(self, [input, output, cached, reasoning]: [u64; 4]) -> Value {
        match self {
            Self::Completions => {
                json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
                    "prompt_tokens_details": {"cached_tokens": cached}})
            }
            Self::Responses => json!({"input_tokens": input, "input_tokens_details": {"cached_tokens": cached},
                "output_tokens": output, "output_tokens_details": {"reasoning_tokens": reasoning},
                "total_tokens": input + output}),
            Self::Messages => json!({"input_tokens": input - cached, "cache_read_input_tokens": cached,
                "output_tokens": output, "output_tokens_details": {"thinking_tokens": reasoning}}),
        }
    }

    fn event(self, data: &Value, tokens: u64) -> Step {
        let name = data["type"].as_str().map(|name| format!("event: {name}\n")).unwrap_or_default();
        Step::Write(format!("{name}data: {data}\n\n").into(), tokens)
    }

    /// What comes before the first word; `bill` where this API counts the prompt then.
    pub fn opening(self, bill: Option<&Value>) -> Vec<Step> {
        match self {
            Self::Completions => Vec::new(),
            Self::Responses => {
                let response =
                    json!({"id": "resp_fake", "object": "response", "status": "in_progress", "output": [], "usage": null});
                vec![
                    self.event(&json!({"type": "response.created", "sequence_number": 0, "response": response}), 0),
                    self.event(
                        &json!({"type": "response.output_item.added", "sequence_number": 1, "output_index": 0,
                            "item": {"id": "msg_fake", "type": "message", "role": "assistant", "content": []}}),
                        0,
                    ),
                    self.event(
                        &json!({"type": "response.content_part.added", "sequence_number": 2, "item_id": "msg_fake",
                            "output_index": 0, "content_index": 0,
                            "part": {"type": "output_text", "text": "", "annotations": []}}),
                        0,
                    ),
                ]
            }
            Self::Messages => {
                let mut message = json!({"id": "msg_fake", "type": "message", "role": "assistant", "model": "claude",
                    "content": [], "stop_reason": null, "stop_sequence": null});
                if let Some(bill) = bill {
                    message["usage"] = bill.clone();
                }
                let block = json!({"type": "text", "text": ""});
                vec![
                    self.event(&json!({"type": "message_start", "message": message}), 0),
                    self.event(&json!({"type": "content_block_start", "index": 0, "content_block": block}), 0),
                ]
            }
        }
    }

    /// One event for each word.
    pub fn said(self, count: usize) -> Vec<Step> {
        let word = |(n, word): (usize, String)| match self {
            Self::Completions => json!({"id": "cmpl-fake", "object": "text_completion", "created": 1_760_000_000, "model": "m",
                "choices": [{"text": word, "index": 0, "logprobs": null, "finish_reason": null}], "usage": null}),
            Self::Responses => json!({"type": "response.output_text.delta", "sequence_number": n + 3, "item_id": "msg_fake",
                "output_index": 0, "content_index": 0, "delta": word, "logprobs": []}),
            Self::Messages => {
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}})
            }
        };
        words(count).into_iter().enumerate().map(|said| self.event(&word(said), 1)).collect()
    }

    /// The end, with the bill unless the provider forgot it.
    pub fn ending(self, bill: Option<&Value>) -> Vec<Step> {
        let last = match self {
            Self::Completions => {
                let chunk = |choices: Value, usage: Value| {
                    json!({"id": "cmpl-fake", "object": "text_completion",
                    "created": 1_760_000_000, "model": "m", "choices": choices, "usage": usage})
                };
                let stop = json!([{"text": "", "index": 0, "logprobs": null, "finish_reason": "stop"}]);
                let mut steps = vec![self.event(&chunk(stop, Value::Null), 0)];
                steps.extend(bill.map(|bill| self.event(&chunk(json!([]), bill.clone()), 0)));
                steps.push(Step::Write("data: [DONE]\n\n".into(), 0));
                return steps;
            }
            Self::Responses => {
                let response =
                    json!({"id": "resp_fake", "object": "response", "status": "completed", "output": [], "usage": bill});
                vec![json!({"type": "response.completed", "sequence_number": 999, "response": response})]
            }
            Self::Messages => {
                let mut delta = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}});
                if let Some(bill) = bill {
                    delta["usage"] = bill.clone();
                }
                vec![json!({"type": "content_block_stop", "index": 0}), delta, json!({"type": "message_stop"})]
            }
        };
        last.iter().map(|event| self.event(event, 0)).collect()
    }

    /// The provider fails in mid-stream.
    pub fn failure(self) -> Step {
        self.event(
            &match self {
                Self::Completions => json!({"error": {"message": "engine died", "type": "server_error", "code": 500}}),
                Self::Responses => json!({"type": "error", "sequence_number": 7, "code": "server_error", "message": "died"}),
                Self::Messages => json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
            },
            0,
        )
    }

    /// A whole answer of so many words.
    pub fn whole(self, count: usize, bill: Option<&Value>) -> Reply {
        let text = words(count).concat();
        let mut body = match self {
            Self::Completions => json!({"id": "cmpl-fake", "object": "text_completion", "created": 1_760_000_000, "model": "m",
                "choices": [{"text": text, "index": 0, "logprobs": null, "finish_reason": "stop"}]}),
            Self::Responses => json!({"id": "resp_fake", "object": "response", "status": "completed",
                "output": [{"id": "msg_fake", "type": "message", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": text, "annotations": []}]}]}),
            Self::Messages => json!({"id": "msg_fake", "type": "message", "role": "assistant", "model": "claude",
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null}),
        };
        if let Some(bill) = bill {
            body["usage"] = bill.clone();
        }
        Reply::json(200, &body)
    }

    /// Whole or streamed, as the request asks.
    pub fn answer(self, exchange: &Exchange, count: usize, bill: Option<&Value>) -> Reply {
        if exchange.json()["stream"] == true {
            Reply::stream([self.opening(bill), self.said(count), self.ending(bill)].concat())
        } else {
            self.whole(count, bill)
        }
    }
}
