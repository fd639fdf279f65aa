//! A conversation as Anthropic and Bedrock have it told: system text apart, turns of user and assistant
//! that alternate, tool results first in their turn, thoughts kept, cache marks where the client put them.
//! It must not know how a wire words what is said: that is its [`Words`].

use serde_json::{Map, Value};

use crate::anthropic::thinking;
use crate::chat::{Chat, Content, Message, Part};
use crate::error::Refusal;
use crate::toolid::tool_id;
use crate::turns::{Side, Turns};

/// How one wire words what is said.
pub(crate) trait Words {
    /// The wire's name, for refusals.
    const KIND: &'static str;
    /// The longest id of a call.
    const MAX_TOOL_ID: usize;

    /// A block of text.
    fn text(text: &str) -> Value;
    /// Marks what stands last in `blocks` as the end of what is to be cached, unless it is so marked.
    fn mark(blocks: &mut Vec<Value>, mark: &Value);
    /// A thought, which comes as Anthropic's block.
    fn thought(block: Value) -> Value;
    /// A call of a tool.
    fn call(id: &str, name: &str, input: Map<String, Value>) -> Value;
    /// What a tool answered.
    fn result(id: &str, said: Said<'_>, is_error: bool) -> Value;
    /// A picture, a sound or a document.
    ///
    /// # Errors
    /// A [`Refusal`] for what has no form here.
    fn file(&mut self, part: &Part) -> Result<Value, Refusal>;
}

/// What a tool answered.
#[derive(Debug)]
pub(crate) enum Said<'a> {
    /// Nothing.
    Nothing,
    /// Plain text.
    Text(&'a str),
    /// Blocks in the wire's words.
    Blocks(Vec<Value>),
}

/// System text and turns, ready for the body.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    /// `system`.
    pub(crate) system: Vec<Value>,
    /// `messages`.
    pub(crate) turns: Vec<Value>,
}

/// A fault in the messages.
pub(crate) fn bad(message: impl Into<String>) -> Refusal {
    Refusal::field("messages", "invalid_value", message)
}

/// Says `chat`'s messages.
///
/// # Errors
/// A [`Refusal`] for what has no form in these words, and for unknown roles.
pub(crate) fn say<W: Words>(chat: &Chat, words: &mut W) -> Result<Conversation, Refusal> {
    let mut system = Vec::new();
    let mut turns = Turns::default();
    for message in &chat.messages {
        match message.role.as_str() {
            "system" | "developer" => system.extend(marked::<W>(system_blocks::<W>(message), message)),
            "user" => turns.say(Side::User, marked::<W>(blocks(message.content.as_ref(), words)?, message)),
            "assistant" => turns.say(Side::Assistant, marked::<W>(assistant_blocks::<W>(message)?, message)),
            "tool" => turns.result(marked::<W>(vec![tool_result(message, words)?], message)),
            other => return Err(bad(format!("the role `{other}` is not supported by {}", W::KIND))),
        }
    }
    Ok(Conversation { system, turns: turns.finish(W::text) })
}

/// The cache mark of a whole message goes on its last block.
fn marked<W: Words>(mut blocks: Vec<Value>, message: &Message) -> Vec<Value> {
    if let Some(mark) = message.other.get("cache_control").filter(|mark| mark.is_object() && !blocks.is_empty()) {
        W::mark(&mut blocks, mark);
    }
    blocks
}

/// Adds text; text without a visible character is refused by these wires and says nothing.
fn add_text<W: Words>(blocks: &mut Vec<Value>, text: &str, mark: Option<&Value>) {
    if text.trim().is_empty() {
        return;
    }
    blocks.push(W::text(text));
    if let Some(mark) = mark {
        W::mark(blocks, mark);
    }
}

fn system_blocks<W: Words>(message: &Message) -> Vec<Value> {
    let mut blocks = Vec::new();
    for part in message.content.as_ref().map(Content::parts).unwrap_or_default() {
        if let Part::Text { text, .. } = &part {
            add_text::<W>(&mut blocks, text, part.cache_mark());
        }
    }
    blocks
}

fn assistant_blocks<W: Words>(message: &Message) -> Result<Vec<Value>, Refusal> {
    let mut blocks: Vec<Value> = thinking::kept(message).into_iter().map(W::thought).collect();
    for part in message.content.as_ref().map(Content::parts).unwrap_or_default() {
        let text = part.text().ok_or_else(|| bad("an assistant message can hold only text and refusals"))?;
        add_text::<W>(&mut blocks, text, part.cache_mark());
    }
    if let Some(refusal) = &message.refusal {
        add_text::<W>(&mut blocks, refusal, None);
    }
    for call in message.tool_calls.iter().flatten() {
        blocks.push(W::call(&tool_id(&call.id, W::MAX_TOOL_ID), &call.function.name, call.function.object()?));
    }
    Ok(blocks)
}

fn blocks<W: Words>(content: Option<&Content>, words: &mut W) -> Result<Vec<Value>, Refusal> {
    let mut blocks = Vec::new();
    for part in content.map(Content::parts).unwrap_or_default() {
        if let Some(text) = part.text() {
            add_text::<W>(&mut blocks, text, part.cache_mark());
            continue;
        }
        blocks.push(words.file(&part)?);
        if let Some(mark) = part.cache_mark() {
            W::mark(&mut blocks, mark);
        }
    }
    Ok(blocks)
}

fn tool_result<W: Words>(message: &Message, words: &mut W) -> Result<Value, Refusal> {
    let id = message.tool_call_id.as_deref().ok_or_else(|| bad("a tool message needs a `tool_call_id`"))?;
    let said = match &message.content {
        None => Said::Nothing,
        Some(Content::Text(text)) => Said::Text(text),
        Some(content @ Content::Parts(_)) => Said::Blocks(blocks(Some(content), words)?),
    };
    let is_error = message.other.get("is_error") == Some(&Value::Bool(true));
    Ok(W::result(&tool_id(id, W::MAX_TOOL_ID), said, is_error))
}
