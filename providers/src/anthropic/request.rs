//! A chat completion request as the body of an Anthropic Messages call, for each host that speaks it.
//! It must not know how the body travels.

use serde_json::{Map, Value, json};

use super::model::Model;
use super::thinking;
use super::words::Blocks;
use crate::blocks::ANSWER_TOOL;
use crate::call::Call;
use crate::chat::{Chat, JsonSchema, ResponseFormat, Stop, Tool, ToolChoice};
use crate::conversation;
use crate::error::Refusal;
use crate::leftover;
use crate::unsaid::Unsaid;

/// Where clients name betas of the API.
const BETAS: &str = "anthropic_beta";

/// The beta that a file's id belongs to.
const FILES_BETA: &str = "files-api-2025-04-14";

/// The smallest `top_p` that is taken while the model thinks.
const MIN_TOP_P_THINKING: f64 = 0.95;

/// What older models are told when any JSON object will do; they have no switch for that.
pub(crate) const JSON_OBJECT: &str = "Answer with one JSON object and nothing else: no prose around it and no code fence.";

/// Who serves the model: the same body but for its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// Anthropic's own API.
    Anthropic,
    /// Vertex AI's `rawPredict`: the model stands in the path.
    Vertex,
    /// Bedrock's `InvokeModel`: the model and whether to stream stand in the path, betas in the body.
    Bedrock,
}

impl Host {
    /// What the body names as its version, where the model does not stand in it.
    pub(crate) fn version(self) -> Option<&'static str> {
        match self {
            Self::Anthropic => None,
            Self::Vertex => Some("vertex-2023-10-16"),
            Self::Bedrock => Some("bedrock-2023-05-31"),
        }
    }
}

/// A body and what goes with it.
#[derive(Debug)]
pub(crate) struct Said {
    /// The body's members.
    pub(crate) body: Map<String, Value>,
    /// Names for `anthropic-beta`.
    pub(crate) betas: Vec<String>,
    /// Fields that were left out.
    pub(crate) dropped: Vec<&'static str>,
}

/// Fields of OpenAI's that this body can say, or that are looked at where they are said.
const SAID: [&str; 13] = [
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "reasoning_effort",
    "user",
    "safety_identifier",
    "service_tier",
    "metadata",
    "max_tokens",
    "stop",
    "response_format",
    "tools",
    "tool_choice",
];

/// Anthropic's own fields that clients add to OpenAI's request, passed on as they are.
const NATIVE: [&str; 10] = [
    "thinking",
    "output_config",
    "top_k",
    "cache_control",
    "container",
    "context_management",
    "inference_geo",
    "mcp_servers",
    "speed",
    "fallbacks",
];

/// Says `call` in Anthropic's words.
///
/// # Errors
/// A [`Refusal`] for what the wire cannot say.
pub(crate) fn say(call: &Call<'_>, host: Host) -> Result<Said, Refusal> {
    let chat = Chat::parse(call.request)?;
    let model = Model::named(call.model);
    let mut unsaid = Unsaid::new("anthropic", call.account.unsupported);
    leftover::leave_out(&mut unsaid, &chat, &[&SAID[..], &NATIVE, &[BETAS]].concat())?;
    let mut blocks = Blocks::new(host);
    let mut conversation = conversation::say(&chat, &mut blocks)?;
    let mut body = Map::new();
    match host.version() {
        None => body.insert("model".to_owned(), call.model.into()),
        Some(version) => body.insert("anthropic_version".to_owned(), version.into()),
    };
    let limit = chat.limit().unwrap_or_else(|| model.max_output());
    body.insert("max_tokens".to_owned(), limit.into());
    for name in NATIVE {
        if let Some(value) = chat.other.get(name).filter(|value| !value.is_null()) {
            body.insert(name.to_owned(), value.clone());
        }
    }
    if matches!(chat.response_format, Some(ResponseFormat::JsonObject)) {
        conversation.system.push(json!({"type": "text", "text": JSON_OBJECT}));
    }
    if !conversation.system.is_empty() {
        body.insert("system".to_owned(), conversation.system.into());
    }
    body.insert("messages".to_owned(), conversation.turns.into());
    tools(&chat, model, &mut body, &mut unsaid)?;
    structured(&chat, model, &mut body);
    think(&chat, model, &mut body, &mut unsaid)?;
    sampling(&chat, model, &mut body, &mut unsaid)?;
    account(&chat, &mut body, &mut unsaid)?;
    if call.request.stream && host != Host::Bedrock {
        body.insert("stream".to_owned(), Value::Bool(true));
    }
    let mut betas = asked_betas(&chat)?;
    if blocks.names_files {
        betas.push(FILES_BETA.to_owned());
    }
    Ok(Said { body, betas, dropped: unsaid.dropped() })
}

