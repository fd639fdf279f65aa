//! What a limit says: for whom it counts, and how much may pass.
//! It must not know what has passed, nor where that is counted.

use super::slots::Grid;

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

/// The span in which no more than the limit may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Span {
    /// Any 60 seconds.
    Minute,
    /// Any one second: smooths what a minute lets pass at once.
    Second,
}

impl Span {
    pub(super) const fn grid(self) -> Grid {
        match self {
            Self::Minute => Grid::MINUTE,
            Self::Second => Grid::SECOND,
        }
    }
}

/// Which of the configured figures is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Calls in any span of 60 seconds.
    Requests,
    /// Tokens in any span of 60 seconds.
    Tokens,
    /// Calls that run at the same time.
    Concurrency,
    /// Calls in any span of one second.
    RequestsPerSecond,
    /// Tokens in any span of one second.
    TokensPerSecond,
}

impl Limit {
    /// The text of this limit in metrics and error bodies.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Requests => "rpm",
            Self::Tokens => "tpm",
            Self::Concurrency => "concurrency",
            Self::RequestsPerSecond => "rps",
            Self::TokensPerSecond => "tps",
        }
    }
}

/// One rule. A figure that is left out does not limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// For whom it counts.
    pub scope: Scope,
    /// Who that is, unique within the scope and span: `team-a`, `team-a/gpt-4o`, `openai`. It is part of the keys in
    /// Redis, so gateways that share a Redis and a name share what is counted under it.
    pub name: String,
    /// The span of the first two figures.
    pub span: Span,
    /// Calls that may pass in any such span.
    pub requests: Option<u64>,
    /// Tokens that may pass in any such span.
    pub tokens: Option<u64>,
    /// Calls that may run at the same time.
    pub max_concurrent: Option<u64>,
}

impl Rule {
    /// Whether the rule limits anything at all.
    #[must_use]
    pub const fn limits_nothing(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none() && self.max_concurrent.is_none()
    }

    /// Whether callers are told how it stands: they pace themselves by minutes, and a provider's are not theirs.
    pub(super) fn is_told(&self) -> bool {
        self.span == Span::Minute && self.scope != Scope::Provider
    }

    /// What a figure of this rule is called, which was counted without regard to its span.
    pub(super) const fn limit(&self, figure: Limit) -> Limit {
        match (self.span, figure) {
            (Span::Second, Limit::Requests) => Limit::RequestsPerSecond,
            (Span::Second, Limit::Tokens) => Limit::TokensPerSecond,
            _ => figure,
        }
    }
}
