//! Errors that providers document and that nobody recorded, beside the recordings that WIRE_RECORDINGS
//! names: each must come out with its class, status and wait.
//! It must not use the crate's reading of any wire.

use providers::{Class, Endpoint};
use serde_json::Value;

use crate::recorded::{self, Tally};

/// File, kind, class, the client's status, milliseconds to wait.
const ERRORS: [(&str, &str, Class, u16, Option<u128>); 9] = [
    ("gemini-429", "gemini", Class::RateLimited, 429, Some(34_400)),
    ("gemini-500", "gemini", Class::Server, 500, None),
    ("gemini-503", "gemini", Class::Overloaded, 503, None),
    ("gemini-504", "gemini", Class::Timeout, 504, None),
    ("gemini-503", "vertex", Class::Overloaded, 503, None),
    ("gemini-array-wrapped-400", "gemini", Class::Invalid, 400, None),
    ("cohere-429", "cohere", Class::RateLimited, 429, None),
    ("azure-400-content_filter", "azure", Class::ContentFilter, 400, None),
    ("azure-429", "azure", Class::RateLimited, 429, Some(26_000)),
];

#[test]
fn documented_errors_are_told_apart() {
    let Some(root) = recorded::root() else { return };
    let mut tally = Tally::new("documented errors");
    for (file, kind, class, status, wait) in ERRORS {
        let case = recorded::load(&root.join("documented_errors").join(format!("{file}.json")));
        let provider = providers::provider(kind).unwrap();
        let error = provider.error(case.status, &case.headers, &case.body);
        let got = (error.class, error.status.as_u16(), error.retry_after.map(|wait| wait.as_millis()));
        tally.assert(&format!("{file} as {kind}"), got == (class, status, wait), &format!("got {got:?}"));
    }
    tally.end(&[]);
}

#[test]
fn a_blocked_prompt_is_an_answer_and_no_crash() {
    let Some(root) = recorded::root() else { return };
    let case = recorded::load(&root.join("documented_errors/gemini-200-prompt-blocked.json"));
    for kind in ["gemini", "vertex"] {
        let said = recorded::played(providers::provider(kind).unwrap(), "m", &case);
        assert_eq!((said.choices[0].finish.as_str(), said.usage), ("content_filter", Some([8, 0, 0, 0, 0])));
    }
}

#[test]
fn a_client_that_asks_for_base64_gets_the_same_numbers() {
    let texts = serde_json::json!({"model": "m", "input": "hi", "encoding_format": "base64"});
    let request = providers::ChatRequest::parse(texts.to_string().into(), Endpoint::Embeddings).unwrap();
    let account = providers::Account::default();
    let call = providers::Call { endpoint: Endpoint::Embeddings, ..crate::play::call(&request, "m", &account) };
    let headers = http::HeaderMap::new();
    for (kind, body) in [
        ("gemini", r#"{"embeddings":[{"values":[1.5, -0.25]}]}"#),
        ("vertex", r#"{"predictions":[{"embeddings":{"values":[1.5, -0.25]}}]}"#),
        ("cohere", r#"{"embeddings":{"float":[[1.5, -0.25]]}}"#),
        ("ollama", r#"{"embeddings":[[1.5, -0.25]]}"#),
    ] {
        let answer = providers::provider(kind).unwrap().answer(&call, &headers, body.into()).unwrap();
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        // 1.5 and -0.25 as little-endian 32-bit floats: 00 00 c0 3f 00 00 80 be.
        assert_eq!(answer["data"][0]["embedding"], "AADAPwAAgL4=", "{kind}");
    }
}