/// The betas that the client names in `anthropic_beta`; they go into a header.
fn asked_betas(chat: &Chat) -> Result<Vec<String>, Refusal> {
    let is_name = |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let Some(given) = chat.other.get(BETAS).filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
    let names = given.as_array().map(|names| names.iter().map(|name| name.as_str().filter(is_name).map(str::to_owned)).collect());
    let names: Option<Option<Vec<String>>> = names;
    names.flatten().ok_or_else(|| Refusal::field(BETAS, "invalid_value", "`anthropic_beta` must be an array of names of betas"))
}

fn tools(chat: &Chat, model: Model, body: &mut Map<String, Value>, unsaid: &mut Unsaid) -> Result<(), Refusal> {
    let given = chat.tools.as_deref().unwrap_or_default();
    let mut declared = given.iter().map(|tool| declaration(tool, model)).collect::<Result<Vec<_>, _>>()?;
    let mut choice = match &chat.tool_choice {
        _ if given.is_empty() => None,
        None | Some(ToolChoice::Auto) => None,
        Some(ToolChoice::None) => Some(json!({"type": "none"})),
        Some(ToolChoice::Required) => Some(json!({"type": "any"})),
        Some(ToolChoice::Function(name)) => Some(json!({"type": "tool", "name": name})),
        Some(ToolChoice::Allowed { required, names }) => {
            declared.retain(|tool| tool["name"].as_str().is_some_and(|name| names.iter().any(|allowed| allowed == name)));
            required.then(|| json!({"type": "any"}))
        }
    };
    if declared.is_empty() {
        declared = remembered(chat);
        choice = (!declared.is_empty()).then(|| json!({"type": "none"}));
    }
    let is_forced = choice.as_ref().is_some_and(|choice| choice["type"] == "any" || choice["type"] == "tool");
    if is_forced && !model.can_force_tools() {
        unsaid.meaning("tool_choice", true)?;
        choice = None;
    }
    if chat.parallel_tool_calls == Some(false) && !given.is_empty() {
        let choice = choice.get_or_insert_with(|| json!({"type": "auto"}));
        if choice["type"] != "none" {
            choice["disable_parallel_tool_use"] = Value::Bool(true);
        }
    }
    if !declared.is_empty() {
        body.insert("tools".to_owned(), declared.into());
    }
    if let Some(choice) = choice {
        body.insert("tool_choice".to_owned(), choice);
    }
    Ok(())
}

fn declaration(tool: &Tool, model: Model) -> Result<Value, Refusal> {
    let Some(function) = &tool.function else {
        if tool.kind == "function" || tool.kind == "custom" {
            let message = format!("a tool of type `{}` without a function is not supported by anthropic", tool.kind);
            return Err(Refusal::field("tools", "unsupported_value", message));
        }
        let mut native = tool.other.clone();
        native.insert("type".to_owned(), tool.kind.as_str().into());
        return Ok(Value::Object(native));
    };
    let mut declared = json!({"name": function.name});
    if let Some(description) = &function.description {
        declared["description"] = description.as_str().into();
    }
    let schema = object_schema(function.parameters.as_ref());
    let is_strict = function.strict == Some(true) && model.has_structured_output();
    declared["input_schema"] = if is_strict { closed(&schema) } else { schema };
    if is_strict {
        declared["strict"] = Value::Bool(true);
    }
    if let Some(mark) = tool.other.get("cache_control") {
        declared["cache_control"] = mark.clone();
    }
    Ok(declared)
}

