//! What providers say when they fail, in every dialect, told in OpenAI's terms.
//! It must not know how bodies are read.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};
use providers::{Class, UpstreamError};
use serde_json::json;

fn told(status: u16, headers: &[(&'static str, &str)], body: &str) -> UpstreamError {
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
    providers::provider("openai").unwrap().error(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
}

/// Headers; milliseconds to wait.
type Wait = (&'static [(&'static str, &'static str)], Option<u64>);

/// Status, body; class, status for the client, `code`, message.
type Case = (u16, &'static str, Class, u16, Option<&'static str>, &'static str);

const CASES: [Case; 43] = [
    // OpenAI's own shape stays as it is.
    (
        400,
        r#"{"error":{"message":"no such field","type":"invalid_request_error","param":"x","code":"unknown_parameter"}}"#,
        Class::Invalid,
        400,
        Some("unknown_parameter"),
        "no such field",
    ),
    (
        401,
        r#"{"error":{"message":"Incorrect API key provided: sk-abcdefghijkl. Look here.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
        Class::Authentication,
        401,
        Some("invalid_api_key"),
        "Incorrect API key provided: [redacted]. Look here.",
    ),
    (
        404,
        r#"{"error":{"message":"no model `x`","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
        Class::NotFound,
        404,
        Some("model_not_found"),
        "no model `x`",
    ),
    (
        429,
        r#"{"error":{"message":"Limit reached on tokens per min","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
        Class::RateLimited,
        429,
        Some("rate_limit_exceeded"),
        "Limit reached on tokens per min",
    ),
    (
        429,
        r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
        Class::Quota,
        429,
        Some("insufficient_quota"),
        "You exceeded your current quota",
    ),
    (
        400,
        r#"{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
        Class::ContextOverflow,
        400,
        Some("context_length_exceeded"),
        "too long",
    ),
    (500, r#"{"error":{"message":"sorry","type":"server_error","param":null,"code":null}}"#, Class::Server, 500, None, "sorry"),
    (
        503,
        r#"{"error":{"message":"The engine is currently overloaded","type":"service_unavailable_error"}}"#,
        Class::Overloaded,
        503,
        None,
        "The engine is currently overloaded",
    ),
    // Codes as numbers, repeating the status.
    (
        401,
        r#"{"error":{"message":"bad key","type":"invalid_api_key","code":401}}"#,
        Class::Authentication,
        401,
        Some("invalid_api_key"),
        "bad key",
    ),
    (
        429,
        r#"{"error":{"code":"429","message":"slow down, token rate limit"}}"#,
        Class::RateLimited,
        429,
        Some("rate_limit_exceeded"),
        "slow down, token rate limit",
    ),
    (
        400,
        r#"{"error":{"code":400,"message":"Provider returned error","metadata":{"provider_name":"P","raw":"{\"error\":{\"message\":\"must be >= 16\",\"param\":\"max\",\"code\":\"below\"}}"}},"user_id":"u"}"#,
        Class::Invalid,
        400,
        Some("below"),
        "Provider returned error: must be >= 16",
    ),
    (
        429,
        r#"{"error":{"code":429,"message":"Provider returned error","metadata":{"raw":"m is temporarily rate-limited upstream"}}}"#,
        Class::RateLimited,
        429,
        Some("rate_limit_exceeded"),
        "Provider returned error: m is temporarily rate-limited upstream",
    ),
    (
        402,
        r#"{"error":{"code":402,"message":"Insufficient credits"}}"#,
        Class::Quota,
        429,
        Some("insufficient_quota"),
        "Insufficient credits",
    ),
    (
        402,
        r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}"#,
        Class::Quota,
        429,
        Some("insufficient_quota"),
        "Insufficient Balance",
    ),
    // Text where an object should be.
    (
        400,
        r#"{"code":"Client specified an invalid argument","error":"Model m does not support x."}"#,
        Class::Invalid,
        400,
        Some("Client specified an invalid argument"),
        "Model m does not support x.",
    ),
    (
        400,
        r#"{"code":"invalid-argument","error":"Incorrect API key provided. Get one."}"#,
        Class::Authentication,
        400,
        Some("invalid-argument"),
        "Incorrect API key provided. Get one.",
    ),
    (400, r#"{"error":"model 'x' does not exist"}"#, Class::NotFound, 400, Some("model_not_found"), "model 'x' does not exist"),
    (500, r#""it broke""#, Class::Server, 500, None, "it broke"),
    (401, r#"{"detail":"Invalid API Key"}"#, Class::Authentication, 401, Some("invalid_api_key"), "Invalid API Key"),
    (
        422,
        r#"{"detail":[{"type":"missing","loc":["body","model"],"msg":"Field required"},{"loc":["body","n"],"msg":"too big"}]}"#,
        Class::Invalid,
        422,
        None,
        "body.model: Field required; body.n: too big",
    ),
    (
        422,
        r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","foo"],"msg":"Extra inputs are not permitted"}]},"type":"invalid_request_error","param":null,"code":null}"#,
        Class::Invalid,
        422,
        None,
        "body.foo: Extra inputs are not permitted",
    ),
    (
        400,
        r#"{"object":"error","message":"Invalid model: x","type":"invalid_model","param":null,"code":"1500","raw_status_code":400}"#,
        Class::NotFound,
        400,
        Some("1500"),
        "Invalid model: x",
    ),
    (
        400,
        r#"{"object":"error","message":"This model's maximum context length is 4096 tokens.","type":"BadRequestError","param":null,"code":400}"#,
        Class::ContextOverflow,
        400,
        Some("context_length_exceeded"),
        "This model's maximum context length is 4096 tokens.",
    ),
    (
        400,
        r#"[{"error":{"code":400,"message":"bad field","status":"INVALID_ARGUMENT"}}]"#,
        Class::Invalid,
        400,
        None,
        "bad field",
    ),
    (429, r#"{"error":{"code":"1302","message":"too many"}}"#, Class::RateLimited, 429, Some("1302"), "too many"),
    (429, r#"{"error":{"code":"1113","message":"no money"}}"#, Class::Quota, 429, Some("insufficient_quota"), "no money"),
    (
        429,
        r#"{"object":"error","message":"Service tier capacity exceeded for this model.","type":"service_tier_capacity_exceeded","code":"3505"}"#,
        Class::Overloaded,
        429,
        Some("3505"),
        "Service tier capacity exceeded for this model.",
    ),
    (
        400,
        r#"{"error":{"message":"Your request was filtered by our content management policy.","type":null,"param":"prompt","code":"content_filter"}}"#,
        Class::ContentFilter,
        400,
        Some("content_filter"),
        "Your request was filtered by our content management policy.",
    ),
    (
        403,
        r#"{"error":{"code":403,"message":"Provider returned error","metadata":{"raw":"{\"code\":\"x\",\"error\":\"Content violates usage guidelines.\"}"}}}"#,
        Class::ContentFilter,
        403,
        Some("x"),
        "Provider returned error: Content violates usage guidelines.",
    ),
    (403, r#"{"error":{"message":"not yours","type":"invalid_request_error"}}"#, Class::Permission, 403, None, "not yours"),
    (
        413,
        r#"{"error":{"message":"Request too large for model","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
        Class::RateLimited,
        413,
        Some("rate_limit_exceeded"),
        "Request too large for model",
    ),
    (
        400,
        r#"{"error":{"message":"The model `m` has been decommissioned","type":"invalid_request_error","code":"model_decommissioned"}}"#,
        Class::NotFound,
        400,
        Some("model_decommissioned"),
        "The model `m` has been decommissioned",
    ),
    (
        400,
        r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error","n_ctx":4096}}"#,
        Class::ContextOverflow,
        400,
        Some("context_length_exceeded"),
        "the request exceeds the available context size",
    ),
    (
        500,
        r#"{"error":{"code":500,"message":"input is too large to process","type":"server_error"}}"#,
        Class::ContextOverflow,
        400,
        Some("context_length_exceeded"),
        "input is too large to process",
    ),
    (
        400,
        r#"{"error":{"message":"The total length of all messages is too long.","type":"too_many_prompt_tokens","code":400}}"#,
        Class::ContextOverflow,
        400,
        Some("context_length_exceeded"),
        "The total length of all messages is too long.",
    ),
    (
        503,
        r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#,
        Class::Overloaded,
        503,
        None,
        "Loading model",
    ),
    // No JSON, nothing at all, statuses of front doors.
    (
        502,
        "<html><head><title>502 Bad\n Gateway</title></head><body>x</body></html>",
        Class::Server,
        502,
        None,
        "the provider answered with a web page: 502 Bad Gateway",
    ),
    (
        401,
        "<!DOCTYPE html><HTML><h1 class=\"a\">Authorization Required</h1></HTML>",
        Class::Authentication,
        401,
        Some("invalid_api_key"),
        "the provider answered with a web page: Authorization Required",
    ),
    (500, "<html>", Class::Server, 500, None, "the provider answered with a web page"),
    (500, "", Class::Server, 500, None, "the provider answered 500 Internal Server Error without a message"),
    (504, "upstream request timeout", Class::Timeout, 504, None, "upstream request timeout"),
    (529, r#"{"error":{"message":"busy"}}"#, Class::Overloaded, 503, None, "busy"),
    (524, "error code: 524", Class::Timeout, 504, None, "error code: 524"),
];

#[test]
fn every_dialect_of_failure_is_told_in_openais_terms() {
    for (status, body, class, for_client, code, message) in CASES {
        let error = told(status, &[], body);
        let got = (error.class, error.status.as_u16(), error.code.as_deref(), error.message.as_str());
        assert_eq!(got, (class, for_client, code, message), "{status} {body}");
        assert!(!error.type_name.is_empty());
    }
}

/// An account without money or quota, as each wire tells it: kind, status, body.
const EMPTY: [(&str, u16, &str); 11] = [
    ("openai", 429, r#"{"error":{"message":"m","type":"insufficient_quota","code":"insufficient_quota"}}"#),
    ("openrouter", 402, r#"{"error":{"code":402,"message":"Insufficient credits"}}"#),
    ("deepseek", 402, r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}}"#),
    ("azure", 402, r#"{"error":{"message":"m","code":"402"}}"#),
    ("anthropic", 402, r#"{"type":"error","error":{"type":"billing_error","message":"m"}}"#),
    ("anthropic", 400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}"#),
    (
        "gemini",
        429,
        r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"RequestsPerDay"}]}]}}"#,
    ),
    ("bedrock", 400, r#"{"__type":"ServiceQuotaExceededException","message":"m"}"#),
    ("cohere", 429, r#"{"message":"You are past the limit of 1000 calls a month"}"#),
    ("cohere", 402, r#"{"message":"m"}"#),
    ("ollama", 402, r#"{"error":"m"}"#),
];

#[test]
fn an_empty_account_is_told_alike_whoever_keeps_it() {
    for (kind, status, body) in EMPTY {
        let provider = providers::provider(kind).unwrap();
        let error = provider.error(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes());
        let told = (error.class, error.status.as_u16(), error.type_name.as_str(), error.code.as_deref());
        assert_eq!(told, (Class::Quota, 429, "insufficient_quota", Some("insufficient_quota")), "{kind} {body}");
        assert!(!error.message.is_empty(), "{kind}: the provider's own words stay");
    }
}

#[test]
fn type_and_param_are_the_providers_own_where_it_gives_them() {
    let error = told(400, &[], r#"{"error":{"message":"m","type":"own_type","param":"messages[0]","code":"c"}}"#);
    assert_eq!((error.type_name.as_str(), error.param.as_deref()), ("own_type", Some("messages[0]")));
    let error = told(429, &[], r#"{"error":"slow down"}"#);
    assert_eq!((error.type_name.as_str(), error.param.as_deref()), ("rate_limit_error", None));
}

#[test]
fn the_wait_that_a_provider_asks_for_is_read_from_any_header() {
    let cases: [Wait; 9] = [
        (&[("retry-after", "26")], Some(26_000)),
        (&[("retry-after", "1.5")], Some(1_500)),
        (&[("retry-after", "19"), ("retry-after-ms", "18642")], Some(18_642)),
        (&[("date", "Sun, 28 Feb 2027 23:59:50 GMT"), ("retry-after", "Mon, 01 Mar 2027 00:00:20 GMT")], Some(30_000)),
        (&[("date", "Sun, 28 Feb 2027 23:59:50 GMT"), ("retry-after", "Sun, 28 Feb 2027 23:00:00 GMT")], Some(0)),
        (&[("retry-after", "Mon, 01 Mar 2027 00:00:20 GMT")], None),
        (&[("retry-after", "soon")], None),
        (&[("retry-after", "-5")], None),
        (&[("retry-after", "1e30")], None),
    ];
    for (headers, expected) in cases {
        assert_eq!(told(429, headers, "{}").retry_after, expected.map(Duration::from_millis), "{headers:?}");
    }
    assert_eq!(told(503, &[("retry-after", "99999999")], "{}").retry_after, Some(Duration::from_secs(86_400)));
}

#[test]
fn keys_never_come_down_in_a_message() {
    let keys = [
        "sk-proj-abcdefghijklmnop",
        "xai-0123456789abcdef",
        "gsk_0123456789abcdef",
        "AIzaSy0123456789",
        "hf_0123456789abc",
        "test-con****-key",
        "AKIA0123456789ABCDEF",
    ];
    for key in keys {
        for text in [
            format!("bad key {key}"),
            format!("key='{key}'."),
            format!("(key:{key})"),
            format!("a\n{key}\nb"),
            format!("\"{key}\", x"),
        ] {
            let error = told(401, &[], &json!({"error": {"message": text}}).to_string());
            assert!(!error.message.contains(key), "{}", error.message);
            assert!(error.message.contains("[redacted]"), "{}", error.message);
        }
    }
    let harmless = "sk- is a prefix; risk-free desk-lamps, 2*3*4 and task-oriented models. é…";
    assert_eq!(told(400, &[], &json!({"error": {"message": harmless}}).to_string()).message, harmless);
}

#[test]
fn a_message_has_an_end() {
    let error = told(500, &[], &"é".repeat(100_000));
    assert!(error.message.len() < 5_000, "{} bytes", error.message.len());
}
