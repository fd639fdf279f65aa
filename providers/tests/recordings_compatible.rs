//! Every recorded chat completion and embedding of providers that speak OpenAI's wire, played
//! through their rows: whole, byte by byte and cut in two. What the client gets is held to a strict
//! reading of OpenAI's grammar and compared with what simple, independent code takes from the
//! recorded bytes. Recordings are found through `WIRE_RECORDINGS`; without it the test says that it
//! skipped.
//! It must not know how the adapter works.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::StatusCode;
use providers::frames::Framing;
use providers::{Account, Call, ChatRequest, Class, Endpoint, Provider, Usage};
use serde_json::{Value, json};

use crate::play::{self, Played};
use crate::recorded::{self, CUTS, Recording, Tally};
use crate::strict::{self, Said};

/// Providers that speak no wire of OpenAI's, or whose own is looked at elsewhere.
const FOREIGN: [&str; 4] = ["anthropic", "bedrock", "cohere", "vertex"];

#[test]
fn every_recording_of_openais_wire_comes_out_in_openais_grammar() {
    let Some(root) = recorded::root() else { return };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut tally = Tally::new("OpenAI's wire");
    for recording in recorded::all(&root) {
        if let Some(endpoint) = endpoint(&recording) {
            *counts.entry(provider(&recording).to_owned()).or_default() += 1;
            tally.check(&recording.name, || check(&recording, endpoint));
        }
    }
    println!("{counts:?}");
    tally.end(&[]);
}

/// Who answered.
fn provider(recording: &Recording) -> &str {
    let (folder, name) = recording.name.split_once('/').unwrap();
    if folder == recorded::DOCUMENTED { name.split('-').next().unwrap() } else { folder }
}

/// What was asked for, if it was a chat completion or embedding in OpenAI's wire.
fn endpoint(recording: &Recording) -> Option<Endpoint> {
    let (url, provider) = (recording.url.as_str(), provider(recording));
    let is_documented = recording.name.starts_with(recorded::DOCUMENTED) && provider != "gemini";
    let is_shaped = || url.is_empty() && String::from_utf8_lossy(&recording.body).contains("chat.completion");
    if FOREIGN.contains(&provider) || recording.body.is_empty() {
        None
    } else if is_documented || url.contains("/chat/completions") || is_shaped() {
        Some(Endpoint::Chat)
    } else {
        let is_openais = url.ends_with("/embeddings") && !url.contains("/api/embed") && provider != "perplexity";
        is_openais.then_some(Endpoint::Embeddings)
    }
}

fn row(provider: &str) -> &'static dyn Provider {
    let kind = match provider {
        "alibaba" => "dashscope",
        "ollama" => "ollama-openai",
        "vercel_gateway" => "vercel",
        known if providers::provider(known).is_some_and(|row| row.serves(Endpoint::Chat)) && known != "gemini" => known,
        _ => "openai-compatible",
    };
    providers::provider(kind).unwrap()
}

fn check(recording: &Recording, endpoint: Endpoint) -> Result<(), String> {
    let row = row(provider(recording));
    if !recording.status.is_success() {
        return check_error(row, recording);
    }
    if endpoint == Endpoint::Embeddings {
        return check_embeddings(row, recording);
    }
    let is_stream = recording.is_stream;
    for wants_usage in [true, false] {
        let request = request(recording, is_stream, wants_usage);
        let account = Account::default();
        let model = recording.request["model"].as_str().unwrap_or("the-model");
        let call = Call { endpoint: Endpoint::Chat, ..play::call(&request, model, &account) };
        check_request(row, &call)?;
        if is_stream { check_stream(row, &call, &recording.body, wants_usage)? } else { check_whole(row, &call, recording)? }
    }
    Ok(())
}

fn request(recording: &Recording, stream: bool, wants_usage: bool) -> ChatRequest {
    let mut body = recording.request.clone();
    if !body.is_object() || !body["messages"].is_array() {
        body = json!({"messages": [{"role": "user", "content": "hi"}]});
    }
    body["model"] = json!("a/model");
    body["stream"] = json!(stream);
    body["stream_options"] = json!({"include_usage": wants_usage});
    play::chat(&body)
}

/// What goes up means what the client said, with the provider's model and usage asked for.
fn check_request(row: &dyn Provider, call: &Call<'_>) -> Result<(), String> {
    let sent = row.request(call).map_err(|refusal| refusal.message)?;
    let sent: Value = serde_json::from_slice(&sent.body).map_err(|fault| format!("the request sent is no JSON: {fault}"))?;
    let given: Value = serde_json::from_slice(call.request.raw()).unwrap();
    strict::same(&sent["model"], &json!(call.model), "model sent")?;
    strict::same(&sent["messages"], &given["messages"], "messages sent")?;
    strict::same(&sent["tools"], &given["tools"], "tools sent")
}

