//! The same request as public SDKs sent it in several wires: what we make of the chat completions form must
//! mean what was sent to Anthropic, Bedrock and Vertex AI. Differences are listed with a reason.
//! It must not know how the adapters work.

use std::path::Path;

use providers::{Account, ChatRequest, Endpoint};
use serde_json::{Map, Value, json};

use crate::{heard, play};

/// Folder of the wire and our kind for it.
const WIRES: [(&str, &str); 4] =
    [("anthropic", "anthropic"), ("bedrock", "bedrock"), ("bedrock-anthropic", "bedrock-anthropic"), ("vertex", "vertex")];

/// Why a field differs: wire (or `*`), case (or `*`), field, reason.
const REASONS: [(&str, &str, &str, &str); 17] = [
    (
        "*",
        "*",
        "max_tokens",
        "the client set no limit, which these wires demand: ours is the model's own, theirs a number of their author",
    ),
    ("*", "simpleRequest", "thinking", "the chat request asks for reasoning, theirs does not"),
    ("bedrock", "simpleRequest", "additionalModelRequestFields", "the chat request asks for reasoning, theirs does not"),
    (
        "anthropic",
        "reasoningEffortLowParam",
        "thinking",
        "an effort in OpenAI's words asks to reason; theirs sets the effort and does not turn thinking on",
    ),
    (
        "anthropic",
        "reasoningSummaryParam",
        "thinking",
        "an effort in OpenAI's words asks to reason; theirs sets the effort and does not turn thinking on",
    ),
    (
        "anthropic",
        "serviceTierParam",
        "service_tier",
        "OpenAI's `default` is the usual tier and no other; theirs lets the provider choose",
    ),
    ("anthropic", "metadataParam", "metadata", "labels are not the user's id, and the chat request names no user"),
    (
        "anthropic",
        "promptCacheKeyParam",
        "system",
        "theirs has a system message that the chat request lacks; a cache key is a hint we name as dropped",
    ),
    ("anthropic", "multimodalRequest", "messages", "their author downloaded the picture; Anthropic fetches it itself"),
    ("anthropic", "parallelToolCallsDisabledParam", "tools", "theirs leaves out the closed schema of the chat request"),
    ("anthropic", "toolChoiceRequiredParam", "tools", "theirs leaves out the closed schema of the chat request"),
    ("anthropic", "instructionsParam", "system", "the two were written with other words"),
    ("anthropic", "parallelToolCallsDisabledParam", "messages", "the two were written with other words"),
    ("anthropic", "stopSequencesParam", "messages", "the two were written with other words"),
    (
        "bedrock",
        "multimodalRequest",
        "messages",
        "Bedrock does not fetch pictures and neither do we: refused with the field's name",
    ),
    ("bedrock", "multimodalRequest", "inferenceConfig", "refused"),
    ("bedrock", "multimodalRequest", "refused", "refused"),
];

#[test]
fn the_same_request_means_the_same_in_every_wire() {
    let Some(folder) = heard::folder() else { return };
    let mut cases: Vec<_> = std::fs::read_dir(folder.join("crossmap")).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let mut unexplained = 0;
    for (wire, kind) in WIRES {
        let (mut count, mut same) = (0, 0);
        for case in cases.iter().filter(|case| case.join("chat-completions").is_dir() && case.join(wire).is_dir()) {
            let name = case.file_name().unwrap().to_str().unwrap();
            let differences = differences(case, wire, kind);
            count += 1;
            same += usize::from(differences.is_empty());
            for (field, told) in differences {
                let fits = |given: &str, wanted: &str| given == "*" || given == wanted;
                let reason = REASONS.iter().find(|(of, case, at, _)| fits(of, wire) && fits(case, name) && *at == field);
                unexplained += usize::from(reason.is_none());
                println!("  {wire}/{name} {field}: {told} ({})", reason.map_or("NO REASON", |(.., reason)| reason));
            }
        }
        println!("{wire}: {same} of {count} requests are the same in every field");
    }
    assert_eq!(unexplained, 0, "requests differ without a reason");
}

