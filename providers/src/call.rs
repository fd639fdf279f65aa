//! The words of one call as adapters see it: what comes in (`Call`) and what goes out
//! (`UpstreamRequest`, `Answer`). It must not know any particular wire.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use serde_json::Value;

use crate::event::Event;
use crate::frames::{Frame, Framing};
use crate::request::ChatRequest;
use crate::usage::Usage;

/// What the client asked for, by the path it called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`, of which chat completions are the successor.
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`, Anthropic's own.
    Messages,
    /// `/v1/messages/count_tokens`: a count and no answer; nobody bills it.
    CountTokens,
    /// Any other path of OpenAI's, passed on to the provider of the model that the call names.
    Passed,
    /// The same of a call that names no model: it is about what stands in a provider's account.
    Account,
}

impl Endpoint {
    /// What OpenTelemetry's conventions call a call to it (`gen_ai.operation.name`).
    #[must_use]
    pub const fn operation(self) -> &'static str {
        match self {
            Self::Chat | Self::Responses | Self::Messages => "chat",
            Self::Completions => "text_completion",
            Self::Embeddings => "embeddings",
            Self::CountTokens => "count_tokens",
            Self::Passed | Self::Account => "pass_through",
        }
    }

    /// The path of the API, as clients and metrics name it.
    #[must_use]
    pub const fn route(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::Passed | Self::Account => "/v1",
        }
    }

    /// Its path below a base URL that stands for `/v1`.
    #[must_use]
    pub(crate) fn path(self) -> &'static str {
        self.route().trim_start_matches("/v1")
    }

    /// Whether an answer is paid for by its tokens, so that they are reserved and a bill that did not come is estimated.
    #[must_use]
    pub const fn is_billed(self) -> bool {
        !matches!(self, Self::CountTokens | Self::Passed | Self::Account)
    }
}

/// The configured account a call goes to, as far as adapters need it. No secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Cloud region (`us-east-1`, `europe-west4`), where the wire has one.
    pub region: Option<String>,
    /// Google Cloud project.
    pub project: Option<String>,
    /// Azure's `api-version`, Anthropic's `anthropic-version`.
    pub api_version: Option<String>,
    /// What to do with request fields that this wire has no word for.
    pub unsupported: Unsupported,
}

/// What becomes of a request field that a wire cannot express.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unsupported {
    /// Hints are dropped and named in a response header; what changes the answer's meaning is refused.
    #[default]
    Auto,
    /// Every such field is refused with a 400 that names it.
    Reject,
    /// Every such field is dropped and named in a response header.
    Drop,
}

/// One attempt at a call, as an adapter sees it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is asked for.
    pub endpoint: Endpoint,
    /// The client's own request.
    pub request: &'a ChatRequest,
    /// The model's name at the provider. Checked by the gateway: safe to put in a URL segment once
    /// percent-encoded, never empty, no control characters.
    pub model: &'a str,
    /// The account's options.
    pub account: &'a Account,
    /// An id for answers of wires that have none, e.g. `chatcmpl-…`.
    pub id: &'a str,
    /// The time for answers of wires that have none, in Unix seconds.
    pub created: u64,
    /// Whether the provider is to be asked for usage on a stream (`false` once it rejected that field).
    pub ask_usage: bool,
}

/// How a key travels to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// No key.
    None,
    /// `Authorization: Bearer KEY`
    Bearer,
    /// The key alone in this header.
    Header(&'static str),
    /// AWS Signature Version 4 for this service name.
    SigV4(&'static str),
    /// A Google OAuth 2 access token as bearer.
    Google,
}

/// What is always so of a wire.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The name users write as `kind`, e.g. `anthropic`.
    pub kind: &'static str,
    /// Where it is spoken; `None` when that depends on the account, or the account must name it.
    pub base_url: Option<&'static str>,
    /// How the provider's key travels.
    pub auth: Auth,
    /// The environment variable that conventionally holds the key.
    pub key_variable: Option<&'static str>,
    /// What it serves beside chat completions, which every wire has.
    pub serves: &'static [Endpoint],
    /// A path that costs nothing to GET.
    pub health_path: &'static str,
}

/// What to send: everything but the address, the credentials and the transport.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    /// The HTTP method.
    pub method: Method,
    /// Path and query, to be put after the account's base URL; starts with `/`, percent-encoded.
    pub path: String,
    /// Headers of this wire beside `content-type: application/json` and the credentials.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
    /// How a streamed answer to this request is framed.
    pub framing: Framing,
    /// Request fields that were left out because the wire has no word for them.
    pub dropped: Vec<&'static str>,
}

impl UpstreamRequest {
    /// A body that goes on as it is, posted to `path`.
    pub(crate) fn carry(path: String, body: Bytes, framing: Framing) -> Self {
        Self { method: Method::POST, path, headers: Vec::new(), body, framing, dropped: Vec::new() }
    }

    /// `body` posted to `path`, without headers of the wire.
    pub(crate) fn post(path: String, body: &Value, framing: Framing, dropped: Vec<&'static str>) -> Self {
        Self { dropped, ..Self::carry(path, Bytes::from(body.to_string()), framing) }
    }
}

/// A whole answer in OpenAI's grammar.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The JSON for the client.
    pub body: Bytes,
    /// What the provider says it used, when it says so.
    pub usage: Option<Usage>,
    /// Text that was generated, for an estimate where `usage` is missing; empty when `usage` is there.
    pub text: String,
    /// How many tools the model called, in all choices.
    pub tool_calls: usize,
}

/// Turns one streamed answer into OpenAI's stream grammar. Stateful, one per attempt.
pub trait StreamTranslator: Send {
    /// One frame, in order. What it means is told through `emit`, zero or more times.
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>));

    /// The provider ended the stream without a transport error. Emits what was held back, and
    /// [`Kind::Done`](crate::Kind::Done) if the answer was complete; without it the answer is cut.
    fn end(&mut self, emit: &mut dyn FnMut(Event<'_>));

    /// How many events went to the client so far, in a grammar that numbers them.
    fn told(&self) -> u64 {
        0
    }
}
