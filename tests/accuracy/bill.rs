//! The provider's own bill, in whole tokens and whole 10⁻¹² USD, and what the gateway booked in the
//! same terms. It must not know cases or clients.

use serde_json::{Value, json};

use crate::support::metrics::Scrape;
use crate::support::provider::Exchange;

/// 10⁻¹² USD for one token, per kind of token: `(configuration key, price)`. All differ, so that a
/// token booked as another kind shows.
const PRICES: [(&str, u64); 8] = [
    ("input", 2_530_000),
    ("output", 10_070_000),
    ("cache_read", 610_000),
    ("cache_write", 3_110_000),
    ("cache_write_1h", 5_030_000),
    ("reasoning", 11_030_000),
    ("audio_input", 40_090_000),
    ("audio_output", 80_170_000),
];

fn price(key: &str) -> u64 {
    PRICES.iter().find(|(name, _)| *name == key).unwrap().1
}

/// The configuration's price table of one model.
pub fn price_table(provider: &str, model: &str) -> String {
    let rows: String =
        PRICES.iter().map(|(key, price)| format!("{key} = {}.{:06}\n", price / 1_000_000, price % 1_000_000)).collect();
    format!("[prices.\"{provider}/{model}\"]\n{rows}")
}

/// Tokens as a bill lists them; parts are included in `input` and `output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
    /// The part of `cache_write` that lives for an hour.
    pub cache_write_1h: u64,
    pub reasoning: u64,
    pub audio_in: u64,
    pub audio_out: u64,
}

impl Tokens {
    pub fn of(input: u64, output: u64) -> Self {
        Self { input, output, ..Self::default() }
    }

    pub fn total(&self) -> u64 {
        self.input + self.output
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            input: self.input + other.input,
            output: self.output + other.output,
            cache_read: self.cache_read + other.cache_read,
            cache_write: self.cache_write + other.cache_write,
            cache_write_1h: self.cache_write_1h + other.cache_write_1h,
            reasoning: self.reasoning + other.reasoning,
            audio_in: self.audio_in + other.audio_in,
            audio_out: self.audio_out + other.audio_out,
        }
    }

    /// What is left of these after the `earlier` ones.
    pub fn less(self, earlier: Self) -> Self {
        Self {
            input: self.input - earlier.input,
            output: self.output - earlier.output,
            cache_read: self.cache_read - earlier.cache_read,
            cache_write: self.cache_write - earlier.cache_write,
            cache_write_1h: self.cache_write_1h - earlier.cache_write_1h,
            reasoning: self.reasoning - earlier.reasoning,
            audio_in: self.audio_in - earlier.audio_in,
            audio_out: self.audio_out - earlier.audio_out,
        }
    }

    /// What they cost, in 10⁻¹² USD.
    pub fn cost(&self) -> u64 {
        (self.input - self.cache_read - self.cache_write - self.audio_in) * price("input")
            + self.cache_read * price("cache_read")
            + (self.cache_write - self.cache_write_1h) * price("cache_write")
            + self.cache_write_1h * price("cache_write_1h")
            + self.audio_in * price("audio_input")
            + (self.output - self.reasoning - self.audio_out) * price("output")
            + self.reasoning * price("reasoning")
            + self.audio_out * price("audio_output")
    }

    /// OpenAI's `usage` object for them.
    pub fn report(&self) -> Value {
        json!({
            "prompt_tokens": self.input, "completion_tokens": self.output, "total_tokens": self.input + self.output,
            "prompt_tokens_details": {
                "cached_tokens": self.cache_read, "cache_write_tokens": self.cache_write, "audio_tokens": self.audio_in,
            },
            "completion_tokens_details": {"reasoning_tokens": self.reasoning, "audio_tokens": self.audio_out},
        })
    }

    /// What the gateway booked. Audio has one series for both directions and cache writes one for both
    /// lifetimes: which of the two it was shows in the price.
    pub fn booked(scrape: &Scrape, labels: &[(&str, &str)]) -> Self {
        let count = |name: &str, kind: &str| {
            let mut labels = labels.to_vec();
            labels.push(("type", kind));
            scrape.count(name, &labels)
        };
        Self {
            input: count("choreoai_tokens_total", "input"),
            output: count("choreoai_tokens_total", "output"),
            cache_read: count("choreoai_token_details_total", "cache_read"),
            cache_write: count("choreoai_token_details_total", "cache_write"),
            cache_write_1h: 0,
            reasoning: count("choreoai_token_details_total", "reasoning"),
            audio_in: count("choreoai_token_details_total", "audio"),
            audio_out: 0,
        }
    }

    fn as_series(mut self) -> Self {
        self.audio_in += std::mem::take(&mut self.audio_out);
        self.cache_write_1h = 0;
        self
    }
}

/// What a case costs.
#[derive(Clone, Debug)]
pub enum Bill {
    /// What the provider reported, all calls together.
    Reported(Tokens),
    /// What the provider reported, and the price it named itself in 10⁻¹² USD.
    Named(Tokens, u64),
    /// Nothing: refused.
    Nothing,
    /// The prompt of every call that was answered with more than an error, and every output token
    /// that the provider put on the wire, in hundredths of the o200k count.
    Counted { input: u64, percent: u64 },
}

impl Bill {
    /// In tokens (as the series have them) and in 10⁻¹² USD.
    pub fn of(&self, exchanges: &[Exchange]) -> (Tokens, u64) {
        match *self {
            Self::Reported(tokens) => (tokens.as_series(), tokens.cost()),
            Self::Named(tokens, cost) => (tokens.as_series(), cost),
            Self::Nothing => (Tokens::default(), 0),
            Self::Counted { input, percent } => {
                let output: u64 = exchanges.iter().map(|exchange| exchange.tokens_written).sum();
                let tokens = Tokens::of(input, output * percent / 100);
                (tokens, tokens.cost())
            }
        }
    }
}

/// `choreoai_cost_total` in 10⁻¹² USD. The metric is a binary fraction; 10⁻¹² USD is what it must round to.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sum of some dollars is far from either")]
pub fn booked_cost(scrape: &Scrape, labels: &[(&str, &str)]) -> u64 {
    (scrape.sum("choreoai_cost_total", labels) * 1e12).round() as u64
}

/// As USD.
pub fn usd(picodollars: u64) -> String {
    format!("{}.{:012}", picodollars / 1_000_000_000_000, picodollars % 1_000_000_000_000)
}

#[test]
fn a_bill_adds_up() {
    let tokens = Tokens { input: 100, output: 50, cache_read: 60, reasoning: 20, ..Tokens::default() };
    assert_eq!(tokens.cost(), 40 * 2_530_000 + 60 * 610_000 + 30 * 10_070_000 + 20 * 11_030_000);
}
