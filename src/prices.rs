//! What models cost: the built-in catalogue, the prices of the configuration, and the bill of an attempt.
//! It must not know sockets, limits or how usage was counted.

mod catalogue;
mod money;
mod names;
mod price;

use std::collections::HashMap;
use std::sync::Arc;

use providers::Usage;

pub use catalogue::{Mode, Model};
pub use money::{PICO_PER_USD, Pico, Rate, RateError};
pub use price::{BadPrice, Override, Price, Rates};

use catalogue::Catalogue;

/// Kinds in the order in which a bare model name is looked for: those who make models before those
/// who sell other makers' models.
const KINDS: [&str; 24] = [
    "openai",
    "anthropic",
    "gemini",
    "mistral",
    "deepseek",
    "xai",
    "cohere",
    "perplexity",
    "moonshot",
    "zai",
    "minimax",
    "dashscope",
    "voyage",
    "groq",
    "cerebras",
    "sambanova",
    "together",
    "fireworks",
    "nebius",
    "deepinfra",
    "hyperbolic",
    "vertex",
    "bedrock",
    "azure",
];

/// Every price the gateway knows.
#[derive(Debug)]
pub struct Prices {
    catalogue: Arc<Catalogue>,
    /// By configured provider name, then by model.
    overrides: HashMap<String, HashMap<String, Arc<Price>>>,
}

impl Prices {
    /// The built-in table, read once at start.
    #[must_use]
    pub fn builtin() -> Self {
        Self { catalogue: Arc::new(Catalogue::builtin()), overrides: HashMap::new() }
    }

    /// The same table without anything that a configuration said.
    #[must_use]
    pub fn table(&self) -> Self {
        Self { catalogue: Arc::clone(&self.catalogue), overrides: HashMap::new() }
    }

    /// Sets the price of a model at one configured provider; it wins over the table.
    pub fn with_override(&mut self, provider: &str, model: &str, price: Price) {
        let models = self.overrides.entry(provider.to_owned()).or_default();
        models.insert(model.to_owned(), Arc::new(price));
    }

    /// What a model costs at a configured provider: as the configuration says for exactly this name,
    /// else as the table says for the provider's kind, where aliases and dated names are resolved.
    #[must_use]
    pub fn find(&self, kind: &str, provider: &str, model: &str) -> Option<Arc<Price>> {
        let configured = self.overrides.get(provider).and_then(|models| models.get(model));
        configured.cloned().or_else(|| self.model(kind, model)?.price.clone())
    }

    /// The model of the catalogue that a kind means by this name: other case, dated names, aliases,
    /// paths and regions are resolved.
    #[must_use]
    pub fn model(&self, kind: &str, name: &str) -> Option<&Model> {
        names::find(&self.catalogue, kind, name)
    }

    /// Whether the catalogue lists exactly this name. Unlike [`Prices::model`] it resolves nothing, so
    /// that the names it accepts are as few as the lines of the table: safe to use as metric labels.
    #[must_use]
    pub fn knows(&self, kind: &str, name: &str) -> bool {
        self.catalogue.listed(kind, name).is_some_and(|model| model.name == name)
    }

    /// The models of a kind, by name; none for a kind without a price list.
    pub fn catalogue(&self, kind: &str) -> impl Iterator<Item = &Model> {
        self.catalogue.of(kind).iter()
    }

    /// The kinds whose catalogue has this bare model name, the maker first: `gpt-4o` is `openai`'s,
    /// then `azure`'s. A router takes the first kind that is configured.
    pub fn kinds_of(&self, model: &str) -> impl Iterator<Item = &'static str> {
        KINDS.into_iter().filter(move |kind| self.model(kind, model).is_some())
    }
}

/// The bill of an attempt: what the provider says it cost, else what the price says; `None`, never a
/// silent zero, when neither is known.
#[must_use]
pub fn bill(price: Option<&Price>, usage: &Usage) -> Option<Pico> {
    usage.reported_cost.map(Pico).or_else(|| Some(price?.cost(usage)))
}

#[cfg(test)]
mod tests;
