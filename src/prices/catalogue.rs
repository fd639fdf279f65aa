//! The known models of each kind, read from the table that the binary carries.
//! It must not know the configuration, other spellings of a name, or usage.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::price::Price;

/// Made by `build.py` from public price facts; one model per line, sorted by kind and name.
const TABLE: &str = include_str!("table.tsv");

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Chat completions.
    Chat,
    /// Answers on OpenAI's Responses interface only.
    Responses,
    /// Completions of plain text.
    Completion,
    /// Embeddings.
    Embedding,
    /// Anything else: images, audio, video, ranking, moderation, ….
    Other,
}

impl Mode {
    fn from_name(name: &str) -> Self {
        match name {
            "chat" => Self::Chat,
            "responses" => Self::Responses,
            "completion" => Self::Completion,
            "embedding" => Self::Embedding,
            _ => Self::Other,
        }
    }
}

/// A model of the catalogue.
#[derive(Clone, Debug)]
pub struct Model {
    /// The wire it is spoken to with.
    pub kind: &'static str,
    /// Its name at the provider.
    pub name: &'static str,
    /// What it is for.
    pub mode: Mode,
    /// How many tokens it can see, where known.
    pub context: Option<u32>,
    /// How many tokens it can answer with, where known.
    pub max_output: Option<u32>,
    /// What its tokens cost; `None` when it is not, or not only, priced by tokens.
    pub price: Option<Arc<Price>>,
}

/// Every known model, findable by kind and name.
#[derive(Debug)]
pub struct Catalogue {
    models: Vec<Model>,
    kinds: Vec<(&'static str, Range<usize>)>,
}

/// Equal texts of the price column share one price.
type Shared = HashMap<&'static str, Option<Arc<Price>>>;

fn model(line: &'static str, prices: &mut Shared) -> Option<Model> {
    let mut columns = line.split('\t');
    let (kind, name, mode) = (columns.next()?, columns.next()?, columns.next()?);
    let (context, max_output, price) = (columns.next()?, columns.next()?, columns.next()?);
    let price = prices.entry(price).or_insert_with(|| price.parse().ok().map(Arc::new)).clone();
    let mode = Mode::from_name(mode);
    Some(Model { kind, name, mode, context: context.parse().ok(), max_output: max_output.parse().ok(), price })
}

/// How names are ordered in the table: as if they were all lower-case.
fn lower(name: &str) -> impl Iterator<Item = u8> + '_ {
    name.bytes().map(|byte| byte.to_ascii_lowercase())
}

impl Catalogue {
    /// Reads the built-in table: about two milliseconds, once, at start.
    #[must_use]
    pub fn builtin() -> Self {
        Self::read(TABLE)
    }

    fn read(table: &'static str) -> Self {
        let mut prices = Shared::new();
        let models: Vec<Model> = table.lines().filter_map(|line| model(line, &mut prices)).collect();
        let mut kinds: Vec<(&'static str, Range<usize>)> = Vec::new();
        for (at, model) in models.iter().enumerate() {
            match kinds.last_mut() {
                Some((kind, range)) if *kind == model.kind => range.end = at + 1,
                _ => kinds.push((model.kind, at..at + 1)),
            }
        }
        Self { models, kinds }
    }

    /// The models of a kind, by name; none for a kind without a price list.
    #[must_use]
    pub fn of(&self, kind: &str) -> &[Model] {
        let range = self.kinds.iter().find(|(name, _)| *name == kind).map(|(_, range)| range.clone());
        range.and_then(|range| self.models.get(range)).unwrap_or_default()
    }

    /// The model that is listed under this name, whatever its case.
    #[must_use]
    pub fn listed(&self, kind: &str, name: &str) -> Option<&Model> {
        let models = self.of(kind);
        let at = models.binary_search_by(|model| lower(model.name).cmp(lower(name))).ok()?;
        models.get(at)
    }

    /// The models of a kind whose names begin with this text, whatever its case.
    pub fn beginning(&self, kind: &str, start: &str) -> impl Iterator<Item = &Model> {
        let models = self.of(kind);
        let from = models.partition_point(|model| lower(model.name).lt(lower(start)));
        let begins = move |model: &&Model| {
            let head = model.name.as_bytes().get(..start.len());
            head.is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
        };
        models.get(from..).unwrap_or_default().iter().take_while(begins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table_is_read_and_in_order() {
        let catalogue = Catalogue::builtin();
        let lines: Vec<&str> = TABLE.lines().collect();
        assert_eq!(catalogue.models.len(), lines.len());
        for (line, model) in lines.iter().zip(&catalogue.models) {
            let price = line.rsplit('\t').next().unwrap_or_default();
            assert_eq!(model.price.is_some(), !price.is_empty(), "unreadable price: {line}");
        }
        for pair in catalogue.models.windows(2) {
            let key = |model: &Model| (model.kind, model.name.to_ascii_lowercase());
            assert!(key(&pair[0]) < key(&pair[1]), "{:?} before {:?}", pair[0].name, pair[1].name);
        }
    }

    #[test]
    fn every_model_is_found_under_its_name_in_any_case() {
        let catalogue = Catalogue::builtin();
        for model in &catalogue.models {
            for name in [model.name.to_owned(), model.name.to_ascii_uppercase()] {
                assert_eq!(catalogue.listed(model.kind, &name).map(|found| found.name), Some(model.name));
            }
            assert!(catalogue.beginning(model.kind, model.name).any(|found| found.name == model.name));
        }
        assert!(catalogue.listed("openai", "gpt-4o-").is_none());
        assert!(catalogue.listed("no-such-kind", "gpt-4o").is_none());
        assert!(catalogue.of("no-such-kind").is_empty());
    }
}
