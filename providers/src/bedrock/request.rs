//! A chat completion request as the body of a Converse call.
//! It must not know how the body travels.

use serde_json::{Map, Value, json};

use super::family::{Family, Reasoning};
use super::words::{Blocks, cache_point};
use crate::anthropic::request::{JSON_OBJECT, called_names, closed, object_schema, samplers, schema_of, stops};
use crate::anthropic::thinking;
use crate::blocks::ANSWER_TOOL;
use crate::call::Call;
use crate::chat::{Chat, JsonSchema, ResponseFormat, Tool, ToolChoice};
use crate::conversation::{self, Conversation};
use crate::error::Refusal;
use crate::leftover;
use crate::unsaid::Unsaid;

/// Fields of OpenAI's that this body can say, or that are looked at where they are said.
const SAID: [&str; 11] = [
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "reasoning_effort",
    "service_tier",
    "metadata",
    "max_tokens",
    "stop",
    "response_format",
    "tools",
    "tool_choice",
];

/// Converse's own fields that clients add to OpenAI's request, passed on as they are.
const NATIVE: [&str; 6] = [
    "guardrailConfig",
    "additionalModelRequestFields",
    "additionalModelResponseFieldPaths",
    "performanceConfig",
    "promptVariables",
    "requestMetadata",
];

/// Anthropic's own fields, which a Claude model takes beside Converse's.
const CLAUDE: [&str; 2] = ["thinking", "top_k"];

/// The most bytes of a label's name or value.
const MAX_LABEL_BYTES: usize = 256;

/// The most labels.
const MAX_LABELS: usize = 16;

/// The body, and the fields that were left out.
///
/// # Errors
/// A [`Refusal`] for what the wire cannot say.
pub(super) fn say(call: &Call<'_>) -> Result<(Value, Vec<&'static str>), Refusal> {
    let chat = Chat::parse(call.request)?;
    let mut draft = Draft {
        family: Family::of(call.model),
        chat: &chat,
        body: Map::new(),
        extra: Map::new(),
        unsaid: Unsaid::new("bedrock", call.account.unsupported),
    };
    draft.leave_out()?;
    draft.native();
    draft.messages(conversation::say(&chat, &mut Blocks::default())?);
    let is_forced = draft.tools()?;
    draft.think(is_forced)?;
    draft.inference()?;
    draft.labels()?;
    Ok(draft.finish())
}

/// A body that is being written.
struct Draft<'a> {
    family: Family<'a>,
    chat: &'a Chat,
    body: Map<String, Value>,
    /// `additionalModelRequestFields`: what only this maker's models take.
    extra: Map<String, Value>,
    unsaid: Unsaid,
}

