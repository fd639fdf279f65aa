//! What is said, in Anthropic's words.
//! It must not know the order of a conversation, nor the other fields of a request.

use serde_json::{Map, Value, json};

use super::request::Host;
use crate::base64;
use crate::chat::{File, Part};
use crate::conversation::{Said, Words, bad};
use crate::dataurl::{DataUrl, is_remote, media_of};
use crate::error::Refusal;

/// Media types of pictures that the API reads.
const IMAGE_TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// Anthropic's words, as `host` takes them.
#[derive(Debug)]
pub(crate) struct Blocks {
    host: Host,
    /// Whether a file is named by its id, which needs a beta header.
    pub(crate) names_files: bool,
}

impl Words for Blocks {
    const KIND: &'static str = "anthropic";
    /// Anthropic sets no limit; this bounds what a client can make us send.
    const MAX_TOOL_ID: usize = 256;

    fn text(text: &str) -> Value {
        json!({"type": "text", "text": text})
    }

    fn mark(blocks: &mut Vec<Value>, mark: &Value) {
        if let Some(Value::Object(last)) = blocks.last_mut() {
            last.entry("cache_control").or_insert_with(|| mark.clone());
        }
    }

    fn thought(block: Value) -> Value {
        block
    }

    fn call(id: &str, name: &str, input: Map<String, Value>) -> Value {
        json!({"type": "tool_use", "id": id, "name": name, "input": input})
    }

    fn result(id: &str, said: Said<'_>, is_error: bool) -> Value {
        let mut result = json!({"type": "tool_result", "tool_use_id": id});
        match said {
            Said::Nothing => {}
            Said::Text(text) => result["content"] = text.into(),
            Said::Blocks(blocks) => result["content"] = blocks.into(),
        }
        if is_error {
            result["is_error"] = Value::Bool(true);
        }
        result
    }

    fn file(&mut self, part: &Part) -> Result<Value, Refusal> {
        match part {
            Part::ImageUrl { image_url, .. } => self.image(image_url.url()),
            Part::File { file, .. } => self.document(file),
            _ => Err(bad("`input_audio` is not supported by anthropic")),
        }
    }
}

impl Blocks {
    /// The words for this host.
    pub(crate) fn new(host: Host) -> Self {
        Self { host, names_files: false }
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
