//! Requests in Cohere's words.
//! It must not know addresses or answers.

use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::chat::{Chat, Content, Message, Part, ResponseFormat, ToolCall, ToolChoice};
use crate::dataurl::{DataUrl, is_remote};
use crate::embeddings::Embeddings;
use crate::error::Refusal;
use crate::leftover;
use crate::unsaid::Unsaid;

/// Fields of OpenAI's that `/v2/chat` can say.
const SAID: [&str; 13] = [
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "reasoning_effort",
    "max_tokens",
    "stop",
    "logprobs",
    "response_format",
    "tools",
    "tool_choice",
];

/// Cohere's own fields, which clients that know it send beside OpenAI's.
const OWN: [&str; 5] = ["documents", "citation_options", "safety_mode", "thinking", "priority"];

/// The body of `/v2/chat`, and what it leaves out.
pub(super) fn chat(call: &Call<'_>, kind: &'static str) -> Result<(Value, Vec<&'static str>), Refusal> {
    let chat = Chat::parse(call.request)?;
    let mut unsaid = Unsaid::new(kind, call.account.unsupported);
    let messages = chat.messages.iter().map(|message| message_value(message, kind)).collect::<Result<Vec<_>, _>>()?;
    let mut body = Map::new();
    body.insert("model".to_owned(), Value::from(call.model));
    body.insert("messages".to_owned(), Value::Array(messages));
    body.insert("stream".to_owned(), Value::Bool(call.request.stream));
    sampling(&chat, &mut body, &mut unsaid)?;
    tools(&chat, kind, &mut body, &mut unsaid)?;
    match &chat.response_format {
        None | Some(ResponseFormat::Text) => {}
        Some(ResponseFormat::JsonObject) => {
            body.insert("response_format".to_owned(), json!({"type": "json_object"}));
        }
        Some(ResponseFormat::JsonSchema { json_schema }) => {
            let form = json!({"type": "json_object", "json_schema": json_schema.schema});
            body.insert("response_format".to_owned(), form);
        }
    }
    if let Some(effort) = chat.reasoning_effort.as_deref()
        && let Some(thinking) = thinking(call.model, effort, &mut unsaid)?
    {
        body.insert("thinking".to_owned(), thinking);
    }
    for name in OWN {
        if let Some(value) = chat.other.get(name) {
            body.insert(name.to_owned(), value.clone());
        }
    }
    let said: Vec<&str> = SAID.into_iter().chain(OWN).collect();
    leftover::leave_out(&mut unsaid, &chat, &said)?;
    Ok((Value::Object(body), unsaid.dropped()))
}

