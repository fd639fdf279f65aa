//! Answers as the providers of OpenAI's wire word them: where usage stands, how a stream ends, which
//! fields differ. Shapes are written from the documentation of those wires.
//! It must not know the gateway, a price or a case.

use bytes::Bytes;
use serde_json::{Value, json};

use super::provider::{Exchange, Gate, Reply, Step};
use super::words;

/// Where a stream's usage stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A chunk of its own without choices after the finish, when asked for.
    OwnChunk,
    /// On the chunk that finishes the last choice, asked for or not.
    LastChoice,
    /// Cumulative on every chunk.
    EveryChunk,
    /// In `x_groq.usage` of the finishing chunk, asked for or not.
    XGroq,
}

/// How one provider words its answers.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// The configuration's `kind`.
    pub kind: &'static str,
    pub placement: Placement,
    /// Whether a complete stream ends with `[DONE]`.
    pub done: bool,
    pub newline: &'static str,
    /// The field of a delta that holds reasoning.
    pub reasoning_field: &'static str,
    /// Whether `completion_tokens` leaves reasoning out.
    pub excludes_reasoning: bool,
}

const PLAIN: Dialect = Dialect {
    kind: "openai",
    placement: Placement::OwnChunk,
    done: true,
    newline: "\n",
    reasoning_field: "reasoning_content",
    excludes_reasoning: false,
};

/// The shapes that are played.
pub const DIALECTS: [Dialect; 10] = [
    PLAIN,
    Dialect { kind: "groq", placement: Placement::XGroq, reasoning_field: "reasoning", ..PLAIN },
    Dialect { kind: "deepseek", placement: Placement::LastChoice, ..PLAIN },
    Dialect { kind: "mistral", placement: Placement::LastChoice, ..PLAIN },
    Dialect { kind: "xai", excludes_reasoning: true, ..PLAIN },
    Dialect { kind: "openrouter", placement: Placement::LastChoice, reasoning_field: "reasoning", ..PLAIN },
    Dialect { kind: "perplexity", placement: Placement::EveryChunk, done: false, newline: "\r\n", ..PLAIN },
    Dialect { kind: "cerebras", done: false, reasoning_field: "reasoning", ..PLAIN },
    Dialect { kind: "together", placement: Placement::LastChoice, ..PLAIN },
    Dialect { kind: "vllm", ..PLAIN },
];

/// OpenAI's own.
pub fn openai() -> Dialect {
    PLAIN
}

/// Something generated: the delta, whose choice it is, how many tokens it costs.
#[derive(Clone, Debug)]
pub struct Piece {
    pub delta: Value,
    pub choice: u64,
    pub tokens: u64,
}

/// One event for each word.
pub fn said(count: usize) -> Vec<Piece> {
    words(count).into_iter().map(|word| piece("content", &word, 1)).collect()
}

/// Several words in each event.
pub fn said_in_groups(count: usize, of: usize) -> Vec<Piece> {
    words(count).chunks(of).map(|group| piece("content", &group.concat(), group.len() as u64)).collect()
}

/// One event for each word, in this field of the delta.
pub fn thought(field: &str, count: usize) -> Vec<Piece> {
    words(count).into_iter().map(|word| piece(field, &word, 1)).collect()
}

fn piece(field: &str, text: &str, tokens: u64) -> Piece {
    Piece { delta: json!({ field: text }), choice: 0, tokens }
}

/// A tool call whose arguments are fragments of this many words in a JSON string.
pub fn called(index: u64, count: usize) -> Vec<Piece> {
    let opening = json!({"tool_calls": [{"index": index, "id": format!("call_{index}"), "type": "function",
        "function": {"name": "look_up", "arguments": ""}}]});
    let fragment = |text: &str, tokens| Piece {
        delta: json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]}),
        choice: 0,
        tokens,
    };
    let mut pieces = vec![Piece { delta: opening, choice: 0, tokens: 0 }, fragment("{\"text\":\"", 3)];
    pieces.extend(words(count).iter().map(|word| fragment(word, 1)));
    pieces.push(fragment("\"}", 1));
    pieces
}

impl Dialect {
    /// One data event.
    pub fn event(&self, data: &str) -> Bytes {
        format!("data: {data}{}{}", self.newline, self.newline).into()
    }

    /// A chunk with this much in it.
    pub fn chunk(&self, model: &str, choices: &Value, usage: Option<&Value>) -> Value {
        let mut chunk = json!({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1_760_000_000, "model": model,
            "choices": choices});
        if let Some(usage) = usage {
            chunk["usage"] = usage.clone();
        }
        chunk
    }

