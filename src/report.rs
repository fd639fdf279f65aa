//! What the command line tells people: the welcome at the start, and the report of `choreoai check`.
//! It must not know how anything is carried out.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::config::{Backend, Config, ConfigError, Credentials, Entra, Limits as Figures, Model, Provider, Reason};
use crate::demo;
use crate::house::House;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::metrics::Metrics;
use crate::prices::Mode;

/// What is printed when the gateway listens: where, and a call that works.
#[must_use]
pub fn welcome(house: &House, address: SocketAddr, is_demo: bool) -> String {
    let model = if is_demo { format!("{}/{}", demo::NAME, demo::MODELS[0].name) } else { first_model(house) };
    let key = if house.auth.is_open() { "" } else { " \\\n    -H 'Authorization: Bearer YOUR_KEY'" };
    let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"Hello"}}]}}"#);
    let why = if is_demo {
        "No provider is configured, so the built-in demo provider answers. A key in the environment, e.g. OPENAI_API_KEY, turns a real one on.\n"
    } else {
        ""
    };
    let near = near(address);
    format!(
        "\nChoreoAI Gateway listens on http://{address}\n{why}Try it:\n\n  curl http://{near}/v1/chat/completions{key} \\\n    -H 'Content-Type: application/json' \\\n    -d '{body}'\n\n"
    )
}

/// A model for the curl line: a configured name, else one that a provider lists, else a priced chat model of its catalogue.
fn first_model(house: &House) -> String {
    let configured = house.config.models.first().map(|model| model.name.clone());
    let listed = || {
        let with_models = house.config.providers.iter().find(|provider| !provider.models.is_empty())?;
        Some(format!("{}/{}", with_models.name, with_models.models.first()?))
    };
    let catalogued = || {
        house.config.providers.iter().find_map(|provider| {
            let mut chat =
                house.prices.catalogue(&provider.kind).filter(|model| model.mode == Mode::Chat && model.price.is_some());
            Some(format!("{}/{}", provider.name, chat.next()?.name))
        })
    };
    let any = || house.config.providers.first().map(|provider| format!("{}/MODEL", provider.name));
    configured.or_else(listed).or_else(catalogued).or_else(any).unwrap_or_else(|| "PROVIDER/MODEL".to_owned())
}

/// The address under which this machine reaches what listens on `address`.
fn near(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    };
    SocketAddr::new(ip, address.port())
}

/// What `choreoai check` prints: routes, limits, and models without a price.
///
/// # Errors
/// A [`ConfigError`] for what only shows when the house is built.
pub fn of(config: &Config) -> Result<String, ConfigError> {
    let failed = |error: &dyn std::fmt::Display| ConfigError(error.to_string());
    let metrics = Arc::new(Metrics::new().map_err(|error| failed(&error))?);
    let house = House::build(config.clone(), Arc::clone(&metrics), Meter::new(metrics), Limits::memory())?;
    let mut lines = vec![match &config.path {
        Some(path) => format!("{} is sound", path.display()),
        None => "the configuration is sound (there is no file; only the environment was read)".to_owned(),
    }];
    let who = match config.keys.len() {
        0 => "no keys, everyone who reaches it may call".to_owned(),
        1 => "1 key".to_owned(),
        keys => format!("{keys} keys"),
    };
    let counted = match config.rate_limit.backend {
        Backend::Memory => "in memory",
        Backend::Redis => "in Redis",
    };
    lines.push(format!("\nlistens on {}; {who}; limits are counted {counted}", config.server.listen));
    lines.push("\nproviders".to_owned());
    lines.extend(config.providers.iter().map(provider));
    if config.providers.is_empty() {
        lines.push("  none; the demo provider will answer".to_owned());
    }
    lines.push("\nroutes".to_owned());
    lines.extend(routes(config));
    lines.push(match house.account_holder(None) {
        Some(holder) => format!("  calls that name no model (files, batches, …) go to {holder}"),
        None => "  calls that name no model (files, batches, …) must name a provider before /v1".to_owned(),
    });
    lines.push("\nlimits".to_owned());
    lines.extend(limits(config));
    lines.push("\nmodels without a price".to_owned());
    let unpriced = unpriced(&house);
    if unpriced.is_empty() {
        lines.push("  none".to_owned());
    }
    lines.extend(unpriced.iter().map(|name| format!("  {name}")));
    Ok(lines.join("\n") + "\n")
}

