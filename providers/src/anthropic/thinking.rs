//! How hard a Claude model is told to think, on every host, and the thoughts of earlier answers.
//! It must not know where in a request this stands.

use serde_json::{Value, json};

use super::model::{Model, Off, Thinking};
use crate::chat::{Chat, Message};

/// The smallest thinking budget the API takes, in tokens.
const MIN_BUDGET: u64 = 1024;

/// What `reasoning_effort` becomes.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Advice {
    /// The `thinking` object.
    pub(crate) thinking: Option<Value>,
    /// `output_config.effort`.
    pub(crate) effort: Option<&'static str>,
    /// Whether what was asked cannot be had.
    pub(crate) falls_short: bool,
}

/// What to say to `model`; nothing when the client asked for nothing.
pub(crate) fn advice(chat: &Chat, model: Model, is_forced: bool) -> Advice {
    let Some(effort) = chat.reasoning_effort.as_deref() else { return Advice::default() };
    match (effort, model.thinking()) {
        ("none", _) => match model.off() {
            Off::Already => Advice::default(),
            Off::Say(word) => Advice { thinking: Some(json!({"type": word})), ..Advice::default() },
            Off::Impossible => Advice { effort: Some(model.effort(effort)), falls_short: true, ..Advice::default() },
        },
        (_, Thinking::Never) => Advice { falls_short: true, ..Advice::default() },
        (_, Thinking::Adaptive) => {
            let thinking = (!is_forced).then(|| json!({"type": "adaptive", "display": "summarized"}));
            Advice { thinking, effort: Some(model.effort(effort)), falls_short: false }
        }
        (_, Thinking::Budget) => {
            let budget = budget(effort, chat, model, is_forced);
            let thinking = budget.map(|tokens| json!({"type": "enabled", "budget_tokens": tokens}));
            Advice { falls_short: thinking.is_none(), thinking, effort: None }
        }
    }
}

/// Whether this `thinking` object lets the model think.
pub(crate) fn is_on(thinking: &Value) -> bool {
    thinking["type"] != "disabled" && thinking["type"] != "between_tools"
}

/// The thinking budget of an effort, in tokens: at most half of the answer's limit where that is enough,
/// so that words are left for the answer. `None` where the API would
/// refuse to think: a forced call, a limit too small, or a call answered whose thoughts the client
/// did not keep.
fn budget(effort: &str, chat: &Chat, model: Model, is_forced: bool) -> Option<u64> {
    let limit = chat.limit().unwrap_or_else(|| model.max_output());
    if is_forced || limit <= MIN_BUDGET || has_lost_thoughts(chat) {
        return None;
    }
    let wanted = match effort {
        "minimal" | "low" => 1024,
        "medium" => 2048,
        "xhigh" => 8192,
        "max" => 16_384,
        _ => 4096,
    };
    Some(wanted.min((limit / 2).max(MIN_BUDGET)))
}

/// Whether the turn in progress began with a call whose thoughts are missing.
fn has_lost_thoughts(chat: &Chat) -> bool {
    let in_progress = chat.messages.iter().rev().take_while(|message| message.role != "user");
    let first = in_progress.filter(|message| message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())).last();
    first.is_some_and(|message| kept(message).is_empty())
}

/// The thoughts that came with an earlier answer, exactly as they came. One without a signature is not
/// Claude's and would be refused.
pub(crate) fn kept(message: &Message) -> Vec<Value> {
    let is_signed = |block: &&Value| match block["type"].as_str() {
        Some("thinking") => block["signature"].as_str().is_some_and(|signature| !signature.is_empty()),
        Some("redacted_thinking") => block["data"].is_string(),
        _ => false,
    };
    let given = message.other.get("thinking_blocks").and_then(Value::as_array);
    given.into_iter().flatten().filter(is_signed).cloned().collect()
}
