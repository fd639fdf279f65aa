//! Turns of user and assistant that alternate, as Anthropic and Bedrock demand.
//! It must not know what the blocks of a turn say.

use serde_json::{Value, json};

/// Said for the user when a conversation has no turn of the user at its beginning.
const OPENING: &str = "(start of the conversation)";

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The user, and the tools that answer for the user.
    User,
    /// The model.
    Assistant,
}

/// The conversation's turns so far.
#[derive(Debug, Default)]
pub(crate) struct Turns(Vec<Turn>);

#[derive(Debug)]
struct Turn {
    side: Side,
    /// How many blocks at the beginning are results of tools.
    results: usize,
    blocks: Vec<Value>,
}

impl Turns {
    /// `side` says `blocks`; a turn joins the one before it when the same side speaks.
    pub(crate) fn say(&mut self, side: Side, blocks: Vec<Value>) {
        if !blocks.is_empty() {
            self.of(side).blocks.extend(blocks);
        }
    }

    /// A tool answers. All results of a turn stand before all else in it.
    pub(crate) fn result(&mut self, blocks: Vec<Value>) {
        let turn = self.of(Side::User);
        let count = blocks.len();
        turn.blocks.splice(turn.results..turn.results, blocks);
        turn.results += count;
    }

    fn of(&mut self, side: Side) -> &mut Turn {
        if self.0.last().is_none_or(|turn| turn.side != side) {
            self.0.push(Turn { side, results: 0, blocks: Vec::new() });
        }
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// The turns as JSON, begun by the user: one with this text block is put first if need be. A last
    /// turn of the assistant must not end in white space.
    pub(crate) fn finish(mut self, text_block: impl Fn(&str) -> Value) -> Vec<Value> {
        if self.0.first().is_none_or(|turn| turn.side != Side::User) {
            self.0.insert(0, Turn { side: Side::User, results: 0, blocks: vec![text_block(OPENING)] });
        }
        if let Some(turn) = self.0.last_mut().filter(|turn| turn.side == Side::Assistant)
            && let Some(Value::String(text)) = turn.blocks.last_mut().and_then(|block| block.get_mut("text"))
        {
            text.truncate(text.trim_end().len());
        }
        let named = |side| if side == Side::User { "user" } else { "assistant" };
        self.0.into_iter().map(|turn| json!({"role": named(turn.side), "content": turn.blocks})).collect()
    }
}
