//! Streams of foreign wires bent at random: the golden ones, with values changed, taken out, doubled
//! or swapped. Whatever comes in, nothing panics, what goes out is OpenAI's grammar, and no answer is
//! told as complete and as failed at once.
//! It must not know how the adapters work.

use std::path::Path;

use providers::{Account, Provider};
use serde_json::{Value, json};

use crate::chance::Chance;
use crate::dialects::bend;
use crate::{play, strict};

/// The frames of every golden stream of a kind.
fn golden(kind: &str) -> Vec<Vec<Value>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(kind);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let texts = paths.iter().filter_map(|path| {
        let case: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        case["response"]["text"].as_str().map(str::to_owned)
    });
    let frames = texts.map(|text| {
        let lines = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
        lines.filter_map(|line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object)).collect::<Vec<_>>()
    });
    frames.filter(|frames| !frames.is_empty()).collect()
}

fn hold(provider: &dyn Provider, chance: &mut Chance, frames: &mut Vec<Value>, round: usize) {
    for _ in 0..=chance.below(3) {
        let at = chance.below(frames.len());
        match chance.below(12) {
            0 => frames.insert(at, frames[at].clone()),
            1 if frames.len() > 1 => drop(frames.remove(at)),
            _ => bend(&mut frames[at], chance),
        }
    }
    let wants_usage = chance.below(2) == 0;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": true, "stream_options": {"include_usage": wants_usage}});
    let (request, account) = (play::chat(&body), Account { project: Some("p".to_owned()), ..Account::default() });
    let call = play::call(&request, "m", &account);
    let framing = provider.request(&call).unwrap().framing;
    let is_sse = framing == providers::frames::Framing::Sse;
    let text: String =
        frames.iter().map(|frame| if is_sse { format!("data: {frame}\n\n") } else { format!("{frame}\n") }).collect();
    let played = play::stream(provider, &call, framing, &[text.as_bytes()]);
    if let Err(fault) = strict::grammar(&played.bytes, wants_usage) {
        panic!("{} round {round}: {fault}\nfrom:\n{text}\ngot:\n{}", provider.kind(), played.bytes);
    }
    assert!(!(played.done && played.error.is_some()), "round {round}: complete and failed at once\n{text}");
}

#[test]
fn whatever_a_foreign_wire_does_the_client_gets_openais_grammar() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4_000);
    for kind in ["gemini", "vertex", "cohere", "ollama"] {
        let (provider, known) = (providers::provider(kind).unwrap(), golden(kind));
        let mut chance = Chance(0x5eed);
        for round in 0..rounds {
            let mut frames = chance.pick(&known);
            hold(provider, &mut chance, &mut frames, round);
        }
    }
}

#[test]
fn whole_answers_of_foreign_wires_never_panic() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4_000);
    let request = play::chat(&json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}));
    let account = Account::default();
    let call = play::call(&request, "m", &account);
    for kind in ["gemini", "vertex", "cohere", "ollama"] {
        let (provider, known) = (providers::provider(kind).unwrap(), golden(kind));
        let mut chance = Chance(0xfeed);
        for round in 0..rounds {
            let frames = chance.pick(&known);
            let mut body = chance.pick(&frames);
            bend(&mut body, &mut chance);
            if let Ok(answer) = provider.answer(&call, &http::HeaderMap::new(), body.to_string().into()) {
                let answer: Value = serde_json::from_slice(&answer.body).unwrap();
                let fault = strict::whole_grammar(&answer);
                assert!(fault.is_ok(), "{kind} round {round}: {fault:?}\nfrom {body}\ngot {answer}");
            }
            let status = http::StatusCode::from_u16(400 + u16::try_from(chance.below(199)).unwrap()).unwrap();
            provider.error(status, &http::HeaderMap::new(), body.to_string().as_bytes());
        }
    }
}
