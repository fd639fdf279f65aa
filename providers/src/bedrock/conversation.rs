//! The conversation in Converse's words.
//! It must not know the other fields of a request.

use serde_json::{Value, json};

use crate::anthropic::thinking;
use crate::base64;
use crate::chat::{Chat, Content, File, InputAudio, Message, Part};
use crate::dataurl::{DataUrl, is_remote, media_of};
use crate::error::Refusal;
use crate::toolid::tool_id;
use crate::turns::{Side, Turns};

/// The longest id of a call.
const MAX_TOOL_ID: usize = 64;

/// The longest name of a document.
const MAX_DOCUMENT_NAME: usize = 200;

/// System text and turns, ready for the body.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// `system`.
    pub(super) system: Vec<Value>,
    /// `messages`.
    pub(super) turns: Vec<Value>,
}

/// Says `chat`'s messages.
///
/// # Errors
/// A [`Refusal`] for what has no form here: remote files, media types Converse does not name, unknown roles.
pub(super) fn say(chat: &Chat) -> Result<Conversation, Refusal> {
    let mut speaker = Speaker::default();
    let mut system = Vec::new();
    let mut turns = Turns::default();
    for message in &chat.messages {
        match message.role.as_str() {
            "system" | "developer" => system.extend(system_blocks(message)),
            "user" => turns.say(Side::User, marked(speaker.blocks(message.content.as_ref())?, message)),
            "assistant" => turns.say(Side::Assistant, marked(assistant_blocks(message)?, message)),
            "tool" => turns.result(marked(vec![speaker.tool_result(message)?], message)),
            other => return Err(bad(format!("the role `{other}` is not supported by bedrock"))),
        }
    }
    Ok(Conversation { system, turns: turns.finish(text_block) })
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::field("messages", "invalid_value", message)
}

fn text_block(text: &str) -> Value {
    json!({"text": text})
}

/// Anthropic's cache mark, which clients send, as the block that Converse puts after what is cached.
pub(super) fn cache_point(mark: &Value) -> Value {
    let mut point = json!({"type": "default"});
    if let Some(lifetime) = mark.get("ttl").filter(|lifetime| lifetime.is_string()) {
        point["ttl"] = lifetime.clone();
    }
    json!({"cachePoint": point})
}

/// The cache mark of a whole message stands after its last block.
fn marked(mut blocks: Vec<Value>, message: &Message) -> Vec<Value> {
    if let Some(mark) = message.other.get("cache_control").filter(|mark| mark.is_object())
        && !blocks.is_empty()
    {
        blocks.push(cache_point(mark));
    }
    blocks
}

/// Text and its cache mark; text without a visible character is refused by the API and says nothing.
fn text_with_mark(text: &str, mark: Option<&Value>) -> Vec<Value> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    std::iter::once(text_block(text)).chain(mark.filter(|mark| mark.is_object()).map(cache_point)).collect()
}

fn system_blocks(message: &Message) -> Vec<Value> {
    let parts = message.content.as_ref().map(Content::parts).unwrap_or_default();
    let blocks = parts.iter().flat_map(|part| match part {
        Part::Text { text, cache_control } => text_with_mark(text, cache_control.as_ref()),
        _ => Vec::new(),
    });
    marked(blocks.collect(), message)
}

fn assistant_blocks(message: &Message) -> Result<Vec<Value>, Refusal> {
    let mut blocks: Vec<Value> = thinking::kept(message).iter().map(thought).collect();
    for part in message.content.as_ref().map(Content::parts).unwrap_or_default() {
        match &part {
            Part::Text { text, cache_control } => blocks.extend(text_with_mark(text, cache_control.as_ref())),
            Part::Refusal { refusal } => blocks.extend(text_with_mark(refusal, None)),
            _ => return Err(bad("an assistant message can hold only text and refusals")),
        }
    }
    blocks.extend(message.refusal.iter().flat_map(|refusal| text_with_mark(refusal, None)));
    for call in message.tool_calls.iter().flatten() {
        let input = call.function.object()?;
        let id = tool_id(&call.id, MAX_TOOL_ID);
        blocks.push(json!({"toolUse": {"toolUseId": id, "name": call.function.name, "input": input}}));
    }
    Ok(blocks)
}

/// A kept thought in Converse's words.
fn thought(block: &Value) -> Value {
    if block["type"] == "redacted_thinking" {
        return json!({"reasoningContent": {"redactedContent": block["data"]}});
    }
    json!({"reasoningContent": {"reasoningText": {"text": block["thinking"], "signature": block["signature"]}}})
}

/// Says parts, and names documents: each name once in a request.
#[derive(Debug, Default)]
struct Speaker {
    names: Vec<String>,
}

