//! What a caller is told: how much room is left, or who refused and when to come back.
//! It must not know how an answer is worded for HTTP.

use std::sync::Arc;
use std::time::Duration;

use super::rule::{Limit, Scope};

/// The room of one limit, as it is told in `x-ratelimit-*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// What may pass in 60 seconds.
    pub limit: u64,
    /// What may still pass now.
    pub remaining: u64,
    /// How long until the whole limit is free again when nothing else is called.
    pub reset: Duration,
}

/// The room left in the tightest of all rules that a call obeys; `None` where no rule limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// The window of calls with the least left.
    pub requests: Option<Window>,
    /// The window of tokens with the least left.
    pub tokens: Option<Window>,
}

impl Standing {
    /// Keeps the tighter of the known window and this one.
    pub(super) fn narrow(known: &mut Option<Window>, other: Window) {
        if known.is_none_or(|window| other.remaining < window.remaining) {
            *known = Some(other);
        }
    }
}

/// Why a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is no room now; there will be.
    Exhausted,
    /// The call asks for more than the limit lets pass in a whole minute: it will never fit.
    TooLarge,
    /// Redis does not answer, and the policy is [`OnFailure::Closed`](super::OnFailure::Closed).
    Unavailable,
}

/// A refusal. Nothing was taken from any rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The scope of the rule that refused; of several, the one that needs the longest wait.
    pub scope: Scope,
    /// Which of its figures refused.
    pub limit: Limit,
    /// The name of the rule that refused.
    pub rule: Arc<str>,
    /// Why.
    pub reason: Reason,
    /// When all rules have room again, if nobody else takes it; `None`: never, see [`Reason::TooLarge`].
    pub retry_after: Option<Duration>,
    /// The room left in the tightest rules.
    pub standing: Standing,
    /// Whether this was decided without the shared count.
    pub degraded: bool,
}