/// The schema of a tool's arguments, which must say that it is an object.
pub(crate) fn object_schema(parameters: Option<&Value>) -> Value {
    match parameters.and_then(Value::as_object) {
        None => json!({"type": "object", "properties": {}}),
        Some(schema) => {
            let mut schema = schema.clone();
            schema.entry("type").or_insert_with(|| "object".into());
            Value::Object(schema)
        }
    }
}

/// A conversation with calls in it must declare tools, also when the client offers none any more.
fn remembered(chat: &Chat) -> Vec<Value> {
    called_names(chat)
        .into_iter()
        .map(|name| json!({"name": name, "input_schema": {"type": "object", "properties": {}}}))
        .collect()
}

/// The names of the functions that were called, each once.
pub(crate) fn called_names(chat: &Chat) -> Vec<&str> {
    let mut names = Vec::new();
    for call in chat.messages.iter().filter_map(|message| message.tool_calls.as_ref()).flatten() {
        if !names.contains(&call.function.name.as_str()) {
            names.push(call.function.name.as_str());
        }
    }
    names
}

/// An answer held to a schema: by the model itself, or on older ones by a tool it must call.
fn structured(chat: &Chat, model: Model, body: &mut Map<String, Value>) {
    let Some(ResponseFormat::JsonSchema { json_schema }) = &chat.response_format else { return };
    if model.has_structured_output() {
        let format = json!({"type": "json_schema", "schema": closed(&schema_of(json_schema))});
        configure(body, "format", format);
        return;
    }
    let description = json_schema.description.clone().unwrap_or_else(|| "Give the answer by calling this tool.".to_owned());
    let answer =
        json!({"name": ANSWER_TOOL, "description": description, "input_schema": object_schema(Some(&schema_of(json_schema)))});
    let tools = body.entry("tools").or_insert_with(|| Value::Array(Vec::new()));
    let is_alone =
        tools.as_array().is_none_or(Vec::is_empty) || body.get("tool_choice").is_some_and(|choice| choice["type"] == "none");
    if let Some(Value::Array(tools)) = body.get_mut("tools") {
        tools.push(answer);
    }
    let has_one_call = is_alone || chat.parallel_tool_calls == Some(false);
    let mut choice = if is_alone { json!({"type": "tool", "name": ANSWER_TOOL}) } else { json!({"type": "any"}) };
    if has_one_call {
        choice["disable_parallel_tool_use"] = Value::Bool(true);
    }
    body.insert("tool_choice".to_owned(), choice);
}

/// The schema asked for; none is any object.
pub(crate) fn schema_of(format: &JsonSchema) -> Value {
    format.schema.clone().unwrap_or_else(|| json!({"type": "object"}))
}

