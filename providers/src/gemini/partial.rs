//! A function call whose arguments arrive in parts, each at a place named by a JSON path: what Vertex AI
//! streams when asked for `streamFunctionCallArguments`.
//! Reference: <https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1/Content#PartialArg>.
//! It must not know the rest of an answer.

use serde::Deserialize;
use serde_json::{Map, Value};

/// One part of the arguments.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PartialArg {
    json_path: String,
    /// A piece of a string: pieces of one place are joined.
    string_value: Option<String>,
    number_value: Option<Value>,
    bool_value: Option<bool>,
}

/// A call that is not yet whole.
#[derive(Clone, Debug)]
pub(super) struct PartialCall {
    /// The call's number in its choice.
    pub(super) index: usize,
    arguments: Value,
}

impl PartialCall {
    /// The call with this number, without arguments so far.
    pub(super) fn new(index: usize) -> Self {
        Self { index, arguments: Value::Object(Map::new()) }
    }

    /// Puts a part where it belongs; one without a readable place is left out.
    pub(super) fn add(&mut self, part: PartialArg) {
        let Some(place) = place(&mut self.arguments, &part.json_path) else { return };
        match (part.string_value, part.number_value, part.bool_value) {
            (Some(piece), ..) => match place {
                Value::String(text) => text.push_str(&piece),
                place => *place = Value::String(piece),
            },
            (_, Some(number), _) => *place = number,
            (_, _, Some(truth)) => *place = Value::Bool(truth),
            // `nullValue`
            _ => *place = Value::Null,
        }
    }

    /// The arguments as JSON text.
    pub(super) fn text(&self) -> String {
        self.arguments.to_string()
    }
}

/// The place that a path such as `$.boats[0].name` or `$['name']` means, made if it is new. Lists grow
/// by one element at a time.
fn place<'a>(root: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut rest = path.strip_prefix('$')?;
    let mut at = root;
    while !rest.is_empty() {
        let (step, after) = step(rest)?;
        rest = after;
        at = match step {
            Step::Member(name) => {
                if !at.is_object() {
                    *at = Value::Object(Map::new());
                }
                at.as_object_mut()?.entry(name).or_insert(Value::Null)
            }
            Step::Element(number) => {
                if !at.is_array() {
                    *at = Value::Array(Vec::new());
                }
                let list = at.as_array_mut()?;
                if number == list.len() {
                    list.push(Value::Null);
                }
                list.get_mut(number)?
            }
        };
    }
    Some(at)
}

enum Step<'a> {
    Member(&'a str),
    Element(usize),
}

/// The first step of a path, and the rest of it.
fn step(path: &str) -> Option<(Step<'_>, &str)> {
    if let Some(name) = path.strip_prefix('.') {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        return Some((Step::Member(&name[..end]), &name[end..]));
    }
    let inner = path.strip_prefix('[')?;
    for quote in ['\'', '"'] {
        if let Some(name) = inner.strip_prefix(quote) {
            let end = name.find(quote)?;
            return Some((Step::Member(&name[..end]), name[end + 1..].strip_prefix(']')?));
        }
    }
    let (number, after) = inner.split_once(']')?;
    Some((Step::Element(number.parse().ok()?), after))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{PartialArg, PartialCall};

    #[test]
    fn parts_find_their_places() {
        let mut call = PartialCall::new(0);
        for part in [
            json!({"jsonPath": "$.boats[0].name", "stringValue": "Ve", "willContinue": true}),
            json!({"jsonPath": "$.boats[0].name", "stringValue": "ga"}),
            json!({"jsonPath": "$.boats[0].masts", "numberValue": 2}),
            json!({"jsonPath": "$.boats[1]", "nullValue": "NULL_VALUE"}),
            json!({"jsonPath": "$['at sea']", "boolValue": true}),
            json!({"jsonPath": "$.boats[9].name", "stringValue": "too far"}),
            json!({"jsonPath": "boats", "stringValue": "no path"}),
            json!({"jsonPath": "$[", "stringValue": "no path"}),
        ] {
            call.add(serde_json::from_value::<PartialArg>(part).unwrap_or_default());
        }
        let expected = json!({"boats": [{"name": "Vega", "masts": 2}, null], "at sea": true});
        assert_eq!(call.text(), expected.to_string());
    }
}
