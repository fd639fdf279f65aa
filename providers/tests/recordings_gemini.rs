//! Recorded Gemini traffic, of AI Studio and of Vertex AI: what the adapter makes of each answer
//! against what the recorded bytes say, read here with code of its own.
//! It must not use the crate's reading of Gemini's grammar.

use providers::Class;
use serde_json::{Value, json};

use crate::recorded::{self, Recording, Said, SaidChoice, Tally};

#[test]
fn recordings_of_ai_studio_are_read_as_they_say() {
    replay("gemini");
}

#[test]
fn recordings_of_vertex_are_read_as_they_say() {
    replay("vertex");
}

fn replay(kind: &'static str) {
    let Some(root) = recorded::root() else { return };
    let mut tally = Tally::new(kind);
    let without_request = if kind == "gemini" { recorded::of(&root, "_response_only/gemini") } else { Vec::new() };
    for mut recording in recorded::of(&root, kind).into_iter().chain(without_request) {
        // A stream may also come as one array.
        recording.is_stream |= recording.url.contains(":stream");
        if recording.url.contains("enerateContent") || recording.url.is_empty() {
            chat(kind, &recording, &mut tally);
        } else if recording.url.contains("mbedContent") || recording.url.contains(":predict") {
            embeddings(kind, &recording, &mut tally);
        }
    }
    tally.end(&[]);
}

/// As it was recorded, and in the other form: the frames of a stream in one array are a whole answer, and a
/// whole answer is a stream of one frame.
fn chat(kind: &str, recording: &Recording, tally: &mut Tally) {
    let provider = providers::provider(kind).unwrap();
    tally.hear(provider, recording, expected);
    if recording.status != 200 {
        return;
    }
    let other = if recording.is_stream {
        recording.with("as one array", Value::from(objects(&recording.body)).to_string().into_bytes(), false)
    } else {
        let body = format!("data: {}\r\n\r\n", recording.json()).into_bytes();
        recording.with("as a stream", body, true)
    };
    tally.hear(provider, &other, expected);
}

/// Every JSON object of an answer, whatever its framing.
fn objects(body: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(body).unwrap();
    match serde_json::from_str(text) {
        Ok(Value::Array(list)) => list,
        Ok(one) => vec![one],
        Err(_) => {
            text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| serde_json::from_str(data).unwrap()).collect()
        }
    }
}

fn expected(recording: &Recording) -> Said {
    let objects = objects(&recording.body);
    if recording.status != 200 {
        let is_key = objects[0]["error"].to_string().contains("API_KEY_INVALID");
        return if is_key { Said::failed(401, Class::Authentication) } else { Said::refused(recording.status) };
    }
    let mut said = Said::default();
    for object in &objects {
        if !object["promptFeedback"]["blockReason"].is_null() {
            said.choices = vec![SaidChoice { finish: "content_filter".to_owned(), ..SaidChoice::default() }];
            // A blocked prompt without counts is one that was not counted.
            said.usage = Some([0; 5]);
        }
        for (position, candidate) in object["candidates"].as_array().into_iter().flatten().enumerate() {
            let index = usize::try_from(candidate["index"].as_u64().unwrap_or(position as u64)).unwrap();
            if said.choices.len() <= index {
                said.choices.resize(index + 1, SaidChoice::default());
            }
            add(&mut said.choices[index], candidate);
        }
        let count = |name: &str| object["usageMetadata"][name].as_u64();
        if let Some(prompt) = count("promptTokenCount") {
            let thoughts = count("thoughtsTokenCount").unwrap_or(0);
            said.usage = Some([
                prompt + count("toolUsePromptTokenCount").unwrap_or(0),
                count("candidatesTokenCount").unwrap_or(0) + thoughts,
                count("cachedContentTokenCount").unwrap_or(0),
                0,
                thoughts,
            ]);
            if !recording.url.is_empty() {
                let total = count("totalTokenCount");
                assert_eq!(said.usage.map(|usage| usage[0] + usage[1]), total, "{}: the recorded total", recording.name);
            }
        }
    }
    said
}

fn add(choice: &mut SaidChoice, candidate: &Value) {
    for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
        let text = part["text"].as_str().unwrap_or_default();
        if part["thought"] == true {
            choice.reasoning.push_str(text);
        } else {
            choice.text.push_str(text);
        }
        if let Some(name) = part["functionCall"]["name"].as_str() {
            let args = &part["functionCall"]["args"];
            choice.calls.push((name.to_owned(), if args.is_null() { json!({}) } else { args.clone() }));
        }
        for partial in part["functionCall"]["partialArgs"].as_array().into_iter().flatten() {
            let path = partial["jsonPath"].as_str().unwrap().replace('[', ".").replace(']', "");
            let steps: Vec<&str> = path.split('.').skip(1).collect();
            let value = ["stringValue", "numberValue", "boolValue"].map(|name| &partial[name]);
            let value = value.into_iter().find(|value| !value.is_null()).unwrap_or(&Value::Null);
            put(&mut choice.calls.last_mut().unwrap().1, &steps, value);
        }
    }
    let reason = &candidate["finishReason"];
    if !reason.is_null() {
        let called = !choice.calls.is_empty();
        let finish = match reason.to_string().trim_matches('"') {
            "STOP" | "1" | "UNEXPECTED_TOOL_CALL" if called => "tool_calls",
            "STOP" | "1" => "stop",
            "MAX_TOKENS" | "2" => "length",
            _ => "content_filter",
        };
        finish.clone_into(&mut choice.finish);
    }
}

/// Puts a part of arguments at its place; parts of a string are joined.
fn put(at: &mut Value, steps: &[&str], value: &Value) {
    let Some((step, rest)) = steps.split_first() else {
        *at = match (&*at, value) {
            (Value::String(have), Value::String(more)) => Value::from(format!("{have}{more}")),
            _ => value.clone(),
        };
        return;
    };
    match step.parse::<usize>() {
        Ok(number) => {
            if !at.is_array() {
                *at = json!([]);
            }
            let list = at.as_array_mut().unwrap();
            list.resize(list.len().max(number + 1), Value::Null);
            put(&mut list[number], rest, value);
        }
        Err(_) => put(&mut at[*step], rest, value),
    }
}

fn embeddings(kind: &str, recording: &Recording, tally: &mut Tally) {
    let got = recorded::vectors(providers::provider(kind).unwrap(), recording);
    if recording.status != 200 {
        let is_key = String::from_utf8_lossy(&recording.body).contains("API_KEY_INVALID");
        let status = if is_key { 401 } else { recording.status.as_u16() };
        tally.assert(&recording.name, got == Err(status), "another status");
        return;
    }
    let body = recording.json();
    let expected: Vec<Vec<f64>> = match (&body["embeddings"], &body["predictions"], &body["embedding"]) {
        (Value::Array(list), ..) => list.iter().map(|one| recorded::numbers(&one["values"])).collect(),
        (_, Value::Array(list), _) => list.iter().map(|one| recorded::numbers(&one["embeddings"]["values"])).collect(),
        (_, _, one) => vec![recorded::numbers(&one["values"])],
    };
    tally.assert(&recording.name, got.is_ok_and(|(vectors, _)| vectors == expected), "other vectors");
}
