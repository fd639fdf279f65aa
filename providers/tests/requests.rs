//! What goes up: the client's bytes with only the fields we own changed, and what is refused.
//! It must not know how the splice works.

use bytes::Bytes;
use providers::{Account, Call, ChatRequest, Edit, Endpoint, Provider, Unsupported};
use serde_json::{Map, Value, json};

use crate::chance::Chance;
use crate::play;

/// The same edits, done by parsing and writing anew.
fn slowly(body: &Value, edits: &[Edit<'_>]) -> Value {
    let mut members: Map<String, Value> = body.as_object().unwrap().clone();
    for edit in edits {
        match *edit {
            Edit::Set(name, value) => drop(members.insert(name.to_owned(), serde_json::from_slice(value).unwrap())),
            Edit::Remove(name) => drop(members.shift_remove(name)),
            Edit::Rename(from, to) => {
                if let Some(value) = members.shift_remove(from) {
                    members.insert(to.to_owned(), value);
                }
            }
        }
    }
    Value::Object(members)
}

/// JSON text with spaces where JSON allows them.
fn spaced(body: &Value, chance: &mut Chance) -> String {
    let space = |chance: &mut Chance| chance.pick(&["", "", " ", "\n", "\t ", "\r\n"]);
    let mut out = format!("{}{{", space(chance));
    for (index, (key, value)) in body.as_object().unwrap().iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let [a, b, c, d] = [space(chance), space(chance), space(chance), space(chance)];
        out.push_str(&format!("{comma}{a}\"{key}\"{b}:{c}{value}{d}"));
    }
    out.push_str(&format!("}}{}", space(chance)));
    out
}

