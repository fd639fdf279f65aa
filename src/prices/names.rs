//! Other spellings of a model's name: dated names, aliases, paths, regions and resellers.
//! It must not know prices, and it never takes one model for another: a spelling is only tried when
//! the provider itself documents that both names mean the same model.

use super::catalogue::{Catalogue, Model};

/// Regions that Bedrock puts before a model's name to say where it may run
/// (its user guide, "cross-Region inference").
const BEDROCK_REGIONS: [&str; 9] = ["us-gov.", "us.", "eu.", "apac.", "global.", "jp.", "au.", "in.", "ca."];

/// Who makes the models that OpenRouter calls `vendor/model`, as kinds of the catalogue.
const VENDORS: [(&str, &str); 12] = [
    ("openai", "openai"),
    ("anthropic", "anthropic"),
    ("google", "gemini"),
    ("mistralai", "mistral"),
    ("deepseek", "deepseek"),
    ("x-ai", "xai"),
    ("cohere", "cohere"),
    ("perplexity", "perplexity"),
    ("moonshotai", "moonshot"),
    ("z-ai", "zai"),
    ("minimax", "minimax"),
    ("qwen", "dashscope"),
];

/// The model that a kind means by this name.
pub fn find<'a>(catalogue: &'a Catalogue, kind: &str, name: &str) -> Option<&'a Model> {
    let found = match kind {
        "openrouter" => return resold(catalogue, name),
        _ => of_kind(catalogue, kind, name),
    };
    // Azure sells OpenAI's models at OpenAI's prices; its own list lacks some of them.
    found.or_else(|| (kind == "azure").then(|| of_kind(catalogue, "openai", name)).flatten())
}

/// OpenRouter passes the maker's price on. A variant (`:free`, `:nitro`, …) may cost something else, and
/// no maker lists it.
fn resold<'a>(catalogue: &'a Catalogue, name: &str) -> Option<&'a Model> {
    let (vendor, model) = name.split_once('/')?;
    let (_, kind) = VENDORS.iter().find(|(known, _)| known.eq_ignore_ascii_case(vendor))?;
    of_kind(catalogue, kind, model)
}

fn of_kind<'a>(catalogue: &'a Catalogue, kind: &str, name: &str) -> Option<&'a Model> {
    let list = List { catalogue, kind };
    if let Some(found) = list.listed(name) {
        return Some(found);
    }
    let name = unwrapped(kind, name);
    let found = match kind {
        "gemini" | "vertex" => list.of_google(name),
        _ => None,
    };
    found.or_else(|| list.spelled(name)).or_else(|| match kind {
        "anthropic" if name.contains('.') => list.spelled(&name.replace('.', "-")),
        "azure" => list.spelled(&name.replace("gpt-3.5", "gpt-35")),
        "bedrock" => list.of_bedrock(name),
        "fireworks" => list.spelled(&format!("accounts/fireworks/models/{name}")),
        "openai" => list.fine_tuned(name),
        _ => None,
    })
}

/// A name without the path that some interfaces put before it.
fn unwrapped<'a>(kind: &str, name: &'a str) -> &'a str {
    let own = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('/'));
    let name = own.unwrap_or(name);
    match kind {
        // `models/gemini-…`, `projects/…/publishers/google/models/gemini-…`
        "gemini" | "vertex" => match name.rsplit_once("models/") {
            Some((path, last)) if path.is_empty() || path.ends_with('/') => last,
            _ => name,
        },
        // `arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-…`
        "bedrock" if name.starts_with("arn:") => name.rsplit_once('/').map_or(name, |(_, last)| last),
        _ => name,
    }
}

/// One kind's models.
struct List<'a, 'k> {
    catalogue: &'a Catalogue,
    kind: &'k str,
}

