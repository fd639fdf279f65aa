//! One logical request as public SDKs sent it in several wires: its chat completion, asked through the running
//! gateway, must reach the provider meaning what was recorded in the provider's own wire. Differences have a reason.
//! It must not know how the adapters work.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::provider::{FakeProvider, Reply};

/// Folder of the recorded wire, our kind for it, and the model to ask where the recording names none.
const WIRES: [(&str, &str, &str); 6] = [
    ("chat-completions", "openai", "gpt-5-nano"),
    ("anthropic", "anthropic", "claude-sonnet-4-5"),
    ("bedrock", "bedrock", "claude-sonnet-4-5"),
    ("bedrock-anthropic", "bedrock-anthropic", "claude-sonnet-4-5"),
    ("vertex-anthropic", "vertex", "claude-sonnet-4-5"),
    ("google", "gemini", "gemini-2.5-flash"),
];

/// Why a field differs: wire, case (either may end in `*`, which stands for any words), field, reason.
const REASONS: [(&str, &str, &str, &str); 23] = [
    ("*", "*", "max_tokens", NO_LIMIT),
    ("*", "simpleRequest", "thinking", "the chat request asks for reasoning, theirs does not"),
    ("bedrock", "simpleRequest", "additionalModelRequestFields", "the chat request asks for reasoning, theirs does not"),
    ("google", "simpleRequest", "thinkingConfig", "the chat request asks for reasoning, theirs does not"),
    ("google", "jsonSchema*", "temperature", AUTHORS_OWN),
    ("google", "jsonSchema*", "maxOutputTokens", AUTHORS_OWN),
    ("anthropic", "reasoningEffortLowParam", "thinking", EFFORT),
    ("anthropic", "reasoningSummaryParam", "thinking", EFFORT),
    ("google", "reasoningEffortLowParam", "thinkingConfig", BUDGET),
    ("google", "reasoningSummaryParam", "thinkingConfig", BUDGET),
    ("anthropic", "serviceTierParam", "service_tier", "OpenAI's `default` is the usual tier; theirs lets the provider choose"),
    ("anthropic", "metadataParam", "metadata", "labels are not the user's id, and the chat request names no user"),
    ("anthropic", "promptCacheKeyParam", "system", "theirs has a system message that the chat request lacks"),
    ("anthropic", "multimodalRequest", "messages", "their author downloaded the picture; Anthropic fetches it itself"),
    ("google", "multimodalRequest", "contents", "theirs holds another picture; Gemini reads the address itself"),
    ("bedrock", "multimodalRequest", "messages", "refused: Bedrock does not fetch pictures, and neither do we"),
    ("bedrock", "multimodalRequest", "inferenceConfig", "refused, as said"),
    ("bedrock", "multimodalRequest", "refused", "refused, as said"),
    ("anthropic", "parallelToolCallsDisabledParam", "tools", "theirs leaves out the closed schema of the chat request"),
    ("anthropic", "toolChoiceRequiredParam", "tools", "theirs leaves out the closed schema of the chat request"),
    ("anthropic", "instructionsParam", "system", OTHER_WORDS),
    ("anthropic", "parallelToolCallsDisabledParam", "messages", OTHER_WORDS),
    ("anthropic", "stopSequencesParam", "messages", OTHER_WORDS),
];

