//! Recorded Ollama traffic on its native endpoints: what the adapter makes of each answer against what
//! the recorded bytes say, read here with code of its own.
//! It must not use the crate's reading of Ollama's grammar.

use http::StatusCode;
use providers::frames::Framing;
use providers::{Account, Class, Endpoint};
use serde_json::Value;

use crate::play;
use crate::recorded::{self, Recording, Said, SaidChoice, Tally};

/// Where the second opinion differs, and who is right.
const OPINIONS: [(&str, &str); 2] = [
    ("api_chat-stream-toolcall-reasoning-b5695c", "it estimates reasoning tokens, which the recording does not count"),
    ("api_chat-sync-2ab98a", "it estimates the prompt's tokens, which the recording does not count; ours tells no usage"),
];

#[test]
fn recordings_of_ollama_are_read_as_they_say() {
    let Some(root) = recorded::root() else { return };
    let provider = providers::provider("ollama").unwrap();
    let mut tally = Tally::new("ollama");
    let mut disagreements = Vec::new();
    let without_request = recorded::of(&root, "_response_only/ollama");
    for recording in recorded::of(&root, "ollama").into_iter().chain(without_request) {
        let name = &recording.name;
        if recording.url.ends_with("/api/chat") || recording.url.is_empty() {
            let expected = expected(&recording);
            let lines = recording.body.trim_ascii_end().split(|byte| *byte == b'\n').count();
            if recording.request["stream"] == false || lines == 1 {
                tally.check(name, &expected, || recorded::whole(provider, &recording));
            }
            // A whole answer is also a stream of one line.
            let as_stream = format!("{name} as a stream");
            tally.check(&as_stream, &expected, || recorded::streamed(provider, Framing::JsonLines, &recording, &recording.body));
            disagreements.extend(recorded::compare_opinion(&root, "ollama", name, &expected, &OPINIONS));
        } else if recording.url.ends_with("/api/embed") {
            embeddings(&recording, &mut tally);
        }
    }
    tally.end(&[]);
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

fn expected(recording: &Recording) -> Said {
    if recording.status != 200 {
        return Said::failed(recording.status, Class::from_status(StatusCode::from_u16(recording.status).unwrap()));
    }
    let text = std::str::from_utf8(&recording.body).unwrap();
    let mut choice = SaidChoice::default();
    let mut usage = None;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_str(line).unwrap();
        choice.text.push_str(line["message"]["content"].as_str().unwrap_or_default());
        choice.reasoning.push_str(line["message"]["thinking"].as_str().unwrap_or_default());
        for call in line["message"]["tool_calls"].as_array().into_iter().flatten() {
            choice.calls.push((call["function"]["name"].as_str().unwrap().to_owned(), call["function"]["arguments"].clone()));
        }
        if line["done"] == true {
            let reason = line["done_reason"].as_str().unwrap_or("stop");
            let finish = if reason == "stop" && !choice.calls.is_empty() { "tool_calls" } else { reason };
            finish.clone_into(&mut choice.finish);
            let input = line["prompt_eval_count"].as_u64();
            usage = input.map(|input| [input, line["eval_count"].as_u64().unwrap(), 0, 0]);
        }
    }
    Said { choices: vec![choice], usage, error: None }
}

fn embeddings(recording: &Recording, tally: &mut Tally) {
    let provider = providers::provider("ollama").unwrap();
    let (request, account) = (recorded::client(Endpoint::Embeddings, false), Account::default());
    let mut call = play::call(&request, "m", &account);
    call.endpoint = Endpoint::Embeddings;
    let (vectors, usage) = recorded::vectors(provider, recording, &call).unwrap();
    let body: Value = serde_json::from_slice(&recording.body).unwrap();
    let numbers = |list: &Value| list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect::<Vec<f64>>();
    let expected: Vec<Vec<f64>> = body["embeddings"].as_array().unwrap().iter().map(numbers).collect();
    tally.assert(&recording.name, vectors == expected, "other vectors");
    tally.assert(&recording.name, usage.map(|usage| usage.input) == body["prompt_eval_count"].as_u64(), "other usage");
}
