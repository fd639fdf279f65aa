//! How tool declarations look to a model: OpenAI turns their JSON Schema into TypeScript-like text,
//! and bills that text. The format is known from models quoting it and from bills that agree with it.
//! It must not know requests or how text becomes tokens.

use serde_json::{Map, Value};

/// Descriptions deeper than this are left out of the text.
const DESCRIBED_DEPTH: usize = 2;

/// Appends one function as the model sees it.
pub fn function(out: &mut String, name: &str, description: Option<&str>, parameters: Option<&Value>) {
    comment(out, description, 0);
    let properties = parameters.and_then(properties).filter(|fields| !fields.is_empty());
    out.push_str("type ");
    out.push_str(name);
    match (properties, parameters) {
        (Some(fields), Some(schema)) => {
            out.push_str(" = (_: {\n");
            object(out, fields, schema, 0);
            out.push_str("}) => any;\n\n");
        }
        _ => out.push_str(" = () => any;\n\n"),
    }
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties")?.as_object()
}

fn comment(out: &mut String, text: Option<&str>, depth: usize) {
    for line in text.unwrap_or_default().lines() {
        indent(out, depth);
        out.push_str("// ");
        out.push_str(line);
        out.push('\n');
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn object(out: &mut String, fields: &Map<String, Value>, schema: &Value, depth: usize) {
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|known| known.as_str() == Some(name)));
    for (name, field) in fields {
        if depth < DESCRIBED_DEPTH {
            comment(out, field.get("description").and_then(Value::as_str), depth);
        }
        indent(out, depth);
        out.push_str(name);
        out.push_str(if is_required(name) { ": " } else { "?: " });
        kind(out, field, depth);
        out.push_str(",\n");
    }
}

/// The type of a schema, nested no deeper than the JSON it came from.
fn kind(out: &mut String, schema: &Value, depth: usize) {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return joined(out, values, |out, value| out.push_str(&value.to_string()));
    }
    if let Some(options) = ["anyOf", "oneOf"].iter().find_map(|word| schema.get(word)?.as_array()) {
        return joined(out, options, |out, option| kind(out, option, depth));
    }
    match schema.get("type") {
        Some(Value::Array(kinds)) => joined(out, kinds, |out, one| plain(out, one.as_str(), schema, depth)),
        one => plain(out, one.and_then(Value::as_str), schema, depth),
    }
}

fn joined(out: &mut String, values: &[Value], mut write: impl FnMut(&mut String, &Value)) {
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push_str(" | ");
        }
        write(out, value);
    }
}

fn plain(out: &mut String, name: Option<&str>, schema: &Value, depth: usize) {
    match name {
        Some("integer") => out.push_str("number"),
        Some("array") => {
            match schema.get("items") {
                Some(items) => kind(out, items, depth),
                None => out.push_str("any"),
            }
            out.push_str("[]");
        }
        Some("object") => match properties(schema) {
            Some(fields) => {
                out.push_str("{\n");
                object(out, fields, schema, depth + 1);
                indent(out, depth);
                out.push('}');
            }
            None => out.push_str("object"),
        },
        Some(name) => out.push_str(name),
        None => out.push_str("any"),
    }
}
