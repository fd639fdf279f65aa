//! Names that come from clients and configurations, made to break out of the place they are put in:
//! models, regions, projects and API versions in addresses, betas in headers, ids and names of tools in
//! bodies. Whatever they say, the address keeps its shape and its host.
//! It must not know any particular wire.

use providers::{Account, Provider};
use serde_json::{Value, json};

use crate::play;

/// Names, each with a way out that some parser would take.
const HOSTILE: [&str; 20] = [
    "..",
    ".",
    "../../../admin",
    "a/../../b",
    "..%2f..%2fadmin",
    "%2e%2e/%2e%2e",
    "a/b/c",
    "//evil.com/a",
    "a?key=b",
    "a#b",
    "a:streamGenerateContent",
    "a b",
    "a\\..\\b",
    "a@evil.com",
    "a;b=c",
    "a&alt=json",
    "é\u{202e}x",
    "a\u{0}b",
    "a\r\nx-injected: 1",
    "https://evil.com/",
];

/// Prefixes by which wires choose how a model is spoken to.
const PREFIXES: [&str; 8] = ["", "claude-", "anthropic/", "mistralai/", "meta/", "google/", "endpoints/", "models/"];

fn account() -> Account {
    let named = |name: &str| Some(name.to_owned());
    Account { region: named("us-east-1"), project: named("project"), api_version: named("2024-10-21"), ..Account::default() }
}

/// The address of a call, if it is not refused.
fn address(wire: &dyn Provider, model: &str, account: &Account) -> Option<String> {
    let request = play::chat(&json!({"model": "m", "messages": [{"role": "user", "content": "?"}]}));
    let sent = wire.request(&play::call(&request, model, account)).ok()?;
    for (name, value) in &sent.headers {
        let stays_a_line = !value.as_bytes().iter().any(u8::is_ascii_control);
        assert!(stays_a_line, "{}: the header {name} holds {value:?}", wire.kind());
    }
    Some(sent.path)
}

/// The segments of an address, and whether it is made of nothing but what an address may hold.
fn shape(path: &str) -> usize {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~%/:?=&".contains(&byte);
    assert!(path.starts_with('/') && !path.starts_with("//") && path.bytes().all(is_allowed), "{path:?}");
    assert!(path.matches('?').count() <= 1, "{path:?} asks twice");
    let (path, _) = path.split_once('?').unwrap_or((path, ""));
    let walks = path.split('/').any(|segment| matches!(segment.to_lowercase().as_str(), "." | ".." | "%2e" | "%2e%2e"));
    assert!(!walks, "{path:?} walks");
    path.split('/').count()
}

#[test]
fn no_model_leaves_its_segment() {
    for wire in providers::all() {
        for prefix in PREFIXES {
            // What a wire does with the prefix shows in a harmless name.
            let shapes = ["x", "x/y"].map(|name| address(wire, &format!("{prefix}{name}"), &account()).map(|path| shape(&path)));
            for hostile in HOSTILE {
                let Some(path) = address(wire, &format!("{prefix}{hostile}"), &account()) else { continue };
                assert!(shapes.contains(&Some(shape(&path))), "{}: {prefix}{hostile:?} became {path}", wire.kind());
            }
        }
    }
}

#[test]
fn no_setting_of_an_account_leaves_its_segment_or_names_another_host() {
    for wire in providers::all() {
        let usual = address(wire, "model", &account()).map(|path| shape(&path));
        for hostile in HOSTILE {
            let named = Some(hostile.to_owned());
            let accounts = [
                Account { region: named.clone(), ..account() },
                Account { project: named.clone(), ..account() },
                Account { api_version: named, ..account() },
            ];
            for bent in accounts {
                if let Some(path) = address(wire, "model", &bent) {
                    let is_walk = matches!(hostile, "." | "..");
                    let shaped = if is_walk { usual } else { Some(shape(&path)) };
                    assert_eq!(shaped, usual, "{}: {hostile:?} became {path}", wire.kind());
                }
                let host = wire.base_url(&bent).map(|url| url.trim_start_matches("https://").to_owned());
                let is_plain = |host: &String| {
                    let host = host.strip_prefix("http://").unwrap_or(host);
                    let name = host.split('/').next().unwrap_or_default();
                    !name.contains("evil") && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte))
                };
                assert!(host.as_ref().is_none_or(is_plain), "{}: {hostile:?} became the host {host:?}", wire.kind());
            }
        }
    }
}

#[test]
fn names_and_ids_of_tools_stay_words_in_the_body() {
    for wire in providers::all() {
        for hostile in HOSTILE {
            let function = json!({"name": hostile, "parameters": {"type": "object"}});
            let call = json!({"id": hostile, "type": "function", "function": {"name": hostile, "arguments": "{}"}});
            let request = play::chat(&json!({"model": "m", "tools": [{"type": "function", "function": function}],
                "anthropic_beta": [hostile], "messages": [{"role": "user", "content": "?"},
                {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": hostile, "content": "!"}]}));
            let bent = account();
            let Ok(sent) = wire.request(&play::call(&request, "model", &bent)) else { continue };
            assert!(serde_json::from_slice::<Value>(&sent.body).is_ok(), "{}: {hostile:?} broke the body", wire.kind());
            assert!(!sent.path.contains("evil") && !sent.path.contains("admin"), "{}: {hostile:?} in {}", wire.kind(), sent.path);
            for (name, value) in &sent.headers {
                assert!(!value.as_bytes().contains(&b'\n'), "{}: the header {name} holds {value:?}", wire.kind());
            }
        }
    }
}
