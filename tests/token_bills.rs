//! Estimated tokens against the bills of recorded traffic, where a folder of it is at hand.
//! It must not know how text is counted.

use std::path::{Path, PathBuf};

use choreoai::tokens::{Calibration, Estimate, Sample, input};
use serde_json::Value;

/// Where recorded provider traffic is, when there is some.
fn recordings() -> Option<PathBuf> {
    let root = std::env::var_os("WIRE_RECORDINGS");
    if root.is_none() {
        println!("skipped: WIRE_RECORDINGS names no folder of recorded traffic");
    }
    Some(PathBuf::from(root?).join("recordings"))
}

fn word<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// Whether an answer shows what it thought.
fn thinks(said: &Value) -> bool {
    ["reasoning_content", "reasoning"].iter().any(|field| !word(said, field).is_empty())
}

/// Takes in a completion or a chunk; `usage` keeps the last one reported.
fn take(value: &Value, sample: &mut Sample, usage: &mut Option<Value>, served: &mut String) {
    if let Some(model) = value.get("model").and_then(Value::as_str) {
        model.clone_into(served);
    }
    if let Some(found) = value.get("usage").filter(|usage| usage.is_object()) {
        *usage = Some(found.clone());
    }
    for choice in list(value, "choices") {
        let Some(said) = choice.get("message").or_else(|| choice.get("delta")) else { continue };
        for field in ["content", "refusal", "reasoning_content", "reasoning"] {
            sample.push(word(said, field));
        }
        let calls = list(said, "tool_calls").filter_map(|call| call.get("function"));
        for function in calls.chain(said.get("function_call")) {
            match word(function, "name") {
                "" => {}
                name => sample.call(name),
            }
            sample.push(word(function, "arguments"));
        }
    }
}

/// One recorded call with a bill: what is estimated and what was reported.
struct Bill {
    name: String,
    model: String,
    /// The model that answered, by its own word.
    served: String,
    input: (Estimate, u64),
    /// Without hidden reasoning, which no one can estimate.
    output: (Estimate, u64),
    multimodal: bool,
}

fn bill(path: &Path) -> Option<Bill> {
    let recording: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let (mut sample, mut usage, mut served) = (Sample::default(), None, String::new());
    let answer = recording.pointer("/response/body")?;
    match answer.as_str() {
        None => take(answer, &mut sample, &mut usage, &mut served),
        Some(text) => match serde_json::from_str(text) {
            Ok(whole) => take(&whole, &mut sample, &mut usage, &mut served),
            Err(_) => {
                let events = text.lines().filter_map(|line| line.strip_prefix("data:"));
                let chunks = events.filter_map(|data| serde_json::from_str(data.trim()).ok());
                chunks.for_each(|chunk: Value| take(&chunk, &mut sample, &mut usage, &mut served));
            }
        },
    }
    let usage = usage?;
    let number = |at: &str| usage.pointer(at).and_then(Value::as_u64);
    let body = recording.pointer("/request/body")?;
    let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
    let shown = answer.as_str().map_or_else(
        || list(answer, "choices").any(|choice| thinks(&choice["message"])),
        |text| text.contains("\"reasoning_content\":\"") || text.contains("\"reasoning\":\""),
    );
    let thought = number("/completion_tokens_details/reasoning_tokens").unwrap_or_default();
    let (hidden, prompt) = (if shown { 0 } else { thought }, number("/prompt_tokens")?);
    // Some count reasoning into the completion and some beside it; the total has it in any case.
    let generated = number("/total_tokens")?.saturating_sub(prompt).max(number("/completion_tokens")?);
    Some(Bill {
        name: path.file_stem()?.to_string_lossy().into_owned(),
        model: word(body, "model").to_owned(),
        served,
        input: (input(text.as_bytes()), prompt),
        output: (sample.estimate(), generated.saturating_sub(hidden)),
        multimodal: ["image_url", "\"file\"", "input_audio"].iter().any(|part| text.contains(part)),
    })
}

fn bills(folder: &Path) -> Vec<Bill> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let chats = paths.iter().filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("chat-")));
    chats.filter_map(|path| bill(path)).collect()
}

/// How far off, in percent of what was reported.
fn error(estimated: u64, reported: u64) -> Option<f64> {
    (reported > 0).then(|| (estimated as f64 / reported as f64 - 1.0) * 100.0)
}

