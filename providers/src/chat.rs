//! The whole of a chat completion request as types, for the wires that are not OpenAI's: they must
//! understand every field to say it in other words. Fields follow OpenAI's API reference,
//! <https://platform.openai.com/docs/api-reference/chat/create>.
//! It must not know any particular wire.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::Refusal;
use crate::request::ChatRequest;

/// A chat completion request. Unknown fields are kept in `other`, so that a wire can tell that it drops them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Chat {
    /// The conversation.
    pub messages: Vec<Message>,
    /// Functions the model may call.
    pub tools: Option<Vec<Tool>>,
    /// Whether and what it must call.
    pub tool_choice: Option<ToolChoice>,
    /// Whether several calls may come at once.
    pub parallel_tool_calls: Option<bool>,
    /// The older name of the answer's token limit.
    pub max_tokens: Option<u64>,
    /// The answer's token limit.
    pub max_completion_tokens: Option<u64>,
    /// Sampling temperature, 0 to 2.
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// Number of choices.
    pub n: Option<u64>,
    /// Strings that end the answer.
    pub stop: Option<Stop>,
    /// Sampling seed.
    pub seed: Option<i64>,
    /// Penalty on tokens that appeared.
    pub presence_penalty: Option<f64>,
    /// Penalty on tokens by how often they appeared.
    pub frequency_penalty: Option<f64>,
    /// Token biases.
    pub logit_bias: Option<Value>,
    /// Whether to return log probabilities.
    pub logprobs: Option<bool>,
    /// How many alternatives per position.
    pub top_logprobs: Option<u64>,
    /// The form of the answer.
    pub response_format: Option<ResponseFormat>,
    /// How hard to think: none, minimal, low, medium, high, xhigh, max.
    pub reasoning_effort: Option<String>,
    /// The end user's id.
    pub user: Option<String>,
    /// The end user's id, newer name.
    pub safety_identifier: Option<String>,
    /// Output modalities (`text`, `audio`).
    pub modalities: Option<Vec<String>>,
    /// Audio output options.
    pub audio: Option<Value>,
    /// The service tier asked for.
    pub service_tier: Option<String>,
    /// The client's own labels.
    pub metadata: Option<Map<String, Value>>,
    /// How long the answer should be.
    pub verbosity: Option<String>,
    /// Everything else the client sent.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One message of the conversation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Message {
    /// developer, system, user, assistant, tool or function.
    pub role: String,
    /// What was said.
    pub content: Option<Content>,
    /// Who said it.
    pub name: Option<String>,
    /// The calls an assistant message made.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that a tool message answers.
    pub tool_call_id: Option<String>,
    /// What an assistant refused.
    pub refusal: Option<String>,
    /// Everything else (`reasoning_content`, `thinking_blocks`, `cache_control`, …).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A message's content: a string, or parts.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// A plain string.
    Text(String),
    /// Parts in order.
    Parts(Vec<Part>),
}

impl Content {
    /// The content as parts; a string is one text part.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        match self {
            Self::Text(text) => vec![Part::Text { text: text.clone(), cache_control: None }],
            Self::Parts(parts) => parts.clone(),
        }
    }

    /// All text of the content, joined.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => parts.iter().filter_map(Part::text).collect(),
        }
    }
}

/// One part of a message.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
        /// Anthropic's cache mark, which clients pass through OpenAI's shape.
        #[serde(default)]
        cache_control: Option<Value>,
    },
    /// A picture.
    ImageUrl {
        /// Where it is.
        image_url: ImageUrl,
        /// Anthropic's cache mark.
        #[serde(default)]
        cache_control: Option<Value>,
    },
    /// Sound.
    InputAudio {
        /// The sound.
        input_audio: InputAudio,
        /// Anthropic's cache mark.
        #[serde(default)]
        cache_control: Option<Value>,
    },
    /// A document.
    File {
        /// The document.
        file: File,
        /// Anthropic's cache mark.
        #[serde(default)]
        cache_control: Option<Value>,
    },
    /// A refusal said earlier by the assistant.
    Refusal {
        /// Its text.
        refusal: String,
    },
}

impl Part {
    /// The text of a text or refusal part.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text { text, .. } => Some(text),
            Self::Refusal { refusal } => Some(refusal),
            Self::ImageUrl { .. } | Self::InputAudio { .. } | Self::File { .. } => None,
        }
    }

    /// The cache mark, if there is one that says something.
    #[must_use]
    pub fn cache_mark(&self) -> Option<&Value> {
        match self {
            Self::Text { cache_control, .. }
            | Self::ImageUrl { cache_control, .. }
            | Self::InputAudio { cache_control, .. }
            | Self::File { cache_control, .. } => cache_control.as_ref().filter(|mark| mark.is_object()),
            Self::Refusal { .. } => None,
        }
    }
}

