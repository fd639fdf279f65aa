//! What a limit says: for whom it counts, and how much may pass.
//! It must not know what has passed, nor where that is counted.

/// For whom a rule counts. Together with the rule's name it says what is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All calls of the gateway.
    Gateway,
    /// One caller.
    Key,
    /// One caller on one model.
    KeyModel,
    /// One model, whoever calls.
    Model,
    /// One configured provider.
    Provider,
}

impl Scope {
    /// The text of this scope in metrics and error bodies.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Gateway => "global",
            Self::Key => "key",
            Self::KeyModel => "key_model",
            Self::Model => "model",
            Self::Provider => "provider",
        }
    }
}

/// Which of a rule's three figures is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Calls in any span of 60 seconds.
    Requests,
    /// Tokens in any span of 60 seconds.
    Tokens,
    /// Calls that run at the same time.
    Concurrency,
}

impl Limit {
    /// The text of this limit in metrics and error bodies.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Requests => "rpm",
            Self::Tokens => "tpm",
            Self::Concurrency => "concurrency",
        }
    }
}

/// One configured rule. A figure that is left out does not limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// For whom it counts.
    pub scope: Scope,
    /// Who that is, unique within the scope: `team-a`, `team-a/gpt-4o`, `openai`. It is part of the keys in Redis,
    /// so gateways that share a Redis and a name share what is counted under it.
    pub name: String,
    /// Calls that may pass in any span of 60 seconds.
    pub requests_per_minute: Option<u64>,
    /// Tokens that may pass in any span of 60 seconds.
    pub tokens_per_minute: Option<u64>,
    /// Calls that may run at the same time.
    pub max_concurrent: Option<u64>,
}

impl Rule {
    /// Whether the rule limits anything at all.
    #[must_use]
    pub const fn limits_nothing(&self) -> bool {
        self.requests_per_minute.is_none() && self.tokens_per_minute.is_none() && self.max_concurrent.is_none()
    }
}
