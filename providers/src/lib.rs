//! Pure translation between OpenAI's wire, which clients speak, and the wire of every provider.
//! It must not know a socket, a clock, a secret, the environment, metering or an async runtime:
//! ids, times and names come in from outside, bytes and [`Event`]s go out.

mod anthropic;
mod azure;
mod base64;
mod bedrock;
mod blocks;
mod call;
pub mod chat;
mod cohere;
mod compatible;
mod conventions;
mod conversation;
mod dataurl;
mod embeddings;
mod error;
mod event;
mod failure;
mod form;
pub mod frames;
mod gemini;
mod grammar;
pub mod json;
mod leftover;
mod media;
mod native;
mod ollama;
mod passage;
pub mod reply;
mod request;
mod retry;
mod segment;
mod toolid;
mod turns;
mod unsaid;
mod usage;
mod vertex;

pub use call::{Account, Answer, Auth, Call, Endpoint, Facts, StreamTranslator, Unsupported, UpstreamRequest};
pub use conventions::semantic_name;
pub use error::{Class, Refusal, UpstreamError};
pub use event::{Event, Kind};
pub use native::passed::Plain;
pub use passage::Passage;
pub use request::{ChatRequest, Edit};
pub use usage::{Billed, Tier, Usage};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// One wire: how to say a call in it and how to read what comes back. Every method is pure.
pub trait Provider: Send + Sync + 'static {
    /// What is always so of it.
    fn facts(&self) -> Facts;

    /// The name users write as `kind`, e.g. `anthropic`.
    fn kind(&self) -> &'static str {
        self.facts().kind
    }

    /// Where this wire is spoken unless the configuration says otherwise; `None` when an account
    /// must name its own address. Without a trailing slash.
    fn base_url(&self, _account: &Account) -> Option<String> {
        self.facts().base_url.map(str::to_owned)
    }

    /// How the provider's key travels. The gateway attaches it; adapters never see a secret.
    fn auth(&self) -> Auth {
        self.facts().auth
    }

    /// The environment variable that conventionally holds the key; its presence turns the provider on.
    fn key_variable(&self) -> Option<&'static str> {
        self.facts().key_variable
    }

    /// Whether calls to this endpoint can be said in this wire.
    fn serves(&self, endpoint: Endpoint) -> bool {
        endpoint == Endpoint::Chat || self.facts().serves.contains(&endpoint)
    }

    /// Whether the API that clients speak is its own: what names no model and no provider is meant for it.
    fn is_maker(&self) -> bool {
        false
    }

    /// A path below the base URL that costs nothing to GET, to see whether the provider is there: any
    /// answer but a server error says that it is.
    fn health_path(&self) -> &'static str {
        self.facts().health_path
    }

    /// The client's call in this wire.
    ///
    /// # Errors
    /// A [`Refusal`] (the client's answer, nothing is sent) when the wire cannot say what was asked.
    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal>;

    /// A whole successful answer, in OpenAI's grammar.
    ///
    /// # Errors
    /// An [`UpstreamError`] when a body with a 2xx status is an error or cannot be read.
    fn answer(&self, call: &Call<'_>, headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError>;

    /// A failed answer (status 400 or above) in OpenAI's terms.
    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError;

    /// A translator for one streamed answer, to be fed its frames in order.
    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator>;
}

/// Every foreign wire, one word each. Providers that speak OpenAI's wire are rows of `compatible`.
static FOREIGN: [&dyn Provider; 8] = [
    &anthropic::Anthropic,
    &anthropic::ClaudeOnBedrock,
    &azure::Azure,
    &bedrock::Bedrock,
    &cohere::Cohere,
    &gemini::Gemini,
    &ollama::Ollama,
    &vertex::Vertex,
];

/// The wire with this name.
#[must_use]
pub fn provider(kind: &str) -> Option<&'static dyn Provider> {
    all().find(|provider| provider.kind() == kind)
}

/// Every wire that is known.
pub fn all() -> impl Iterator<Item = &'static dyn Provider> {
    let compatible = compatible::ROWS.iter().map(|row| row as &dyn Provider);
    FOREIGN.iter().copied().chain(compatible)
}
