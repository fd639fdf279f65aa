//! The conversation in Anthropic's words: system text apart, turns of user and assistant that
//! alternate, tool results first in their turn.
//! It must not know the other fields of a request.

use serde_json::{Value, json};

use super::request::Host;
use super::thinking;
use crate::base64;
use crate::chat::{Chat, Content, File, Message, Part};
use crate::dataurl::{DataUrl, is_remote, media_of};
use crate::error::Refusal;
use crate::toolid::tool_id;
use crate::turns::{Side, Turns};

/// Anthropic sets no limit on the length of a call's id; this bounds what a client can make us send.
const MAX_TOOL_ID: usize = 256;

/// Media types of pictures that the API reads.
const IMAGE_TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// A conversation ready for the body.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    /// Blocks of `system`.
    pub(crate) system: Vec<Value>,
    /// `messages`.
    pub(crate) turns: Vec<Value>,
    /// Whether a file is named by its id, which needs a beta header.
    pub(crate) names_files: bool,
}

/// Says `chat`'s messages for `host`.
///
/// # Errors
/// A [`Refusal`] for what has no form here: sound, media types the API does not read, unknown roles, and
/// addresses where the host does not fetch.
pub(crate) fn say(chat: &Chat, host: Host) -> Result<Conversation, Refusal> {
    let mut conversation = Conversation::default();
    let mut turns = Turns::default();
    let mut files = Files { host, names_files: false };
    for message in &chat.messages {
        match message.role.as_str() {
            "system" | "developer" => conversation.system.extend(system_blocks(message)),
            "user" => turns.say(Side::User, marked(files.blocks(message.content.as_ref())?, message)),
            "assistant" => turns.say(Side::Assistant, marked(assistant_blocks(message)?, message)),
            "tool" => turns.result(marked(vec![files.tool_result(message)?], message)),
            other => return Err(bad(format!("the role `{other}` is not supported by anthropic"))),
        }
    }
    conversation.turns = turns.finish(text_block);
    conversation.names_files = files.names_files;
    Ok(conversation)
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::field("messages", "invalid_value", message)
}

