//! A chat completion request as the body of `generateContent`.
//! It must not know addresses, credentials or answers.

use serde_json::{Map, Value, json};

use super::contents::{Conversation, Manner};
use crate::call::Call;
use crate::chat::{Chat, Function, ResponseFormat, Tool, ToolChoice};
use crate::error::Refusal;
use crate::leftover;
use crate::unsaid::Unsaid;

/// Fields of OpenAI's that this body can say.
const SAID: [&str; 16] = [
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "reasoning_effort",
    "max_tokens",
    "n",
    "stop",
    "logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "modalities",
    "extra_body",
];

/// How a model is told how hard to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thinking {
    /// It does not think.
    Never,
    /// By a number of tokens (Gemini 2.5); `required` where it cannot be turned off.
    Budget { required: bool },
    /// By a level (Gemini 3 on); `pro` knows fewer of them.
    Level { pro: bool },
}

impl Thinking {
    fn of(model: &str) -> Self {
        let name = model.rsplit('/').next().unwrap_or(model);
        let Some(version) = name.strip_prefix("gemini-") else { return Self::Never };
        let pro = version.contains("pro");
        let number: String = version.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        match number.split_once('.').unwrap_or((&number, "0")) {
            ("2", "5") => Self::Budget { required: pro },
            ("1" | "2", _) => Self::Never,
            // Names without a number (`gemini-flash-latest`) are the newest.
            _ => Self::Level { pro },
        }
    }

    /// Whether function calls of this generation carry ids and must carry thought signatures.
    fn is_strict_about_calls(self) -> bool {
        matches!(self, Self::Level { .. })
    }
}

/// The method of the model resource that serves the call.
pub(crate) fn action(call: &Call<'_>) -> &'static str {
    if call.request.stream { "streamGenerateContent?alt=sse" } else { "generateContent" }
}

/// The body, and what it leaves out.
pub(crate) fn body(call: &Call<'_>, kind: &'static str) -> Result<(Value, Vec<&'static str>), Refusal> {
    let chat = Chat::parse(call.request)?;
    let mut unsaid = Unsaid::new(kind, call.account.unsupported);
    let thinking = Thinking::of(call.model);
    let manner = Manner { strict_calls: thinking.is_strict_about_calls(), kind };
    let conversation = Conversation::of(&chat, manner)?;
    let mut body = Map::new();
    body.insert("contents".to_owned(), Value::Array(conversation.contents));
    if !conversation.system.is_empty() {
        body.insert("systemInstruction".to_owned(), json!({"parts": conversation.system}));
    }
    tools(&chat, kind, &mut body, &mut unsaid)?;
    let mut config = generation_config(&chat, &mut unsaid)?;
    if let Some(effort) = chat.reasoning_effort.as_deref()
        && let Some(thinking) = thinking_config(thinking, effort, &mut unsaid)?
    {
        config.insert("thinkingConfig".to_owned(), thinking);
    }
    extra_body(&chat, &mut body, &mut config, &mut unsaid)?;
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), Value::Object(config));
    }
    let tier = chat.service_tier.as_deref().filter(|tier| kind == "gemini" && matches!(*tier, "flex" | "priority"));
    if let Some(tier) = tier {
        body.insert("serviceTier".to_owned(), Value::from(tier));
    }
    let mut said = SAID.to_vec();
    said.extend(tier.map(|_| "service_tier"));
    leftover::leave_out(&mut unsaid, &chat, &said)?;
    Ok((Value::Object(body), unsaid.dropped()))
}

fn generation_config(chat: &Chat, unsaid: &mut Unsaid) -> Result<Map<String, Value>, Refusal> {
    let mut config = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(name.to_owned(), value);
        }
    };
    set("temperature", chat.temperature.map(Value::from));
    set("topP", chat.top_p.map(Value::from));
    set("topK", chat.other.get("top_k").filter(|value| value.is_number()).cloned());
    set("candidateCount", chat.n.filter(|n| *n > 1).map(Value::from));
    set("maxOutputTokens", chat.limit().map(Value::from));
    set("stopSequences", chat.stop.as_ref().map(|stop| stop.strings().into()).filter(|stop: &Value| *stop != json!([])));
    set("presencePenalty", chat.presence_penalty.map(Value::from));
    set("frequencyPenalty", chat.frequency_penalty.map(Value::from));
    // Gemini's seed has 32 bits, OpenAI's 64.
    match chat.seed.map(i32::try_from) {
        Some(Ok(seed)) => set("seed", Some(Value::from(seed))),
        Some(Err(_)) => unsaid.hint("seed", true)?,
        None => {}
    }
    if chat.logprobs == Some(true) {
        set("responseLogprobs", Some(Value::Bool(true)));
        set("logprobs", chat.top_logprobs.map(Value::from));
    }
    if let Some(modalities) = &chat.modalities
        && modalities.iter().any(|modality| modality != "text")
    {
        if modalities.iter().any(|modality| modality == "audio") {
            unsaid.meaning("modalities", true)?;
        } else {
            set("responseModalities", Some(modalities.iter().map(|modality| modality.to_uppercase()).collect()));
        }
    }
    match &chat.response_format {
        None | Some(ResponseFormat::Text) => {}
        Some(ResponseFormat::JsonObject) => set("responseMimeType", Some(Value::from("application/json"))),
        Some(ResponseFormat::JsonSchema { json_schema }) => {
            set("responseMimeType", Some(Value::from("application/json")));
            set("responseJsonSchema", json_schema.schema.as_ref().map(plain_schema));
        }
    }
    Ok(config)
}

