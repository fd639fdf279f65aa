//! The content blocks of an answer that is told block by block, whole or in parts, as Anthropic's and Bedrock's
//! are: thoughts that end with a signature, and calls of tools, one of which may be the answer itself.
//! It must not know how either wire spells a block.

use serde_json::{Map, json};

use crate::reply::{Piece, say_text};

/// The tool an older model is made to call when the answer must follow a schema: its arguments are the answer.
pub(crate) const ANSWER_TOOL: &str = "choreoai_json_answer";

/// What is told of a thought: the next part of each.
#[derive(Debug, Default)]
pub(crate) struct Thought {
    /// Its text.
    pub(crate) text: String,
    /// What proves it to the provider when it comes back.
    pub(crate) signature: String,
    /// A thought that only the provider can read.
    pub(crate) redacted: String,
}

/// What a block that is being read will become.
#[derive(Debug)]
enum Open {
    Thought(Thought),
    /// A call of the client's tools, by its number.
    Call(usize),
    /// The answer in the arguments of [`ANSWER_TOOL`].
    Answer,
}

/// The blocks so far. Of a block that was not opened here nothing is said: a tool that the provider runs itself.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    calls: usize,
    open: Vec<(u64, Open)>,
    /// Whether a thought without a signature is kept for the client to send back.
    keeps_unsigned: bool,
}

impl Blocks {
    /// For a provider that takes thoughts back without a signature.
    pub(crate) fn keeping_unsigned() -> Self {
        Self { keeps_unsigned: true, ..Self::default() }
    }

    /// Whether one of the client's tools was called.
    pub(crate) fn has_calls(&self) -> bool {
        self.calls > 0
    }

    /// A call begins at `index`.
    pub(crate) fn call(&mut self, index: u64, (id, name): (String, String), say: &mut dyn FnMut(Piece)) {
        if name == ANSWER_TOOL {
            return self.open.push((index, Open::Answer));
        }
        self.open.push((index, Open::Call(self.calls)));
        self.calls += 1;
        say(Piece::ToolStart { id, name, extra: Map::new() });
    }

    /// More arguments of the call at `index`.
    pub(crate) fn arguments(&mut self, index: u64, text: Option<String>, say: &mut dyn FnMut(Piece)) {
        match self.open.iter().find(|(at, _)| *at == index) {
            Some((_, Open::Call(number))) => {
                let index = *number;
                say_text(text, |text| Piece::ToolArguments { index, text }, say);
            }
            Some((_, Open::Answer)) => say_text(text, Piece::Text, say),
            _ => {}
        }
    }

    /// More of the thought at `index`, which it may begin.
    pub(crate) fn thought(&mut self, index: u64, more: Thought, say: &mut dyn FnMut(Piece)) {
        let known = self.open.iter_mut().find_map(|(at, open)| match open {
            Open::Thought(thought) if *at == index => Some(thought),
            _ => None,
        });
        match known {
            Some(thought) => {
                thought.text.push_str(&more.text);
                thought.signature.push_str(&more.signature);
                thought.redacted.push_str(&more.redacted);
                say_text(Some(more.text), Piece::Reasoning, say);
            }
            None => {
                say_text(Some(more.text.clone()), Piece::Reasoning, say);
                self.open.push((index, Open::Thought(more)));
            }
        }
    }

    /// The block at `index` ends: a thought goes to the client in the form in which it must come back.
    pub(crate) fn stop(&mut self, index: u64, say: &mut dyn FnMut(Piece)) {
        while let Some(at) = self.open.iter().position(|(open, _)| *open == index) {
            let (_, Open::Thought(Thought { text, signature, redacted })) = self.open.swap_remove(at) else { continue };
            if !signature.is_empty() || (self.keeps_unsigned && redacted.is_empty()) {
                let thought = json!({"type": "thinking", "thinking": text, "signature": signature});
                say(Piece::Extra("thinking_blocks", json!([thought])));
            }
            if !redacted.is_empty() {
                let thought = json!({"type": "redacted_thinking", "data": redacted});
                say(Piece::Extra("thinking_blocks", json!([thought])));
            }
        }
    }
}
