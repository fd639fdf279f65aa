//! How many tokens a text is, where no provider has said: a cheap guess for reservations, a careful
//! count for missing bills, and what is learned from the bills that do come.
//! It must not know prices, limits, or which provider or model a text goes to.

mod declarations;
mod input;
mod learned;
mod sample;

pub use input::input;
pub use learned::{Calibration, Correction};
pub use sample::{SAMPLE_BYTES, Sample};

use std::sync::OnceLock;

use bpe_openai::Tokenizer;

/// How much text of one request is tokenized; text beyond is taken to be like the text before.
pub const EXACT_BYTES: usize = 64 * 1024;

/// Bytes of a token of English, as OpenAI's documentation puts it: "1 token ~= 4 chars".
const BYTES_PER_TOKEN: u64 = 4;
/// What the frame of one message costs: its opening, its role and its end. OpenAI's cookbook, "How to
/// count tokens with tiktoken": three tokens per message, and the role is text of one token.
const PER_MESSAGE: u64 = 4;
/// Every reply is primed with three tokens (the same source).
const REPLY: u64 = 3;
/// What stands around the name and the arguments of a tool call, by gpt-4o's bills.
const PER_CALL: u64 = 7;

/// An estimate before what was learned corrects it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Tokens as OpenAI would count them.
    pub tokens: u64,
    /// What providers bill besides, each by its own measure: 1 for a request that declares tools, and
    /// the number of calls in an answer. Already in `tokens` at OpenAI's measure.
    pub extras: u64,
}

/// A guess at a request's prompt from nothing but its size, for reservations: no text is read.
/// `text_bytes` are those of all strings but keys and embedded files, `tools` whether it declares any.
#[must_use]
pub fn cheap(text_bytes: u64, messages: u64, tools: bool) -> Estimate {
    let frames = messages.saturating_mul(PER_MESSAGE).saturating_add(REPLY);
    Estimate { tokens: text_bytes.div_ceil(BYTES_PER_TOKEN).saturating_add(frames), extras: tools.into() }
}

/// The vocabulary of `o200k_base`: 67 MB of memory and a tenth of a second, when first needed.
static VOCABULARY: OnceLock<&'static Tokenizer> = OnceLock::new();

/// Loads the vocabulary, which the first careful count would wait for. It blocks for about 0.1 s.
pub fn load() {
    VOCABULARY.get_or_init(bpe_openai::o200k_base);
}

/// Loads the vocabulary on a thread of its own, for whoever is about to count: what else runs on this thread
/// goes on meanwhile.
pub async fn loaded() {
    if !is_loaded() {
        // Without it, the count loads it.
        let _ = tokio::task::spawn_blocking(load).await;
    }
}

/// Whether a careful count need not wait for the vocabulary.
#[must_use]
pub fn is_loaded() -> bool {
    VOCABULARY.get().is_some()
}

/// The tokens of a text in OpenAI's `o200k_base`.
fn count(text: &str) -> u64 {
    VOCABULARY.get_or_init(bpe_openai::o200k_base).count(text) as u64
}

/// A head of `text` of at most `limit` bytes that cuts no character in two, and the rest.
fn split(text: &str, limit: usize) -> (&str, &str) {
    let at = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.split_at(at.unwrap_or_default())
}

/// Adds up a request: text is tokenized up to [`EXACT_BYTES`], the rest extrapolated.
#[derive(Debug)]
struct Counter {
    budget: usize,
    exact: u64,
    tokens: u64,
    beyond: u64,
    fixed: u64,
    extras: u64,
}

impl Counter {
    fn new() -> Self {
        Self { budget: EXACT_BYTES, exact: 0, tokens: 0, beyond: 0, fixed: 0, extras: 0 }
    }

    fn text(&mut self, text: &str) {
        let (head, rest) = split(text, self.budget);
        if !head.is_empty() {
            self.budget -= head.len();
            self.exact += head.len() as u64;
            self.tokens += count(head);
        }
        self.beyond += rest.len() as u64;
    }

    fn fixed(&mut self, tokens: u64) {
        self.fixed = self.fixed.saturating_add(tokens);
    }

    fn estimate(&self) -> Estimate {
        let text = self.tokens.saturating_add(extrapolate(self.beyond, self.tokens, self.exact));
        Estimate { tokens: text.saturating_add(self.fixed), extras: self.extras }
    }
}

/// The tokens of `bytes` more of a text that had `tokens` tokens in its first `exact` bytes.
fn extrapolate(bytes: u64, tokens: u64, exact: u64) -> u64 {
    if exact == 0 {
        return bytes.div_ceil(BYTES_PER_TOKEN);
    }
    let estimate = u128::from(bytes) * u128::from(tokens) / u128::from(exact);
    u64::try_from(estimate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