impl Speaker {
    fn blocks(&mut self, content: Option<&Content>) -> Result<Vec<Value>, Refusal> {
        let mut blocks = Vec::new();
        for part in content.map(Content::parts).unwrap_or_default() {
            match &part {
                Part::Text { text, cache_control } => blocks.extend(text_with_mark(text, cache_control.as_ref())),
                Part::Refusal { refusal } => blocks.extend(text_with_mark(refusal, None)),
                Part::ImageUrl { image_url, .. } => blocks.push(image(image_url.url())?),
                Part::InputAudio { input_audio, .. } => blocks.push(audio(input_audio)),
                Part::File { file, .. } => blocks.push(self.document(file)?),
            }
        }
        Ok(blocks)
    }

    fn tool_result(&mut self, message: &Message) -> Result<Value, Refusal> {
        let id = message.tool_call_id.as_deref().ok_or_else(|| bad("a tool message needs a `tool_call_id`"))?;
        let content = match &message.content {
            Some(Content::Text(text)) => text_with_mark(text, None),
            content => self.blocks(content.as_ref())?,
        };
        let is_error = message.other.get("is_error") == Some(&Value::Bool(true));
        let status = if is_error { "error" } else { "success" };
        Ok(json!({"toolResult": {"toolUseId": tool_id(id, MAX_TOOL_ID), "content": content, "status": status}}))
    }

    fn document(&mut self, file: &File) -> Result<Value, Refusal> {
        let Some(data) = file.file_data.as_deref() else {
            return Err(bad("bedrock takes a file by its content (`file_data`) alone"));
        };
        if is_remote(data) {
            return Err(bad("bedrock does not fetch files: send `file_data` as base64"));
        }
        let (media_type, data) = media_of(data, file.filename.as_deref());
        let format = document_format(&media_type, file.filename.as_deref())
            .ok_or_else(|| bad(format!("files of type `{media_type}` are not supported by bedrock")))?;
        if base64::decode(data).is_none() {
            return Err(bad("a file's content is not base64"));
        }
        let name = self.name(file.filename.as_deref().unwrap_or("document"));
        Ok(json!({"document": {"format": format, "name": name, "source": {"bytes": data}}}))
    }

    /// A name of letters, digits, single spaces, hyphens and brackets, that no other document has.
    fn name(&mut self, given: &str) -> String {
        let stem = given.rsplit_once('.').map_or(given, |(stem, _)| stem);
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-()[]".contains(c);
        let spelled: String = stem.chars().map(|c| if is_allowed(c) { c } else { ' ' }).collect();
        let mut plain = spelled.split_whitespace().collect::<Vec<_>>().join(" ");
        plain.truncate(MAX_DOCUMENT_NAME - 8);
        if plain.is_empty() {
            plain.push_str("document");
        }
        let mut name = plain.clone();
        let mut count = 1;
        while self.names.contains(&name) {
            count += 1;
            name = format!("{plain} ({count})");
        }
        self.names.push(name.clone());
        name
    }
}

fn image(url: &str) -> Result<Value, Refusal> {
    if is_remote(url) {
        return Err(bad("bedrock does not fetch images: send `image_url` as a base64 `data:` URL"));
    }
    if url.starts_with("s3://") {
        let format = url.rsplit_once('.').and_then(|(_, ending)| image_format(&ending.to_ascii_lowercase()));
        let format = format.ok_or_else(|| bad("the name of an image in S3 must tell its format"))?;
        return Ok(json!({"image": {"format": format, "source": {"s3Location": {"uri": url}}}}));
    }
    let data = DataUrl::parse(url).ok_or_else(|| bad("an image must be a base64 `data:` URL"))?;
    let format = data.media_type.strip_prefix("image/").and_then(image_format);
    let format = format.ok_or_else(|| bad(format!("images of type `{}` are not supported by bedrock", data.media_type)))?;
    Ok(json!({"image": {"format": format, "source": {"bytes": data.data}}}))
}

fn image_format(name: &str) -> Option<&'static str> {
    match name {
        "jpeg" | "jpg" => Some("jpeg"),
        "png" => Some("png"),
        "gif" => Some("gif"),
        "webp" => Some("webp"),
        _ => None,
    }
}

fn audio(sound: &InputAudio) -> Value {
    json!({"audio": {"format": sound.format, "source": {"bytes": sound.data}}})
}

/// Converse's name of a document's format, by its media type or else by its ending.
fn document_format(media_type: &str, name: Option<&str>) -> Option<&'static str> {
    let by_type = match media_type {
        "application/pdf" => Some("pdf"),
        "text/csv" => Some("csv"),
        "text/html" => Some("html"),
        "text/markdown" => Some("md"),
        "application/msword" => Some("doc"),
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => Some("docx"),
        "application/vnd.ms-excel" => Some("xls"),
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" => Some("xlsx"),
        "application/json" => Some("txt"),
        text if text.starts_with("text/") => Some("txt"),
        _ => None,
    };
    let ending = name.and_then(|name| name.rsplit_once('.')).map(|(_, ending)| ending.to_ascii_lowercase());
    by_type.or_else(|| match ending.as_deref()? {
        "doc" => Some("doc"),
        "docx" => Some("docx"),
        "xls" => Some("xls"),
        "xlsx" => Some("xlsx"),
        _ => None,
    })
}