const NO_LIMIT: &str = "the chat request sets no limit, which this wire demands: ours is the model's own, theirs its author's";
const EFFORT: &str = "an effort in OpenAI's words asks to reason; theirs sets the effort and does not turn thinking on";
const BUDGET: &str = "their budget is its author's choice; ours is Google's own table, and shows the thoughts";
const OTHER_WORDS: &str = "the two were written with other words";
const AUTHORS_OWN: &str = "theirs sets what the chat request does not ask for";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_means_the_same_in_every_wire() {
    let Some(cases) = cases() else { return };
    let (fake, gateway) = listening().await;
    let mut unexplained = Vec::new();
    let mut needless: BTreeSet<_> = REASONS.iter().map(|(wire, case, field, _)| (*wire, *case, *field)).collect();
    for (wire, kind, usual) in WIRES {
        let (mut count, mut same) = (0, 0);
        for case in &cases {
            let name = case.file_name().unwrap().to_str().unwrap();
            let (Some(chat), Some(theirs)) = (read(case, "chat-completions/request"), read(case, &format!("{wire}/request")))
            else {
                continue;
            };
            let model = theirs["model"].as_str().or(theirs["modelId"].as_str()).unwrap_or(usual);
            let has_limit = chat.get("max_tokens").or(chat.get("max_completion_tokens")).is_some();
            let ours = arrives(&gateway, &fake, chat, (kind, model)).await;
            let differences = differences(ours, theirs);
            count += 1;
            same += usize::from(differences.is_empty());
            for (field, told) in differences {
                let fits =
                    |given: &str, name: &str| given.strip_suffix('*').map_or(given == name, |start| name.starts_with(start));
                let reason = REASONS.iter().find(|(of, case, at, _)| fits(of, wire) && fits(case, name) && *at == field);
                let Some((of, case, at, reason)) = reason.filter(|(.., reason)| *reason != NO_LIMIT || !has_limit) else {
                    unexplained.push(format!("{wire}/{name} {field}: {told}"));
                    continue;
                };
                needless.remove(&(*of, *case, *at));
                println!("  {wire}/{name} {field}: {reason}");
            }
        }
        println!("{wire}: {same} of {count} requests are the same in every field");
    }
    let silent = cases.iter().filter(|case| !case.join("chat-completions").is_dir()).filter_map(|case| case.file_name());
    println!("no chat completion was recorded of {:?}", silent.collect::<Vec<_>>());
    assert!(unexplained.is_empty(), "requests differ without a reason:\n{}", unexplained.join("\n"));
    assert!(needless.is_empty(), "reasons for what does not differ: {needless:?}");
}

/// Turns begin with the user and alternate, and every call is answered in the turn after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_that_go_on_keep_to_the_rules_of_turns() {
    let Some(cases) = cases() else { return };
    let (fake, gateway) = listening().await;
    let mut count = 0;
    for chat in cases.iter().filter_map(|case| read(case, "chat-completions/followup-request")) {
        for (wire, kind, model) in WIRES.iter().filter(|(wire, ..)| *wire != "chat-completions") {
            let body = arrives(&gateway, &fake, chat.clone(), (kind, model)).await;
            if body["refused"].is_string() {
                println!("  {wire}: {}", body["refused"]);
                continue;
            }
            keeps_to_turns(wire, &body);
            count += 1;
        }
    }
    println!("{count} conversations that go on keep to the rules");
    assert!(count > 0, "nothing was compared");
}

fn keeps_to_turns(wire: &str, body: &Value) {
    let (turns, speaker) = match wire {
        "google" => (&body["contents"], "model"),
        _ => (&body["messages"], "assistant"),
    };
    let turns = turns.as_array().unwrap();
    let ids = |turn: &Value, paths: [&str; 3]| -> Vec<Value> {
        let blocks = turn["content"].as_array().or(turn["parts"].as_array()).unwrap();
        blocks.iter().filter_map(|block| paths.iter().find_map(|path| block.pointer(path)).cloned()).collect()
    };
    for (at, turn) in turns.iter().enumerate() {
        assert_eq!(turn["role"], if at % 2 == 0 { "user" } else { speaker }, "{wire}: {body}");
        let calls = ids(turn, ["/id", "/toolUse/toolUseId", "/functionCall/name"]);
        if !calls.is_empty() {
            let answered = ids(&turns[at + 1], ["/tool_use_id", "/toolResult/toolUseId", "/functionResponse/name"]);
            assert_eq!(calls, answered, "{wire}: {body}");
        }
    }
}

