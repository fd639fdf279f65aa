//! What is said, in Converse's words.
//! It must not know the order of a conversation, nor the other fields of a request.

use serde_json::{Map, Value, json};

use crate::base64;
use crate::chat::{File, InputAudio, Part};
use crate::conversation::{Said, Words, bad};
use crate::dataurl::{DataUrl, is_remote, media_of};
use crate::error::Refusal;

/// The longest name of a document.
const MAX_DOCUMENT_NAME: usize = 200;

/// Anthropic's cache mark, which clients send, as the block that Converse puts after what is cached.
pub(super) fn cache_point(mark: &Value) -> Value {
    let mut point = json!({"type": "default"});
    if let Some(lifetime) = mark.get("ttl").filter(|lifetime| lifetime.is_string()) {
        point["ttl"] = lifetime.clone();
    }
    json!({"cachePoint": point})
}

/// Converse's words; each document's name is used once in a request.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    names: Vec<String>,
}

impl Words for Blocks {
    const KIND: &'static str = "bedrock";
    const MAX_TOOL_ID: usize = 64;

    fn text(text: &str) -> Value {
        json!({"text": text})
    }

    fn mark(blocks: &mut Vec<Value>, mark: &Value) {
        let is_marked = blocks.last().is_some_and(|last| last.get("cachePoint").is_some());
        if !is_marked {
            blocks.push(cache_point(mark));
        }
    }

    fn thought(block: Value) -> Value {
        if block["type"] == "redacted_thinking" {
            return json!({"reasoningContent": {"redactedContent": block["data"]}});
        }
        json!({"reasoningContent": {"reasoningText": {"text": block["thinking"], "signature": block["signature"]}}})
    }

    fn call(id: &str, name: &str, input: Map<String, Value>) -> Value {
        json!({"toolUse": {"toolUseId": id, "name": name, "input": input}})
    }

    /// Text without a visible character is refused, and left out.
    fn result(id: &str, said: Said<'_>, is_error: bool) -> Value {
        let content = match said {
            Said::Text(text) if !text.trim().is_empty() => vec![Self::text(text)],
            Said::Text(_) | Said::Nothing => Vec::new(),
            Said::Blocks(blocks) => blocks,
        };
        let status = if is_error { "error" } else { "success" };
        json!({"toolResult": {"toolUseId": id, "content": content, "status": status}})
    }

    fn file(&mut self, part: &Part) -> Result<Value, Refusal> {
        match part {
            Part::ImageUrl { image_url, .. } => image(image_url.url()),
            Part::InputAudio { input_audio, .. } => Ok(audio(input_audio)),
            Part::File { file, .. } => self.document(file),
            Part::Text { text, .. } | Part::Refusal { refusal: text } => Ok(Self::text(text)),
        }
    }
}

impl Blocks {
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