/// A JSON Schema without its `$schema`, the one keyword that Google refuses at the top.
fn plain_schema(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(members) = schema.as_object_mut() {
        members.shift_remove("$schema");
    }
    schema
}

/// Google's own table for its OpenAI endpoint, <https://ai.google.dev/gemini-api/docs/openai#thinking>:
/// 1,024, 8,192 and 24,576 tokens on Gemini 2.5, levels of the same names from Gemini 3 on.
fn thinking_config(thinking: Thinking, effort: &str, unsaid: &mut Unsaid) -> Result<Option<Value>, Refusal> {
    if !matches!(effort, "none" | "minimal" | "low" | "medium" | "high" | "xhigh" | "max") {
        return Err(Refusal::field("reasoning_effort", "invalid_value", format!("unknown reasoning effort `{effort}`")));
    }
    let config = match (thinking, effort) {
        (Thinking::Never, "none") => None,
        (Thinking::Never, _) => {
            unsaid.hint("reasoning_effort", true)?;
            None
        }
        (Thinking::Budget { required: false }, "none") => Some(json!({"thinkingBudget": 0})),
        (Thinking::Budget { .. }, "none") => {
            // It cannot be turned off: the least it takes, and the client is told.
            unsaid.hint("reasoning_effort", true)?;
            Some(json!({"thinkingBudget": 128}))
        }
        (Thinking::Budget { .. }, effort) => {
            let budget = match effort {
                "minimal" | "low" => 1024,
                "medium" => 8192,
                _ => 24_576,
            };
            Some(json!({"includeThoughts": true, "thinkingBudget": budget}))
        }
        (Thinking::Level { pro }, "none") => {
            unsaid.hint("reasoning_effort", true)?;
            Some(json!({"thinkingLevel": if pro { "LOW" } else { "MINIMAL" }}))
        }
        (Thinking::Level { pro }, effort) => {
            let level = match effort {
                "minimal" if !pro => "MINIMAL",
                "minimal" | "low" => "LOW",
                "medium" => "MEDIUM",
                _ => "HIGH",
            };
            Some(json!({"includeThoughts": true, "thinkingLevel": level}))
        }
    };
    Ok(config)
}

/// What Google's own OpenAI endpoint takes in `extra_body.google`; it wins over what was derived. `labels` break down
/// the bill of a Google Cloud account, so that they are Vertex AI's alone, and never made of a client's `metadata`,
/// which describe an answer and may say something else every time.
fn extra_body(
    chat: &Chat,
    body: &mut Map<String, Value>,
    config: &mut Map<String, Value>,
    unsaid: &mut Unsaid,
) -> Result<(), Refusal> {
    let google = chat.other.get("extra_body").and_then(|extra| extra.get("google")).and_then(Value::as_object);
    for (name, value) in google.into_iter().flatten() {
        let ours = match name.as_str() {
            "thinking_config" => {
                config.insert("thinkingConfig".to_owned(), value.clone());
                continue;
            }
            "cached_content" => "cachedContent",
            "safety_settings" => "safetySettings",
            "labels" if unsaid.kind() == "vertex" => "labels",
            _ => {
                unsaid.hint("extra_body.google", true)?;
                continue;
            }
        };
        body.insert(ours.to_owned(), value.clone());
    }
    Ok(())
}

fn tools(chat: &Chat, kind: &'static str, body: &mut Map<String, Value>, unsaid: &mut Unsaid) -> Result<(), Refusal> {
    let tools = chat.tools.as_deref().unwrap_or_default();
    if tools.is_empty() {
        return Ok(());
    }
    let mut functions = tools.iter().map(|tool| function(tool, kind)).collect::<Result<Vec<&Function>, Refusal>>()?;
    let mode = match &chat.tool_choice {
        None => None,
        Some(ToolChoice::Auto) => Some(json!({"mode": "AUTO"})),
        Some(ToolChoice::None) => Some(json!({"mode": "NONE"})),
        Some(ToolChoice::Required) => Some(json!({"mode": "ANY"})),
        Some(ToolChoice::Function(name)) => Some(json!({"mode": "ANY", "allowedFunctionNames": [name]})),
        Some(ToolChoice::Allowed { required: true, names }) => Some(json!({"mode": "ANY", "allowedFunctionNames": names})),
        Some(ToolChoice::Allowed { required: false, names }) => {
            // Gemini takes a list of names only where one must be called: the others are not declared.
            functions.retain(|function| names.contains(&function.name));
            Some(json!({"mode": "AUTO"}))
        }
    };
    unsaid.hint("tools.function.strict", functions.iter().any(|function| function.strict == Some(true)))?;
    let declarations: Vec<Value> = functions.into_iter().map(declaration).collect();
    body.insert("tools".to_owned(), json!([{"functionDeclarations": declarations}]));
    if let Some(mode) = mode {
        body.insert("toolConfig".to_owned(), json!({"functionCallingConfig": mode}));
    }
    Ok(())
}

fn function<'a>(tool: &'a Tool, kind: &str) -> Result<&'a Function, Refusal> {
    tool.function.as_ref().ok_or_else(|| {
        let message = format!("tools of type `{}` are not supported by {kind}", tool.kind);
        Refusal::field("tools", "unsupported_value", message)
    })
}

fn declaration(function: &Function) -> Value {
    let mut said = json!({"name": function.name});
    if let Some(description) = &function.description {
        said["description"] = Value::from(description.as_str());
    }
    if let Some(parameters) = &function.parameters {
        said["parametersJsonSchema"] = plain_schema(parameters);
    }
    said
}
