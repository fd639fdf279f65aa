//! What a model's tokens cost and the bill of one attempt: `Price` and `Rates`.
//! It must not know which model or provider a price belongs to, nor where the table of prices is.

use std::str::FromStr;

use providers::{Billed, Tier, Usage};
use serde::Deserialize;

use super::money::{Pico, Rate, RateError};

/// The price of every part of a usage, under one condition. What a price list does not price apart is
/// already filled in: parts of the input as input, parts of the output as output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rates {
    /// Prompt tokens that belong to no other part.
    pub input: Rate,
    /// Generated tokens that belong to no other part.
    pub output: Rate,
    /// Prompt tokens read from the provider's cache.
    pub cache_read: Rate,
    /// Prompt tokens written to the cache with the short lifetime.
    pub cache_write: Rate,
    /// Prompt tokens written to the cache for an hour; where not priced apart, as other writes.
    pub cache_write_1h: Rate,
    /// Generated tokens of reasoning.
    pub reasoning: Rate,
    /// Prompt tokens of audio.
    pub audio_input: Rate,
    /// Generated tokens of audio.
    pub audio_output: Rate,
    /// Prompt tokens of images.
    pub image_input: Rate,
    /// Generated tokens of images.
    pub image_output: Rate,
}

impl Rates {
    /// What a usage costs at these rates. Parts are taken out of the whole first, in this order, and
    /// never more than is left of it: a part is billed once, and the parts never exceed the whole.
    fn bill(&self, usage: &Usage) -> Pico {
        let mut sum = Sum { left: usage.input, pico: 0 };
        sum.take(usage.cache_read, self.cache_read);
        sum.take(usage.cache_write_1h, self.cache_write_1h);
        sum.take(usage.cache_write, self.cache_write);
        sum.take(usage.audio_in, self.audio_input);
        sum.take(usage.image_in, self.image_input);
        sum.take(u64::MAX, self.input);
        sum.left = usage.output;
        sum.take(usage.reasoning, self.reasoning);
        sum.take(usage.audio_out, self.audio_output);
        sum.take(usage.image_out, self.image_output);
        sum.take(u64::MAX, self.output);
        Pico(u64::try_from(sum.pico).unwrap_or(u64::MAX))
    }
}

/// A bill in the making: the tokens that no part has claimed yet, and what the claimed ones cost.
/// Eleven parts of at most 2⁶⁴ tokens at rates far below 2⁶² fit the sum.
struct Sum {
    left: u64,
    pico: u128,
}

impl Sum {
    fn take(&mut self, tokens: u64, rate: Rate) {
        let taken = tokens.min(self.left);
        self.left -= taken;
        self.pico += u128::from(taken) * u128::from(rate.0);
    }
}

/// When a step of a price applies, and at which rates.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    tier: Tier,
    /// The smallest prompt, in tokens (cached ones included), that is billed at these rates.
    from: u64,
    rates: Rates,
}

/// The price of a model: its usual rates, and those of service tiers and long prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    usual: Rates,
    /// Longest prompts first, so that the first step that fits is the right one.
    steps: Box<[Step]>,
}

impl Price {
    /// The same rates for every prompt and service tier.
    #[must_use]
    pub fn flat(rates: Rates) -> Self {
        Self { usual: rates, steps: Box::default() }
    }

    /// What an attempt costs. What the provider itself says it cost has the last word. Above a size
    /// limit the dearer rates hold for all tokens of the attempt, and the size is that of the whole prompt.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> Pico {
        let rates = self.rates(usage.tier, usage.input);
        match (usage.reported_cost, usage.billed) {
            (Some(reported), _) => Pico(reported),
            (None, Some(Billed { input, output })) => rates.bill(&Usage { input, output, ..Usage::default() }),
            (None, None) => rates.bill(usage),
        }
    }

    /// The rates for a service tier and a prompt of this many tokens, cached ones included.
    #[must_use]
    pub fn rates(&self, tier: Tier, prompt: u64) -> &Rates {
        let fits = |step: &&Step| step.from <= prompt && (step.tier == tier || step.tier == Tier::Standard);
        self.steps.iter().find(fits).map_or(&self.usual, |step| &step.rates)
    }
}

/// A price as `[prices."provider/model"]` of the configuration gives it, in USD per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Prompt tokens.
    pub input: Rate,
    /// Generated tokens; `0` for models that generate none.
    pub output: Rate,
    /// Prompt tokens read from the cache; left out: as input.
    pub cache_read: Option<Rate>,
    /// Prompt tokens written to the cache; left out: as input.
    pub cache_write: Option<Rate>,
    /// Prompt tokens written to the cache for an hour; left out: as `cache_write`.
    pub cache_write_1h: Option<Rate>,
    /// Reasoning; left out: as output.
    pub reasoning: Option<Rate>,
    /// Audio in the prompt; left out: as input.
    pub audio_input: Option<Rate>,
    /// Generated audio; left out: as output.
    pub audio_output: Option<Rate>,
}

