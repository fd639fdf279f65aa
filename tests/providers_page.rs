//! The tables of docs/providers.md, and that of the kinds in docs/configuration.md, are made from the adapters: every
//! feature is asked of every wire, and what becomes of it is written down. `BLESS=1` writes them anew.
//! It must not know how an adapter works.

use std::path::Path;

use providers::{Account, Call, ChatRequest, Endpoint, Provider, Refusal, UpstreamRequest};
use serde_json::{Map, Value, json};

/// Wires of their own, each with a model that stands for those in use.
const FOREIGN: [(&str, &str); 8] = [
    ("anthropic", "claude-sonnet-4-5"),
    ("bedrock", "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ("bedrock-anthropic", "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ("gemini", "gemini-2.5-flash"),
    ("vertex", "gemini-2.5-flash"),
    ("cohere", "command-a-03-2025"),
    ("ollama", "qwen3"),
    ("azure", "gpt-4o"),
];

/// What a wire may serve beside chat completions.
const BESIDE_CHAT: [Endpoint; 5] =
    [Endpoint::Embeddings, Endpoint::Completions, Endpoint::Responses, Endpoint::Messages, Endpoint::CountTokens];

fn last_word(endpoint: Endpoint) -> String {
    endpoint.route().rsplit('/').next().unwrap().to_owned()
}

/// A name for people, and what a request for it holds beside model and messages.
fn features() -> Vec<(&'static str, Value)> {
    let function = json!({"name": "look_up", "parameters": {"type": "object", "properties": {}}});
    let tools = json!([{"type": "function", "function": function}]);
    let user = |part: Value| json!([{"role": "user", "content": [{"type": "text", "text": "?"}, part]}]);
    let schema = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": {}}}});
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}});
    let turns = json!([{"role": "user", "content": "?"}, {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "!"}]);
    let file =
        |media: &str| json!({"type": "file", "file": {"filename": "a.pdf", "file_data": format!("data:{media};base64,QUFB")}});
    vec![
        ("tools", json!({"tools": tools})),
        ("tool results", json!({"tools": tools, "messages": turns})),
        ("`tool_choice`: `required`", json!({"tools": tools, "tool_choice": "required"})),
        (
            "`tool_choice`: one function",
            json!({"tools": tools, "tool_choice": {"type": "function", "function": {"name": "look_up"}}}),
        ),
        ("`tool_choice`: `none`", json!({"tools": tools, "tool_choice": "none"})),
        ("`parallel_tool_calls`: `false`", json!({"tools": tools, "parallel_tool_calls": false})),
        (
            "image, embedded",
            json!({"messages": user(json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,QUFB"}}))}),
        ),
        (
            "image, by address",
            json!({"messages": user(json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}))}),
        ),
        ("PDF, embedded", json!({"messages": user(file("application/pdf"))})),
        (
            "audio, embedded",
            json!({"messages": user(json!({"type": "input_audio", "input_audio": {"data": "QUFB", "format": "wav"}}))}),
        ),
        ("`response_format`: `json_object`", json!({"response_format": {"type": "json_object"}})),
        ("`response_format`: `json_schema`", json!({"response_format": schema})),
        ("`reasoning_effort`", json!({"reasoning_effort": "low"})),
        ("`max_completion_tokens`", json!({"max_completion_tokens": 100})),
        ("`temperature`", json!({"temperature": 0.5})),
        ("`top_p`", json!({"top_p": 0.5})),
        ("`stop`", json!({"stop": ["."]})),
        ("`seed`", json!({"seed": 7})),
        ("`presence_penalty`", json!({"presence_penalty": 0.5})),
        ("`frequency_penalty`", json!({"frequency_penalty": 0.5})),
        ("`logit_bias`", json!({"logit_bias": {"50256": -100}})),
        ("`logprobs`", json!({"logprobs": true})),
        ("`n` above 1", json!({"n": 2})),
        ("audio out", json!({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}})),
        ("`prediction`", json!({"prediction": {"type": "content", "content": "a"}})),
        ("`service_tier`: `flex`", json!({"service_tier": "flex"})),
        ("`user`", json!({"user": "u"})),
        ("`metadata`", json!({"metadata": {"team": "a"}})),
        ("`verbosity`", json!({"verbosity": "low"})),
    ]
}

fn ask(wire: &dyn Provider, model: &str, endpoint: Endpoint, body: &Value) -> Result<UpstreamRequest, Refusal> {
    let request = ChatRequest::parse(body.to_string().into(), endpoint)?;
    let account = Account { project: Some("p".to_owned()), region: Some("eu-west-1".to_owned()), ..Account::default() };
    wire.request(&Call { endpoint, request: &request, model, account: &account, id: "id", created: 0, ask_usage: true })
}

