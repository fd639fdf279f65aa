//! The fields of a chat completion request that not every wire has, and how much each matters: one
//! table, so that a foreign wire only lists what it can say.
//! It must not know any particular wire.

use serde_json::Value;

use crate::chat::{Chat, ResponseFormat};
use crate::error::Refusal;
use crate::unsaid::Unsaid;

/// How much a field matters to who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// The answer is as good without it.
    Hint,
    /// Without it the answer is another one.
    Meaning,
}

/// Leaves out of a request every field of `chat` that was given and is not among those the wire has `said`.
///
/// # Errors
/// A [`Refusal`] that names the first one which the account does not let be left out.
pub(crate) fn leave_out(unsaid: &mut Unsaid, chat: &Chat, said: &[&str]) -> Result<(), Refusal> {
    for (field, given, weight) in fields(chat) {
        let given = given && !said.contains(&field);
        match weight {
            Weight::Hint => unsaid.hint(field, given)?,
            Weight::Meaning => unsaid.meaning(field, given)?,
        }
    }
    unsaid.others(chat, said)
}

/// The fields, whether each asks for anything but the usual, and its weight.
fn fields(chat: &Chat) -> [(&'static str, bool, Weight); 23] {
    let penalty = |value: Option<f64>| value.is_some_and(|value| value != 0.0);
    let bias = chat.logit_bias.as_ref().and_then(Value::as_object).is_some_and(|bias| !bias.is_empty());
    let tools = chat.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let form = !matches!(chat.response_format, None | Some(ResponseFormat::Text));
    let beyond_text = chat.modalities.as_ref().is_some_and(|list| list.iter().any(|modality| modality != "text"));
    let tier = chat.service_tier.as_deref().is_some_and(|tier| !matches!(tier, "auto" | "default"));
    let stops = chat.stop.as_ref().is_some_and(|stop| !stop.strings().is_empty());
    let names = chat.messages.iter().any(|message| message.role != "tool" && message.name.is_some());
    [
        ("messages.name", names, Weight::Hint),
        ("temperature", chat.temperature.is_some(), Weight::Hint),
        ("top_p", chat.top_p.is_some(), Weight::Hint),
        ("seed", chat.seed.is_some(), Weight::Hint),
        ("presence_penalty", penalty(chat.presence_penalty), Weight::Hint),
        ("frequency_penalty", penalty(chat.frequency_penalty), Weight::Hint),
        ("logit_bias", bias, Weight::Hint),
        ("parallel_tool_calls", tools && chat.parallel_tool_calls == Some(false), Weight::Hint),
        ("reasoning_effort", chat.reasoning_effort.is_some(), Weight::Hint),
        ("verbosity", chat.verbosity.is_some(), Weight::Hint),
        ("user", chat.user.is_some(), Weight::Hint),
        ("safety_identifier", chat.safety_identifier.is_some(), Weight::Hint),
        ("service_tier", tier, Weight::Hint),
        ("metadata", chat.metadata.as_ref().is_some_and(|labels| !labels.is_empty()), Weight::Hint),
        ("max_tokens", chat.limit().is_some(), Weight::Meaning),
        ("n", chat.n.is_some_and(|n| n > 1), Weight::Meaning),
        ("stop", stops, Weight::Meaning),
        ("logprobs", chat.logprobs == Some(true), Weight::Meaning),
        ("response_format", form, Weight::Meaning),
        ("tools", tools, Weight::Meaning),
        ("tool_choice", tools && chat.tool_choice.is_some(), Weight::Meaning),
        ("modalities", beyond_text, Weight::Meaning),
        ("audio", beyond_text && chat.audio.is_some(), Weight::Meaning),
    ]
}
