//! Answers as Anthropic, Google and Amazon word them: thoughts, words, and what they cost in each one's
//! own counts. Shapes are written from the documentation of those wires.
//! It must not know the gateway, a price or a case.

use serde_json::{Value, json};

use super::bill::Tokens;
use crate::support::provider::{Exchange, Reply, Step};
use crate::support::{aws, words};

/// A wire that is not OpenAI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Anthropic,
    Gemini,
    Bedrock,
}

/// What a model generates: so many words of thought, then so many of the answer.
#[derive(Clone, Copy, Debug)]
pub struct Generated {
    pub thoughts: usize,
    pub words: usize,
}

pub const WIRES: [Wire; 3] = [Wire::Anthropic, Wire::Gemini, Wire::Bedrock];

impl Wire {
    /// The configuration's `kind`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Bedrock => "bedrock",
        }
    }

    /// The bill in this wire's counts. Anthropic and Bedrock leave cached tokens out of the input, Gemini
    /// leaves thoughts out of the output.
    pub fn report(self, tokens: &Tokens) -> Value {
        let plain = tokens.input - tokens.cache_read - tokens.cache_write;
        let (short, long) = (tokens.cache_write - tokens.cache_write_1h, tokens.cache_write_1h);
        match self {
            Self::Anthropic => json!({
                "input_tokens": plain, "cache_read_input_tokens": tokens.cache_read,
                "cache_creation_input_tokens": tokens.cache_write,
                "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
                "output_tokens": tokens.output, "output_tokens_details": {"thinking_tokens": tokens.reasoning},
                "service_tier": "standard",
            }),
            Self::Gemini => json!({
                "promptTokenCount": tokens.input, "cachedContentTokenCount": tokens.cache_read,
                "candidatesTokenCount": tokens.output - tokens.reasoning, "thoughtsTokenCount": tokens.reasoning,
                "totalTokenCount": tokens.total(),
                "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": tokens.audio_in},
                    {"modality": "TEXT", "tokenCount": tokens.input - tokens.audio_in}],
            }),
            Self::Bedrock => json!({
                "inputTokens": plain, "cacheReadInputTokens": tokens.cache_read, "cacheWriteInputTokens": tokens.cache_write,
                "cacheDetails": [{"ttl": "5m", "inputTokens": short}, {"ttl": "1h", "inputTokens": long}],
                "outputTokens": tokens.output, "totalTokens": tokens.total(),
            }),
        }
    }

    /// One event of a stream; it costs so many output tokens.
    pub fn event(self, name: &str, data: &Value, tokens: u64) -> Step {
        let bytes = match self {
            Self::Anthropic => format!("event: {name}\ndata: {data}\n\n").into_bytes(),
            Self::Gemini => format!("data: {data}\r\n\r\n").into_bytes(),
            Self::Bedrock => aws::message("event", name, data),
        };
        Step::Write(bytes.into(), tokens)
    }

    /// The provider fails in the middle of a stream.
    pub fn failure(self) -> Step {
        match self {
            Self::Anthropic => {
                let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
                self.event("error", &error, 0)
            }
            Self::Gemini => {
                let error = json!({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}});
                self.event("", &error, 0)
            }
            Self::Bedrock => {
                let words = json!({"message": "The service is busy."});
                Step::Write(aws::message("exception", "serviceUnavailableException", &words).into(), 0)
            }
        }
    }

    /// All that is generated. `opening` is what is counted at the start, where this wire counts then.
    pub fn beginning(self, said: Generated, opening: Option<&Value>) -> Vec<Step> {
        let thoughts = words(said.thoughts);
        let words = words(said.words);
        match self {
            Self::Anthropic => {
                let mut message = json!({"id": "msg_fake", "type": "message", "role": "assistant", "model": "claude",
                    "content": [], "stop_reason": null, "stop_sequence": null});
                if let Some(usage) = opening {
                    message["usage"] = usage.clone();
                }
                let mut steps = vec![self.event("message_start", &json!({"type": "message_start", "message": message}), 0)];
                if said.thoughts > 0 {
                    steps.extend(self.block(0, "thinking", &thoughts));
                }
                steps.extend(self.block(1, "text", &words));
                steps
            }
            Self::Gemini => {
                let thought = |word: &String| self.part(&json!({"text": word, "thought": true}), opening);
                let text = |word: &String| self.part(&json!({"text": word}), opening);
                thoughts.iter().map(thought).chain(words.iter().map(text)).collect()
            }
            Self::Bedrock => {
                let delta = |index: u64, delta: Value| {
                    self.event("contentBlockDelta", &json!({"contentBlockIndex": index, "delta": delta}), 1)
                };
                let mut steps = vec![self.event("messageStart", &json!({"role": "assistant", "p": "abc"}), 0)];
                steps.extend(thoughts.iter().map(|word| delta(0, json!({"reasoningContent": {"text": word}}))));
                steps.extend(words.iter().map(|word| delta(1, json!({"text": word}))));
                steps
            }
        }
    }

    fn block(self, index: u64, kind: &str, words: &[String]) -> Vec<Step> {
        let start = json!({"type": "content_block_start", "index": index, "content_block": {"type": kind, kind: ""}});
        let mut steps = vec![self.event("content_block_start", &start, 0)];
        for word in words {
            let delta = json!({"type": format!("{kind}_delta"), kind: word});
            let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
            steps.push(self.event("content_block_delta", &delta, 1));
        }
        steps.push(self.event("content_block_stop", &json!({"type": "content_block_stop", "index": index}), 0));
        steps
    }

    fn part(self, part: &Value, usage: Option<&Value>) -> Step {
        let mut chunk = json!({"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}],
            "modelVersion": "gemini", "responseId": "fake"});
        if let Some(usage) = usage {
            chunk["usageMetadata"] = usage.clone();
        }
        self.event("", &chunk, 1)
    }

    /// The end, with the counts where this wire has them; `None` where the provider forgot.
    pub fn ending(self, usage: Option<&Value>) -> Vec<Step> {
        match self {
            Self::Anthropic => {
                let mut delta = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}});
                if let Some(usage) = usage {
                    delta["usage"] = usage.clone();
                }
                let stop = json!({"type": "message_stop"});
                vec![self.event("message_delta", &delta, 0), self.event("message_stop", &stop, 0)]
            }
            Self::Gemini => {
                let mut chunk = json!({"candidates": [{"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP"}],
                    "modelVersion": "gemini", "responseId": "fake"});
                if let Some(usage) = usage {
                    chunk["usageMetadata"] = usage.clone();
                }
                vec![self.event("", &chunk, 0)]
            }
            Self::Bedrock => {
                let mut metadata = json!({"metrics": {"latencyMs": 1}});
                if let Some(usage) = usage {
                    metadata["usage"] = usage.clone();
                }
                let stop = json!({"stopReason": "end_turn"});
                vec![self.event("messageStop", &stop, 0), self.event("metadata", &metadata, 0)]
            }
        }
    }

    /// A streamed answer of these steps.
    pub fn reply(self, steps: Vec<Step>) -> Reply {
        let reply = Reply::stream(steps);
        if self == Self::Bedrock { reply.header("content-type", "application/vnd.amazon.eventstream") } else { reply }
    }

    /// A whole answer.
    pub fn whole(self, said: Generated, usage: &Value) -> Reply {
        let (thoughts, words) = (words(said.thoughts).concat(), words(said.words).concat());
        let body = match self {
            Self::Anthropic => json!({"id": "msg_fake", "type": "message", "role": "assistant", "model": "claude",
                "content": [{"type": "thinking", "thinking": thoughts, "signature": "s"}, {"type": "text", "text": words}],
                "stop_reason": "end_turn", "usage": usage}),
            Self::Gemini => json!({"candidates": [{"content": {"role": "model",
                "parts": [{"text": thoughts, "thought": true}, {"text": words}]}, "finishReason": "STOP", "index": 0}],
                "usageMetadata": usage, "modelVersion": "gemini", "responseId": "fake"}),
            Self::Bedrock => json!({"output": {"message": {"role": "assistant", "content": [
                {"reasoningContent": {"reasoningText": {"text": thoughts, "signature": "s"}}}, {"text": words}]}},
                "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 1}}),
        };
        Reply::json(200, &body)
    }

    /// Whole or streamed, as the request asks; counts come as they do in practice.
    pub fn answer(self, exchange: &Exchange, said: Generated, tokens: &Tokens) -> Reply {
        let usage = self.report(tokens);
        if !asks_stream(exchange) {
            return self.whole(said, &usage);
        }
        let opening = self.report(&Tokens { output: 1, reasoning: 0, ..*tokens });
        let mut steps = self.beginning(said, Some(&opening));
        steps.extend(self.ending(Some(&usage)));
        self.reply(steps)
    }
}

/// Anthropic is asked to stream in the body, the others by the address.
fn asks_stream(exchange: &Exchange) -> bool {
    exchange.json()["stream"] == true || exchange.path.contains("stream")
}
