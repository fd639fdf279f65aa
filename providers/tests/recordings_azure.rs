//! Recorded Azure OpenAI traffic: what the adapter sends against the address and the body that were
//! recorded. What it makes of the answers is held to OpenAI's grammar with all of OpenAI's wire, in
//! `recordings_compatible`.
//! It must not use the crate's own way of building addresses.

use bytes::Bytes;
use providers::{Account, Call, ChatRequest, Endpoint};
use serde_json::{Value, json};

use crate::play;
use crate::recorded::{self, Recording, Tally};

#[test]
fn recorded_azure_calls_are_sent_as_they_were() {
    let Some(root) = recorded::root() else { return };
    let mut tally = Tally::new("azure requests");
    for recording in recorded::of(&root, "azure") {
        let endpoint = match &recording.url {
            url if url.contains("/openai/") && url.contains("/chat/completions") => Endpoint::Chat,
            url if url.contains("/openai/") && url.contains("/embeddings") => Endpoint::Embeddings,
            _ => continue,
        };
        check(&recording, endpoint, &mut tally);
    }
    tally.end(&[]);
}

fn check(recording: &Recording, endpoint: Endpoint, tally: &mut Tally) {
    let (path, query) = recording.url.split_once('?').unwrap_or((&recording.url, ""));
    let path = &path[path.find("/openai/").unwrap()..];
    let version = query.split('&').find_map(|pair| pair.strip_prefix("api-version="));
    let deployment = path.strip_prefix("/openai/deployments/").and_then(|rest| rest.split('/').next());
    let in_body = recording.request["model"].as_str();
    let model = deployment.or(in_body).unwrap();
    let account = Account { api_version: deployment.and(version).map(str::to_owned), ..Account::default() };
    let mut body = recording.request.clone();
    body["model"] = Value::from("what-the-client-calls-it");
    let request = ChatRequest::parse(Bytes::from(body.to_string()), endpoint).unwrap();
    let call = Call { endpoint, ..play::call(&request, model, &account) };
    let sent = providers::provider("azure").unwrap().request(&call).unwrap();
    let expected = if deployment.is_some() { format!("{path}?{query}") } else { path.to_owned() };
    tally.assert(&recording.name, sent.path == expected, &format!("another address: {} for {expected}", sent.path));
    let mut recorded = recording.request.clone();
    recorded["model"] = Value::from(model);
    if recorded["stream"] == true {
        recorded["stream_options"] = json!({"include_usage": true});
    }
    let sent: Value = serde_json::from_slice(&sent.body).unwrap();
    tally.assert(&recording.name, sent == recorded, "another body");
}
