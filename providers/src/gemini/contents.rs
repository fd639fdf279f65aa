//! The conversation as Gemini's `contents` and `systemInstruction`.
//! It must not know generation options or answers.

use serde_json::{Map, Value, json};

use crate::chat::{Chat, Content, File, ImageUrl, InputAudio, Message, Part, ToolCall};
use crate::dataurl::{DataUrl, is_remote};
use crate::error::Refusal;
use crate::media;

/// Stands in for the thought signature of a call that Gemini did not make itself; from
/// <https://ai.google.dev/gemini-api/docs/thought-signatures>.
const FOREIGN_SIGNATURE: &str = "skip_thought_signature_validator";

/// What differs between generations of models in how a conversation is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Whether calls and results are matched by id, and calls must carry a thought signature (Gemini 3 on).
    pub(super) strict_calls: bool,
    /// The wire's name, for refusals.
    pub(super) kind: &'static str,
}

/// A conversation in Gemini's words.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    pub(super) contents: Vec<Value>,
    /// Parts of the system instruction.
    pub(super) system: Vec<Value>,
    last: Option<Turn>,
}

/// Who speaks; neighbours of one kind become one content. Results stay apart from what the user
/// says after them, because their number must match that of the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    User,
    Model,
    Results,
}

impl Conversation {
    /// All messages of `chat`.
    pub(super) fn of(chat: &Chat, manner: Manner) -> Result<Self, Refusal> {
        let mut conversation = Self::default();
        for message in &chat.messages {
            match message.role.as_str() {
                "system" | "developer" => {
                    let texts = message.content.iter().flat_map(Content::parts);
                    let texts = texts.filter_map(|part| part.text().filter(|text| !text.is_empty()).map(text_part));
                    conversation.system.extend(texts);
                }
                "user" => conversation.say(Turn::User, said(message, manner)?),
                "assistant" => conversation.say(Turn::Model, answered(message, manner)?),
                "tool" | "function" => conversation.say(Turn::Results, result(chat, message, manner)?),
                other => return Err(Refusal::field("messages", "invalid_value", format!("unknown role `{other}`"))),
            }
        }
        if conversation.contents.is_empty() {
            // Gemini needs something to answer; OpenAI takes instructions alone.
            let system = std::mem::take(&mut conversation.system);
            conversation.say(Turn::User, system);
        }
        Ok(conversation)
    }

    fn say(&mut self, turn: Turn, parts: Vec<Value>) {
        if parts.is_empty() {
            return;
        }
        if self.last == Some(turn)
            && let Some(Value::Array(have)) = self.contents.last_mut().and_then(|content| content.get_mut("parts"))
        {
            have.extend(parts);
            return;
        }
        let role = if turn == Turn::Model { "model" } else { "user" };
        self.contents.push(json!({"role": role, "parts": parts}));
        self.last = Some(turn);
    }
}

fn text_part(text: &str) -> Value {
    json!({"text": text})
}

fn said(message: &Message, manner: Manner) -> Result<Vec<Value>, Refusal> {
    let parts = message.content.iter().flat_map(Content::parts);
    parts.filter(|part| part.text() != Some("")).map(|part| part_value(&part, manner)).collect()
}

fn part_value(part: &Part, manner: Manner) -> Result<Value, Refusal> {
    match part {
        Part::Text { text, .. } | Part::Refusal { refusal: text } => Ok(text_part(text)),
        Part::ImageUrl { image_url, .. } => image(image_url, manner),
        Part::InputAudio { input_audio, .. } => Ok(audio(input_audio)),
        Part::File { file, .. } => document(file, manner),
    }
}

fn inline(media_type: &str, base64: &str) -> Value {
    json!({"inlineData": {"mimeType": media_type, "data": base64}})
}

fn image(image: &ImageUrl, manner: Manner) -> Result<Value, Refusal> {
    let url = image.url();
    match DataUrl::parse(url) {
        Some(file) => Ok(inline(&file.media_type, file.data)),
        None if is_address(url) => Ok(by_address(url, media::type_of_name(url).or(Some("image/jpeg")))),
        None => Err(unreadable(manner, "an image is neither a base64 `data:` URL nor an http(s) or gs address")),
    }
}

fn by_address(url: &str, media_type: Option<&str>) -> Value {
    let mut file = json!({"fileUri": url});
    if let Some(media_type) = media_type {
        file["mimeType"] = Value::from(media_type);
    }
    json!({"fileData": file})
}

