//! From text to [`File`]: `${VAR}` filled in, mistakes told with their line and the nearest right key.
//! It must not know what any key means.

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::ConfigError;
use super::file::File;

/// Reads the file's text; `environment` answers for `${VAR}`.
pub(super) fn read(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<File, ConfigError> {
    // The first pass finds mistakes where they stand; the second has the variables filled in.
    toml::from_str::<File>(text).map_err(|error| describe(text, &error))?;
    let table: Table = toml::from_str(text).map_err(|error| describe(text, &error))?;
    let filled = fill(Value::Table(table), "", environment)?;
    File::deserialize(filled).map_err(|error| ConfigError(plain(error.message())))
}

/// The same mistake with its line. Messages about a setting begin with its key: `server.listen: …`.
pub(super) fn with_line(text: &str, error: ConfigError) -> ConfigError {
    let key = error.0.split(": ").next().unwrap_or_default();
    match line_of(text, key) {
        Some(line) => ConfigError(format!("line {line}: {}", error.0)),
        None => error,
    }
}

fn describe(text: &str, error: &toml::de::Error) -> ConfigError {
    let said = unknown_key(error.message()).unwrap_or_else(|| plain(error.message()));
    match error.span() {
        Some(span) => ConfigError(format!("line {}: {said}", line_at(text, span.start))),
        None => ConfigError(said),
    }
}

fn line_at(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|byte| *byte == b'\n').count() + 1
}

/// The line of `key`, or of the table in which it is missing.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let (mut table, mut rest, mut found) = (document.get_ref(), key, None);
    loop {
        let member = table.iter().find_map(|(name, value)| Some((name, value, after(rest, name.get_ref())?)));
        let Some((name, value, left)) = member else { break };
        (rest, found) = (left, Some(name.span().start));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            DeValue::Array(items) => {
                let named = items.iter().find_map(|item| {
                    let item = item.get_ref().as_table()?;
                    let (_, name) = item.iter().find(|(key, _)| key.get_ref() == "name")?;
                    Some((item, name.span().start, after(rest, name.get_ref().as_str()?)?))
                });
                let Some((item, start, left)) = named else { break };
                (table, rest, found) = (item, left, Some(start));
            }
            _ => break,
        }
    }
    found.filter(|_| !rest.contains('.')).map(|position| line_at(text, position))
}

/// What follows `name` or `"name"` at the beginning of a dotted key.
fn after<'k>(key: &'k str, name: &str) -> Option<&'k str> {
    let quoted = || key.strip_prefix('"')?.strip_prefix(name)?.strip_prefix('"');
    let rest = key.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('.')).or_else(quoted)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
}

/// Serde's "unknown field `x`, expected one of `a`, `b`" with the key that was probably meant, else all there are.
fn unknown_key(message: &str) -> Option<String> {
    let mut quoted = message.strip_prefix("unknown field")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    let nearest = super::nearest(unknown, known.iter().copied());
    let hint = nearest.map_or_else(
        || format!("known here: {}", known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")),
        |key| format!("did you mean `{key}`?"),
    );
    Some(format!("unknown key `{unknown}`; {hint}"))
}

/// What serde calls things, and what people do.
const WORDS: [(&str, &str); 7] = [
    ("expected u64", "expected a whole number, 0 or more"),
    ("expected u32", "expected a whole number, 0 or more"),
    ("expected usize", "expected a whole number, 0 or more"),
    ("expected f64", "expected a number"),
    ("a sequence", "a list"),
    ("invalid type: map", "invalid type: table"),
    (" as i128", ""),
];

/// A message of the parser without the names that only Rust has.
fn plain(message: &str) -> String {
    let line = message.lines().next().unwrap_or(message).to_owned();
    WORDS.iter().fold(line, |line, (theirs, ours)| line.replace(theirs, ours))
}

fn fill(value: Value, path: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Value, ConfigError> {
    Ok(match value {
        Value::String(text) => Value::String(expand(&text, path, environment)?),
        Value::Array(items) => {
            let items = items.into_iter().map(|item| {
                let name = item.get("name").and_then(Value::as_str).map(|name| format!("{path}.{name}"));
                fill(item, name.as_deref().unwrap_or(path), environment)
            });
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Table(table) => {
            let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            let members = table.into_iter().map(|(key, member)| {
                let member = fill(member, &join(&key), environment)?;
                Ok((key, member))
            });
            Value::Table(members.collect::<Result<_, ConfigError>>()?)
        }
        other => other,
    })
}

fn expand(text: &str, path: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, tail) = after.split_once('}').ok_or_else(|| ConfigError(format!("{path}: `${{` without `}}`")))?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (inside, None),
        };
        let value = environment(name).filter(|value| !value.is_empty()).or(default);
        out.push_str(before);
        out.push_str(&value.ok_or_else(|| {
            ConfigError(format!("{path}: the environment variable {name} is not set; set it, or write ${{{name}:-DEFAULT}}"))
        })?);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}
