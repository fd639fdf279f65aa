//! The tool calls of one choice of a stream: to which call a fragment belongs, however the dialect
//! numbers and names them. Clients see calls numbered from 0 in the order they begin; id, type and
//! name come with the first fragment only.
//! It must not know text, finish reasons or usage.

use serde_json::{Map, Value};

use super::glance::{Span, Tool};
use super::mend;

/// The most calls one choice may make; fragments of further ones are dropped as unreadable.
pub(super) const MAX_CALLS: usize = 4096;

/// The calls of one choice so far.
#[derive(Debug, Default)]
pub(super) struct Calls {
    list: Vec<Call>,
}

#[derive(Debug, Default)]
struct Call {
    /// The number the provider gave.
    number: Option<u64>,
    id: String,
    has_name: bool,
    arguments: Balance,
}

impl Calls {
    /// How many have begun.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Whether a fragment can go to the client as it came.
    pub fn fits(&self, tool: &Tool, chunk: &str) -> bool {
        let is_new = tool.index == self.list.len();
        let Some(call) = self.list.get(tool.index) else {
            let id = tool.id.clone().map(|span| inside(chunk, &span));
            return is_new
                && is_new_id(&self.list, id)
                && tool.has_type
                && tool.name.is_some()
                && tool.arguments.is_some()
                && tool.index < MAX_CALLS
                && self.list.iter().all(|call| call.number != Some(tool.index as u64));
        };
        call.number == Some(tool.index as u64) && tool.id.is_none() && tool.name.is_none()
    }

    /// Takes note of a fragment that [`fits`](Self::fits); `arguments` is its text.
    pub fn note(&mut self, tool: &Tool, chunk: &str, arguments: &str) {
        if tool.index == self.list.len() {
            let id = tool.id.as_ref().map(|span| inside(chunk, span).to_owned()).unwrap_or_default();
            self.list.push(Call { number: Some(tool.index as u64), id, has_name: true, ..Call::default() });
        }
        if let Some(call) = self.list.get_mut(tool.index) {
            call.arguments.follow(arguments);
        }
    }

    /// Rewrites any fragment for the client; `mint` makes an id for the call with this number.
    /// `false` when there are too many calls.
    pub fn place(&mut self, fragment: &mut Map<String, Value>, mint: impl FnOnce(usize) -> String) -> bool {
        let number = fragment.get("index").and_then(Value::as_u64);
        let id = fragment.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_custom = fragment.get("type").is_some_and(|kind| kind == "custom") || !fragment.contains_key("function");
        let body = if is_custom && fragment.get("custom").is_some_and(Value::is_object) { "custom" } else { "function" };
        fragment.retain(|name, value| name != "custom" || !mend::is_hollow(value));
        let name = fragment.get(body).and_then(|body| body.get("name")).and_then(Value::as_str).unwrap_or_default().to_owned();
        let at = self.find(number, &id, &name).unwrap_or(self.list.len());
        if at >= MAX_CALLS {
            return false;
        }
        let is_new = at == self.list.len();
        if is_new {
            let id = if id.is_empty() { mint(at) } else { id };
            self.list.push(Call { number, id: id.clone(), ..Call::default() });
            fragment.insert("id".to_owned(), Value::from(id));
            fragment.insert("type".to_owned(), Value::from(body));
        } else {
            fragment.shift_remove("id");
        }
        fragment.insert("index".to_owned(), Value::from(at));
        if body == "function" {
            self.list[at].dress(fragment, is_new, &name);
        }
        true
    }

    /// The call a fragment continues; `None` when it begins one.
    fn find(&self, number: Option<u64>, id: &str, name: &str) -> Option<usize> {
        if !id.is_empty()
            && let Some(known) = self.list.iter().rposition(|call| call.id == id)
        {
            return Some(known);
        }
        let same = match number {
            Some(_) => self.list.iter().rposition(|call| call.number == number),
            None => self.list.len().checked_sub(1),
        }?;
        // A fragment with a name of its own begins a call, unless the name is only repeated while
        // the arguments are still under way.
        let call = &self.list[same];
        let is_over = call.has_name && (number.is_none() || call.arguments.is_whole());
        let begins = !name.is_empty() && (!id.is_empty() || is_over);
        (!begins).then_some(same)
    }
}

impl Call {
    /// Name and arguments of a function call's fragment, as OpenAI writes them.
    fn dress(&mut self, fragment: &mut Map<String, Value>, is_new: bool, name: &str) {
        let function = fragment.entry("function").or_insert_with(|| Value::Object(Map::new()));
        if !function.is_object() {
            *function = Value::Object(Map::new());
        }
        let Some(function) = function.as_object_mut() else { return };
        if self.has_name || (name.is_empty() && !is_new) {
            function.shift_remove("name");
        } else if name.is_empty() {
            function.insert("name".to_owned(), Value::from(""));
        }
        self.has_name |= !name.is_empty();
        match function.get("arguments") {
            Some(Value::String(text)) => self.arguments.follow(text),
            Some(Value::Null) | None if is_new => {
                function.insert("arguments".to_owned(), Value::from(""));
            }
            Some(Value::Null) | None => {
                function.shift_remove("arguments");
            }
            Some(object) => {
                let text = object.to_string();
                self.arguments.follow(&text);
                function.insert("arguments".to_owned(), Value::from(text));
            }
        }
    }
}

fn inside<'a>(chunk: &'a str, quoted: &Span) -> &'a str {
    chunk.get(quoted.start + 1..quoted.end - 1).unwrap_or_default()
}

fn is_new_id(list: &[Call], id: Option<&str>) -> bool {
    id.is_some_and(|id| !id.contains('\\') && list.iter().all(|call| call.id != id))
}

/// Follows JSON text that arrives in pieces, to tell when a value is whole.
#[derive(Clone, Copy, Debug, Default)]
struct Balance {
    depth: u32,
    has_begun: bool,
    in_string: bool,
    after_backslash: bool,
}

impl Balance {
    fn follow(&mut self, text: &str) {
        for byte in text.bytes() {
            if self.in_string {
                match byte {
                    _ if self.after_backslash => self.after_backslash = false,
                    b'\\' => self.after_backslash = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    self.has_begun = true;
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    fn is_whole(self) -> bool {
        self.has_begun && self.depth == 0 && !self.in_string
    }
}
