//! Requests in Ollama's words.
//! It must not know addresses or answers.

use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::chat::{Chat, Content, Message, Part, ResponseFormat, ToolChoice};
use crate::dataurl::DataUrl;
use crate::embeddings::Embeddings;
use crate::error::Refusal;
use crate::leftover;
use crate::unsaid::Unsaid;

/// Fields of OpenAI's that `/api/chat` can say.
const SAID: [&str; 15] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
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
    "keep_alive",
];

/// The body of `/api/chat`, and what it leaves out.
pub(super) fn chat(call: &Call<'_>, kind: &'static str) -> Result<(Value, Vec<&'static str>), Refusal> {
    let chat = Chat::parse(call.request)?;
    let mut unsaid = Unsaid::new(kind, call.account.unsupported);
    let messages = chat.messages.iter().map(|message| message_value(&chat, message, kind)).collect::<Result<Vec<_>, _>>()?;
    let mut body = json!({"model": call.model, "messages": messages, "stream": call.request.stream});
    let tools = tools(&chat, kind, &mut unsaid)?;
    if !tools.is_empty() {
        body["tools"] = Value::Array(tools);
    }
    let options = options(&chat);
    if !options.is_empty() {
        body["options"] = Value::Object(options);
    }
    match &chat.response_format {
        None | Some(ResponseFormat::Text) => {}
        Some(ResponseFormat::JsonObject) => body["format"] = Value::from("json"),
        Some(ResponseFormat::JsonSchema { json_schema }) => {
            body["format"] = json_schema.schema.clone().unwrap_or_else(|| Value::from("json"));
        }
    }
    if let Some(effort) = chat.reasoning_effort.as_deref() {
        body["think"] = think(call.model, effort, &mut unsaid)?;
    }
    if chat.logprobs == Some(true) {
        body["logprobs"] = Value::Bool(true);
        if let Some(top) = chat.top_logprobs {
            body["top_logprobs"] = Value::from(top);
        }
    }
    if let Some(keep) = chat.other.get("keep_alive") {
        body["keep_alive"] = keep.clone();
    }
    leftover::leave_out(&mut unsaid, &chat, &SAID)?;
    Ok((body, unsaid.dropped()))
}

