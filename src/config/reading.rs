//! From text to [`File`]: `${VAR}` filled in, mistakes told with their line and the nearest right key.
//! It must not know what any key means.

use serde::Deserialize;
use toml::{Table, Value};

use super::ConfigError;
use super::file::File;

/// Reads the file's text; `environment` answers for `${VAR}`.
pub(super) fn read(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<File, ConfigError> {
    // The first pass finds mistakes where they stand; the second has the variables filled in.
    toml::from_str::<File>(text).map_err(|error| describe(text, &error))?;
    let table: Table = toml::from_str(text).map_err(|error| describe(text, &error))?;
    let filled = fill(Value::Table(table), "", environment)?;
    File::deserialize(filled).map_err(|error| ConfigError(error.message().to_owned()))
}

fn describe(text: &str, error: &toml::de::Error) -> ConfigError {
    let message = error.message();
    let hint = nearest(message).map(|key| format!("; did you mean `{key}`?")).unwrap_or_default();
    let first = message.lines().next().unwrap_or(message);
    let what = first.split(", expected one of").next().unwrap_or(first);
    match error.span() {
        Some(span) => {
            let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
            ConfigError(format!("line {line}: {what}{hint}"))
        }
        None => ConfigError(format!("{what}{hint}")),
    }
}

/// The key that was meant, out of serde's "unknown field `x`, expected one of `a`, `b`".
fn nearest(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field").then(|| quoted.next()).flatten()?;
    let distance = |key: &&str| strsim::damerau_levenshtein(unknown, key);
    quoted.min_by_key(distance).map(str::to_owned)
}

fn fill(value: Value, path: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Value, ConfigError> {
    Ok(match value {
        Value::String(text) => Value::String(expand(&text, path, environment)?),
        Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| fill(item, path, environment)).collect::<Result<_, _>>()?)
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
        out.push_str(&value.ok_or_else(|| ConfigError(format!("{path}: the environment variable {name} is not set")))?);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}