fn provider(provider: &Provider) -> String {
    let Provider { name, kind, base_url, limits, .. } = provider;
    let key = match &provider.credentials {
        Credentials::None => "without key".to_owned(),
        Credentials::Keys(keys) if keys.len() > 1 => format!("with {} keys", keys.len()),
        Credentials::Keys(_) => "with key".to_owned(),
        Credentials::Aws(_) => "with AWS credentials".to_owned(),
        Credentials::Google(_) => "with Google credentials".to_owned(),
        Credentials::Entra(entra) => match **entra {
            Entra::Application(_) => "with an Entra ID application".to_owned(),
            Entra::Managed(_) => "with a managed identity".to_owned(),
        },
    };
    format!("  {name} ({kind}, {key}) at {base_url}{}", figures(*limits))
}

fn routes(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for model in &config.models {
        lines.push(format!("  {}{}", model.name, figures(model.limits)));
        lines.extend(extras(model).map(|extra| format!("    {extra}")));
        let targets = model.targets.iter();
        lines.extend(targets.map(|to| format!("    tier {}, weight {}: {}/{}", to.tier, to.weight, to.provider, to.model)));
    }
    lines.push("  PROVIDER/MODEL goes to that provider; a bare well-known name to a provider whose kind has it".to_owned());
    lines
}

/// What a model says beside its targets and limits, where it is not what holds without a word.
fn extras(model: &Model) -> impl Iterator<Item = String> {
    let words = |reasons: &[Reason]| {
        let words = Reason::ALL.iter().filter(|(_, reason)| reasons.contains(reason)).map(|(word, _)| *word);
        words.collect::<Vec<_>>().join(", ")
    };
    let fallback = match &model.fallback_on[..] {
        reasons if reasons == Reason::USUAL => None,
        [] => Some("falls back on nothing".to_owned()),
        reasons => Some(format!("falls back on {}", words(reasons))),
    };
    let timeouts = model.timeouts;
    let times = [("first_byte", timeouts.first_byte), ("idle", timeouts.idle), ("total", timeouts.total)];
    let set = times.into_iter().filter_map(|(name, time)| Some(format!("{name} {}", humantime::format_duration(time?))));
    let set: Vec<String> = set.collect();
    let timeouts = (!set.is_empty()).then(|| format!("timeouts: {}", set.join(", ")));
    let hedge = model.hedge.map(|hedge| {
        let least = humantime::format_duration(hedge.at_least);
        format!("hedged after the {}th percentile, at least {least}: may cost twice", hedge.percentile)
    });
    [fallback, timeouts, hedge].into_iter().flatten()
}

fn limits(config: &Config) -> Vec<String> {
    let or_none = |limits: Figures| if limits == Figures::default() { ": none".to_owned() } else { figures(limits) };
    let mut lines = vec![format!("  whole gateway{}", or_none(config.rate_limit.limits))];
    for key in &config.keys {
        let models = if key.models.is_empty() { String::new() } else { format!(" (may call {})", key.models.join(", ")) };
        lines.push(format!("  key {}{models}{}", key.name, or_none(key.limits)));
        lines.extend(key.limits_per_model.iter().map(|(model, limits)| format!("    on {model}{}", or_none(*limits))));
    }
    lines
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
        ("requests/s", limits.requests_per_second),
        ("tokens/s", limits.tokens_per_second),
        ("at once", limits.max_concurrent),
    ];
    let said: Vec<String> = parts.iter().filter_map(|(unit, figure)| figure.map(|figure| format!("{figure} {unit}"))).collect();
    if said.is_empty() { String::new() } else { format!(": {}", said.join(", ")) }
}
