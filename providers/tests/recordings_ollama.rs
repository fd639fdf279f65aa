//! Recorded Ollama traffic on its native endpoints: what the adapter makes of each answer against what
//! the recorded bytes say, read here with code of its own.
//! It must not use the crate's reading of Ollama's grammar.

use serde_json::Value;

use crate::recorded::{self, Recording, Said, SaidChoice, Tally};

#[test]
fn recordings_of_ollama_are_read_as_they_say() {
    let Some(root) = recorded::root() else { return };
    let provider = providers::provider("ollama").unwrap();
    let mut tally = Tally::new("ollama");
    for recording in recorded::of(&root, "ollama").into_iter().chain(recorded::of(&root, "_response_only/ollama")) {
        if recording.url.ends_with("/api/chat") || recording.url.is_empty() {
            let lines = recording.body.trim_ascii_end().split(|byte| *byte == b'\n').count();
            if recording.request["stream"] == false || lines == 1 {
                tally.hear(provider, &recording, expected);
            }
            // A whole answer is also a stream of one line.
            tally.hear(provider, &recording.with("as a stream", recording.body.clone(), true), expected);
        } else if recording.url.ends_with("/api/embed") {
            embeddings(&recording, &mut tally);
        }
    }
    tally.end(&[]);
}

fn expected(recording: &Recording) -> Said {
    if recording.status != 200 {
        return Said::refused(recording.status);
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
            usage = input.map(|input| [input, line["eval_count"].as_u64().unwrap(), 0, 0, 0]);
        }
    }
    Said::one(choice, usage)
}

fn embeddings(recording: &Recording, tally: &mut Tally) {
    let got = recorded::vectors(providers::provider("ollama").unwrap(), recording);
    let body = recording.json();
    let expected = body["embeddings"].as_array().unwrap().iter().map(recorded::numbers).collect();
    let counted = body["prompt_eval_count"].as_u64();
    tally.assert(&recording.name, got == Ok((expected, counted)), "other vectors, or another usage");
}