/// The cases, where `WIRE_RECORDINGS` names a folder of recordings.
fn cases() -> Option<Vec<PathBuf>> {
    let Some(folder) = std::env::var_os("WIRE_RECORDINGS").map(PathBuf::from) else {
        println!("SKIPPED: WIRE_RECORDINGS names no folder of recordings");
        return None;
    };
    let entries = std::fs::read_dir(folder.join("crossmap")).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    cases.sort();
    Some(cases)
}

fn read(case: &Path, name: &str) -> Option<Value> {
    let bytes = std::fs::read(case.join(name).with_extension("json")).ok()?;
    Some(serde_json::from_slice(&bytes).unwrap())
}

/// A provider that hears, and answers nothing of use; a gateway that knows it in every wire.
async fn listening() -> (FakeProvider, Gateway) {
    let fake = FakeProvider::start().await;
    fake.on("", |_| Reply::json(400, &json!({})));
    let mut toml = String::from("[server]\nallow_anonymous = true\n");
    for (_, kind, _) in WIRES {
        toml += &format!(
            "[providers.{kind}]\nbase_url = \"http://{}\"\napi_key = \"sk-fake\"\nregion = \"us-east-1\"\nproject = \"p\"\n",
            fake.address
        );
    }
    let gateway = Gateway::start(toml).await;
    (fake, gateway)
}

/// The body that reaches the provider, or `refused` with the gateway's words where none does.
async fn arrives(gateway: &Gateway, fake: &FakeProvider, mut chat: Value, (kind, model): (&str, &str)) -> Value {
    let before = fake.count();
    chat["model"] = Value::from(format!("{kind}/{model}"));
    let answer = Request::chat(&chat).send(gateway.address).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    match fake.count() - before {
        0 => json!({"refused": answer.error()["message"]}),
        1 => fake.latest().json(),
        more => panic!("{more} requests for one"),
    }
}

/// The fields in which our request differs from the recorded one: `ours ≠ theirs`.
fn differences(mut ours: Value, mut theirs: Value) -> Vec<(String, String)> {
    normal(&mut ours);
    normal(&mut theirs);
    let (ours, theirs) = (ours.as_object().unwrap(), theirs.as_object().unwrap());
    let fields: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let told = |side: &Map<String, Value>, field: &str| {
        side.get(field).map_or("-".to_owned(), |value| value.to_string().chars().take(700).collect())
    };
    let differs = fields.into_iter().filter(|field| ours.get(*field) != theirs.get(*field));
    differs.map(|field| (field.clone(), format!("{} ≠ {}", told(ours, field), told(theirs, field)))).collect()
}

/// One spelling for what means the same: text alone is a text block, `auto` is what is chosen anyway,
/// calls are numbered, the model's name stands elsewhere.
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
    // Each of Google's settings is a field of its own.
    if let Some(Value::Object(settings)) = members.remove("generationConfig") {
        members.extend(settings);
    }
    if members.contains_key("contents") {
        *body = in_one_grammar(std::mem::take(body));
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

/// Google takes a schema in either of two grammars; objects that admit no other members are not said in the one
/// that was recorded, nor are ids of calls and the signature of foreign ones.
fn in_one_grammar(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let left_out = ["additionalProperties", "$schema", "id", "thoughtSignature"];
            let kept = members.into_iter().filter(|(name, _)| !left_out.contains(&name.as_str()));
            kept.map(|(name, value)| {
                let value = match (&value, name.as_str()) {
                    (Value::String(word), "type") => Value::from(word.to_lowercase()),
                    _ => in_one_grammar(value),
                };
                (if name == "parametersJsonSchema" { "parameters".to_owned() } else { name }, value)
            })
            .collect()
        }
        Value::Array(items) => items.into_iter().map(in_one_grammar).collect(),
        plain => plain,
    }
}
