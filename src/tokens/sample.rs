//! The generated text of one answer in bounded memory, so that it can be counted if its bill never comes.
//! It must not know events, providers or prices.

use super::{Estimate, PER_CALL, count, extrapolate, split};

/// How much generated text is kept and tokenized; text beyond is taken to be like the text before.
pub const SAMPLE_BYTES: usize = 8 * 1024;

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
            let head = split(text, room).0;
            self.grow(head.len());
            self.kept.push_str(head);
        }
    }

    /// Makes room by doubling, as a `String` would, but never past [`SAMPLE_BYTES`].
    fn grow(&mut self, more: usize) {
        let (length, capacity) = (self.kept.len(), self.kept.capacity());
        if capacity - length < more {
            let wanted = (capacity * 2).clamp(length + more, SAMPLE_BYTES);
            self.kept.reserve_exact(wanted - length);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(texts: &[&str]) -> Sample {
        let mut sample = Sample::default();
        texts.iter().for_each(|text| sample.push(text));
        sample
    }

    #[test]
    fn short_answers_are_counted_exactly_however_they_were_cut() {
        assert_eq!(Sample::default().estimate(), Estimate::default());
        let whole = "The meter runs while the answer streams, token by token, and stops when it ends. お誕生日おめでとう";
        let expected = Estimate { tokens: count(whole), extras: 0 };
        let letters: Vec<String> = whole.chars().map(String::from).collect();
        for parts in [vec![whole], letters.iter().map(String::as_str).collect(), vec!["", whole, ""]] {
            let sample = pushed(&parts);
            assert_eq!((sample.estimate(), sample.bytes()), (expected, whole.len() as u64));
        }
    }

    #[test]
    fn long_answers_are_extrapolated_in_bounded_memory() {
        let sentence = "Seven clever engineers measured 42 gateways, twice. ";
        for (size, times) in [(1, 100_000), (40, 2_000), (3_000, 30)] {
            let text = sentence.repeat(size);
            let mut sample = Sample::default();
            for _ in 0..times {
                sample.push(&text);
                assert!(sample.kept.capacity() <= SAMPLE_BYTES);
            }
            let repeats = (size * times) as u64;
            let exact = count(&sentence.repeat(1_000)) * repeats / 1_000;
            let found = sample.estimate().tokens;
            assert!(found.abs_diff(exact) * 100 <= exact, "{found} for {exact}");
        }
    }

    #[test]
    fn no_character_is_cut_and_no_gap_is_closed() {
        for before in SAMPLE_BYTES - 4..=SAMPLE_BYTES {
            let mut sample = pushed(&["a".repeat(before).as_str(), "日本語", "b"]);
            assert!(sample.kept.len() <= SAMPLE_BYTES && !sample.kept.contains('b'), "{before}");
            assert_eq!(sample.bytes(), before as u64 + 10);
            sample.push("c");
            assert!(!sample.kept.contains('c'));
        }
    }

    #[test]
    fn calls_bring_their_frame() {
        let mut sample = Sample::default();
        sample.call("get_weather");
        sample.push("{\"city\":\"Paris\"}");
        let text = count("get_weather{\"city\":\"Paris\"}");
        assert_eq!(sample.estimate(), Estimate { tokens: text + PER_CALL, extras: 1 });
        let mut nameless = Sample::default();
        nameless.call("");
        assert_eq!(nameless.estimate(), Estimate { tokens: PER_CALL, extras: 1 });
    }
}
