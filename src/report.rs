//! What the command line tells people: the welcome at the start, and the report of `choreoai check`.
//! It must not know how anything is carried out.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::{Config, ConfigError, Limits as Figures};
use crate::demo;
use crate::house::House;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::metrics::Metrics;

/// What is printed when the gateway listens: where, and a call that works.
#[must_use]
pub fn welcome(house: &House, address: SocketAddr, is_demo: bool) -> String {
    let demo = is_demo.then(|| format!("{}/{}", demo::NAME, demo::MODELS[0].name));
    let first = demo.or_else(|| house.config.models.first().map(|model| model.name.clone()));
    let model = first
        .or_else(|| house.listed_models().first().map(|(name, _)| name.clone()))
        .unwrap_or_else(|| "provider/model".to_owned());
    let key = if house.auth.is_open() { "" } else { " \\\n    -H 'Authorization: Bearer YOUR_KEY'" };
    let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"Hello"}}]}}"#);
    let mut text = format!("\nChoreoAI Gateway listens on http://{address}\n");
    if is_demo {
        text.push_str("No provider is configured, so the demo provider answers. Try it:\n");
    } else {
        text.push_str("Try it:\n");
    }
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\n  curl http://{address}/v1/chat/completions{key} \\\n    -H 'Content-Type: application/json' \\\n    -d '{body}'\n\n"
    );
    text
}

/// What `choreoai check` prints: routes, limits, and models without a price.
///
/// # Errors
/// A [`ConfigError`] for what only shows when the house is built.
pub fn of(config: &Config) -> Result<String, ConfigError> {
    let failed = |error: &dyn std::fmt::Display| ConfigError(error.to_string());
    let metrics = Arc::new(Metrics::new().map_err(|error| failed(&error))?);
    let house = House::build(config.clone(), Arc::clone(&metrics), Meter::new(metrics), Limits::memory())?;
    let mut text = String::from("the configuration is sound\n");
    let mut line = |indent: usize, words: &str| {
        let _ = writeln!(text, "{:indent$}{words}", "");
    };
    line(
        0,
        &format!(
            "\nlistens on {}; {} keys; limits counted in {:?}",
            config.server.listen,
            config.keys.len(),
            config.rate_limit.backend
        ),
    );
    line(0, "\nproviders");
    for provider in &config.providers {
        let key = if provider.api_key.is_some() { "with key" } else { "without key" };
        line(2, &format!("{} ({}, {key}) at {}{}", provider.name, provider.kind, provider.base_url, figures(provider.limits)));
    }
    if config.providers.is_empty() {
        line(2, "none: the demo provider will answer");
    }
    line(0, "\nroutes");
    for model in &config.models {
        line(2, &format!("{}{}", model.name, figures(model.limits)));
        for target in &model.targets {
            line(4, &format!("tier {}, weight {}: {}/{}", target.tier, target.weight, target.provider, target.model));
        }
    }
    line(2, "PROVIDER/MODEL to that provider; a bare well-known name to the provider that has it");
    line(0, "\nlimits");
    line(2, &format!("gateway{}", figures(config.rate_limit.limits)));
    for key in &config.keys {
        line(2, &format!("key {}{}", key.name, figures(key.limits)));
        for (model, limits) in &key.limits_per_model {
            line(4, &format!("on {model}{}", figures(*limits)));
        }
    }
    let unpriced = unpriced(&house);
    line(0, "\nmodels without a price");
    for name in &unpriced {
        line(2, name);
    }
    if unpriced.is_empty() {
        line(2, "none");
    }
    Ok(text)
}

fn unpriced(house: &House) -> Vec<String> {
    let configured = house.config.models.iter().map(|model| model.name.clone());
    let of_providers = house
        .config
        .providers
        .iter()
        .flat_map(|provider| provider.models.iter().map(move |model| format!("{}/{model}", provider.name)));
    configured.chain(of_providers).filter(|name| house.plan(name).is_some_and(|plan| !plan.is_priced())).collect()
}

fn figures(limits: Figures) -> String {
    let parts = [
        ("requests/min", limits.requests_per_minute),
        ("tokens/min", limits.tokens_per_minute),
        ("at once", limits.max_concurrent),
    ];
    let said: Vec<String> = parts.iter().filter_map(|(unit, figure)| figure.map(|figure| format!("{figure} {unit}"))).collect();
    if said.is_empty() { String::new() } else { format!(": {}", said.join(", ")) }
}
