//! What is said on the wire in every measurement: the requests the load sends and the answers the
//! fake provider gives, built once. The request's own text says which answer is wanted (a [`Plan`]),
//! so that it reaches the provider through any gateway, in any provider's format.
//! It must not know sockets, clocks or who is measured.

use std::io::Write;

/// The longest stream that is served, in events.
pub const MAX_EVENTS: u32 = 1_000_000;

/// Digits of the time that a stamped event carries (nanoseconds of the Unix clock).
pub const STAMP_DIGITS: usize = 20;

/// The letter before the digits of a stamp.
pub const STAMP_MARK: u8 = b't';

/// The answer that a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Content events of a stream; 0 for a whole answer.
    pub events: u32,
    /// Microseconds from one event to the next; 0 for as fast as the socket takes them. Events of a
    /// paced stream carry the time at which they were sent.
    pub pace_us: u64,
}

/// The words that begin a plan in a request's text.
const PLAN: &[u8] = b"bench events=";

impl Plan {
    /// The plan that a request's body holds; without one, a whole answer.
    #[must_use]
    pub fn find(body: &[u8]) -> Self {
        let Some(at) = memchr::memmem::find(body, PLAN) else { return Self { events: 0, pace_us: 0 } };
        let rest = &body[at + PLAN.len()..];
        let events = leading_number(rest);
        let pace = memchr::memmem::find(&rest[..rest.len().min(64)], b"pace_us=");
        let pace_us = pace.map_or(0, |at| leading_number(&rest[at + 8..]));
        Self { events: u32::try_from(events).unwrap_or(MAX_EVENTS).min(MAX_EVENTS), pace_us }
    }

    fn text(self) -> String {
        format!("bench events={} pace_us={} ", self.events, self.pace_us)
    }
}

fn leading_number(bytes: &[u8]) -> u64 {
    bytes.iter().take_while(|byte| byte.is_ascii_digit()).take(18).fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
}

/// The wire that a request is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// OpenAI's chat completions.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// Gemini's `streamGenerateContent`.
    Gemini,
}

impl Wire {
    /// The path that the fake provider serves this wire under.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/v1/chat/completions",
            Self::Anthropic => "/v1/messages",
            Self::Gemini => "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        }
    }

    /// Which wire a path belongs to.
    #[must_use]
    pub fn of_path(path: &[u8]) -> Self {
        if memchr::memmem::find(path, b"/messages").is_some() {
            Self::Anthropic
        } else if memchr::memmem::find(path, b":streamGenerateContent").is_some() {
            Self::Gemini
        } else {
            Self::OpenAi
        }
    }

    /// The bytes that stand before an event's text in an answer of this wire, and nowhere else.
    #[must_use]
    pub fn content_mark(self) -> &'static [u8] {
        match self {
            Self::OpenAi => b"\"delta\":{\"content\":\"",
            Self::Anthropic => b"\"delta\":{\"type\":\"text_delta\",\"text\":\"",
            Self::Gemini => b"\"parts\":[{\"text\":\"",
        }
    }

    /// The body of a request of about `bytes` bytes for the model.
    #[must_use]
    pub fn request(self, model: &str, plan: Plan, bytes: usize) -> Vec<u8> {
        let mut prompt = plan.text();
        while prompt.len() + 200 < bytes {
            prompt.push_str("The quick brown fox jumps over the lazy dog, and a \\\"gateway\\\" must not mind.\\n");
        }
        let stream = plan.events > 0;
        let body = match self {
            Self::OpenAi => format!(
                r#"{{"model":"{model}","temperature":0.7,"stream":{stream},"messages":[{{"role":"system","content":"You are brief."}},{{"role":"user","content":"{prompt}"}}]}}"#
            ),
            Self::Anthropic => format!(
                r#"{{"model":"{model}","max_tokens":4096,"stream":{stream},"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
            ),
            Self::Gemini => format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"{prompt}"}}]}}]}}"#),
        };
        body.into_bytes()
    }
}

/// One streamed answer, cut into what the provider writes at once. Each piece is one HTTP chunk.
#[derive(Debug)]
pub struct Stream {
    /// The head of the answer and what comes before the first content.
    pub opening: Vec<u8>,
    /// One content event.
    pub event: Vec<u8>,
    /// One content event with room for a stamp.
    pub stamped: Vec<u8>,
    /// Where in `stamped` the digits stand.
    pub stamp_at: usize,
    /// What ends the answer: finish reason, usage, the terminator.
    pub closing: Vec<u8>,
}

/// Every answer of the fake provider.
#[derive(Debug)]
pub struct Answers {
    /// OpenAI's whole answer, about 1 KB.
    pub whole: Vec<u8>,
    /// The answer to anything that is not a call.
    pub hello: Vec<u8>,
    openai: Stream,
    anthropic: Stream,
    gemini: Stream,
}

