//! Counts against tiktoken's published ones, and requests against bills that OpenAI published.

use std::time::Instant;

use serde_json::{Value, json};

use super::*;

fn tokens(body: &Value) -> u64 {
    input(body.to_string().as_bytes()).tokens
}

fn asked(text: &str) -> u64 {
    tokens(&json!({"model": "m", "messages": [{"role": "user", "content": text}]}))
}

#[test]
fn text_is_counted_as_tiktoken_counts_it() {
    // From OpenAI's cookbook and tiktoken's own tests (`o200k_base`).
    let table = [
        ("", 0),
        ("hello world", 2),
        ("tiktoken is great!", 6),
        ("antidisestablishmentarianism", 6),
        ("2 + 2 = 4", 7),
        ("お誕生日おめでとう", 8),
        ("hello 👋 world 🌍", 6),
    ];
    for (text, expected) in table {
        assert_eq!(count(text), expected, "{text}");
    }
}

#[test]
fn the_cookbook_conversation_counts_as_openai_billed_it() {
    // "How to count tokens with tiktoken": 124 prompt tokens for gpt-4o, by the API itself.
    let system = |name: &str, content: &str| json!({"role": "system", "name": name, "content": content});
    let conversation = json!({"model": "gpt-4o", "messages": [
        {"role": "system", "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
        system("example_user", "New synergies will help drive top-line growth."),
        system("example_assistant", "Things working well together will increase revenue."),
        system("example_user", "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."),
        system("example_assistant", "Let's talk later when we're less busy about how to do better."),
        {"role": "user", "content": "This late pivot means we don't have time to boil the ocean for the client deliverable."},
    ]});
    assert_eq!(tokens(&conversation), 124);
}

#[test]
fn the_cookbook_tools_count_as_openai_billed_them() {
    // The same page: 101 prompt tokens for gpt-4o, by the API itself.
    let request = json!({"model": "gpt-4o",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
            {"role": "user", "content": "What's the weather like in San Francisco?"},
        ],
        "tools": [{"type": "function", "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {"type": "object", "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "unit": {"type": "string", "description": "The unit of temperature to return", "enum": ["celsius", "fahrenheit"]},
            }, "required": ["location"]},
        }}],
    });
    assert_eq!(tokens(&request), 101);
}

#[test]
fn every_text_of_a_request_is_counted_once() {
    let hundred = "word ".repeat(100);
    let base = asked("hi");
    let with = |more: Value| {
        let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        for (field, value) in more.as_object().unwrap() {
            request[field] = value.clone();
        }
        tokens(&request) - base
    };
    let message = |message: Value| json!({"messages": [{"role": "user", "content": "hi"}, message]});
    let table = [
        ("content", message(json!({"role": "user", "content": hundred}))),
        ("part", message(json!({"role": "user", "content": [{"type": "text", "text": hundred}]}))),
        ("tool result", message(json!({"role": "tool", "tool_call_id": "c", "content": hundred}))),
        ("refusal", message(json!({"role": "assistant", "refusal": hundred}))),
        ("reasoning", message(json!({"role": "assistant", "content": "", "reasoning_content": hundred}))),
        (
            "arguments",
            message(json!({"role": "assistant", "content": null, "tool_calls":
                [{"id": "c", "type": "function", "function": {"name": "f", "arguments": hundred}}]})),
        ),
        (
            "old call",
            message(json!({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": hundred}})),
        ),
        ("tool", json!({"tools": [{"type": "function", "function": {"name": "f", "description": hundred}}]})),
        ("old function", json!({"functions": [{"name": "f", "description": hundred}]})),
        (
            "field of a tool",
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters":
                {"type": "object", "properties": {"a": {"type": "string", "description": hundred}}}}}]}),
        ),
        (
            "deep field of a tool",
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties":
                {"a": {"type": "array", "items": {"anyOf": [{"type": "null"}, {"enum": [hundred]}]}}}}}}]}),
        ),
        (
            "schema",
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"description": hundred}}}}),
        ),
    ];
    for (name, more) in table {
        let found = with(more);
        assert!((100..=145).contains(&found), "{name}: {found}");
    }
    for other in [json!({"user": hundred}), json!({"metadata": {"a": hundred}}), json!({"stop": hundred})] {
        assert_eq!(with(other.clone()), 0, "{other}");
    }
}

#[test]
fn embedded_files_are_never_text() {
    let file = "A".repeat(400_000);
    let base = asked("hi");
    let part = |part: Value| {
        tokens(&json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, part]}]})) - base
    };
    let url = format!("data:image/png;base64,{file}");
    let table = [
        (part(json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}})), 85),
        (part(json!({"type": "image_url", "image_url": {"url": url, "detail": "high"}})), 765),
        (part(json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}})), 765),
        (part(json!({"type": "image_url", "image_url": url})), 765),
        (part(json!({"type": "file", "file": {"file_data": url}})), 1_000),
        // 400,000 letters of base64 are 9.4 seconds of sound
        (part(json!({"type": "input_audio", "input_audio": {"data": file, "format": "wav"}})), 94),
    ];
    for (found, expected) in table {
        assert_eq!(found, expected);
    }
}