impl<'a> List<'a, '_> {
    fn listed(&self, name: &str) -> Option<&'a Model> {
        self.catalogue.listed(self.kind, name)
    }

    /// The name as it stands, or its alias when it is dated, or the newest dated one when it is an alias.
    fn spelled(&self, name: &str) -> Option<&'a Model> {
        if let Some(found) = self.listed(name) {
            return Some(found);
        }
        if let Some((alias, _)) = dated(name) {
            return self.listed(alias);
        }
        let alias = name.strip_suffix("-latest").unwrap_or(name);
        self.listed(alias).or_else(|| self.newest(alias, ""))
    }

    /// The newest of the models called `alias`, a date and `end`.
    fn newest(&self, alias: &str, end: &str) -> Option<&'a Model> {
        let date = |model: &Model| {
            let (undated, date) = dated(model.name.strip_suffix(end)?)?;
            undated.eq_ignore_ascii_case(alias).then_some(date)
        };
        let models = self.catalogue.beginning(self.kind, alias);
        models.filter_map(|model| Some((date(model)?, model))).max_by_key(|(date, _)| *date).map(|(_, model)| model)
    }

    /// Bedrock: with and without the region before and the version after the name. Versions other
    /// than the first, and other regions' prices, are models of their own.
    fn of_bedrock(&self, name: &str) -> Option<&'a Model> {
        let region = BEDROCK_REGIONS.iter().find(|region| name.starts_with(**region));
        let home = region.and_then(|region| name.strip_prefix(region));
        [Some(name), home].into_iter().flatten().find_map(|name| {
            // `…-v1:0:200k` is the same model with a longer context.
            let short = match name.rsplit_once(':') {
                Some((head, size)) if size.ends_with('k') && head.contains(':') => head,
                _ => name,
            };
            let plain = short.strip_suffix(":0").unwrap_or(short);
            let plain = plain.strip_suffix("-v1").unwrap_or(plain);
            let spellings = [short.to_owned(), format!("{plain}-v1:0"), format!("{plain}-v1"), plain.to_owned()];
            let listed = spellings.iter().find_map(|spelling| self.listed(spelling));
            listed.or_else(|| self.newest(plain, "-v1:0"))
        })
    }

    /// Google: a publisher before the name, `@date` or `-001` after it.
    fn of_google(&self, name: &str) -> Option<&'a Model> {
        if let Some((_, model)) = name.split_once('/') {
            return self.of_google(model).or_else(|| self.spelled(model));
        }
        if let Some((alias, "default" | "latest")) = name.split_once('@') {
            return self.spelled(alias);
        }
        if let Some((alias, date)) = name.rsplit_once('-').filter(|(_, date)| is_day(date)) {
            return self.listed(&format!("{alias}@{date}"));
        }
        // `gemini-2.0-flash-001`: a stable release of `gemini-2.0-flash`.
        let (alias, release) = name.rsplit_once('-')?;
        let numbered = release.len() == 3 && release.starts_with("00") && name.starts_with("gemini-");
        numbered.then(|| self.listed(alias)).flatten()
    }

    /// OpenAI's fine-tuned models, `ft:BASE:organisation:name:id`, cost what `ft:BASE` does.
    fn fine_tuned(&self, name: &str) -> Option<&'a Model> {
        let base = name.strip_prefix("ft:")?.split(':').next()?;
        self.spelled(&format!("ft:{base}"))
    }
}

/// A name that ends with a day, without it, and the day: `-2024-08-06`, `-20250929`, `@20250929`.
fn dated(name: &str) -> Option<(&str, u32)> {
    let (alias, day) = match name.rsplit_once(['-', '@']) {
        Some((alias, day)) if is_day(day) => (alias, day.to_owned()),
        _ => {
            let at = name.len().checked_sub("-2024-08-06".len())?;
            let (alias, end) = (name.get(..at)?, name.get(at..)?);
            let mut parts = end.strip_prefix('-')?.split('-');
            let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
            (alias, [year, month, day].concat())
        }
    };
    let date = is_day(&day).then(|| day.parse().ok()).flatten()?;
    (!alias.is_empty()).then_some((alias, date))
}

/// Whether eight digits are a day of this century: `20250929`.
fn is_day(text: &str) -> bool {
    let number = |range| text.get(range).and_then(|digits: &str| digits.parse::<u32>().ok());
    let day = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
    day && text.starts_with("20")
        && number(4..6).is_some_and(|month| (1..=12).contains(&month))
        && number(6..8).is_some_and(|day| (1..=31).contains(&day))
}