impl From<Override> for Price {
    fn from(given: Override) -> Self {
        let fields = Fields([
            Some(given.input),
            Some(given.output),
            given.cache_read,
            given.cache_write,
            given.cache_write_1h,
            given.reasoning,
            given.audio_input,
            given.audio_output,
            None,
            None,
        ]);
        Self::flat(fields.rates())
    }
}

/// The words of the table's price column, in the order of [`Fields`].
const WORDS: [&str; 10] = ["in", "out", "read", "write", "write1h", "reason", "audio_in", "audio_out", "image_in", "image_out"];

/// The rates that a price list names under one condition; what it does not name is open.
#[derive(Clone, Copy, Debug, Default)]
struct Fields([Option<Rate>; WORDS.len()]);

impl Fields {
    /// What this list names, else what the other one does.
    fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].or(other.0[at])))
    }

    /// The rates, with what is still open filled in as input or output.
    fn rates(self) -> Rates {
        let [input, output, read, write, write_1h, reasoning, audio_in, audio_out, image_in, image_out] = self.0;
        let (input, output) = (input.unwrap_or_default(), output.unwrap_or_default());
        let write = write.unwrap_or(input);
        Rates {
            input,
            output,
            cache_read: read.unwrap_or(input),
            cache_write: write,
            cache_write_1h: write_1h.unwrap_or(write),
            reasoning: reasoning.unwrap_or(output),
            audio_input: audio_in.unwrap_or(input),
            audio_output: audio_out.unwrap_or(output),
            image_input: image_in.unwrap_or(input),
            image_output: image_out.unwrap_or(output),
        }
    }
}

/// Why a line of the table's price column cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPrice;

impl From<RateError> for BadPrice {
    fn from(_: RateError) -> Self {
        Self
    }
}

/// A tier, a prompt size, and what a price list names under both.
type Section = (Tier, u64, Fields);

fn section(text: &str) -> Result<Section, BadPrice> {
    let (mut tier, mut from, mut fields) = (Tier::Standard, 0, Fields::default());
    for word in text.split(' ') {
        if let Some((field, price)) = word.split_once('=') {
            let at = WORDS.iter().position(|known| *known == field).ok_or(BadPrice)?;
            fields.0[at] = Some(price.parse()?);
        } else if let Some(size) = word.strip_prefix('@') {
            from = size.parse().map_err(|_| BadPrice)?;
        } else {
            tier = Some(Tier::from_name(word)).filter(|tier| *tier != Tier::Standard).ok_or(BadPrice)?;
        }
    }
    Ok((tier, from, fields))
}

/// The rates of a tier for prompts from this size on. What is not named for both is taken from the
/// same size's usual tier, then from the same tier at smaller sizes, then from the usual rates.
fn resolve(sections: &[Section], tier: Tier, from: u64) -> Rates {
    let mut sizes: Vec<u64> = sections.iter().map(|section| section.1).filter(|size| *size <= from).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.dedup();
    let named = |tier, size| sections.iter().find(|section| section.0 == tier && section.1 == size).map(|found| found.2);
    let mut fields = Fields::default();
    for size in sizes {
        for tier in [tier, Tier::Standard] {
            fields = fields.or(named(tier, size).unwrap_or_default());
        }
    }
    fields.rates()
}

impl FromStr for Price {
    type Err = BadPrice;

    /// Reads the price column of the table; `build.py` says how it is written.
    ///
    /// # Errors
    /// [`BadPrice`] when a word is unknown, a number is no price, or no input price is named.
    fn from_str(text: &str) -> Result<Self, BadPrice> {
        let sections = text.split(';').map(section).collect::<Result<Vec<_>, _>>()?;
        let named =
            sections.first().is_some_and(|(tier, from, fields)| (*tier, *from) == (Tier::Standard, 0) && fields.0[0].is_some());
        if !named {
            return Err(BadPrice);
        }
        let distinct = |mut values: Vec<_>| {
            values.sort_unstable();
            values.dedup();
            values
        };
        let sizes = distinct(sections.iter().map(|section| section.1).collect());
        let mut tiers: Vec<Tier> = Vec::new();
        for (tier, _, _) in &sections {
            if *tier != Tier::Standard && !tiers.contains(tier) {
                tiers.push(*tier);
            }
        }
        tiers.push(Tier::Standard);
        let steps = sizes.iter().rev().flat_map(|from| tiers.iter().map(move |tier| (*tier, *from)));
        Ok(Self {
            usual: resolve(&sections, Tier::Standard, 0),
            steps: steps
                .filter(|step| *step != (Tier::Standard, 0))
                .map(|(tier, from)| Step { tier, from, rates: resolve(&sections, tier, from) })
                .collect(),
        })
    }
}
