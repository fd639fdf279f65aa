//! Every recorded chat completion and embedding of providers that speak OpenAI's wire, played
//! through their rows: whole, byte by byte and cut in two. What the client gets is held to a strict
//! reading of OpenAI's grammar and compared with what simple, independent code takes from the
//! recorded bytes. Recordings are found through `WIRE_RECORDINGS`; without it the test says that it
//! skipped.
//! It must not know how the adapter works.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use providers::frames::Framing;
use providers::{Account, Call, ChatRequest, Class, Endpoint, Provider, Usage};
use serde_json::{Value, json};

use crate::play::{self, Played};
use crate::strict::{self, Said};

struct Recording {
    path: PathBuf,
    provider: String,
    request: Value,
    endpoint: Endpoint,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

#[test]
fn every_recording_of_openais_wire_comes_out_in_openais_grammar() {
    let Some(root) = std::env::var_os("WIRE_RECORDINGS") else {
        println!("skipped: WIRE_RECORDINGS is not set");
        return;
    };
    let mut files = Vec::new();
    collect(&Path::new(&root).join("recordings"), &mut files);
    collect(&Path::new(&root).join("documented_errors"), &mut files);
    files.sort();
    let mut rates: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut differences = Vec::new();
    for recording in files.iter().filter_map(|path| read(path)) {
        let outcome = std::panic::catch_unwind(|| check(&recording));
        let outcome = outcome.unwrap_or_else(|panic| Err(format!("panicked: {:?}", panic.downcast_ref::<String>())));
        let rate = rates.entry(recording.provider.clone()).or_default();
        rate.1 += 1;
        match outcome {
            Ok(()) => {
                rate.0 += 1;
                differences.extend(second_opinion(&recording, Path::new(&root)));
            }
            Err(reason) => failures.push(format!("{}: {reason}", recording.path.display())),
        }
    }
    println!("provider              passed / recorded");
    rates.iter().for_each(|(provider, (passed, all))| println!("{provider:<24}{passed:>4} / {all}"));
    println!("{} differ from the second opinion:\n{}", differences.len(), differences.join("\n"));
    assert!(!rates.is_empty(), "no recordings under WIRE_RECORDINGS");
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn collect(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|ending| ending == "json") {
            out.push(path);
        }
    }
}

/// The recording, if it is a chat completion or embedding in OpenAI's wire.
fn read(path: &Path) -> Option<Recording> {
    let whole: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let folder = path.parent()?.file_name()?.to_str()?;
    let is_documented = folder == "documented_errors";
    let provider = if is_documented { path.file_stem()?.to_str()?.split('-').next()? } else { folder }.to_owned();
    let body = match &whole["response"]["body"] {
        Value::String(text) => text.clone(),
        Value::Null => return None,
        other => other.to_string(),
    };
    let url = whole["request"]["url"].as_str().unwrap_or_default();
    let is_native = url.contains("/api/embed");
    let foreign = ["anthropic", "bedrock", "cohere", "vertex"].contains(&provider.as_str());
    let is_documented = is_documented && provider != "gemini";
    let endpoint = if is_documented || url.contains("/chat/completions") || (url.is_empty() && body.contains("chat.completion")) {
        Endpoint::Chat
    } else if url.ends_with("/embeddings") && !is_native && !foreign && provider != "perplexity" {
        Endpoint::Embeddings
    } else {
        return None;
    };
    if foreign {
        return None;
    }
    let given = whole["response"]["headers"].as_object().into_iter().flatten();
    let headers = given.filter_map(|(name, value)| {
        Some((name.parse::<http::HeaderName>().ok()?, value.as_str()?.parse::<http::HeaderValue>().ok()?))
    });
    Some(Recording {
        path: path.to_owned(),
        provider,
        request: whole["request"]["body"].clone(),
        endpoint,
        status: StatusCode::from_u16(u16::try_from(whole["response"]["status"].as_u64().unwrap_or(200)).ok()?).ok()?,
        headers: headers.collect(),
        body: Bytes::from(body),
    })
}

fn row(provider: &str) -> &'static dyn Provider {
    let kind = match provider {
        "alibaba" => "dashscope",
        "ollama" => "ollama-openai",
        known if providers::provider(known).is_some_and(|row| row.serves(Endpoint::Chat)) && known != "gemini" => known,
        _ => "openai-compatible",
    };
    providers::provider(kind).unwrap()
}

