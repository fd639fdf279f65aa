//! A provider's stream through the translators of OpenAI's wire: whatever comes in, what goes out is
//! whole data lines of JSON with `[DONE]` last, and the same however the bytes were cut.
//! It must not know what any provider means.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use providers::frames::{Decoder, Framing};
use providers::{Account, Call, ChatRequest, Endpoint, Event, Kind, Provider, Usage};

#[derive(Debug, Default, PartialEq)]
struct Heard {
    bytes: Vec<u8>,
    text: String,
    usage: Option<Usage>,
    finished: usize,
    malformed: usize,
    is_done: bool,
    has_error: bool,
}

impl Heard {
    fn event(&mut self, event: &Event<'_>) {
        assert!(!self.is_done || event.bytes.is_empty(), "nothing follows the end");
        self.bytes.extend_from_slice(event.bytes);
        match &event.kind {
            Kind::Delta(text) => self.text.push_str(text),
            Kind::Usage(usage) => self.usage = Some(*usage),
            Kind::Finish { .. } => self.finished += 1,
            Kind::Malformed => self.malformed += 1,
            Kind::Done => self.is_done = true,
            Kind::Error(_) => self.has_error = true,
            _ => {}
        }
    }
}

fn play<'a>(provider: &dyn Provider, call: &Call<'_>, pieces: impl Iterator<Item = &'a [u8]>) -> Option<Heard> {
    let mut heard = Heard::default();
    let mut decoder = Decoder::new(Framing::Sse);
    let mut translator = provider.stream(call);
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(frame) = decoder.next_frame().ok()? {
            translator.frame(&frame, &mut |event| heard.event(&event));
        }
    }
    while let Some(frame) = decoder.finish().ok()? {
        translator.frame(&frame, &mut |event| heard.event(&event));
    }
    translator.end(&mut |event| heard.event(&event));
    Some(heard)
}

fuzz_target!(|input: (u8, u8, bool, &[u8])| {
    let (which, cut, wants_usage, body) = input;
    let kinds = ["openai", "groq", "mistral", "perplexity", "openrouter", "xai"];
    let provider = providers::provider(kinds[usize::from(which) % kinds.len()]).expect("a known kind");
    let json = format!("{{\"model\":\"m\",\"messages\":[],\"stream\":true,\"stream_options\":{{\"include_usage\":{wants_usage}}}}}");
    let request = ChatRequest::parse(Bytes::from(json), Endpoint::Chat).expect("a good request");
    let account = Account::default();
    let call = Call {
        endpoint: Endpoint::Chat,
        request: &request,
        model: "m",
        account: &account,
        id: "chatcmpl-fuzz",
        created: 1_700_000_000,
        ask_usage: true,
    };
    let whole = play(provider, &call, std::iter::once(body));
    assert_eq!(whole, play(provider, &call, body.chunks(usize::from(cut) % 64 + 1)), "in pieces of {}", cut % 64 + 1);
    let Some(heard) = whole else { return };
    let text = std::str::from_utf8(&heard.bytes).expect("what goes out is UTF-8");
    for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
        assert!(data == "[DONE]" || serde_json::from_str::<serde_json::Value>(data).is_ok(), "not JSON: {data}");
    }
    assert_eq!(text.matches("data: [DONE]").count(), usize::from(heard.is_done && text.contains("data: [DONE]")));
});