impl Draft<'_> {
    fn leave_out(&mut self) -> Result<(), Refusal> {
        let claude: &[&str] = if self.family.is_claude() { &CLAUDE } else { &[] };
        leftover::leave_out(&mut self.unsaid, self.chat, &[&SAID[..], &NATIVE, claude].concat())
    }

    fn native(&mut self) {
        for name in NATIVE {
            match self.chat.other.get(name) {
                Some(Value::Object(fields)) if name == "additionalModelRequestFields" => self.extra.clone_from(fields),
                Some(value) if !value.is_null() => self.body.insert(name.to_owned(), value.clone()).map_or((), drop),
                _ => {}
            }
        }
        for name in CLAUDE {
            if let Some(value) = self.chat.other.get(name).filter(|value| !value.is_null() && self.family.is_claude()) {
                self.extra.insert(name.to_owned(), value.clone());
            }
        }
    }

    fn messages(&mut self, mut conversation: Conversation) {
        if matches!(self.chat.response_format, Some(ResponseFormat::JsonObject)) {
            conversation.system.push(json!({"text": JSON_OBJECT}));
        }
        if !conversation.system.is_empty() {
            self.body.insert("system".to_owned(), conversation.system.into());
        }
        self.body.insert("messages".to_owned(), conversation.turns.into());
    }

    /// Tools, and the schema of the answer where a tool must stand for it. Tells whether a call is forced.
    fn tools(&mut self) -> Result<bool, Refusal> {
        let mut offer = self.offer()?;
        if let Some(ResponseFormat::JsonSchema { json_schema }) = &self.chat.response_format {
            if self.family.has_structured_output() {
                self.body.insert("outputConfig".to_owned(), output_config(json_schema));
            } else {
                offer.answer_by_tool(json_schema);
            }
        }
        if offer.is_forced() && !self.family.claude.can_force_tools() {
            self.unsaid.meaning("tool_choice", true)?;
            offer.choice = None;
        }
        let is_forced = offer.is_forced();
        let one_at_a_time = self.chat.parallel_tool_calls == Some(false) && !offer.tools.is_empty();
        if one_at_a_time && self.family.is_claude() {
            self.extra.insert("tool_choice".to_owned(), offer.one_at_a_time());
        } else {
            self.unsaid.hint("parallel_tool_calls", one_at_a_time)?;
        }
        if !offer.tools.is_empty() {
            let mut config = json!({"tools": offer.tools});
            if let Some(choice) = offer.choice {
                config["toolChoice"] = choice;
            }
            self.body.insert("toolConfig".to_owned(), config);
        }
        Ok(is_forced)
    }

    /// The client's tools and choice. Converse has no word for `none`: the tools are left out, unless
    /// calls in the conversation demand them.
    fn offer(&mut self) -> Result<Offer, Refusal> {
        let mut tools: Vec<&Tool> = self.chat.tools.iter().flatten().collect();
        let called = called_names(self.chat);
        let choice = match &self.chat.tool_choice {
            _ if tools.is_empty() => None,
            None | Some(ToolChoice::Auto) => None,
            Some(ToolChoice::None) if called.is_empty() => {
                tools.clear();
                None
            }
            Some(ToolChoice::None) => {
                self.unsaid.hint("tool_choice", true)?;
                None
            }
            Some(ToolChoice::Required) => Some(json!({"any": {}})),
            Some(ToolChoice::Function(name)) => Some(json!({"tool": {"name": name}})),
            Some(ToolChoice::Allowed { required, names }) => {
                let is_allowed = |tool: &&Tool| tool.function.as_ref().is_some_and(|function| names.contains(&function.name));
                tools.retain(is_allowed);
                required.then(|| json!({"any": {}}))
            }
        };
        let mut declared = Vec::new();
        for tool in tools {
            declared.extend(self.declaration(tool)?);
        }
        if declared.is_empty() {
            let schema = json!({"json": {"type": "object", "properties": {}}});
            declared = called.iter().map(|name| json!({"toolSpec": {"name": name, "inputSchema": schema}})).collect();
        }
        Ok(Offer { tools: declared, choice })
    }

    /// A tool, and its cache mark if it has one.
    fn declaration(&self, tool: &Tool) -> Result<Vec<Value>, Refusal> {
        let Some(function) = &tool.function else {
            let message = format!("tools of type `{}` are not supported by bedrock", tool.kind);
            return Err(Refusal::field("tools", "unsupported_value", message));
        };
        let is_strict = function.strict == Some(true) && self.family.claude.has_structured_output();
        let schema = object_schema(function.parameters.as_ref());
        let mut spec = json!({"name": function.name});
        if let Some(description) = function.description.as_deref().filter(|text| !text.is_empty()) {
            spec["description"] = description.into();
        }
        spec["inputSchema"] = json!({"json": if is_strict { closed(&schema) } else { schema }});
        if is_strict {
            spec["strict"] = Value::Bool(true);
        }
        let mark = tool.other.get("cache_control").filter(|mark| mark.is_object()).map(cache_point);
        Ok(std::iter::once(json!({"toolSpec": spec})).chain(mark).collect())
    }

    fn think(&mut self, is_forced: bool) -> Result<(), Refusal> {
        let Some(effort) = self.chat.reasoning_effort.as_deref() else { return Ok(()) };
        match self.family.reasoning() {
            Reasoning::Claude if self.extra.contains_key("thinking") => {}
            Reasoning::Claude => {
                let advice = thinking::advice(self.chat, self.family.claude, is_forced);
                self.unsaid.hint("reasoning_effort", advice.falls_short)?;
                self.extra.extend(advice.thinking.map(|thinking| ("thinking".to_owned(), thinking)));
                self.extra.extend(advice.effort.map(|effort| ("output_config".to_owned(), json!({"effort": effort}))));
            }
            Reasoning::Effort => {
                let effort = match effort {
                    "none" | "minimal" | "low" => "low",
                    "medium" => "medium",
                    _ => "high",
                };
                self.extra.entry("reasoning_effort").or_insert_with(|| effort.into());
            }
            Reasoning::Nova => {
                let config = match effort {
                    "none" => json!({"type": "disabled"}),
                    "minimal" | "low" => json!({"type": "enabled", "maxReasoningEffort": "low"}),
                    "medium" => json!({"type": "enabled", "maxReasoningEffort": "medium"}),
                    _ => json!({"type": "enabled", "maxReasoningEffort": "high"}),
                };
                self.extra.entry("reasoningConfig").or_insert(config);
            }
            Reasoning::None => self.unsaid.hint("reasoning_effort", effort != "none")?,
        }
        Ok(())
    }

    fn inference(&mut self) -> Result<(), Refusal> {
        let thinks = self.extra.get("thinking").is_some_and(thinking::is_on);
        if thinks || !self.family.claude.can_sample() {
            self.unsaid.hint("top_k", self.extra.remove("top_k").is_some())?;
        }
        let (temperature, top_p) = samplers(self.chat, self.family.claude, thinks, &mut self.unsaid)?;
        let stops = stops(self.chat, &mut self.unsaid)?;
        let mut config = Map::new();
        config.extend(self.chat.limit().map(|limit| ("maxTokens".to_owned(), limit.into())));
        config.extend(temperature.map(|value| ("temperature".to_owned(), value.into())));
        config.extend(top_p.map(|value| ("topP".to_owned(), value.into())));
        if !stops.is_empty() {
            config.insert("stopSequences".to_owned(), stops.into());
        }
        if !config.is_empty() {
            self.body.insert("inferenceConfig".to_owned(), config.into());
        }
        Ok(())
    }

    /// The client's labels and the tier.
    fn labels(&mut self) -> Result<(), Refusal> {
        let given = self.chat.metadata.clone().unwrap_or_default();
        let count = given.len();
        let labels: Map<String, Value> = given.into_iter().filter(is_label).take(MAX_LABELS).collect();
        self.unsaid.hint("metadata", labels.len() < count)?;
        if !labels.is_empty() {
            self.body.entry("requestMetadata").or_insert(labels.into());
        }
        match self.chat.service_tier.as_deref() {
            None | Some("auto") => Ok(()),
            Some(tier @ ("default" | "flex" | "priority" | "reserved")) => {
                self.body.insert("serviceTier".to_owned(), json!({"type": tier}));
                Ok(())
            }
            Some(_) => self.unsaid.hint("service_tier", true),
        }
    }

    fn finish(mut self) -> (Value, Vec<&'static str>) {
        if !self.extra.is_empty() {
            self.body.insert("additionalModelRequestFields".to_owned(), self.extra.into());
        }
        (Value::Object(self.body), self.unsaid.dropped())
    }
}