fn check(recording: &Recording) -> Result<(), String> {
    let row = row(&recording.provider);
    if !recording.status.is_success() {
        return check_error(row, recording);
    }
    if recording.endpoint == Endpoint::Embeddings {
        return check_embeddings(row, recording);
    }
    let start = recording.body.trim_ascii_start();
    let is_stream = [&b"data:"[..], b"event:", b":"].iter().any(|field| start.starts_with(field));
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
    let played = if wants_usage { stream_cut(row, call, body) } else { play::stream(row, call, Framing::Sse, &[body]) };
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

/// Whole, byte by byte and cut in two at some thirty places, all of which must say the same.
fn stream_cut(row: &dyn Provider, call: &Call<'_>, body: &[u8]) -> Played {
    let whole = play::stream(row, call, Framing::Sse, &[body]);
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(whole, play::stream(row, call, Framing::Sse, &bytes), "byte by byte differs from whole");
    for cut in (0..=body.len()).step_by(body.len() / 30 + 1) {
        let (head, tail) = body.split_at(cut);
        assert_eq!(whole, play::stream(row, call, Framing::Sse, &[head, tail]), "cut at byte {cut} differs from whole");
    }
    whole
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
    let answered = row.answer(call, &recording.headers, recording.body.clone());
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
    let answer = row.answer(&call, &recording.headers, recording.body.clone()).map_err(|error| format!("{error:?}"))?;
    strict::same(&json!(answer.body == recording.body), &json!(true), "bytes untouched")?;
    let recorded: Value = serde_json::from_slice(&recording.body).unwrap();
    check_usage(answer.usage.as_ref(), &recorded["usage"])
}

fn check_error(row: &dyn Provider, recording: &Recording) -> Result<(), String> {
    let error = row.error(recording.status, &recording.headers, &recording.body);
    // A prompt that is too long is the client's to mend, whatever status the provider gave.
    let is_overflow = error.class == Class::ContextOverflow && recording.status.is_server_error();
    let status = if is_overflow { StatusCode::BAD_REQUEST } else { recording.status };
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

/// Where LiteLLM made something else of the same answer than the recording itself says (which is
/// what this test holds us to). In the open recordings it differs four times, and the recording is
/// right each time: it estimates a usage that the provider never told, it turns OpenAI's own `stop`
/// after a named call into `tool_calls`, and it fails on Groq's error code in mid-stream, where we
/// tell the provider's error; OpenRouter's error in mid-stream it tells as we do.
fn second_opinion(recording: &Recording, root: &Path) -> Option<String> {
    let name = recording.path.file_name()?;
    let path = root.join("oracle/expected").join(&recording.provider).join(name);
    let opinion: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let result = &opinion["result"];
    let body = &recording.body;
    let (theirs, ours) = if !recording.status.is_success() {
        let error = row(&recording.provider).error(recording.status, &recording.headers, body);
        (json!(result["status_code"]), json!(error.status.as_u16()))
    } else if let Some(chunks) = result.as_array() {
        let events: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
        (meaning(&strict::from_events(events.as_bytes())), meaning(&strict::from_events(body)))
    } else if result["choices"].is_array() {
        (meaning(&strict::from_answer(result)), meaning(&strict::from_answer(&serde_json::from_slice(body).ok()?)))
    } else {
        return (!result.is_null()).then(|| format!("{}: it says {result:.200}", recording.path.display()));
    };
    (theirs != ours).then(|| format!("{}:\n  it says {theirs:.700}\n  we say  {ours:.700}", name.display()))
}

fn meaning(said: &Said) -> Value {
    let choices = said.choices.iter().map(|(index, choice)| {
        let calls: Vec<Value> = choice
            .calls
            .iter()
            .map(|(name, arguments)| json!([name, serde_json::from_str::<Value>(arguments).unwrap_or(Value::Null)]))
            .collect();
        json!([index, choice.content, choice.reasoning, calls, choice.finish])
    });
    let number = |pointer: &str| said.usage.pointer(pointer).and_then(Value::as_u64);
    let (input, output) = (number("/prompt_tokens"), number("/completion_tokens"));
    let reasoning = number("/completion_tokens_details/reasoning_tokens").unwrap_or(0);
    let is_apart = input.zip(output).map(|(input, output)| input + output + reasoning) == number("/total_tokens");
    json!([choices.collect::<Vec<_>>(), [input, output.map(|output| output + if is_apart { reasoning } else { 0 })]])
}
