//! What becomes of the fields of a request that a wire has no word for: a hint is left out and named,
//! what would change the answer's meaning is refused, and the account may say otherwise.
//! It must not know any particular wire.

use crate::call::Unsupported;
use crate::chat::Chat;
use crate::error::Refusal;

/// The fields of one request that its wire cannot say.
#[derive(Debug)]
pub(crate) struct Unsaid {
    kind: &'static str,
    policy: Unsupported,
    dropped: Vec<&'static str>,
}

impl Unsaid {
    /// Nothing yet, for the wire `kind` under the account's policy.
    pub(crate) fn new(kind: &'static str, policy: Unsupported) -> Self {
        Self { kind, policy, dropped: Vec::new() }
    }

    /// The wire it is about.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    /// The field `name`, if `present`, only advises the model or the provider: without it the answer is
    /// still an answer to what was asked.
    ///
    /// # Errors
    /// A [`Refusal`] when the account wants every unsaid field refused.
    pub(crate) fn hint(&mut self, name: &'static str, present: bool) -> Result<(), Refusal> {
        self.settle(name, present, self.policy != Unsupported::Reject)
    }

    /// The field `name`, if `present`, decides what the answer is.
    ///
    /// # Errors
    /// A [`Refusal`] unless the account wants every unsaid field dropped.
    pub(crate) fn meaning(&mut self, name: &'static str, present: bool) -> Result<(), Refusal> {
        self.settle(name, present, self.policy == Unsupported::Drop)
    }

    fn settle(&mut self, name: &'static str, present: bool, may_drop: bool) -> Result<(), Refusal> {
        if !present {
            return Ok(());
        }
        if !may_drop {
            return Err(Refusal::unsupported(self.kind, name));
        }
        if !self.dropped.contains(&name) {
            self.dropped.push(name);
        }
        Ok(())
    }

    /// The fields beyond those that [`Chat`] names: `hints` and `meanings` are OpenAI's that this wire
    /// has no word for, `said` are passed on. Any other is nothing OpenAI knows and is left out.
    ///
    /// # Errors
    /// A [`Refusal`] as for [`hint`](Self::hint) and [`meaning`](Self::meaning).
    pub(crate) fn others(&mut self, chat: &Chat, said: &[&str]) -> Result<(), Refusal> {
        let given = |name: &str| chat.other.get(name).is_some_and(|value| !value.is_null() && value != false);
        for name in OTHER_HINTS {
            self.hint(name, given(name) && !said.contains(&name))?;
        }
        for name in OTHER_MEANINGS {
            self.meaning(name, given(name) && !said.contains(&name))?;
        }
        let is_known = |name: &str| {
            GATEWAY_FIELDS.contains(&name)
                || OTHER_HINTS.contains(&name)
                || OTHER_MEANINGS.contains(&name)
                || said.contains(&name)
        };
        let unknown = chat.other.keys().find(|name| !is_known(name));
        match unknown {
            Some(name) if self.policy == Unsupported::Reject => Err(Refusal::unsupported(self.kind, name)),
            Some(_) => self.hint("unknown fields", true),
            None => Ok(()),
        }
    }

    /// The names of what was left out.
    pub(crate) fn dropped(self) -> Vec<&'static str> {
        self.dropped
    }
}

/// Fields that the gateway itself reads, and which no foreign wire has in this form.
const GATEWAY_FIELDS: [&str; 3] = ["model", "stream", "stream_options"];

/// OpenAI's fields outside [`Chat`] that only advise.
const OTHER_HINTS: [&str; 8] = [
    "store",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "prediction",
    "moderation",
    "top_k",
    "reasoning",
];

/// OpenAI's fields outside [`Chat`] that decide what the answer is.
const OTHER_MEANINGS: [&str; 3] = ["web_search_options", "functions", "function_call"];

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(policy: Unsupported) -> (bool, bool) {
        let mut unsaid = Unsaid::new("test", policy);
        (unsaid.hint("seed", true).is_ok(), unsaid.meaning("n", true).is_ok())
    }

    #[test]
    fn the_policy_decides_what_is_dropped() {
        assert_eq!(outcome(Unsupported::Auto), (true, false));
        assert_eq!(outcome(Unsupported::Reject), (false, false));
        assert_eq!(outcome(Unsupported::Drop), (true, true));
    }

    #[test]
    fn what_is_absent_is_neither_refused_nor_named() {
        let mut unsaid = Unsaid::new("test", Unsupported::Reject);
        assert!(unsaid.hint("seed", false).is_ok() && unsaid.meaning("n", false).is_ok());
        assert!(unsaid.dropped().is_empty());
    }
}