impl Answers {
    /// Builds all answers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            whole: sized(&whole_body()),
            hello: sized(br#"{"object":"list","data":[]}"#),
            openai: stream(&openai_opening(), openai_event, &openai_closing()),
            anthropic: stream(ANTHROPIC_OPENING, anthropic_event, ANTHROPIC_CLOSING),
            gemini: stream("", gemini_event, &gemini_line("", r#","finishReason":"STOP""#)),
        }
    }

    /// The streamed answer of a wire.
    #[must_use]
    pub fn stream(&self, wire: Wire) -> &Stream {
        match wire {
            Wire::OpenAi => &self.openai,
            Wire::Anthropic => &self.anthropic,
            Wire::Gemini => &self.gemini,
        }
    }
}

/// Writes the time into a stamped event.
pub fn stamp(event: &mut [u8], stamp_at: usize, nanos: u128) {
    let mut field = &mut event[stamp_at..stamp_at + STAMP_DIGITS];
    // A field of the right width takes the digits of any time until the year 5138.
    let _ = write!(field, "{nanos:0STAMP_DIGITS$}");
}

fn sized(body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_00000000000000000000000000000000\r\n\
         openai-processing-ms: 12\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn whole_body() -> Vec<u8> {
    let text = "Measured answers are of an ordinary length and say little. ".repeat(8);
    format!(
        r#"{{"id":"chatcmpl-benchbenchbenchbenchbenchb","object":"chat.completion","created":1760000000,"model":"gpt-4o-mini-2024-07-18","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null,"annotations":[]}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":220,"completion_tokens":96,"total_tokens":316,"prompt_tokens_details":{{"cached_tokens":0,"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}},"service_tier":"default","system_fingerprint":"fp_0000000000"}}"#
    )
    .into_bytes()
}

type EventText = fn(&str) -> String;

fn stream(opening: &str, event: EventText, closing: &str) -> Stream {
    let mut head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n\
        x-request-id: req_00000000000000000000000000000000\r\ntransfer-encoding: chunked\r\n\r\n"
        .to_vec();
    if !opening.is_empty() {
        head.extend_from_slice(&chunk(opening));
    }
    let digits = "0".repeat(STAMP_DIGITS);
    let stamped = chunk(&event(&format!("{}{digits}", char::from(STAMP_MARK))));
    let stamp_at = memchr::memmem::find(&stamped, digits.as_bytes()).unwrap_or(0);
    let mut end = chunk(closing);
    end.extend_from_slice(b"0\r\n\r\n");
    Stream { opening: head, event: chunk(&event(" token")), stamped, stamp_at, closing: end }
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

fn openai_line(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-benchbenchbenchbenchbenchb\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\
         \"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_0000000000\",\
         \"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}],\"usage\":null,\
         \"obfuscation\":\"aB3dE5\"}}\n\n"
    )
}

fn openai_event(text: &str) -> String {
    openai_line(&format!("{{\"content\":\"{text}\"}}"), "null")
}

fn openai_opening() -> String {
    openai_line(r#"{"role":"assistant","content":"","refusal":null}"#, "null")
}

fn openai_closing() -> String {
    let usage = "data: {\"id\":\"chatcmpl-benchbenchbenchbenchbenchb\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\
         \"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_0000000000\",\"choices\":[],\
         \"usage\":{\"prompt_tokens\":220,\"completion_tokens\":100,\"total_tokens\":320,\"prompt_tokens_details\":{\"cached_tokens\":0}},\
         \"obfuscation\":\"x\"}\n\ndata: [DONE]\n\n";
    openai_line("{}", "\"stop\"") + usage
}

const ANTHROPIC_OPENING: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_benchbenchbenchbenchbench\",\"type\":\"message\",\
     \"role\":\"assistant\",\"model\":\"claude-sonnet-4-5-20250929\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\
     \"usage\":{\"input_tokens\":220,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":1}}}\n\n\
     event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n\
     event: ping\ndata: {\"type\": \"ping\"}\n\n";

const ANTHROPIC_CLOSING: &str = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n\
     event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\
     \"usage\":{\"input_tokens\":220,\"output_tokens\":100}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

fn anthropic_event(text: &str) -> String {
    format!(
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\
         \"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
    )
}

fn gemini_line(text: &str, finish: &str) -> String {
    format!(
        "data: {{\"candidates\": [{{\"content\": {{\"parts\":[{{\"text\":\"{text}\"}}],\"role\": \"model\"}}{finish},\"index\": 0}}],\
         \"usageMetadata\": {{\"promptTokenCount\": 220,\"candidatesTokenCount\": 100,\"totalTokenCount\": 320}},\
         \"modelVersion\": \"gemini-2.5-flash\",\"responseId\": \"benchbenchbench\"}}\r\n\r\n"
    )
}

fn gemini_event(text: &str) -> String {
    gemini_line(text, "")
}