/// Where a picture is: an address or a `data:` URL.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum ImageUrl {
    /// The object form.
    Object {
        /// The address.
        url: String,
        /// low, high or auto.
        #[serde(default)]
        detail: Option<String>,
    },
    /// A bare string, as some clients send.
    Plain(String),
}

impl ImageUrl {
    /// The address.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Object { url, .. } | Self::Plain(url) => url,
        }
    }
}

/// Sound in base64.
#[derive(Clone, Debug, Deserialize)]
pub struct InputAudio {
    /// Base64.
    pub data: String,
    /// wav, mp3, …
    pub format: String,
}

/// A document, by id, by content or by address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct File {
    /// The id of an uploaded file.
    pub file_id: Option<String>,
    /// A `data:` URL or base64.
    pub file_data: Option<String>,
    /// Its name.
    pub filename: Option<String>,
}

/// A call that the assistant made.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToolCall {
    /// The call's id.
    pub id: String,
    /// The function called.
    pub function: FunctionCall,
    /// Everything else (`extra_content` with Gemini's thought signature, …).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Name and arguments of a call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// The arguments as JSON text; may be empty.
    pub arguments: String,
}

impl FunctionCall {
    /// The arguments as a JSON object; empty text is an empty object.
    ///
    /// # Errors
    /// A [`Refusal`] when the text is not a JSON object.
    pub fn object(&self) -> Result<Map<String, Value>, Refusal> {
        if self.arguments.trim().is_empty() {
            return Ok(Map::new());
        }
        serde_json::from_str(&self.arguments).map_err(|_| {
            let message = format!("the arguments of the call to `{}` are not a JSON object", self.name);
            Refusal::field("messages", "invalid_type", message)
        })
    }
}

/// A tool the model may call.
#[derive(Clone, Debug, Deserialize)]
pub struct Tool {
    /// `function` or `custom`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    #[serde(default)]
    pub function: Option<Function>,
    /// Everything else (`cache_control`, `custom`, …).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A function's declaration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON Schema of its arguments.
    pub parameters: Option<Value>,
    /// Whether arguments must follow the schema exactly.
    pub strict: Option<bool>,
}

/// Whether and what the model must call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    Auto,
    /// Nothing.
    None,
    /// At least one.
    Required,
    /// This function.
    Function(String),
    /// Only these functions, `auto` or `required`.
    Allowed {
        /// Whether one of them must be called.
        required: bool,
        /// Their names.
        names: Vec<String>,
    },
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(&value).ok_or_else(|| serde::de::Error::custom("unknown tool_choice"))
    }
}

impl ToolChoice {
    fn from_value(value: &Value) -> Option<Self> {
        match value.as_str() {
            Some("auto") => return Some(Self::Auto),
            Some("none") => return Some(Self::None),
            Some("required" | "any") => return Some(Self::Required),
            Some(_) => return None,
            None => {}
        }
        if let Some(name) = value.pointer("/function/name").and_then(Value::as_str) {
            return Some(Self::Function(name.to_owned()));
        }
        let allowed = value.get("allowed_tools")?;
        let names = allowed
            .get("tools")?
            .as_array()?
            .iter()
            .filter_map(|tool| tool.pointer("/function/name")?.as_str().map(str::to_owned));
        Some(Self::Allowed { required: allowed.get("mode")?.as_str() == Some("required"), names: names.collect() })
    }
}

/// One stop string or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Stop {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Stop {
    /// The strings.
    #[must_use]
    pub fn strings(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Many(many) => many.clone(),
        }
    }
}

/// The form an answer must have.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Free text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that follows a schema.
    JsonSchema {
        /// The schema.
        json_schema: JsonSchema,
    },
}

/// A named schema.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct JsonSchema {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The JSON Schema.
    pub schema: Option<Value>,
    /// Whether it must be followed exactly.
    pub strict: Option<bool>,
}

impl Chat {
    /// The request as types.
    ///
    /// # Errors
    /// A [`Refusal`] that names what is of the wrong type.
    pub fn parse(request: &ChatRequest) -> Result<Self, Refusal> {
        serde_json::from_slice(request.raw()).map_err(|fault| Refusal {
            message: format!("the request is not a chat completion request: {fault}"),
            param: None,
            code: "invalid_type",
        })
    }

    /// The answer's token limit under either name.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// The end user's id under either name.
    #[must_use]
    pub fn end_user(&self) -> Option<&str> {
        self.safety_identifier.as_deref().or(self.user.as_deref())
    }

    /// The name of the function that the call with this id went to.
    #[must_use]
    pub fn function_of_call(&self, id: &str) -> Option<&str> {
        let calls = self.messages.iter().filter_map(|message| message.tool_calls.as_ref()).flatten();
        calls.filter(|call| call.id == id).map(|call| call.function.name.as_str()).next_back()
    }
}
