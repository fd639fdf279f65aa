//! The hot leaves, each as it is used in a call: what is set up once stands outside of what is counted.
//! It must not know how anything is counted.

use std::hint::black_box;

use bytes::Bytes;
use http::HeaderMap;
use providers::frames::{Decoder, Framing};
use providers::json::Scanner;
use providers::{Account, Call, ChatRequest, Edit, Endpoint, Provider, StreamTranslator};

/// One thing that is counted.
pub struct Leaf {
    /// Its name in the table; also the argument that runs it.
    pub name: &'static str,
    /// Does it this many times.
    pub run: fn(u32) -> Result<(), String>,
}

/// All of them, in the order of the table.
pub const LEAVES: [Leaf; 10] = [
    Leaf { name: "scan-1k", run: |times| scan(times, 1024) },
    Leaf { name: "scan-100k", run: |times| scan(times, 100 * 1024) },
    Leaf { name: "request-1k", run: |times| request(times, 1024) },
    Leaf { name: "request-100k", run: |times| request(times, 100 * 1024) },
    Leaf { name: "splice-1k", run: splice },
    Leaf { name: "frame", run: frame },
    Leaf { name: "answer-1k-openai", run: answer },
    Leaf { name: "event-openai", run: |times| event(times, "openai", OPENAI_EVENT) },
    Leaf { name: "event-anthropic", run: |times| event(times, "anthropic", ANTHROPIC_EVENT) },
    Leaf { name: "event-gemini", run: |times| event(times, "gemini", GEMINI_EVENT) },
];

const OPENAI_EVENT: &str = "data: {\"id\":\"chatcmpl-benchbenchbenchbenchbenchb\",\"object\":\"chat.completion.chunk\",\
    \"created\":1760000000,\"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_0000000000\",\
    \"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null,\
    \"obfuscation\":\"aB3dE5\"}\n\n";

const ANTHROPIC_EVENT: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
    \"delta\":{\"type\":\"text_delta\",\"text\":\" token\"}}\n\n";

const GEMINI_EVENT: &str = "data: {\"candidates\": [{\"content\": {\"parts\": [{\"text\": \" token\"}],\"role\": \"model\"},\"index\": 0}],\
    \"usageMetadata\": {\"promptTokenCount\": 220,\"candidatesTokenCount\": 100,\"totalTokenCount\": 320},\
    \"modelVersion\": \"gemini-2.5-flash\",\"responseId\": \"benchbenchbench\"}\r\n\r\n";

const ANSWER: &str = "{\"id\":\"chatcmpl-benchbenchbenchbenchbenchb\",\"object\":\"chat.completion\",\"created\":1760000000,\
    \"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"CONTENT\",\
    \"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":220,\
    \"completion_tokens\":96,\"total_tokens\":316,\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},\
    \"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0}},\"service_tier\":\"default\",\
    \"system_fingerprint\":\"fp_0000000000\"}";

/// A client's request of about this many bytes.
fn body(bytes: usize, stream: bool) -> Bytes {
    let mut prompt = String::new();
    while prompt.len() + 200 < bytes {
        prompt.push_str("The quick brown fox jumps over the lazy dog, and a \\\"gateway\\\" must not mind.\\n");
    }
    Bytes::from(format!(
        r#"{{"model":"gpt-4o-mini","temperature":0.7,"stream":{stream},"messages":[{{"role":"system","content":"You are brief."}},{{"role":"user","content":"{prompt}"}}]}}"#
    ))
}

fn parsed(bytes: usize, stream: bool) -> Result<ChatRequest, String> {
    ChatRequest::parse(body(bytes, stream), Endpoint::Chat).map_err(|refusal| refusal.message)
}

fn with_call<T>(kind: &str, act: impl FnOnce(&dyn Provider, &Call<'_>) -> Result<T, String>) -> Result<T, String> {
    let provider = providers::provider(kind).ok_or_else(|| format!("no provider of kind {kind}"))?;
    let (request, account) = (parsed(1024, true)?, Account::default());
    let call = Call {
        endpoint: Endpoint::Chat,
        request: &request,
        model: "model",
        account: &account,
        id: "chatcmpl-0123456789",
        created: 1_760_000_000,
        ask_usage: true,
    };
    act(provider, &call)
}

/// Passing over JSON without looking at it: the floor of every leaf that reads a body.
fn scan(times: u32, bytes: usize) -> Result<(), String> {
    let body = body(bytes, true);
    for _ in 0..times {
        Scanner::new(black_box(&body)).value().map_err(|fault| format!("{fault:?}"))?;
    }
    Ok(())
}

/// The facts of a client's request.
fn request(times: u32, bytes: usize) -> Result<(), String> {
    let body = body(bytes, true);
    for _ in 0..times {
        black_box(ChatRequest::parse(black_box(body.clone()), Endpoint::Chat).map_err(|refusal| refusal.message)?);
    }
    Ok(())
}

/// Another model name and a field more, the rest as it came.
fn splice(times: u32) -> Result<(), String> {
    let request = parsed(1024, true)?;
    for _ in 0..times {
        let edits = [Edit::Set("model", b"\"other\""), Edit::Set("stream_options", b"{\"include_usage\":true}")];
        black_box(black_box(&request).edited(&edits));
    }
    Ok(())
}

/// Bytes of one event into its frame.
fn frame(times: u32) -> Result<(), String> {
    let mut decoder = Decoder::new(Framing::Sse);
    let chunk = Bytes::from_static(OPENAI_EVENT.as_bytes());
    for _ in 0..times {
        decoder.push(black_box(chunk.clone()));
        while let Some(frame) = decoder.next_frame().map_err(|_| "too large")? {
            black_box(frame);
        }
    }
    Ok(())
}

/// A whole answer: the usage is found and the rest goes on as it came.
fn answer(times: u32) -> Result<(), String> {
    let text = "Measured answers are of an ordinary length and say little. ".repeat(8);
    let body = Bytes::from(ANSWER.replace("CONTENT", &text));
    with_call("openai", |provider, call| {
        for _ in 0..times {
            let answer = provider.answer(call, &HeaderMap::new(), black_box(body.clone())).map_err(|error| error.message)?;
            if answer.usage.is_none() {
                return Err("the usage was not found".to_owned());
            }
        }
        Ok(())
    })
}

/// One event of a stream, from bytes to bytes.
fn event(times: u32, kind: &str, text: &'static str) -> Result<(), String> {
    with_call(kind, |provider, call| {
        let mut translator: Box<dyn StreamTranslator> = provider.stream(call);
        let mut decoder = Decoder::new(Framing::Sse);
        let chunk = Bytes::from_static(text.as_bytes());
        let mut written = 0;
        for _ in 0..times {
            decoder.push(black_box(chunk.clone()));
            while let Some(frame) = decoder.next_frame().map_err(|_| "too large")? {
                translator.frame(&frame, &mut |event| written += black_box(event.bytes).len());
            }
        }
        if written == 0 { Err("nothing was written".to_owned()) } else { Ok(()) }
    })
}