fn check_stream(row: &dyn Provider, call: &Call<'_>, body: &[u8], wants_usage: bool) -> Result<(), String> {
    check_every_cut(body)?;
    let played = if wants_usage {
        play::stream_cut(row, call, Framing::Sse, (body, CUTS))
    } else {
        play::stream(row, call, Framing::Sse, &[body])
    };
    let expected = strict::from_events(body);
    if let Some(error) = &expected.error {
        let told = played.error.as_ref().ok_or("the error in mid-stream was not told")?;
        strict::same(&json!(told.message.contains(error.as_str())), &json!(true), "error message")?;
        return if played.done { Err("an answer that failed is told as complete".to_owned()) } else { Ok(()) };
    }
    if let Some(error) = &played.error {
        return Err(format!("an error was told where there is none: {error:?}"));
    }
    let got = strict::grammar(&played.bytes, wants_usage)?;
    strict::same(&json!(played.done), &json!(expected.is_complete), "complete")?;
    strict::same(&json!(played.malformed), &json!(0), "malformed frames")?;
    compare(&got, &expected)?;
    check_text(&played, &got)?;
    check_usage(played.usage.as_ref(), &expected.usage)?;
    if wants_usage && played.done {
        check_told_usage(&got.usage, played.usage.as_ref())?;
    }
    Ok(())
}

/// Cut in two at every single byte, the same frames come out, so that the translator, which sees only
/// frames, says the same. Frames do not reach over a blank line, so two events around the cut do.
fn check_every_cut(body: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(body);
    let end = if text.contains("\r\n\r\n") { "\r\n\r\n" } else { "\n\n" };
    let events: Vec<&str> = text.split_inclusive(end).collect();
    for pair in events.chunks(2).map(<[&str]>::concat) {
        let whole = play::frames(Framing::Sse, &[pair.as_bytes()]);
        for cut in 0..=pair.len() {
            let (head, tail) = pair.as_bytes().split_at(cut);
            if play::frames(Framing::Sse, &[head, tail]) != whole {
                return Err(format!("cut at byte {cut} of {pair:?}"));
            }
        }
    }
    Ok(())
}

fn compare(got: &Said, expected: &Said) -> Result<(), String> {
    strict::same(&json!(got.choices.len()), &json!(expected.choices.len()), "number of choices")?;
    for (index, wanted) in &expected.choices {
        let have = got.choices.get(index).ok_or_else(|| format!("choice {index} is missing"))?;
        strict::same(&json!(have.content), &json!(wanted.content), "content")?;
        strict::same(&json!(have.reasoning), &json!(wanted.reasoning), "reasoning")?;
        strict::same(&json!(have.calls), &json!(wanted.calls), "tool calls")?;
        strict::same(&json!(have.finish), &json!(wanted.finish), "finish reason")?;
    }
    Ok(())
}

/// The text told to the gateway is all that the client got, once.
fn check_text(played: &Played, got: &Said) -> Result<(), String> {
    let calls = |calls: &[(String, String)]| calls.iter().map(|(name, arguments)| name.len() + arguments.len()).sum::<usize>();
    let told: usize = got
        .choices
        .values()
        .map(|choice| choice.content.len() + choice.reasoning.len() + choice.refusal.len() + calls(&choice.calls))
        .sum();
    strict::same(&json!(played.text.len()), &json!(told), "bytes of text told")
}

/// Tokens as the recording reports them, in the gateway's meaning.
fn check_usage(got: Option<&Usage>, reported: &Value) -> Result<(), String> {
    let number = |pointer: &str| reported.pointer(pointer).and_then(Value::as_f64);
    let Some(input) = number("/prompt_tokens") else {
        return strict::same(&json!(got.is_none()), &json!(true), "usage where none is reported");
    };
    let got = got.ok_or("the usage was not told")?;
    let output = number("/completion_tokens").unwrap_or(0.0);
    let reasoning = number("/completion_tokens_details/reasoning_tokens").or(number("/reasoning_tokens")).unwrap_or(0.0);
    let total = number("/total_tokens").unwrap_or(0.0);
    let is_apart = reasoning > output || (reasoning > 0.0 && (total - input - output - reasoning).abs() < 0.5);
    let output = output + if is_apart { reasoning } else { 0.0 };
    let cached = [
        "/prompt_tokens_details/cached_tokens",
        "/cached_tokens",
        "/prompt_cache_hit_tokens",
        "/num_cached_tokens",
        "/cache_read_input_tokens",
    ];
    let cached = cached.iter().filter_map(|pointer| number(pointer)).fold(0.0, f64::max).min(input);
    let have = [got.input, got.output, got.cache_read, got.reasoning].map(|count| f64::from(u32::try_from(count).unwrap()));
    strict::same(&json!(have), &json!([input, output, cached, reasoning]), "usage: input, output, cached, reasoning")
}