/// Turns begin with the user and alternate, and every call is answered in the turn after it.
#[test]
fn conversations_that_go_on_keep_to_the_rules_of_turns() {
    let Some(folder) = heard::folder() else { return };
    let mut count = 0;
    for case in std::fs::read_dir(folder.join("crossmap")).unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(bytes) = std::fs::read(case.join("chat-completions/followup-request.json")) else { continue };
        let account = Account { project: Some("p".to_owned()), region: Some("us-east-1".to_owned()), ..Account::default() };
        let request = ChatRequest::parse(bytes.into(), Endpoint::Chat).unwrap();
        for (_, kind) in WIRES {
            let call = play::call(&request, "claude-sonnet-4-5", &account);
            let Ok(request) = providers::provider(kind).unwrap().request(&call) else {
                println!("  {kind}: {} is refused", case.display());
                continue;
            };
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let turns = body["messages"].as_array().unwrap();
            for (at, turn) in turns.iter().enumerate() {
                assert_eq!(turn["role"], if at % 2 == 0 { "user" } else { "assistant" }, "{kind}: {}", case.display());
                let ids = |turn: &Value, paths: [&str; 2]| -> Vec<Value> {
                    let blocks = turn["content"].as_array().unwrap();
                    blocks.iter().filter_map(|block| paths.iter().find_map(|path| block.pointer(path)).cloned()).collect()
                };
                let calls = ids(turn, ["/id", "/toolUse/toolUseId"]);
                if !calls.is_empty() {
                    assert_eq!(
                        calls,
                        ids(&turns[at + 1], ["/tool_use_id", "/toolResult/toolUseId"]),
                        "{kind}: {}",
                        case.display()
                    );
                }
            }
            count += 1;
        }
    }
    println!("{count} follow-ups keep to the rules");
}

/// The fields in which our request differs from the recorded one: `ours ≠ theirs`.
fn differences(case: &Path, wire: &str, kind: &str) -> Vec<(String, String)> {
    let read = |path: &str| -> Value { serde_json::from_slice(&std::fs::read(case.join(path)).unwrap()).unwrap() };
    let mut theirs = read(&format!("{wire}/request.json"));
    let model = theirs["model"].as_str().or(theirs["modelId"].as_str()).unwrap_or("claude-sonnet-4-5").to_owned();
    let request = ChatRequest::parse(read("chat-completions/request.json").to_string().into(), Endpoint::Chat).unwrap();
    let account = Account { project: Some("p".to_owned()), region: Some("us-east-1".to_owned()), ..Account::default() };
    let mut ours = match providers::provider(kind).unwrap().request(&play::call(&request, &model, &account)) {
        Ok(request) => serde_json::from_slice(&request.body).unwrap(),
        Err(refusal) => json!({"refused": refusal.message}),
    };
    normal(&mut ours);
    normal(&mut theirs);
    let (ours, theirs) = (ours.as_object().unwrap(), theirs.as_object().unwrap());
    let mut fields: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    fields.sort();
    fields.dedup();
    let told = |side: &Map<String, Value>, field: &str| {
        side.get(field).map_or("-".to_owned(), |value| value.to_string().chars().take(700).collect())
    };
    let differs = fields.into_iter().filter(|field| ours.get(*field) != theirs.get(*field));
    differs.map(|field| (field.clone(), format!("{} ≠ {}", told(ours, field), told(theirs, field)))).collect()
}

/// One spelling for what means the same: text alone is a text block, `auto` is what is chosen anyway,
/// calls are numbered, bytes are base64, the model's name stands elsewhere.
fn normal(body: &mut Value) {
    let mut ids = Vec::new();
    for turn in body["messages"].as_array_mut().into_iter().flatten() {
        blocks(&mut turn["content"]);
        for block in turn["content"].as_array_mut().into_iter().flatten() {
            number(block, &mut ids);
        }
    }
    if body.get("system").is_some() {
        blocks(&mut body["system"]);
    }
    let members = body.as_object_mut().unwrap();
    for name in ["model", "modelId", "anthropic_version"] {
        members.remove(name);
    }
    if members.get("tool_choice") == Some(&json!({"type": "auto"})) {
        members.remove("tool_choice");
    }
}

fn blocks(content: &mut Value) {
    if let Some(text) = content.as_str() {
        *content = json!([{"type": "text", "text": text}]);
    }
}

fn number(block: &mut Value, ids: &mut Vec<String>) {
    let mut number = |id: &mut Value| {
        let Some(text) = id.as_str().map(str::to_owned) else { return };
        let at = ids.iter().position(|known| *known == text).unwrap_or_else(|| {
            ids.push(text);
            ids.len() - 1
        });
        *id = Value::from(at);
    };
    if block["type"] == "tool_use" {
        number(&mut block["id"]);
    } else if block["type"] == "tool_result" {
        number(&mut block["tool_use_id"]);
        blocks(&mut block["content"]);
    }
    if block["toolUse"].is_object() {
        number(&mut block["toolUse"]["toolUseId"]);
    }
    if block["toolResult"].is_object() {
        number(&mut block["toolResult"]["toolUseId"]);
        if let Some(result) = block["toolResult"].as_object_mut()
            && result.get("status") == Some(&Value::from("success"))
        {
            result.remove("status");
        }
    }
}