fn median(errors: &mut [f64]) -> f64 {
    errors.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    errors.get(errors.len() / 2).map_or(f64::NAN, |error| error.abs())
}

#[test]
fn openai_bills_are_nearly_met_before_anything_was_learned() {
    let Some(root) = recordings() else { return };
    let (mut inputs, mut plain, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
    for bill in bills(&root.join("openai")) {
        if !bill.served.starts_with(&line(&bill.model)) {
            println!("{:52} asked for {}, answered and billed by {}: left out", bill.name, bill.model, bill.served);
            continue;
        }
        let (sent, said) = (error(bill.input.0.tokens, bill.input.1), error(bill.output.0.tokens, bill.output.1));
        let show = |error: Option<f64>| error.map_or("–".to_owned(), |error| format!("{error:+.1} %"));
        println!(
            "{:52} {:22} input {:6} of {:6} {:>9}   output {:5} of {:5} {:>9}",
            bill.name,
            bill.model,
            bill.input.0.tokens,
            bill.input.1,
            show(sent),
            bill.output.0.tokens,
            bill.output.1,
            show(said)
        );
        if !bill.multimodal {
            inputs.extend(sent);
        }
        if !bill.multimodal && bill.input.0.extras == 0 {
            plain.extend(sent);
        }
        outputs.extend(said);
    }
    let (input, without_tools, output) = (median(&mut inputs), median(&mut plain), median(&mut outputs));
    println!(
        "median error: input {input:.1} % of {} bills ({without_tools:.1} % of {} without tools), output {output:.1} % of {}",
        inputs.len(),
        plain.len(),
        outputs.len()
    );
    assert!(inputs.len() >= 10 && outputs.len() >= 10);
    // What is off is a hidden prompt for tools and the frame of an answer in newer models: learned, below.
    assert!(without_tools <= 2.0 && input <= 8.0 && output <= 8.0, "input {input} %, output {output} %");
}

/// The maker's line of models: `gpt-4o-mini` is of `gpt-4o`, `grok-4-fast` of `grok-4`.
fn line(model: &str) -> String {
    model.split('-').take(2).collect::<Vec<_>>().join("-")
}

/// Every recorded bill, estimated with what the other bills of its target teach, and not its own.
#[test]
fn recorded_bills_are_met_by_what_the_others_taught() {
    let Some(root) = recordings() else { return };
    let providers =
        ["openai", "azure", "xai", "groq", "deepseek", "mistral", "cerebras", "vllm", "llamacpp", "openrouter", "zai"];
    let (mut inputs, mut outputs, mut raw_inputs, mut raw_outputs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for provider in providers {
        let bills: Vec<Bill> = bills(&root.join(provider)).into_iter().filter(|bill| !bill.multimodal).collect();
        for (at, bill) in bills.iter().enumerate() {
            let others =
                bills.iter().enumerate().filter(|(other, taught)| *other != at && line(&taught.model) == line(&bill.model));
            let others: Vec<&Bill> = others.map(|(_, taught)| taught).collect();
            if others.is_empty() {
                continue;
            }
            let learned = Calibration::default();
            for taught in others.iter().cycle().take(40) {
                learned.input.observe(taught.input.0, taught.input.1);
                learned.output.observe(taught.output.0, taught.output.1);
            }
            let (input, output) = (learned.input.correct(bill.input.0), learned.output.correct(bill.output.0));
            println!(
                "{provider:10} {:52} {:28} input {:5} → {input:5} of {:5}   output {:5} → {output:5} of {:5}",
                bill.name, bill.model, bill.input.0.tokens, bill.input.1, bill.output.0.tokens, bill.output.1
            );
            inputs.extend(error(input, bill.input.1));
            outputs.extend(error(output, bill.output.1));
            raw_inputs.extend(error(bill.input.0.tokens, bill.input.1));
            raw_outputs.extend(error(bill.output.0.tokens, bill.output.1));
        }
    }
    let (input, output) = (median(&mut inputs), median(&mut outputs));
    let (raw_input, raw_output) = (median(&mut raw_inputs), median(&mut raw_outputs));
    println!(
        "median error of {} bills: input {raw_input:.1} % → {input:.1} %, output {raw_output:.1} % → {output:.1} %",
        inputs.len()
    );
    assert!(inputs.len() >= 20);
    assert!(input < raw_input, "learning made input worse");
}