fn chat(more: &Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "?"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// What a wire does with a feature when the account says nothing about it.
fn outcome(kind: &str, model: &str, more: &Value) -> &'static str {
    match ask(providers::provider(kind).unwrap(), model, Endpoint::Chat, &chat(more)) {
        Ok(sent) if sent.dropped.is_empty() => "yes",
        Ok(_) => "left out",
        Err(_) => "–",
    }
}

fn foreign_table() -> String {
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut table = line([""].into_iter().chain(FOREIGN.map(|(kind, _)| kind)).collect());
    table += &line(vec!["---"; FOREIGN.len() + 1]);
    for (name, more) in features() {
        table += &line([name].into_iter().chain(FOREIGN.map(|(kind, model)| outcome(kind, model, &more))).collect());
    }
    for endpoint in BESIDE_CHAT {
        let name = format!("`{}`", endpoint.route());
        let served = FOREIGN.map(|(kind, _)| if providers::provider(kind).unwrap().serves(endpoint) { "yes" } else { "–" });
        table += &line([name.as_str()].into_iter().chain(served).collect());
    }
    table
}

/// What a row of OpenAI's wire changes in a request that has everything.
fn compatible_table() -> String {
    let mut everything = Map::new();
    for (_, more) in features() {
        everything.extend(more.as_object().unwrap().clone());
    }
    everything.insert("stream".to_owned(), Value::Bool(true));
    for name in ["store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"] {
        everything.insert(name.to_owned(), json!("a"));
    }
    let given = chat(&Value::Object(everything));
    let mut table =
        "| kind | renamed | left out | asked for usage on streams | serves beside chat completions |\n|---|---|---|---|---|\n"
            .to_owned();
    for wire in providers::all().filter(|wire| FOREIGN.iter().all(|(kind, _)| *kind != wire.kind())) {
        let sent = ask(wire, "m", Endpoint::Chat, &given).unwrap();
        let body: Map<String, Value> = serde_json::from_slice(&sent.body).unwrap();
        let given = given.as_object().unwrap();
        let gone = |name: &&String| !body.contains_key(*name) && !sent.dropped.contains(&name.as_str());
        let came = |name: &&String| !given.contains_key(*name) && *name != "stream_options";
        let renamed = given.keys().filter(gone).map(|from| {
            let to = body.keys().filter(came).find(|to| body[*to] == given[from]).unwrap();
            format!("`{from}` to `{to}`")
        });
        let cell = |names: Vec<String>| if names.is_empty() { "–".to_owned() } else { names.join(", ") };
        let yes = |is_so: bool| if is_so { "yes" } else { "–" };
        table += &format!(
            "| {} | {} | {} | {} | {} |\n",
            wire.kind(),
            cell(renamed.collect()),
            cell(sent.dropped.iter().map(|name| format!("`{name}`")).collect()),
            yes(body.contains_key("stream_options")),
            cell(BESIDE_CHAT.into_iter().filter(|one| wire.serves(*one)).map(last_word).collect()),
        );
    }
    table
}

/// Where each kind is spoken, and what turns it on.
fn kinds_table() -> String {
    let mut table = "| kind | address | key in the environment |\n|---|---|---|\n".to_owned();
    for wire in providers::all() {
        let in_region = Account { region: Some("eu-west-1".to_owned()), ..Account::default() };
        let address = match (wire.base_url(&Account::default()), wire.base_url(&in_region)) {
            (usual, there) if usual != there => "by `region`".to_owned(),
            (Some(address), _) => format!("`{address}`"),
            (None, _) => "needs `base_url`".to_owned(),
        };
        let key = wire.key_variable().map_or("–".to_owned(), |variable| format!("`{variable}`"));
        table += &format!("| {} | {address} | {key} |\n", wire.kind());
    }
    table
}

#[test]
fn the_pages_say_what_the_adapters_do() {
    let tables = [
        ("docs/providers.md", "wires", foreign_table()),
        ("docs/providers.md", "openai", compatible_table()),
        ("docs/configuration.md", "kinds", kinds_table()),
    ];
    for (page, name, table) in tables {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        let written = std::fs::read_to_string(&path).unwrap();
        let (begin, end) = (format!("<!-- made by a test: {name} -->\n"), "<!-- end -->");
        let (head, rest) = written.split_once(&begin).unwrap_or_else(|| panic!("{page} has no place for `{name}`"));
        let (_, tail) = rest.split_once(end).unwrap();
        let made = format!("{head}{begin}{table}{end}{tail}");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, made).unwrap();
        } else {
            assert_eq!(written, made, "{page} is out of date; BLESS=1 writes its tables anew");
        }
    }
}