fn is_address(url: &str) -> bool {
    is_remote(url) || url.starts_with("gs://")
}

fn audio(audio: &InputAudio) -> Value {
    inline(&format!("audio/{}", audio.format), &audio.data)
}

fn document(file: &File, manner: Manner) -> Result<Value, Refusal> {
    let by_name = file.filename.as_deref().and_then(media::type_of_name);
    match (&file.file_data, &file.file_id) {
        (Some(data), _) => match DataUrl::parse(data) {
            Some(embedded) => Ok(inline(&embedded.media_type, embedded.data)),
            None if is_address(data) => Ok(by_address(data, by_name.or_else(|| media::type_of_name(data)))),
            None => Ok(inline(by_name.unwrap_or("application/pdf"), data)),
        },
        (None, Some(id)) if is_address(id) => Ok(by_address(id, by_name.or_else(|| media::type_of_name(id)))),
        _ => Err(unreadable(manner, "a file must come as `file_data`, or as a `file_id` that is Google's address of it")),
    }
}

fn unreadable(manner: Manner, what: &str) -> Refusal {
    Refusal::field("messages", "unsupported_value", format!("{what}: {} cannot read it", manner.kind))
}

/// An assistant's message: its text, then its calls, with the signatures that Gemini gave them.
fn answered(message: &Message, manner: Manner) -> Result<Vec<Value>, Refusal> {
    let mut parts = said(message, manner)?;
    let calls = message.tool_calls.as_deref().unwrap_or_default();
    if let Some(signature) = signature(&message.other) {
        match parts.last_mut() {
            Some(last) => last["thoughtSignature"] = signature,
            None if calls.is_empty() => parts.push(json!({"text": "", "thoughtSignature": signature})),
            // It stood after the calls, which have their own.
            None => {}
        }
    }
    let is_foreign = manner.strict_calls && calls.iter().all(|call| signature(&call.other).is_none());
    for (ordinal, call) in calls.iter().enumerate() {
        let mut part = json!({"functionCall": function_call(call, manner)?});
        if let Some(signature) = signature(&call.other) {
            part["thoughtSignature"] = signature;
        } else if is_foreign && ordinal == 0 {
            part["thoughtSignature"] = Value::from(FOREIGN_SIGNATURE);
        }
        parts.push(part);
    }
    Ok(parts)
}

fn signature(other: &Map<String, Value>) -> Option<Value> {
    let signature = other.get("extra_content")?.pointer("/google/thought_signature")?;
    signature.is_string().then(|| signature.clone())
}

fn function_call(call: &ToolCall, manner: Manner) -> Result<Value, Refusal> {
    let mut said = Map::new();
    if manner.strict_calls && !call.id.is_empty() {
        said.insert("id".to_owned(), Value::from(call.id.as_str()));
    }
    said.insert("name".to_owned(), Value::from(call.function.name.as_str()));
    said.insert("args".to_owned(), Value::Object(call.function.object()?));
    Ok(Value::Object(said))
}

/// A tool's result. Gemini wants the function's name, which OpenAI's result does not carry.
fn result(chat: &Chat, message: &Message, manner: Manner) -> Result<Vec<Value>, Refusal> {
    let id = message.tool_call_id.as_deref().unwrap_or_default();
    let Some(name) = chat.function_of_call(id).or(message.name.as_deref()) else {
        let reason = format!("no earlier message has the tool call `{id}` that a tool message answers");
        return Err(Refusal::field("messages", "invalid_value", reason));
    };
    let text = message.content.as_ref().map(Content::text).unwrap_or_default();
    let media = message.content.iter().flat_map(Content::parts).filter(|part| part.text().is_none());
    let media: Vec<Value> = media.map(|part| part_value(&part, manner)).collect::<Result<_, _>>()?;
    let response = match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Value::Object(object),
        _ => json!({"result": text}),
    };
    let mut said = json!({"name": name, "response": response});
    let mut parts = Vec::with_capacity(1);
    if manner.strict_calls {
        if !id.is_empty() {
            said["id"] = Value::from(id);
        }
        if !media.is_empty() {
            said["parts"] = Value::Array(media);
        }
        parts.push(json!({"functionResponse": said}));
    } else {
        parts.push(json!({"functionResponse": said}));
        parts.extend(media);
    }
    Ok(parts)
}