/// Tools on offer and what the model must do with them.
struct Offer {
    tools: Vec<Value>,
    choice: Option<Value>,
}

impl Offer {
    fn is_forced(&self) -> bool {
        self.choice.is_some()
    }

    /// Models without structured output are made to call a tool, whose arguments are the answer.
    fn answer_by_tool(&mut self, format: &JsonSchema) {
        let description = format.description.as_deref().unwrap_or("Give the answer by calling this tool.");
        let schema = object_schema(Some(&schema_of(format)));
        let is_alone = self.tools.is_empty();
        self.tools.push(json!({"toolSpec": {"name": ANSWER_TOOL, "description": description, "inputSchema": {"json": schema}}}));
        self.choice = Some(if is_alone { json!({"tool": {"name": ANSWER_TOOL}}) } else { json!({"any": {}}) });
    }

    /// The choice in Anthropic's words, with one call at a time; Converse has no word for that.
    fn one_at_a_time(&mut self) -> Value {
        let mut choice = match self.choice.take() {
            None => json!({"type": "auto"}),
            Some(choice) => match choice.pointer("/tool/name") {
                Some(name) => json!({"type": "tool", "name": name}),
                None => json!({"type": "any"}),
            },
        };
        choice["disable_parallel_tool_use"] = Value::Bool(true);
        choice
    }
}

fn output_config(format: &JsonSchema) -> Value {
    let mut schema = json!({"schema": closed(&schema_of(format)).to_string()});
    if !format.name.is_empty() {
        schema["name"] = format.name.as_str().into();
    }
    if let Some(description) = &format.description {
        schema["description"] = description.as_str().into();
    }
    json!({"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}})
}

/// Whether a label's name and value are of the characters that AWS takes.
fn is_label((name, value): &(String, Value)) -> bool {
    let is_plain = |text: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || ":_@$#=/+,-.".contains(c);
        !text.is_empty() && text.len() <= MAX_LABEL_BYTES && text.chars().all(is_allowed)
    };
    is_plain(name) && value.as_str().is_some_and(is_plain)
}
