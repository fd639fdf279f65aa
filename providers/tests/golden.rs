//! Golden cases: one JSON file each in `golden/<kind>/`, a client's request, what the provider
//! answered, and what must go out on both sides. `BLESS=1` writes the `expect` of every case anew,
//! to be read before it is committed.
//! It must not know any particular wire.

use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use providers::frames::Framing;
use providers::{Account, Call, ChatRequest, Endpoint, Provider, Refusal, Unsupported, UpstreamError, UpstreamRequest, Usage};
use serde_json::{Value, json};

use crate::play;

#[test]
fn every_golden_case_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = folders(&root).iter().filter(|kind| kind.is_dir()).flat_map(|kind| folders(kind)).collect();
    cases.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    cases.sort();
    let wrong: Vec<String> = cases.iter().filter_map(|path| check(path)).collect();
    println!("{} golden cases", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn folders(path: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn check(path: &Path) -> Option<String> {
    let mut case: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let kind = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let provider = providers::provider(kind).unwrap_or_else(|| panic!("no kind {kind}"));
    let got = run(provider, &case);
    if std::env::var_os("BLESS").is_some() {
        case["expect"] = got;
        std::fs::write(path, serde_json::to_string_pretty(&case).unwrap() + "\n").unwrap();
        return None;
    }
    (case["expect"] != got).then(|| format!("{}:\n  expected {}\n  got      {got}", path.display(), case["expect"]))
}

fn run(provider: &dyn Provider, case: &Value) -> Value {
    let account = account(&case["account"]);
    let model = case["model"].as_str().unwrap();
    let endpoint = endpoint(&case["endpoint"]);
    let request = match ChatRequest::parse(case["request"].to_string().into(), endpoint) {
        Ok(request) => request.with_headers(&headers(&case["headers"])),
        Err(refusal) => return json!({"refusal": refusal_json(&refusal)}),
    };
    let call = Call { endpoint, ..play::call(&request, model, &account) };
    let upstream = match provider.request(&call) {
        Ok(upstream) => upstream,
        Err(refusal) => return json!({"refusal": refusal_json(&refusal)}),
    };
    let mut got = json!({"upstream": upstream_json(&upstream)});
    if case["response"].is_null() {
        return got;
    }
    let status = StatusCode::from_u16(u16::try_from(case["response"]["status"].as_u64().unwrap_or(200)).unwrap()).unwrap();
    let headers = headers(&case["response"]["headers"]);
    let body = body(&case["response"], upstream.framing);
    let outcome = if !status.is_success() {
        json!({"error": error_json(&provider.error(status, &headers, &body))})
    } else if request.stream {
        let played = play::stream_every_way(provider, &call, upstream.framing, &body);
        let mut said = json!({
            "chunks": played.chunks(), "text": played.text, "usage": played.usage.map(|usage| usage_json(&usage)),
            "error": played.error.as_ref().map(error_json), "malformed": played.malformed, "done": played.done,
        });
        if endpoint == Endpoint::Chat {
            let begun = calls(&played.chunks(), "delta");
            assert!(!played.done || played.tool_calls == begun, "{} calls told, {begun} in the stream", played.tool_calls);
        } else {
            said["tool_calls"] = played.tool_calls.into();
        }
        said
    } else {
        match provider.answer(&call, &headers, body.into()) {
            Ok(answer) => {
                let whole = serde_json::from_slice::<Value>(&answer.body).unwrap();
                let mut said = json!({"answer": whole, "usage": answer.usage.map(|usage| usage_json(&usage))});
                if matches!(endpoint, Endpoint::Chat | Endpoint::Embeddings) {
                    assert_eq!(answer.tool_calls, calls(std::slice::from_ref(&whole), "message"), "calls told and in {whole}");
                } else {
                    said["tool_calls"] = answer.tool_calls.into();
                    said["text"] = answer.text.into();
                }
                said
            }
            Err(error) => json!({"error": error_json(&error)}),
        }
    };
    got.as_object_mut().unwrap().extend(outcome.as_object().unwrap().clone());
    got
}

/// The endpoint with this name, the last part of its path.
fn endpoint(name: &Value) -> Endpoint {
    match name.as_str() {
        None => Endpoint::Chat,
        Some("embeddings") => Endpoint::Embeddings,
        Some("completions") => Endpoint::Completions,
        Some("responses") => Endpoint::Responses,
        Some("messages") => Endpoint::Messages,
        Some("count_tokens") => Endpoint::CountTokens,
        Some(other) => panic!("no endpoint {other}"),
    }
}

/// How many tools are called in these answers or chunks: a call has its id once.
fn calls(said: &[Value], part: &str) -> usize {
    let choices = said.iter().filter_map(|one| one["choices"].as_array()).flatten();
    let calls = choices.filter_map(|choice| choice[part]["tool_calls"].as_array()).flatten();
    calls.filter(|call| call["id"].is_string()).count()
}

fn account(given: &Value) -> Account {
    let text = |name: &str| given[name].as_str().map(str::to_owned);
    let unsupported = match given["unsupported"].as_str() {
        Some("reject") => Unsupported::Reject,
        Some("drop") => Unsupported::Drop,
        _ => Unsupported::Auto,
    };
    Account { region: text("region"), project: text("project"), api_version: text("api_version"), unsupported }
}

fn headers(given: &Value) -> HeaderMap {
    let pairs = given.as_object().into_iter().flatten();
    pairs
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.as_str().unwrap().parse::<HeaderValue>().unwrap()))
        .collect()
}

/// `text` as it is, `events` in the stream's framing, or `body` as JSON.
fn body(response: &Value, framing: Framing) -> Vec<u8> {
    if let Some(text) = response["text"].as_str() {
        return text.as_bytes().to_vec();
    }
    match response["events"].as_array() {
        Some(events) => events.iter().flat_map(|event| play::framed(framing, event)).collect(),
        None => response["body"].to_string().into_bytes(),
    }
}

fn upstream_json(upstream: &UpstreamRequest) -> Value {
    let headers: serde_json::Map<String, Value> =
        upstream.headers.iter().map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap()))).collect();
    let body = serde_json::from_slice::<Value>(&upstream.body).unwrap();
    json!({"path": upstream.path, "headers": headers, "body": body, "dropped": upstream.dropped})
}

fn refusal_json(refusal: &Refusal) -> Value {
    json!({"message": refusal.message, "param": refusal.param, "code": refusal.code})
}

fn error_json(error: &UpstreamError) -> Value {
    json!({
        "class": format!("{:?}", error.class), "status": error.status.as_u16(), "message": error.message, "type": error.type_name,
        "param": error.param, "code": error.code, "retry_after_ms": error.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap()),
    })
}

fn usage_json(usage: &Usage) -> Value {
    let mut said = json!({
        "input": usage.input, "output": usage.output, "cache_read": usage.cache_read, "cache_write": usage.cache_write,
        "cache_write_1h": usage.cache_write_1h, "reasoning": usage.reasoning, "audio_in": usage.audio_in, "audio_out": usage.audio_out,
    });
    if let Some(billed) = usage.billed {
        said["billed"] = json!({"input": billed.input, "output": billed.output});
    }
    said
}
