//! The model table: names of the operator's own, where their calls go, and what happens when a target fails.
//! It must not know how a target is chosen or called.

use std::collections::BTreeMap;
use std::time::Duration;

use super::checking::{duration, limits, optional, within, word};
use super::{Balance, ConfigError, Hedge, Limits, Model, ModelTimeouts, Provider, Reason, Target, file};

/// Checks the table.
pub(super) fn all(file: BTreeMap<String, file::Model>, providers: &[Provider]) -> Result<Vec<Model>, ConfigError> {
    file.into_iter().map(|(name, written)| model(name, written, providers)).collect()
}

fn model(name: String, file: file::Model, providers: &[Provider]) -> Result<Model, ConfigError> {
    let at = |key: &str| format!("models.\"{name}\".{key}");
    if file.targets.is_empty() {
        return Err(ConfigError(format!("{}: at least one target is needed", at("targets"))));
    }
    let targets = file.targets.iter().map(|written| {
        let (provider, model) = split_target(&name, &written.target, providers)?;
        Ok(Target { provider, model, weight: written.weight.unwrap_or(1), tier: written.tier.unwrap_or(1) })
    });
    Ok(Model {
        targets: targets.collect::<Result<_, ConfigError>>()?,
        balance: word(
            &at("balance"),
            file.balance.as_deref(),
            Balance::Weighted,
            &[
                ("weighted", Balance::Weighted),
                ("least_busy", Balance::LeastBusy),
                ("latency", Balance::Latency),
                ("cost", Balance::Cost),
            ],
        )?,
        fallback_on: reasons(&at("fallback_on"), file.fallback_on.as_deref())?,
        timeouts: ModelTimeouts {
            first_byte: optional(&at("timeouts.first_byte"), file.timeouts.first_byte.as_deref())?,
            idle: optional(&at("timeouts.idle"), file.timeouts.idle.as_deref())?,
            total: optional(&at("timeouts.total"), file.timeouts.total.as_deref())?,
        },
        hedge: file.hedge.map(|written| hedge(&at("hedge"), &written)).transpose()?,
        limits: limits!(file),
        name,
    })
}

fn reasons(key: &str, given: Option<&[String]>) -> Result<Vec<Reason>, ConfigError> {
    let Some(given) = given else { return Ok(Reason::USUAL.to_vec()) };
    // The default is never taken: each word is given.
    given.iter().map(|reason| word(key, Some(reason), Reason::ServerError, &Reason::ALL)).collect()
}

fn hedge(key: &str, file: &file::Hedge) -> Result<Hedge, ConfigError> {
    Ok(Hedge {
        percentile: within(&format!("{key}.percentile"), file.percentile, 95.0, 50.0..=99.9)?,
        at_least: duration(&format!("{key}.at_least"), file.at_least.as_deref(), Duration::from_millis(500))?,
    })
}

/// The two halves of `provider/model`.
pub(super) fn split_target(name: &str, target: &str, providers: &[Provider]) -> Result<(String, String), ConfigError> {
    let wrong = |why: &str| ConfigError(format!("models.\"{name}\".targets: \"{target}\" {why}"));
    let (provider, model) = target.split_once('/').ok_or_else(|| wrong("is not of the form provider/model"))?;
    if model.is_empty() {
        return Err(wrong("names no model"));
    }
    if providers.iter().any(|known| known.name == provider) {
        return Ok((provider.to_owned(), model.to_owned()));
    }
    let nearest = super::nearest(provider, providers.iter().map(|known| known.name.as_str()));
    let hint = nearest.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
    Err(wrong(&format!("names the provider \"{provider}\", which is not configured{hint}")))
}