/// The usage the client got says the same as the gateway was told.
fn check_told_usage(told: &Value, usage: Option<&Usage>) -> Result<(), String> {
    let Some(usage) = usage else { return strict::same(told, &Value::Null, "usage told to the client") };
    let have = [&told["prompt_tokens"], &told["completion_tokens"], &told["total_tokens"]];
    strict::same(&json!(have), &json!([usage.input, usage.output, usage.input + usage.output]), "usage told to the client")
}

fn check_whole(row: &dyn Provider, call: &Call<'_>, recording: &Recording) -> Result<(), String> {
    let recorded: Value =
        serde_json::from_slice(&recording.body).map_err(|fault| format!("the recording is no JSON: {fault}"))?;
    let answered = row.answer(call, &recording.headers, recording.body.clone().into());
    if recorded.get("error").is_some_and(Value::is_object) || recorded["choices"].as_array().is_none_or(Vec::is_empty) {
        return if answered.is_err() { Ok(()) } else { Err("an error in a 200 body was told as an answer".to_owned()) };
    }
    let answer = answered.map_err(|error| format!("an error was told: {error:?}"))?;
    let got: Value = serde_json::from_slice(&answer.body).map_err(|fault| format!("the answer is no JSON: {fault}"))?;
    strict::whole_grammar(&got)?;
    compare(&strict::from_answer(&got), &strict::from_answer(&recorded))?;
    check_usage(answer.usage.as_ref(), &recorded["usage"])?;
    check_told_usage(&got["usage"], answer.usage.as_ref())?;
    let needs_text = answer.usage.is_none() && !strict::from_answer(&got).choices[&0].content.is_empty();
    strict::same(&json!(!answer.text.is_empty()), &json!(needs_text), "text for an estimate")
}

fn check_embeddings(row: &dyn Provider, recording: &Recording) -> Result<(), String> {
    let body = Bytes::from(json!({"model": "m", "input": "x"}).to_string());
    let request = ChatRequest::parse(body, Endpoint::Embeddings).unwrap();
    let account = Account::default();
    let call = Call { endpoint: Endpoint::Embeddings, ..play::call(&request, "m", &account) };
    let answer = row.answer(&call, &recording.headers, recording.body.clone().into()).map_err(|error| format!("{error:?}"))?;
    strict::same(&json!(answer.body == recording.body), &json!(true), "bytes untouched")?;
    let recorded: Value = serde_json::from_slice(&recording.body).unwrap();
    check_usage(answer.usage.as_ref(), &recorded["usage"])
}

fn check_error(row: &dyn Provider, recording: &Recording) -> Result<(), String> {
    let error = row.error(recording.status, &recording.headers, &recording.body);
    // A prompt that is too long is the client's to mend, whatever status the provider gave.
    // An empty account is a 429 to OpenAI's clients.
    let status = match error.class {
        Class::ContextOverflow if recording.status.is_server_error() => StatusCode::BAD_REQUEST,
        Class::Quota => StatusCode::TOO_MANY_REQUESTS,
        _ => recording.status,
    };
    strict::same(&json!(error.status.as_u16()), &json!(status.as_u16()), "status")?;
    let recorded: Value = serde_json::from_slice(&recording.body).unwrap_or(Value::Null);
    let messages = ["/error/message", "/message", "/detail", "/error", "/0/error/message"];
    let told = messages.iter().find_map(|pointer| recorded.pointer(pointer)?.as_str()).unwrap_or_default();
    let starts = told
        .split_whitespace()
        .take_while(|word| !word.contains("***") && !word.starts_with("sk-"))
        .collect::<Vec<_>>()
        .join(" ");
    let have = error.message.split_whitespace().collect::<Vec<_>>().join(" ");
    strict::same(&json!(have.starts_with(&starts)), &json!(true), &format!("message {have:?} for {told:?}"))?;
    let classes: &[Class] = match recording.status.as_u16() {
        413 => &[Class::RateLimited, Class::ContextOverflow, Class::Invalid],
        400 | 422 => &[Class::Invalid, Class::ContextOverflow, Class::ContentFilter, Class::NotFound, Class::Authentication],
        401 => &[Class::Authentication],
        402 => &[Class::Quota],
        403 => &[Class::Permission, Class::ContentFilter],
        404 => &[Class::NotFound],
        429 => &[Class::RateLimited, Class::Quota, Class::Overloaded],
        _ => &[Class::Server, Class::Overloaded, Class::Timeout, Class::ContextOverflow],
    };
    strict::same(&json!(classes.contains(&error.class)), &json!(true), &format!("class {:?}", error.class))
}