#[test]
fn other_endpoints_and_odd_bodies_are_counted_too() {
    let table = [
        (json!({"model": "m", "input": "hello world"}), 2),
        (json!({"model": "m", "input": ["hello world", "hello world"]}), 4),
        (json!({"model": "m", "input": [1, 2, 3]}), 3),
        (json!({"model": "m", "input": [[1, 2], [3]]}), 3),
        (json!({"model": "m", "prompt": "hello world"}), 2),
        (json!({"model": "m"}), 0),
    ];
    for (body, expected) in table {
        assert_eq!(tokens(&body), expected, "{body}");
    }
    // a part that is unknown here: every text of the body, in the frame of its message
    let odd = json!({"messages": [{"role": "user", "content": [{"type": "hologram", "words": "hello world"}]}]});
    assert!((9..14).contains(&tokens(&odd)), "{}", tokens(&odd));
    let file = "iVBORw0KGgo".repeat(10_000);
    for embedded in [file.clone(), format!("data:image/png;base64,{file}")] {
        let odd = json!({"messages": [{"role": "user", "content": [{"type": "hologram", "source": embedded}]}]});
        assert!((1_006..1_016).contains(&tokens(&odd)), "{}", tokens(&odd));
    }
    assert_eq!(input(b"not json"), Estimate::default());
    assert_eq!(input(b""), Estimate::default());
}

#[test]
fn long_text_is_extrapolated() {
    let page = "The quick brown fox jumps over the lazy dog, again and again, until 7 o'clock. ";
    let exact = count(&page.repeat(100)) * 200;
    let found = asked(&page.repeat(20_000));
    assert!(found.abs_diff(exact) * 100 <= exact, "{found} for {exact}");
    let mut counter = Counter::new();
    (0..10_000).for_each(|_| counter.text("é".repeat(9).as_str()));
    assert_eq!(counter.exact + counter.beyond, 180_000);
    assert!(counter.exact <= EXACT_BYTES as u64);
}

#[test]
fn the_cheap_guess_is_a_quarter_of_the_bytes() {
    assert_eq!(cheap(0, 0, false), Estimate { tokens: 3, extras: 0 });
    assert_eq!(cheap(4_001, 2, true), Estimate { tokens: 1_001 + 8 + 3, extras: 1 });
    assert_eq!(cheap(u64::MAX, u64::MAX, false).tokens, u64::MAX);
}

/// Prints what a careful count costs; the bounds only catch a blunder.
#[test]
fn a_careful_count_is_quick() {
    let memory = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default()
    };
    let (before, start) = (memory(), Instant::now());
    load();
    assert!(is_loaded());
    println!("the vocabulary was loaded in {:?}, {} KB more", start.elapsed(), memory().saturating_sub(before));
    let text = "Metering is a promise: what was billed is what was booked, to the last token. ".repeat(1_000);
    let start = Instant::now();
    let found = count(&text[..EXACT_BYTES]);
    let took = start.elapsed();
    println!("{EXACT_BYTES} bytes ({found} tokens) were counted in {took:?}");
    assert!(took.as_secs() < 5, "{took:?}");
    for hostile in ["a".repeat(EXACT_BYTES), " ".repeat(EXACT_BYTES), "\u{1F600}".repeat(EXACT_BYTES / 4)] {
        let start = Instant::now();
        let _ = count(&hostile);
        assert!(start.elapsed().as_secs() < 5, "{:?} for {:?}…", start.elapsed(), &hostile.chars().next());
    }
}

#[test]
fn the_words_of_other_apis_count_as_those_of_a_chat() {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string", "description": "Where"}}});
    let words = "You are a helpful assistant.";
    let bare = tokens(&json!({"model": "m", "input": words}));
    let response = tokens(&json!({"model": "m", "instructions": words, "input": words,
        "tools": [{"type": "function", "name": "weather", "description": "Tells it", "parameters": parameters}]}));
    let system = |more: &Value| {
        let mut body = json!({"model": "m", "system": words, "messages": [{"role": "user", "content": words}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        tokens(&body)
    };
    let message = system(&json!({"tools": [{"name": "weather", "description": "Tells it", "input_schema": parameters}]}));
    let chat = |more: &Value| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": words}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        tokens(&body)
    };
    let function = json!({"name": "weather", "description": "Tells it", "parameters": parameters});
    let declared = chat(&json!({"tools": [{"type": "function", "function": function}]})) - chat(&json!({}));
    assert_eq!(bare, count(words), "a plain prompt has no frame");
    assert_eq!(response - 2 * bare, declared, "instructions count as input does, a tool as in a chat");
    assert_eq!(message - system(&json!({})), declared);
    assert_eq!(system(&json!({})) - chat(&json!({})), count(words), "so does a system prompt");
}
