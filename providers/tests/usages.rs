//! The `usage` object as every dialect writes it, in the gateway's one meaning, and what the client
//! gets of it.
//! It must not know how the object is read.

use http::HeaderMap;
use providers::{Account, Tier, Usage};
use serde_json::{Value, json};

use crate::play;

fn answered(kind: &str, usage: &str, more: &str) -> (Option<Usage>, Value, String) {
    let request = play::chat(&json!({"model": "m", "messages": []}));
    let account = Account::default();
    let body = format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"text"}},"finish_reason":"stop"}}],"usage":{usage}{more}}}"#
    );
    let row = providers::provider(kind).unwrap();
    let answer = row.answer(&play::call(&request, "m", &account), &HeaderMap::new(), body.into()).unwrap();
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    (answer.usage, told["usage"].clone(), answer.text)
}

/// The object, and what it means.
fn dialects() -> Vec<(&'static str, Usage)> {
    let none = Usage::default();
    let base = Usage { input: 100, output: 20, ..none };
    vec![
        (r#"{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120}"#, base),
        (r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#, none),
        (r#"{"prompt_tokens":100.0,"completion_tokens":2e1,"total_tokens":"120"}"#, base),
        (r#"{"prompt_tokens":100,"total_tokens":120}"#, base),
        (r#"{"completion_tokens":20,"total_tokens":120}"#, base),
        (r#"{"prompt_tokens":100,"completion_tokens":20}"#, base),
        (r#"{"input_tokens":100,"output_tokens":20}"#, base),
        (r#"{"prompt_tokens":100,"completion_tokens":null,"total_tokens":null}"#, Usage { output: 0, ..base }),
        (
            r#"{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":64,"audio_tokens":3,"image_tokens":2},"completion_tokens_details":{"reasoning_tokens":8,"audio_tokens":5}}"#,
            Usage { cache_read: 64, audio_in: 3, image_in: 2, reasoning: 8, audio_out: 5, ..base },
        ),
        (r#"{"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":null,"completion_tokens_details":null}"#, base),
        (
            r#"{"prompt_tokens":100,"completion_tokens":20,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}"#,
            Usage { cache_read: 64, ..base },
        ),
        (r#"{"prompt_tokens":100,"completion_tokens":20,"cached_tokens":64}"#, Usage { cache_read: 64, ..base }),
        (
            r#"{"prompt_tokens":100,"completion_tokens":20,"num_cached_tokens":64,"prompt_tokens_details":{"cached_tokens":0}}"#,
            Usage { cache_read: 64, ..base },
        ),
        (
            r#"{"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":40,"cache_write_tokens":30}}"#,
            Usage { cache_read: 40, cache_write: 30, ..base },
        ),
        (
            r#"{"prompt_tokens":100,"completion_tokens":20,"cache_read_input_tokens":40,"cache_creation_input_tokens":30,"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20}}"#,
            Usage { cache_read: 40, cache_write: 10, cache_write_1h: 20, ..base },
        ),
        // Parts are never more than the whole.
        (
            r#"{"prompt_tokens":10,"completion_tokens":20,"total_tokens":30,"prompt_tokens_details":{"cached_tokens":161,"cache_write_tokens":9}}"#,
            Usage { input: 10, cache_read: 10, ..base },
        ),
        // Reasoning beside the completion: the total says so, or the numbers do.
        (
            r#"{"prompt_tokens":100,"completion_tokens":12,"total_tokens":120,"completion_tokens_details":{"reasoning_tokens":8}}"#,
            Usage { reasoning: 8, ..base },
        ),
        (
            r#"{"prompt_tokens":100,"completion_tokens":2,"total_tokens":102,"completion_tokens_details":{"reasoning_tokens":18}}"#,
            Usage { reasoning: 18, ..base },
        ),
        (
            r#"{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"completion_tokens_details":{"reasoning_tokens":20}}"#,
            Usage { reasoning: 20, ..base },
        ),
        // What the provider says it cost, to the last digit.
        (r#"{"prompt_tokens":100,"completion_tokens":20,"cost":0.00022876}"#, Usage { reported_cost: Some(228_760_000), ..base }),
        (
            r#"{"prompt_tokens":100,"completion_tokens":20,"cost":{"request_cost":0.005,"total_cost":0.00507}}"#,
            Usage { reported_cost: Some(5_070_000_000), ..base },
        ),
        (
            r#"{"prompt_tokens":100,"completion_tokens":20,"cost_in_usd_ticks":1641500}"#,
            Usage { reported_cost: Some(164_150_000), ..base },
        ),
    ]
}

#[test]
fn every_dialect_of_usage_has_one_meaning() {
    for (object, expected) in dialects() {
        let (usage, told, text) = answered("openai-compatible", object, "");
        assert_eq!(usage, Some(expected), "{object}");
        let totals = [&told["prompt_tokens"], &told["completion_tokens"], &told["total_tokens"]];
        assert_eq!(json!(totals), json!([expected.input, expected.output, expected.input + expected.output]), "{object}");
        assert_eq!(text, "", "{object}");
        let count = |pointer: &str| told.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let parts = ["/prompt_tokens_details/cached_tokens", "/completion_tokens_details/reasoning_tokens"].map(count);
        assert_eq!(parts, [expected.cache_read, expected.reasoning], "{object}");
        let written = count("/prompt_tokens_details/cache_write_tokens");
        assert_eq!(written, expected.cache_write + expected.cache_write_1h, "{object}");
        let given: Value = serde_json::from_str(object).unwrap();
        let mended = ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"];
        for (name, value) in given.as_object().unwrap().iter().filter(|(name, _)| !mended.contains(&name.as_str())) {
            assert_eq!(told[name], *value, "{name} of {object}");
        }
    }
}

#[test]
fn a_cost_is_read_as_decimal_text_and_never_as_a_float() {
    let cases: [(&str, Option<u64>); 12] = [
        ("0", Some(0)),
        ("1", Some(1_000_000_000_000)),
        ("0.1", Some(100_000_000_000)),
        ("1e-05", Some(10_000_000)),
        ("3.36e-05", Some(33_600_000)),
        ("2.5E+1", Some(25_000_000_000_000)),
        ("0.000000000001", Some(1)),
        ("0.0000000000005", Some(1)),
        ("0.0000000000004", Some(0)),
        ("0.1234567890123456789012345678901234567890", Some(123_456_789_012)),
        ("-1", None),
        ("1e300", None),
    ];
    for (cost, expected) in cases {
        let (usage, _, _) = answered("openrouter", &format!(r#"{{"prompt_tokens":1,"completion_tokens":1,"cost":{cost}}}"#), "");
        assert_eq!(usage.unwrap().reported_cost, expected, "{cost}");
    }
}

#[test]
fn no_usage_is_none_and_the_text_is_told_for_an_estimate() {
    for object in ["null", "{}", r#"{"prompt_tokens":null}"#, r#"{"prompt_tokens":"7"}"#] {
        let (usage, _, text) = answered("openai", object, "");
        assert_eq!((usage, text.as_str()), (None, "text"), "{object}");
    }
}

#[test]
fn the_tier_is_the_answers_own() {
    let tiers = [("priority", Tier::Priority), ("flex", Tier::Flex), ("default", Tier::Standard), ("on_demand", Tier::Standard)];
    for (name, tier) in tiers {
        for usage in
            [r#"{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}"#, r#"{"prompt_tokens":1,"completion_tokens":1}"#]
        {
            let (usage, _, _) = answered("openai", usage, &format!(r#","service_tier":"{name}""#));
            assert_eq!(usage.unwrap().tier, tier, "{name}");
        }
    }
}