fn options(chat: &Chat) -> Map<String, Value> {
    let stop = chat.stop.as_ref().map(|stop| Value::from(stop.strings())).filter(|stop| *stop != json!([]));
    let number = |name: &str| chat.other.get(name).filter(|value| value.is_number()).cloned();
    let options = [
        ("temperature", chat.temperature.map(Value::from)),
        ("top_p", chat.top_p.map(Value::from)),
        ("top_k", number("top_k")),
        ("min_p", number("min_p")),
        ("seed", chat.seed.map(Value::from)),
        ("num_predict", chat.limit().map(Value::from)),
        ("presence_penalty", chat.presence_penalty.map(Value::from)),
        ("frequency_penalty", chat.frequency_penalty.map(Value::from)),
        ("stop", stop),
    ];
    options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// `gpt-oss` models know levels and always think; all others think or do not.
fn think(model: &str, effort: &str, unsaid: &mut Unsaid) -> Result<Value, Refusal> {
    if !model.contains("gpt-oss") {
        return Ok(Value::Bool(effort != "none"));
    }
    unsaid.hint("reasoning_effort", effort == "none")?;
    Ok(Value::from(match effort {
        "none" | "minimal" | "low" => "low",
        "medium" => "medium",
        _ => "high",
    }))
}

fn message_value(chat: &Chat, message: &Message, kind: &str) -> Result<Value, Refusal> {
    let role = match message.role.as_str() {
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        "tool" | "function" => "tool",
        other => return Err(Refusal::field("messages", "invalid_value", format!("unknown role `{other}`"))),
    };
    let content = message.content.as_ref();
    let mut said = json!({"role": role, "content": content.map(Content::text).unwrap_or_default()});
    let images = content.iter().flat_map(|content| content.parts()).filter(|part| part.text().is_none());
    let images = images.map(|part| image(&part, kind)).collect::<Result<Vec<_>, _>>()?;
    if !images.is_empty() {
        said["images"] = Value::from(images);
    }
    if let Some(thinking) = message.other.get("reasoning_content").filter(|text| text.is_string() && role == "assistant") {
        said["thinking"] = thinking.clone();
    }
    let calls = message.tool_calls.as_deref().unwrap_or_default();
    if !calls.is_empty() {
        let call = |call: &crate::chat::ToolCall| -> Result<Value, Refusal> {
            Ok(json!({"id": call.id, "function": {"name": call.function.name, "arguments": call.function.object()?}}))
        };
        said["tool_calls"] = calls.iter().map(call).collect::<Result<Vec<_>, _>>()?.into();
    }
    if role == "tool" {
        let id = message.tool_call_id.as_deref().unwrap_or_default();
        if let Some(name) = chat.function_of_call(id).or(message.name.as_deref()) {
            said["tool_name"] = Value::from(name);
        }
        said["tool_call_id"] = Value::from(id);
    }
    Ok(said)
}

/// Ollama takes pictures only, and only their bytes; it fetches nothing, and neither does the gateway.
fn image(part: &Part, kind: &str) -> Result<String, Refusal> {
    let refuse = |what: &str| Err(Refusal::field("messages", "unsupported_value", format!("{what} {kind}")));
    match part {
        Part::ImageUrl { image_url, .. } => match DataUrl::parse(image_url.url()) {
            Some(file) => Ok(file.data.to_owned()),
            None => refuse("an image must be a base64 `data:` URL for"),
        },
        Part::InputAudio { .. } => refuse("sound is not supported by"),
        Part::File { .. } => refuse("files are not supported by"),
        Part::Text { .. } | Part::Refusal { .. } => Ok(String::new()),
    }
}

/// The tools the model may see. Ollama has no word for a choice among them: what must not be called
/// is not shown, and that something must be called cannot be said.
fn tools(chat: &Chat, kind: &str, unsaid: &mut Unsaid) -> Result<Vec<Value>, Refusal> {
    let tools = chat.tools.as_deref().unwrap_or_default();
    let forced = matches!(
        chat.tool_choice,
        Some(ToolChoice::Required | ToolChoice::Function(_) | ToolChoice::Allowed { required: true, .. })
    );
    unsaid.meaning("tool_choice", forced && !tools.is_empty())?;
    let is_shown = |name: &str| match &chat.tool_choice {
        Some(ToolChoice::None) => false,
        Some(ToolChoice::Function(only)) => only == name,
        Some(ToolChoice::Allowed { names, .. }) => names.iter().any(|allowed| allowed == name),
        Some(ToolChoice::Auto | ToolChoice::Required) | None => true,
    };
    let mut shown = Vec::with_capacity(tools.len());
    for tool in tools {
        let Some(function) = &tool.function else {
            let message = format!("tools of type `{}` are not supported by {kind}", tool.kind);
            return Err(Refusal::field("tools", "unsupported_value", message));
        };
        if !is_shown(&function.name) {
            continue;
        }
        unsaid.hint("tools.function.strict", function.strict == Some(true))?;
        let parameters = function.parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        shown.push(json!({"type": "function", "function": {
            "name": function.name, "description": function.description.as_deref().unwrap_or_default(), "parameters": parameters,
        }}));
    }
    Ok(shown)
}

/// The body of `/api/embed`, and what it leaves out.
pub(super) fn embed(call: &Call<'_>, kind: &'static str) -> Result<(Value, Vec<&'static str>), Refusal> {
    let request = Embeddings::parse(call)?;
    let mut unsaid = Unsaid::new(kind, call.account.unsupported);
    let mut body = json!({"model": call.model, "input": request.texts(kind)?});
    if let Some(dimensions) = request.dimensions {
        body["dimensions"] = Value::from(dimensions);
    }
    if let Some(keep) = request.other.get("keep_alive") {
        body["keep_alive"] = keep.clone();
    }
    request.leave_out(&mut unsaid, &["dimensions", "keep_alive"])?;
    Ok((body, unsaid.dropped()))
}