#[test]
fn an_edited_request_means_what_the_same_edit_by_parsing_means() {
    let names = ["model", "messages", "stream", "stream_options", "seed", "n", "x", "user"];
    let values = [json!(true), json!(null), json!("te\"x}t"), json!({"a": [1, {"b": "}"}]}), json!([]), json!(1.5)];
    let mut chance = Chance(0xed17);
    for round in 0..20_000 {
        let mut body = json!({});
        let mut order: Vec<&str> = names.to_vec();
        for _ in 0..order.len() {
            let name = order.remove(chance.below(order.len()));
            let is_required = name == "model" || name == "messages";
            if is_required || chance.below(2) == 0 {
                body[name] = match name {
                    "model" => json!("m"),
                    "messages" => json!([]),
                    "stream" => json!(true),
                    "stream_options" => json!({"x": 1}),
                    "n" => json!(2),
                    _ => chance.pick(&values),
                };
            }
        }
        let request = ChatRequest::parse(spaced(&body, &mut chance).into(), Endpoint::Chat).unwrap();
        let mut free: Vec<&str> = names.to_vec();
        let edits: Vec<Edit<'_>> = (0..chance.below(9))
            .map_while(|number| {
                let name = (!free.is_empty()).then(|| free.remove(chance.below(free.len())))?;
                Some(match chance.below(3) {
                    0 => Edit::Set(name, [&b"\"new\""[..], b"{\"include_usage\":true}", b"7"][chance.below(3)]),
                    1 => Edit::Remove(name),
                    _ => Edit::Rename(name, ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"][number]),
                })
            })
            .collect();
        let edited = request.edited(&edits);
        let got: Value = serde_json::from_slice(&edited)
            .unwrap_or_else(|fault| panic!("round {round}: {fault} in {} after {edits:?}", String::from_utf8_lossy(&edited)));
        assert_eq!(got, slowly(&body, &edits), "round {round}: {edits:?}");
    }
}

#[test]
fn what_needs_no_change_is_the_same_bytes_and_not_a_copy() {
    let raw = Bytes::from_static(b" {\"model\" : \"m\",\"messages\":[], \"zz\": 1.50e0 } ");
    let request = ChatRequest::parse(raw.clone(), Endpoint::Chat).unwrap();
    let account = Account::default();
    let sent = row("openai").request(&play::call(&request, "m", &account)).unwrap();
    assert_eq!((sent.body.as_ptr(), sent.body.len()), (raw.as_ptr(), raw.len()));
}

#[test]
fn what_is_no_request_is_refused_with_the_field_and_the_reason() {
    let deep = format!(r#"{{"model":"m","messages":[{}{}]}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let cases: [(&[u8], Option<&str>, &str); 19] = [
        (b"", None, "invalid_json"),
        (b"{\"model\":\"m\"", None, "invalid_json"),
        (b"[1,2]", None, "invalid_type"),
        (b" null ", None, "invalid_type"),
        (b"\"{}\"", None, "invalid_type"),
        (b"[1,2", None, "invalid_json"),
        (b"{\"model\":\"\xff\",\"messages\":[]}", None, "invalid_json"),
        (b"{\"model\":\"m\",\"messages\":[]} x", None, "invalid_json"),
        (deep.as_bytes(), None, "invalid_json"),
        (br#"{"model":"a","messages":[],"model":"b"}"#, Some("model"), "invalid_json"),
        (br#"{"model":"a","messages":[],"mod\u0065l":"b"}"#, Some("model"), "invalid_json"),
        (br#"{"messages":[]}"#, Some("model"), "missing_required_parameter"),
        (br#"{"model":null,"messages":[]}"#, Some("model"), "missing_required_parameter"),
        (br#"{"model":"","messages":[]}"#, Some("model"), "missing_required_parameter"),
        (br#"{"model":3,"messages":[]}"#, Some("model"), "invalid_type"),
        (br#"{"model":"m"}"#, Some("messages"), "missing_required_parameter"),
        (br#"{"model":"m","messages":"hi"}"#, Some("messages"), "invalid_type"),
        (br#"{"model":"m","messages":[],"stream":"yes"}"#, Some("stream"), "invalid_type"),
        (
            br#"{"model":"m","messages":[],"stream_options":{"include_usage":1}}"#,
            Some("stream_options.include_usage"),
            "invalid_type",
        ),
    ];
    for (body, param, code) in cases {
        let refusal = ChatRequest::parse(Bytes::copy_from_slice(body), Endpoint::Chat).unwrap_err();
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert_eq!((refusal.param.as_deref(), refusal.code), (param, code), "{shown}: {}", refusal.message);
    }
}

/// Kind, what the client adds, what is there instead, what is gone, what is told as dropped.
type Said = (&'static str, Value, Value, &'static [&'static str], &'static [&'static str]);

fn row(kind: &str) -> &'static dyn Provider {
    providers::provider(kind).unwrap()
}

#[test]
fn each_row_says_the_call_in_its_own_words() {
    let usage = json!({"include_usage": true});
    let cases: [Said; 14] = [
        ("openai", json!({"stream": true}), json!({"stream_options": usage}), &[], &[]),
        (
            "openai",
            json!({"stream": true, "stream_options": {"include_usage": false, "include_obfuscation": false}}),
            json!({"stream_options": {"include_usage": true, "include_obfuscation": false}}),
            &[],
            &[],
        ),
        ("openai", json!({"stream": true, "stream_options": null}), json!({"stream_options": usage}), &[], &[]),
        ("openai", json!({"stream": true, "stream_options": {}}), json!({"stream_options": usage}), &[], &[]),
        (
            "openai",
            json!({"stream": true, "stream_options": {"x": 1}}),
            json!({"stream_options": {"x": 1, "include_usage": true}}),
            &[],
            &[],
        ),
        ("openai", json!({"stream": false}), json!({}), &["stream_options"], &[]),
        (
            "openai",
            json!({"max_completion_tokens": 5, "seed": 1, "x_own": [1]}),
            json!({"max_completion_tokens": 5, "seed": 1, "x_own": [1]}),
            &[],
            &[],
        ),
        (
            "mistral",
            json!({"stream": true, "seed": 1, "max_completion_tokens": 5, "stream_options": {"include_usage": true}}),
            json!({"random_seed": 1, "max_tokens": 5}),
            &["seed", "max_completion_tokens", "stream_options"],
            &[],
        ),
        ("mistral", json!({"seed": 1, "random_seed": 2}), json!({"random_seed": 2}), &["seed"], &[]),
        (
            "mistral",
            json!({"user": "u", "store": true, "safe_prompt": true}),
            json!({"safe_prompt": true}),
            &["user", "store"],
            &["store", "user"],
        ),
        ("deepseek", json!({"max_completion_tokens": 5}), json!({"max_tokens": 5}), &["max_completion_tokens"], &[]),
        (
            "deepseek",
            json!({"max_completion_tokens": 5, "max_tokens": 6}),
            json!({"max_tokens": 6}),
            &["max_completion_tokens"],
            &[],
        ),
        ("perplexity", json!({"stream": true}), json!({}), &["stream_options"], &[]),
        ("vllm", json!({"top_k": 3, "stream": true}), json!({"top_k": 3, "stream_options": usage}), &[], &[]),
    ];
    let account = Account::default();
    for (kind, added, there, gone, dropped) in cases {
        let mut body = json!({"model": "client/name", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(added.as_object().unwrap().clone());
        let request = play::chat(&body);
        let sent = row(kind).request(&play::call(&request, "upstream/\"name\"", &account)).unwrap();
        let got: Value = serde_json::from_slice(&sent.body).unwrap();
        assert_eq!(sent.path, "/chat/completions");
        assert_eq!(got["model"], "upstream/\"name\"");
        there.as_object().unwrap().iter().for_each(|(name, value)| assert_eq!(got[name], *value, "{kind}: {name} of {added}"));
        gone.iter().for_each(|name| assert!(got.get(*name).is_none(), "{kind}: {name} of {added}"));
        assert_eq!(sent.dropped, dropped, "{kind}: {added}");
    }
}

#[test]
fn usage_is_not_asked_for_once_it_was_rejected_and_strict_accounts_refuse_drops() {
    let request = play::chat(
        &json!({"model": "m", "messages": [], "stream": true, "stream_options": {"include_usage": true}, "user": "u"}),
    );
    let account = Account::default();
    let call = Call { ask_usage: false, ..play::call(&request, "m", &account) };
    let sent: Value = serde_json::from_slice(&row("openai").request(&call).unwrap().body).unwrap();
    assert!(sent.get("stream_options").is_none(), "{sent}");

    let strict = Account { unsupported: Unsupported::Reject, ..Account::default() };
    let refusal = row("mistral").request(&play::call(&request, "m", &strict)).unwrap_err();
    assert_eq!((refusal.param.as_deref(), refusal.code), (Some("user"), "unsupported_parameter"));
    assert!(row("openai").request(&play::call(&request, "m", &strict)).is_ok());
}

#[test]
fn embeddings_go_up_untouched_but_for_the_model() {
    let raw = Bytes::from_static(br#"{"model":"m", "input":["a"],"encoding_format":"base64"}"#);
    let request = ChatRequest::parse(raw.clone(), Endpoint::Embeddings).unwrap();
    let account = Account::default();
    let same = Call { endpoint: Endpoint::Embeddings, ..play::call(&request, "m", &account) };
    let sent = row("openai").request(&same).unwrap();
    assert_eq!((sent.path.as_str(), &sent.body), ("/embeddings", &raw));
    let other = row("openai").request(&Call { model: "n", ..same }).unwrap();
    assert_eq!(&other.body[..], br#"{"model":"n", "input":["a"],"encoding_format":"base64"}"#);
}

#[test]
fn kinds_are_named_once_and_addresses_have_no_slash_at_the_end() {
    let mut kinds: Vec<&str> = providers::all().map(|provider| provider.kind()).collect();
    let count = kinds.len();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), count, "a kind is listed twice");
    let account = Account::default();
    for address in providers::all().filter_map(|provider| provider.base_url(&account)) {
        assert!(address.starts_with("http") && !address.ends_with('/'), "{address}");
    }
}

/// Many fields cost what their bytes cost: were each compared with each, this would take minutes.
#[test]
fn a_field_is_told_once_however_many_there_are() {
    let fields: String = (0..200_000).map(|number| format!(",\"field{number}\":0")).collect();
    for (more, is_read) in [
        ("", true),
        (",\"model\":\"other\"", false),
        (",\"field0\":1", false),
        (",\"mode\\u006c\":\"other\"", false),
        (",\"half a pair: \\ud83d\":0", false),
    ] {
        let body = format!("{{\"model\":\"m\",\"messages\":[]{fields}{more}}}");
        assert_eq!(ChatRequest::parse(body.into(), Endpoint::Chat).is_ok(), is_read, "{more}");
    }
}