/// The schema with every object closed, which structured output demands. What fits the closed schema
/// fits the open one.
pub(crate) fn closed(schema: &Value) -> Value {
    let Some(members) = schema.as_object() else { return schema.clone() };
    let inner = |(key, value): (&String, &Value)| {
        let value = match (key.as_str(), value) {
            ("properties" | "$defs" | "definitions", Value::Object(named)) => {
                Value::Object(named.iter().map(|(name, schema)| (name.clone(), closed(schema))).collect())
            }
            ("anyOf" | "allOf" | "oneOf" | "prefixItems", Value::Array(schemas)) => schemas.iter().map(closed).collect(),
            ("items" | "not", schema) => closed(schema),
            (_, other) => other.clone(),
        };
        (key.clone(), value)
    };
    let mut members: Map<String, Value> = members.iter().map(inner).collect();
    if members.get("type") == Some(&Value::from("object")) || members.contains_key("properties") {
        members.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    Value::Object(members)
}

/// Sets a member of `output_config`, unless the client set it in Anthropic's own words.
fn configure(body: &mut Map<String, Value>, name: &str, value: Value) {
    if let Value::Object(config) = body.entry("output_config").or_insert_with(|| json!({})) {
        config.entry(name).or_insert(value);
    }
}

/// How hard to think. A client's own `thinking` is left as it is.
fn think(chat: &Chat, model: Model, body: &mut Map<String, Value>, unsaid: &mut Unsaid) -> Result<(), Refusal> {
    if body.contains_key("thinking") {
        return Ok(());
    }
    let is_forced = body.get("tool_choice").is_some_and(|choice| choice["type"] == "any" || choice["type"] == "tool");
    let advice = thinking::advice(chat, model, is_forced);
    unsaid.hint("reasoning_effort", advice.falls_short)?;
    if let Some(effort) = advice.effort {
        configure(body, "effort", effort.into());
    }
    if let Some(thinking) = advice.thinking {
        body.insert("thinking".to_owned(), thinking);
    }
    Ok(())
}

fn sampling(chat: &Chat, model: Model, body: &mut Map<String, Value>, unsaid: &mut Unsaid) -> Result<(), Refusal> {
    let thinks = body.get("thinking").is_some_and(thinking::is_on);
    if thinks || !model.can_sample() {
        unsaid.hint("top_k", body.remove("top_k").is_some())?;
    }
    let (temperature, top_p) = samplers(chat, model, thinks, unsaid)?;
    if let Some(temperature) = temperature {
        body.insert("temperature".to_owned(), temperature.into());
    }
    if let Some(top_p) = top_p {
        body.insert("top_p".to_owned(), top_p.into());
    }
    let stops = stops(chat, unsaid)?;
    if !stops.is_empty() {
        body.insert("stop_sequences".to_owned(), stops.into());
    }
    Ok(())
}

/// Temperature and `top_p` as the model takes them: from 0 to 1, not while thinking, not at all on newer
/// models, and on some only one of them.
///
/// # Errors
/// A [`Refusal`] when the account wants what is lost refused.
pub(crate) fn samplers(
    chat: &Chat,
    model: Model,
    thinks: bool,
    unsaid: &mut Unsaid,
) -> Result<(Option<f64>, Option<f64>), Refusal> {
    let (mut temperature, mut top_p) = (chat.temperature, chat.top_p);
    if temperature.is_some_and(|value| value > 1.0) {
        unsaid.hint("temperature", true)?;
        temperature = Some(1.0);
    }
    if thinks || !model.can_sample() {
        unsaid.hint("temperature", temperature.take().is_some_and(|value| value != 1.0))?;
        let keeps_top_p = model.can_sample() && top_p.is_some_and(|value| value >= MIN_TOP_P_THINKING);
        if !keeps_top_p {
            unsaid.hint("top_p", top_p.take().is_some_and(|value| value != 1.0))?;
        }
    }
    if temperature.is_some() && top_p.is_some() && !model.takes_both_samplers() {
        unsaid.hint("top_p", top_p.take().is_some_and(|value| value != 1.0))?;
    }
    Ok((temperature, top_p))
}

/// The stop strings that can be said: one of white space only is refused by the API.
///
/// # Errors
/// A [`Refusal`] when the account wants what is lost refused.
pub(crate) fn stops(chat: &Chat, unsaid: &mut Unsaid) -> Result<Vec<String>, Refusal> {
    let given = chat.stop.as_ref().map(Stop::strings).unwrap_or_default();
    let count = given.len();
    let stops: Vec<String> = given.into_iter().filter(|stop| !stop.trim().is_empty()).collect();
    unsaid.hint("stop", stops.len() < count)?;
    Ok(stops)
}

/// Who asks, and at which tier.
fn account(chat: &Chat, body: &mut Map<String, Value>, unsaid: &mut Unsaid) -> Result<(), Refusal> {
    let labelled = chat.metadata.as_ref().and_then(|labels| labels.get("user_id")).and_then(Value::as_str);
    if let Some(user) = chat.end_user().or(labelled) {
        body.insert("metadata".to_owned(), json!({"user_id": user}));
    }
    unsaid.hint("metadata", chat.metadata.iter().flatten().any(|(name, _)| name != "user_id"))?;
    match chat.service_tier.as_deref() {
        None => Ok(()),
        Some(tier @ ("auto" | "standard_only")) => {
            body.insert("service_tier".to_owned(), tier.into());
            Ok(())
        }
        Some("default") => {
            body.insert("service_tier".to_owned(), "standard_only".into());
            Ok(())
        }
        Some(_) => unsaid.hint("service_tier", true),
    }
}
