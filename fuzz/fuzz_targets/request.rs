//! A client's request read without a full parse: what passes is JSON, what it says is what a full
//! parse says, and a changed field changes nothing else.
//! It must not know any wire.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use providers::{ChatRequest, Edit, Endpoint};
use serde_json::Value;

fuzz_target!(|body: &[u8]| {
    for endpoint in [Endpoint::Chat, Endpoint::Embeddings] {
        let Ok(request) = ChatRequest::parse(Bytes::copy_from_slice(body), endpoint) else { continue };
        // The scanner follows RFC 8259; serde_json also refuses numbers that no f64 holds and lone surrogates.
        let Ok(json) = serde_json::from_slice::<Value>(body) else { continue };
        assert_eq!(json["model"], request.model);
        assert_eq!(json["stream"].as_bool().unwrap_or(false), request.stream);
        let edits = [Edit::Set("model", b"\"other\""), Edit::Set("stream_options", b"{\"include_usage\":true}"), Edit::Remove("user")];
        let edited: Value = serde_json::from_slice(&request.edited(&edits)).expect("an edited request is JSON");
        let mut wished = json;
        wished["model"] = "other".into();
        wished["stream_options"] = serde_json::json!({"include_usage": true});
        if let Value::Object(members) = &mut wished {
            members.remove("user");
        }
        assert_eq!(edited, wished);
    }
});