    /// The chunk of one piece.
    pub fn piece(&self, model: &str, piece: &Piece, usage: Option<&Value>) -> Step {
        let choices = json!([{"index": piece.choice, "delta": piece.delta, "finish_reason": null}]);
        Step::Write(self.event(&self.chunk(model, &choices, usage).to_string()), piece.tokens)
    }

    /// The opening chunk: a role and nothing generated.
    pub fn opening(&self, model: &str, usage: Option<&Value>) -> Step {
        let choices = json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]);
        Step::Write(self.event(&self.chunk(model, &choices, usage).to_string()), 0)
    }

    /// Everything before the end: the opening and the pieces.
    pub fn beginning(&self, exchange: &Exchange, pieces: &[Piece], usage: Option<&Value>) -> Vec<Step> {
        let every = match (self.placement, usage) {
            (Placement::EveryChunk, Some(usage)) => Some(usage.clone()),
            (Placement::OwnChunk, Some(_)) if exchange.asks_usage() => Some(Value::Null),
            _ => None,
        };
        let model = exchange.model.as_str();
        let mut steps = vec![self.opening(model, every.as_ref())];
        steps.extend(pieces.iter().map(|piece| self.piece(model, piece, every.as_ref())));
        steps
    }

    /// The finish reasons, the usage where this dialect puts it, and the end.
    pub fn ending(&self, exchange: &Exchange, finish: &str, choices: u64, usage: Option<&Value>) -> Vec<Step> {
        let model = exchange.model.as_str();
        let mut steps = Vec::new();
        for index in 0..choices {
            let last = index + 1 == choices;
            let ended = json!([{"index": index, "delta": {}, "finish_reason": finish}]);
            let here =
                usage.filter(|_| self.placement == Placement::EveryChunk || last && self.placement == Placement::LastChoice);
            let mut chunk = self.chunk(model, &ended, here);
            if let (Placement::XGroq, true, Some(usage)) = (self.placement, last, usage) {
                chunk["x_groq"] = json!({"id": "req_fake", "usage": usage});
            }
            steps.push(Step::Write(self.event(&chunk.to_string()), 0));
        }
        if let (Placement::OwnChunk, true, Some(usage)) = (self.placement, exchange.asks_usage(), usage) {
            steps.push(Step::Write(self.event(&self.chunk(model, &json!([]), Some(usage)).to_string()), 0));
        }
        if self.done {
            steps.push(Step::Write(self.event("[DONE]"), 0));
        }
        steps
    }

    /// A complete stream.
    pub fn stream(&self, exchange: &Exchange, pieces: &[Piece], usage: Option<&Value>) -> Reply {
        let choices = pieces.iter().map(|piece| piece.choice).max().unwrap_or(0) + 1;
        let finish = if pieces.iter().any(|piece| piece.delta.get("tool_calls").is_some()) { "tool_calls" } else { "stop" };
        let mut steps = self.beginning(exchange, pieces, usage);
        steps.extend(self.ending(exchange, finish, choices, usage));
        Reply::stream(steps)
    }

    /// A stream of so many words that ends when the gate opens.
    pub fn held(&self, exchange: &Exchange, count: usize, gate: &Gate) -> Reply {
        let mut steps = self.beginning(exchange, &said(count), None);
        steps.push(Step::Wait(gate.clone()));
        steps.extend(self.ending(exchange, "stop", 1, Some(&usage(17, count as u64))));
        Reply::stream(steps)
    }

    /// This many words, as the request asks for them.
    pub fn answer(&self, exchange: &Exchange, count: usize, usage: &Value) -> Reply {
        if exchange.json()["stream"] == true {
            return self.stream(exchange, &said(count), Some(usage));
        }
        self.whole(exchange, &json!({"role": "assistant", "content": words(count).concat()}), Some(usage))
    }

    /// A whole answer with this text.
    pub fn whole(&self, exchange: &Exchange, message: &Value, usage: Option<&Value>) -> Reply {
        let mut body = json!({"id": "chatcmpl-fake", "object": "chat.completion", "created": 1_760_000_000, "model": exchange.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
        if let Some(usage) = usage {
            body["usage"] = usage.clone();
        }
        Reply::json(200, &body)
    }
}

/// A request whose prompt is this many words of one token each.
pub fn request(model: &str, prompt_words: usize) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": words(prompt_words).concat()}]})
}

/// What OpenAI counts for such a prompt: three tokens open a message, one is its role, three open the answer.
pub fn prompt_tokens(prompt_words: usize) -> u64 {
    prompt_words as u64 + 7
}

/// `usage` with these totals.
pub fn usage(input: u64, output: u64) -> Value {
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}

#[test]
fn the_words_are_one_token_each() {
    let count = bpe_openai::o200k_base().count(words(200).concat().as_str());
    assert_eq!(count, 200);
}
