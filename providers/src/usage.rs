//! `Usage`: the tokens of one attempt, in the one meaning the whole gateway shares.
//! It must not know prices, models or which wire the numbers came from.

/// Tokens of one attempt. `input` includes cached tokens and `output` includes reasoning; all other
/// token fields are parts of those two, never added to them. Each adapter converts to this meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input: u64,
    /// Tokens generated, reasoning included.
    pub output: u64,
    /// Part of `input` that was read from the provider's prompt cache.
    pub cache_read: u64,
    /// Part of `input` written to the prompt cache with the short (5 minute, or only) lifetime.
    pub cache_write: u64,
    /// Part of `input` written to the prompt cache with the one-hour lifetime.
    pub cache_write_1h: u64,
    /// Part of `output` spent on reasoning.
    pub reasoning: u64,
    /// Part of `input` that was audio.
    pub audio_in: u64,
    /// Part of `output` that is audio.
    pub audio_out: u64,
    /// Part of `input` that was images, where the provider prices those apart.
    pub image_in: u64,
    /// Part of `output` that is images, where the provider prices those apart.
    pub image_out: u64,
    /// The service tier that the answer says it was served under.
    pub tier: Tier,
    /// What the provider itself says this attempt cost, in 10⁻¹² USD, where its answers carry that.
    pub reported_cost: Option<u64>,
    /// The tokens that the provider bills, where it counts others than the model saw and made. Cost is
    /// computed on these alone, at the plain input and output price; limits on the fields above.
    pub billed: Option<Billed>,
}

/// Tokens that a provider bills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Billed {
    /// At the input price.
    pub input: u64,
    /// At the output price.
    pub output: u64,
}

/// Service tiers that are priced apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tier {
    /// The usual price.
    #[default]
    Standard,
    /// Batch prices.
    Batch,
    /// OpenAI's `priority`.
    Priority,
    /// OpenAI's `flex`.
    Flex,
    /// OpenAI's `ultrafast`.
    Ultrafast,
}

impl Tier {
    /// The tier of a `service_tier` string in an answer; unknown names are the usual price.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "batch" => Self::Batch,
            "priority" => Self::Priority,
            "flex" => Self::Flex,
            "ultrafast" => Self::Ultrafast,
            _ => Self::Standard,
        }
    }
}
