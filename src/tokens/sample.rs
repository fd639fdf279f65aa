//! The generated text of one answer in bounded memory, so that it can be counted if its bill never comes.
//! It must not know events, providers or prices.

use super::{Estimate, count, extrapolate, split};

/// How much generated text is kept and tokenized; text beyond is taken to be like the text before.
pub const SAMPLE_BYTES: usize = 8 * 1024;

/// What stands around the name and the arguments of a call in a generated answer.
const PER_CALL: u64 = 7;

/// A collector of generated text. It costs an append per event and tokenizes nothing until asked.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    kept: String,
    bytes: u64,
    calls: u64,
}

impl Sample {
    /// Adds generated text: answer, reasoning or arguments of a call.
    pub fn push(&mut self, text: &str) {
        self.bytes += text.len() as u64;
        let room = SAMPLE_BYTES - self.kept.len();
        // Once a character did not fit, later ones must not fill the gap.
        if room > 0 && self.kept.len() as u64 + text.len() as u64 == self.bytes {
            self.kept.push_str(split(text, room).0);
        }
    }

    /// Adds the opening of a tool call: its name, and what the model writes around a call.
    pub fn call(&mut self, name: &str) {
        self.calls += 1;
        self.push(name);
    }

    /// Bytes of text so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The tokens of it: counted while the text fits [`SAMPLE_BYTES`], extrapolated beyond.
    #[must_use]
    pub fn estimate(&self) -> Estimate {
        let frames = self.calls.saturating_mul(PER_CALL);
        let (exact, tokens) = (self.kept.len() as u64, if self.bytes == 0 { 0 } else { count(&self.kept) });
        let text = tokens.saturating_add(extrapolate(self.bytes - exact, tokens, exact));
        Estimate { tokens: text.saturating_add(frames), extras: self.calls }
    }
}
