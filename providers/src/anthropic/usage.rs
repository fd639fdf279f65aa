//! What Anthropic says it counted, in the gateway's meaning. Its `input_tokens` leave out cached
//! tokens; the counts of a stream are cumulative, and a later one replaces an earlier one.
//! It must not know frames or answers.

use serde::Deserialize;

use crate::usage::{Tier, Usage};

/// The `usage` object of a message or of a `message_delta`. Every field may be missing or null.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Counted {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
    output_tokens_details: Option<OutputDetails>,
    service_tier: Option<String>,
    /// The runs of models within the call, of which each has its own counts and this name.
    iterations: Option<Vec<Counted>>,
    #[serde(rename = "type")]
    run: Option<String>,
}

/// The run of a model within a call that summed up the conversation: it is billed beside the answer's
/// counts, at the same model's price. Runs of an advisor are another model's and have no place here.
const COMPACTION: &str = "compaction";

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

impl Counted {
    /// Takes over what `later` says. Some servers repeat the prompt's counts as zeros at the end; a
    /// prompt of no tokens says nothing.
    pub(crate) fn update(&mut self, later: Self) {
        if later.prompt() > 0 {
            replace(&mut self.input_tokens, later.input_tokens);
            replace(&mut self.cache_read_input_tokens, later.cache_read_input_tokens);
            replace(&mut self.cache_creation_input_tokens, later.cache_creation_input_tokens);
            replace(&mut self.cache_creation, later.cache_creation);
        }
        replace(&mut self.output_tokens, later.output_tokens);
        replace(&mut self.output_tokens_details, later.output_tokens_details);
        replace(&mut self.service_tier, later.service_tier);
        replace(&mut self.iterations, later.iterations);
    }

    fn prompt(&self) -> u64 {
        self.input_tokens.unwrap_or(0) + self.cache_read_input_tokens.unwrap_or(0) + self.written()
    }

    fn written(&self) -> u64 {
        let by_lifetime = self.cache_creation.unwrap_or_default();
        let sum = by_lifetime.ephemeral_5m_input_tokens.unwrap_or(0) + by_lifetime.ephemeral_1h_input_tokens.unwrap_or(0);
        self.cache_creation_input_tokens.unwrap_or(0).max(sum)
    }

    /// The counts in the gateway's meaning.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = self.own_usage();
        for run in self.iterations.iter().flatten().filter(|run| run.run.as_deref() == Some(COMPACTION)) {
            let more = run.own_usage();
            usage.input += more.input;
            usage.output += more.output;
            usage.cache_read += more.cache_read;
            usage.cache_write += more.cache_write;
            usage.cache_write_1h += more.cache_write_1h;
        }
        usage
    }

    fn own_usage(&self) -> Usage {
        let long_lived = self.cache_creation.unwrap_or_default().ephemeral_1h_input_tokens.unwrap_or(0);
        Usage {
            input: self.prompt(),
            output: self.output_tokens.unwrap_or(0),
            cache_read: self.cache_read_input_tokens.unwrap_or(0),
            cache_write: self.written() - long_lived,
            cache_write_1h: long_lived,
            reasoning: self.output_tokens_details.unwrap_or_default().thinking_tokens.unwrap_or(0),
            tier: self.service_tier.as_deref().map_or(Tier::Standard, Tier::from_name),
            ..Usage::default()
        }
    }
}

fn replace<T>(old: &mut Option<T>, new: Option<T>) {
    if new.is_some() {
        *old = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(json: &str) -> Counted {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn cached_tokens_are_added_to_the_input_once() {
        let usage = counted(
            r#"{"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 30,
                "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
                "output_tokens": 7, "output_tokens_details": {"thinking_tokens": 3}, "service_tier": "priority"}"#,
        )
        .usage();
        assert_eq!((usage.input, usage.cache_read, usage.cache_write, usage.cache_write_1h), (140, 100, 20, 10));
        assert_eq!((usage.output, usage.reasoning, usage.tier), (7, 3, Tier::Priority));
    }

    #[test]
    fn a_summary_of_the_conversation_is_billed_too_and_an_advisor_apart() {
        let usage = counted(
            r#"{"input_tokens": 20, "output_tokens": 5, "iterations": [
                {"type": "compaction", "input_tokens": 900, "cache_read_input_tokens": 100, "output_tokens": 50},
                {"type": "advisor_message", "input_tokens": 7, "output_tokens": 7},
                {"type": "message", "input_tokens": 20, "output_tokens": 5}]}"#,
        )
        .usage();
        assert_eq!((usage.input, usage.cache_read, usage.output), (1020, 100, 55));
    }

    #[test]
    fn a_later_count_replaces_and_never_adds() {
        let mut count = counted(r#"{"input_tokens": 120, "output_tokens": 1}"#);
        count.update(counted(r#"{"input_tokens": 20, "cache_read_input_tokens": 100, "output_tokens": 9}"#));
        assert_eq!((count.usage().input, count.usage().cache_read, count.usage().output), (120, 100, 9));
        count.update(counted(r#"{"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 12}"#));
        assert_eq!((count.usage().input, count.usage().cache_read, count.usage().output), (120, 100, 12));
        count.update(counted(r#"{"output_tokens": null}"#));
        assert_eq!(count.usage().output, 12);
    }
}