fn text_block(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// The cache mark of a whole message goes on its last block.
fn marked(mut blocks: Vec<Value>, message: &Message) -> Vec<Value> {
    let mark = message.other.get("cache_control").filter(|mark| mark.is_object());
    if let (Some(mark), Some(Value::Object(last))) = (mark, blocks.last_mut()) {
        last.entry("cache_control").or_insert_with(|| mark.clone());
    }
    blocks
}

/// Text without a visible character is refused by the API and says nothing.
fn text_with_mark(text: &str, mark: Option<&Value>) -> Option<Value> {
    if text.trim().is_empty() {
        return None;
    }
    let mut block = text_block(text);
    if let Some(mark) = mark {
        block["cache_control"] = mark.clone();
    }
    Some(block)
}

fn system_blocks(message: &Message) -> Vec<Value> {
    let parts = message.content.as_ref().map(Content::parts).unwrap_or_default();
    let blocks = parts.iter().filter_map(|part| match part {
        Part::Text { text, cache_control } => text_with_mark(text, cache_control.as_ref()),
        _ => None,
    });
    marked(blocks.collect(), message)
}

fn assistant_blocks(message: &Message) -> Result<Vec<Value>, Refusal> {
    let mut blocks = thinking::kept(message);
    for part in message.content.as_ref().map(Content::parts).unwrap_or_default() {
        match &part {
            Part::Text { text, cache_control } => blocks.extend(text_with_mark(text, cache_control.as_ref())),
            Part::Refusal { refusal } => blocks.extend(text_with_mark(refusal, None)),
            _ => return Err(bad("an assistant message can hold only text and refusals")),
        }
    }
    blocks.extend(message.refusal.as_deref().and_then(|refusal| text_with_mark(refusal, None)));
    for call in message.tool_calls.iter().flatten() {
        let input = call.function.object()?;
        let id = tool_id(&call.id, MAX_TOOL_ID);
        blocks.push(json!({"type": "tool_use", "id": id, "name": call.function.name, "input": input}));
    }
    Ok(blocks)
}

/// Says parts, and what they carry.
struct Files {
    host: Host,
    /// Whether a file was named by its id.
    names_files: bool,
}

impl Files {
    fn tool_result(&mut self, message: &Message) -> Result<Value, Refusal> {
        let id = message.tool_call_id.as_deref().ok_or_else(|| bad("a tool message needs a `tool_call_id`"))?;
        let mut result = json!({"type": "tool_result", "tool_use_id": tool_id(id, MAX_TOOL_ID)});
        match &message.content {
            None => {}
            Some(Content::Text(text)) => result["content"] = Value::from(text.as_str()),
            Some(content @ Content::Parts(_)) => result["content"] = self.blocks(Some(content))?.into(),
        }
        if message.other.get("is_error") == Some(&Value::Bool(true)) {
            result["is_error"] = Value::Bool(true);
        }
        Ok(result)
    }

    fn blocks(&mut self, content: Option<&Content>) -> Result<Vec<Value>, Refusal> {
        let mut blocks = Vec::new();
        for part in content.map(Content::parts).unwrap_or_default() {
            match &part {
                Part::Text { text, cache_control } => blocks.extend(text_with_mark(text, cache_control.as_ref())),
                Part::Refusal { refusal } => blocks.extend(text_with_mark(refusal, None)),
                Part::ImageUrl { image_url, .. } => blocks.push(self.image(image_url.url())?),
                Part::InputAudio { .. } => return Err(bad("`input_audio` is not supported by anthropic")),
                Part::File { file, .. } => blocks.push(self.document(file)?),
            }
        }
        Ok(blocks)
    }

    fn image(&self, url: &str) -> Result<Value, Refusal> {
        if is_remote(url) {
            return Ok(json!({"type": "image", "source": self.address(url)?}));
        }
        let data = DataUrl::parse(url).ok_or_else(|| bad("an image must be an http(s) address or a base64 `data:` URL"))?;
        let media_type = if data.media_type == "image/jpg" { "image/jpeg" } else { &data.media_type };
        if !IMAGE_TYPES.contains(&media_type) {
            return Err(bad(format!("images of type `{media_type}` are not supported by anthropic")));
        }
        Ok(json!({"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data.data}}))
    }

    fn document(&mut self, file: &File) -> Result<Value, Refusal> {
        let source = match (&file.file_id, &file.file_data) {
            (Some(_), _) if self.host != Host::Anthropic => {
                return Err(bad("the provider keeps no files: send `file_data` and not `file_id`"));
            }
            (Some(id), _) => {
                self.names_files = true;
                json!({"type": "file", "file_id": id})
            }
            (None, Some(data)) if is_remote(data) => self.address(data)?,
            (None, Some(data)) => document_source(data, file.filename.as_deref())?,
            (None, None) => return Err(bad("a file part needs `file_data` or `file_id`")),
        };
        let mut block = json!({"type": "document", "source": source});
        if let Some(name) = &file.filename {
            block["title"] = name.as_str().into();
        }
        Ok(block)
    }

    fn address(&self, url: &str) -> Result<Value, Refusal> {
        if self.host == Host::Bedrock {
            return Err(bad("the provider does not fetch addresses: send images and files as base64 `data:` URLs"));
        }
        Ok(json!({"type": "url", "url": url}))
    }
}

fn document_source(data: &str, name: Option<&str>) -> Result<Value, Refusal> {
    let (media_type, data) = media_of(data, name);
    if media_type == "application/pdf" {
        return Ok(json!({"type": "base64", "media_type": media_type, "data": data}));
    }
    let is_text = media_type.starts_with("text/") || media_type == "application/json";
    let text = is_text.then(|| base64::decode(data).and_then(|bytes| String::from_utf8(bytes).ok())).flatten();
    let text = text.ok_or_else(|| bad(format!("files of type `{media_type}` are not supported by anthropic")))?;
    Ok(json!({"type": "text", "media_type": "text/plain", "data": text}))
}