fn sampling(chat: &Chat, body: &mut Map<String, Value>, unsaid: &mut Unsaid) -> Result<(), Refusal> {
    // OpenAI's penalties reach from -2 to 2, Cohere's from 0 to 1.
    let fits = |penalty: &f64| (0.0..=1.0).contains(penalty);
    unsaid.hint("presence_penalty", chat.presence_penalty.is_some_and(|penalty| !fits(&penalty)))?;
    unsaid.hint("frequency_penalty", chat.frequency_penalty.is_some_and(|penalty| !fits(&penalty)))?;
    let seed = chat.seed.and_then(|seed| u64::try_from(seed).ok());
    unsaid.hint("seed", chat.seed.is_some() && seed.is_none())?;
    // Cohere tells how likely its own words were, and no others.
    let wants_likely = chat.logprobs == Some(true);
    unsaid.meaning("top_logprobs", wants_likely && chat.top_logprobs.is_some_and(|count| count > 0))?;
    let stop = chat.stop.as_ref().map(|stop| Value::from(stop.strings())).filter(|stop| *stop != json!([]));
    let fields = [
        ("temperature", chat.temperature.map(Value::from)),
        // Cohere's `p` ends at 0.99, which stands for OpenAI's 1: all tokens.
        ("p", chat.top_p.map(|p| Value::from(p.clamp(0.01, 0.99)))),
        ("k", chat.other.get("top_k").filter(|value| value.is_number()).cloned()),
        ("max_tokens", chat.limit().map(Value::from)),
        ("stop_sequences", stop),
        ("seed", seed.map(Value::from)),
        ("logprobs", wants_likely.then_some(Value::Bool(true))),
        ("presence_penalty", chat.presence_penalty.filter(fits).map(Value::from)),
        ("frequency_penalty", chat.frequency_penalty.filter(fits).map(Value::from)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    }
    Ok(())
}

/// Models that came before thinking, and refuse the field.
const WITHOUT_THINKING: [&str; 6] =
    ["command-r", "command-light", "command-nightly", "command-a-03", "command-a-vision", "command-a-translate"];

/// Whether to think, and within how many tokens: Cohere publishes no table, so the budgets are those
/// that Google gives the same words.
fn thinking(model: &str, effort: &str, unsaid: &mut Unsaid) -> Result<Option<Value>, Refusal> {
    let cannot = WITHOUT_THINKING.iter().any(|prefix| model.starts_with(prefix)) || model.contains("aya");
    unsaid.hint("reasoning_effort", cannot && effort != "none")?;
    if cannot {
        return Ok(None);
    }
    Ok(Some(match effort {
        "none" => json!({"type": "disabled"}),
        "minimal" | "low" => json!({"type": "enabled", "token_budget": 1024}),
        "medium" => json!({"type": "enabled", "token_budget": 8192}),
        _ => json!({"type": "enabled"}),
    }))
}

fn message_value(message: &Message, kind: &str) -> Result<Value, Refusal> {
    let content = message.content.as_ref();
    match message.role.as_str() {
        "system" | "developer" => Ok(json!({"role": "system", "content": content.map(Content::text).unwrap_or_default()})),
        "user" => {
            let parts = content.iter().flat_map(|content| content.parts());
            let parts = parts.map(|part| part_value(&part, kind)).collect::<Result<Vec<_>, _>>()?;
            match content {
                Some(Content::Text(text)) => Ok(json!({"role": "user", "content": text})),
                _ => Ok(json!({"role": "user", "content": parts})),
            }
        }
        "assistant" => Ok(assistant(message)),
        "tool" | "function" => {
            let id = message.tool_call_id.as_deref().unwrap_or_default();
            Ok(json!({"role": "tool", "tool_call_id": id, "content": content.map(Content::text).unwrap_or_default()}))
        }
        other => Err(Refusal::field("messages", "invalid_value", format!("unknown role `{other}`"))),
    }
}

/// What was thought before a call was planned goes back as the plan.
fn assistant(message: &Message) -> Value {
    let calls = message.tool_calls.as_deref().unwrap_or_default();
    let text = message.content.as_ref().map(Content::text).unwrap_or_default();
    let thought = message.other.get("reasoning_content").and_then(Value::as_str).filter(|text| !text.is_empty());
    let mut said = json!({"role": "assistant"});
    if !text.is_empty() || calls.is_empty() {
        said["content"] = Value::from(text);
    }
    if !calls.is_empty() {
        if let Some(plan) = thought {
            said["tool_plan"] = Value::from(plan);
        }
        said["tool_calls"] = calls.iter().map(call_value).collect();
    }
    said
}

fn call_value(call: &ToolCall) -> Value {
    let arguments = if call.function.arguments.trim().is_empty() { "{}" } else { &call.function.arguments };
    json!({"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}})
}

fn part_value(part: &Part, kind: &str) -> Result<Value, Refusal> {
    let refuse = |what: &str| Err(Refusal::field("messages", "unsupported_value", format!("{what} {kind}")));
    match part {
        Part::Text { text, .. } | Part::Refusal { refusal: text } => Ok(json!({"type": "text", "text": text})),
        Part::ImageUrl { image_url, .. } => {
            let url = image_url.url();
            if DataUrl::parse(url).is_none() && !is_remote(url) {
                return refuse("an image must be a base64 `data:` URL or an http(s) address for");
            }
            Ok(json!({"type": "image_url", "image_url": {"url": url}}))
        }
        Part::InputAudio { .. } => refuse("sound is not supported by"),
        Part::File { .. } => refuse("files are not supported by"),
    }
}

/// Cohere can demand a call or forbid one, but not name a function: of those that may be called, only
/// the ones that the choice allows are shown.
fn tools(chat: &Chat, kind: &str, body: &mut Map<String, Value>, unsaid: &mut Unsaid) -> Result<(), Refusal> {
    let (only, choice): (Option<&[String]>, Option<&str>) = match &chat.tool_choice {
        None | Some(ToolChoice::Auto) => (None, None),
        Some(ToolChoice::None) => (None, Some("NONE")),
        Some(ToolChoice::Required) => (None, Some("REQUIRED")),
        Some(ToolChoice::Function(name)) => (Some(std::slice::from_ref(name)), Some("REQUIRED")),
        Some(ToolChoice::Allowed { required, names }) => (Some(names), required.then_some("REQUIRED")),
    };
    let mut shown = Vec::new();
    let mut strict = 0;
    for tool in chat.tools.as_deref().unwrap_or_default() {
        let Some(function) = &tool.function else {
            let message = format!("tools of type `{}` are not supported by {kind}", tool.kind);
            return Err(Refusal::field("tools", "unsupported_value", message));
        };
        if only.is_some_and(|names| !names.contains(&function.name)) {
            continue;
        }
        strict += usize::from(function.strict == Some(true));
        let parameters = function.parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        let mut said = json!({"name": function.name, "parameters": parameters});
        if let Some(description) = &function.description {
            said["description"] = Value::from(description.as_str());
        }
        shown.push(json!({"type": "function", "function": said}));
    }
    if shown.is_empty() {
        return Ok(());
    }
    // Cohere is strict about all tools or about none.
    if strict == shown.len() {
        body.insert("strict_tools".to_owned(), Value::Bool(true));
    } else {
        unsaid.hint("tools.function.strict", strict > 0)?;
    }
    body.insert("tools".to_owned(), Value::Array(shown));
    if let Some(choice) = choice {
        body.insert("tool_choice".to_owned(), Value::from(choice));
    }
    Ok(())
}

/// The body of `/v2/embed`, and what it leaves out. Cohere must know what the vectors are for; OpenAI
/// has no word for it, so texts are taken for documents unless the client says `input_type`.
pub(crate) fn embed(call: &Call<'_>, kind: &'static str) -> Result<(Value, Vec<&'static str>), Refusal> {
    let request = Embeddings::parse(call)?;
    let mut unsaid = Unsaid::new(kind, call.account.unsupported);
    let purpose = request.other.get("input_type").cloned().unwrap_or_else(|| Value::from("search_document"));
    let mut body =
        json!({"model": call.model, "texts": request.texts(kind)?, "input_type": purpose, "embedding_types": ["float"]});
    if let Some(dimensions) = request.dimensions {
        body["output_dimension"] = Value::from(dimensions);
    }
    if let Some(truncate) = request.other.get("truncate") {
        body["truncate"] = truncate.clone();
    }
    request.leave_out(&mut unsaid, &["dimensions", "input_type", "truncate"])?;
    Ok((body, unsaid.dropped()))
}
