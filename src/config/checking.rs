//! From what was written to what it means: defaults, the environment's word before the file's, and
//! every rule a configuration must keep.
//! It must not know how any setting is carried out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::traces;
use super::{
    Backend, Breaker, Config, ConfigError, Key, Limits, Log, LogFormat, OnDisconnect, OnFailure, PriceRow, Probe, Provider,
    Queue, RateLimit, Retry, Secret, Server, Timeouts, Unpriced, credentials, file, models,
};

pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

const MIB: usize = 1024 * 1024;

pub(super) fn check(file: file::File, environment: Environment<'_>) -> Result<Config, ConfigError> {
    let keys = keys(file.keys, environment)?;
    let server = server(&file.server, environment)?;
    let is_open = keys.is_empty() && !file.server.allow_anonymous.unwrap_or(false);
    if is_open && !server.listen.ip().is_loopback() {
        let listen = server.listen;
        return Err(ConfigError(format!(
            "listening on {listen} without API keys would let everyone in: add [[keys]] or CHOREOAI_API_KEYS, or set allow_anonymous = true under [server]"
        )));
    }
    let providers = providers(file.providers, environment)?;
    if let Some(looped) = providers.iter().find(|provider| is_own_address(&provider.base_url, server.listen)) {
        return Err(ConfigError(format!(
            "providers.{0}.base_url: {1} is this gateway's own address; calls would go round in circles (it may come from {2}, which OpenAI's clients read as well: do not set it for the gateway)",
            looped.name,
            looped.base_url,
            base_url_variable(&looped.name)
        )));
    }
    let models = models::all(file.models, &providers)?;
    Ok(Config {
        path: None,
        server,
        rate_limit: rate_limit(&file.rate_limit, environment)?,
        log: log(&file.log, environment)?,
        traces: traces::traces(environment)?,
        unpriced: word(
            "unpriced",
            file.unpriced.as_deref(),
            Unpriced::Warn,
            &[("allow", Unpriced::Allow), ("warn", Unpriced::Warn), ("reject", Unpriced::Reject)],
        )?,
        prices: prices(file.prices, &providers)?,
        providers,
        models,
        keys,
    })
}

pub(super) fn set(environment: Environment<'_>, name: &str) -> Option<String> {
    environment(name).filter(|value| !value.is_empty())
}

/// A setting and the name under which it was made: the environment's word, else the file's.
fn either<'n>(
    environment: Environment<'_>,
    variable: &'n str,
    key: &'n str,
    written: Option<&String>,
) -> (&'n str, Option<String>) {
    match set(environment, variable) {
        Some(value) => (variable, Some(value)),
        None => (key, written.cloned()),
    }
}

/// One word out of a fixed list.
pub(super) fn word<T: Copy>(key: &str, given: Option<&str>, default: T, words: &[(&str, T)]) -> Result<T, ConfigError> {
    let Some(given) = given else { return Ok(default) };
    words.iter().find(|(word, _)| *word == given).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        ConfigError(format!("{key}: \"{given}\" is not one of {}", known.join(", ")))
    })
}

pub(super) fn duration(key: &str, given: Option<&str>, default: Duration) -> Result<Duration, ConfigError> {
    let Some(given) = given else { return Ok(default) };
    humantime::parse_duration(given)
        .map_err(|_| ConfigError(format!("{key}: \"{given}\" is not a duration like \"250ms\", \"30s\" or \"10m\"")))
}

fn parsed<T: FromStr>(key: &str, given: &str, expected: &str) -> Result<T, ConfigError> {
    given.parse().map_err(|_| ConfigError(format!("{key}: \"{given}\" is not {expected}")))
}

fn server(file: &file::Server, environment: Environment<'_>) -> Result<Server, ConfigError> {
    let (listen_key, listen) = either(environment, "CHOREOAI_LISTEN", "server.listen", file.listen.as_ref());
    let listen = listen.unwrap_or_else(|| "127.0.0.1:8000".to_owned()).replace("localhost:", "127.0.0.1:");
    let listen: SocketAddr = parsed(listen_key, &listen, "an address like 127.0.0.1:8000")?;
    let proxies = file.trusted_proxies.iter().map(|proxy| parsed("server.trusted_proxies", proxy, "an IP address"));
    Ok(Server {
        listen,
        max_body_bytes: file.max_body_bytes.unwrap_or(32 * MIB),
        body_timeout: duration("server.body_timeout", file.body_timeout.as_deref(), Duration::from_secs(30))?,
        shutdown_grace: duration("server.shutdown_grace", file.shutdown_grace.as_deref(), Duration::from_secs(30))?,
        shutdown_delay: duration("server.shutdown_delay", file.shutdown_delay.as_deref(), Duration::ZERO)?,
        watch: duration("server.watch", file.watch.as_deref(), Duration::from_secs(5))?,
        trusted_proxies: proxies.collect::<Result<_, _>>()?,
    })
}

/// The limits of a table, which each have the same keys.
macro_rules! limits {
    ($table:expr) => {
        Limits {
            requests_per_minute: $table.requests_per_minute,
            tokens_per_minute: $table.tokens_per_minute,
            requests_per_second: $table.requests_per_second,
            tokens_per_second: $table.tokens_per_second,
            max_concurrent: $table.max_concurrent,
        }
    };
}
pub(super) use limits;

/// Leases are renewed once a second at most; shorter ones would end between.
fn lease(written: Option<&str>) -> Result<Duration, ConfigError> {
    let lease = duration("rate_limit.lease", written, Duration::from_secs(30))?;
    let long_enough = (Duration::from_secs(3)..=Duration::from_secs(3_600)).contains(&lease);
    if long_enough { Ok(lease) } else { Err(ConfigError("rate_limit.lease: from 3s to 1h".to_owned())) }
}

fn log(file: &file::Log, environment: Environment<'_>) -> Result<Log, ConfigError> {
    let (format_key, format) = either(environment, "CHOREOAI_LOG_FORMAT", "log.format", file.format.as_ref());
    let sample_success = file.sample_success.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&sample_success) {
        return Err(ConfigError(format!("log.sample_success: {sample_success} is not a share from 0 to 1")));
    }
    let words = [("json", Some(LogFormat::Json)), ("text", Some(LogFormat::Text))];
    Ok(Log { format: word(format_key, format.as_deref(), None, &words)?, source: file.source.unwrap_or(false), sample_success })
}

fn rate_limit(file: &file::RateLimit, environment: Environment<'_>) -> Result<RateLimit, ConfigError> {
    let (backend_key, backend) = either(environment, "CHOREOAI_RATE_LIMIT_BACKEND", "rate_limit.backend", file.backend.as_ref());
    let (url_key, url) = either(environment, "CHOREOAI_REDIS_URL", "rate_limit.redis_url", file.redis_url.as_ref());
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let is_redis = url.starts_with("redis://") || url.starts_with("rediss://");
    if !is_redis || url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::is_empty)) != Some(false) {
        // The address may hold a password and is not shown.
        return Err(ConfigError(format!("{url_key}: must be an address like redis://user:password@host:6379/0, or rediss://")));
    }
    let (on_failure_key, on_failure) =
        either(environment, "CHOREOAI_RATE_LIMIT_ON_FAILURE", "rate_limit.on_failure", file.on_failure.as_ref());
    Ok(RateLimit {
        backend: word(
            backend_key,
            backend.as_deref(),
            Backend::Memory,
            &[("memory", Backend::Memory), ("redis", Backend::Redis)],
        )?,
        redis_url: Secret::new(url),
        on_failure: word(
            on_failure_key,
            on_failure.as_deref(),
            OnFailure::Local,
            &[("local", OnFailure::Local), ("open", OnFailure::Open), ("closed", OnFailure::Closed)],
        )?,
        deadline: duration("rate_limit.deadline", file.deadline.as_deref(), Duration::from_millis(50))?,
        limits: limits!(file),
        per_ip_per_second: file.per_ip_per_second,
        lease: lease(file.lease.as_deref())?,
        report_remaining: file.report_remaining.unwrap_or(false),
    })
}

/// The file's providers, and those that a key in the environment turns on.
fn providers(file: BTreeMap<String, file::Provider>, environment: Environment<'_>) -> Result<Vec<Provider>, ConfigError> {
    let mut written = file;
    for kind in providers::all() {
        let name = kind.kind();
        let is_written = written.contains_key(name)
            || written.iter().any(|(name, provider)| provider.kind.as_deref().unwrap_or(name) == kind.kind());
        let has_key = credentials::are_set(kind, environment);
        // Credentials of a cloud lie about in many shells; without a region they are not meant for us.
        let account = account(name, &file::Provider::default(), environment)?;
        let moved = || set(environment, &base_url_variable(name));
        let has_address = || moved().or_else(|| usual_address(kind, &account, environment)).is_some();
        if !is_written && has_key && has_address() {
            written.insert(name.to_owned(), file::Provider::default());
        }
    }
    written.into_iter().map(|(name, written)| provider(name, written, environment)).collect()
}

fn account(name: &str, file: &file::Provider, environment: Environment<'_>) -> Result<providers::Account, ConfigError> {
    Ok(providers::Account {
        region: file.region.clone().or_else(|| set(environment, "AWS_REGION")).or_else(|| set(environment, "AWS_DEFAULT_REGION")),
        project: file.project.clone().or_else(|| set(environment, "GOOGLE_CLOUD_PROJECT")),
        api_version: file.api_version.clone(),
        unsupported: word(
            &format!("providers.{name}.unsupported"),
            file.unsupported.as_deref(),
            providers::Unsupported::Auto,
            &[("reject", providers::Unsupported::Reject), ("drop", providers::Unsupported::Drop)],
        )?,
    })
}

fn provider(name: String, file: file::Provider, environment: Environment<'_>) -> Result<Provider, ConfigError> {
    let at = |key: &str| format!("providers.{name}.{key}");
    let kind_name = file.kind.clone().unwrap_or_else(|| name.clone());
    let kind = providers::provider(&kind_name).ok_or_else(|| unknown_kind(&at("kind"), &kind_name))?;
    if name.is_empty() || name.contains('/') {
        return Err(ConfigError(format!("providers.\"{name}\": a provider's name must not be empty or contain `/`")));
    }
    let account = account(&name, &file, environment)?;
    let (variable, key) = (base_url_variable(&name), at("base_url"));
    let (url_key, base_url) = either(environment, &variable, &key, file.base_url.as_ref());
    let base_url = base_url.or_else(|| usual_address(kind, &account, environment));
    let base_url =
        base_url.ok_or_else(|| ConfigError(format!("{key}: missing; the kind \"{kind_name}\" has no address of its own")))?;
    check_url(url_key, &base_url)?;
    let credentials = credentials::find(&name, kind, (&file, account.region.as_deref()), environment)?;
    Ok(Provider {
        kind: kind_name,
        base_url: base_url.trim_end_matches('/').to_owned(),
        credentials,
        account,
        on_disconnect: word(
            &at("on_disconnect"),
            file.on_disconnect.as_deref(),
            OnDisconnect::Cancel,
            &[("cancel", OnDisconnect::Cancel), ("drain", OnDisconnect::Drain)],
        )?,
        drain_timeout: duration(&at("drain_timeout"), file.drain_timeout.as_deref(), Duration::from_secs(120))?,
        http2_prior_knowledge: file.http2_prior_knowledge.unwrap_or(false),
        limits: limits!(file),
        queue: Queue {
            size: file.queue.size.unwrap_or(1024),
            wait: duration(&at("queue.wait"), file.queue.wait.as_deref(), Duration::from_secs(10))?,
        },
        timeouts: timeouts(&name, &file.timeouts)?,
        key_cooldown: duration(&at("key_cooldown"), file.key_cooldown.as_deref(), Duration::from_secs(60))?,
        retry: retry(&name, &file.retry)?,
        breaker: breaker(&name, &file.breaker)?,
        probe: probe(&name, &file.probe)?,
        models: file.models,
        name,
    })
}

fn probe(name: &str, file: &file::Probe) -> Result<Option<Probe>, ConfigError> {
    let at = |key: &str| format!("providers.{name}.probe.{key}");
    let every = duration(&at("every"), file.every.as_deref(), Duration::ZERO)?;
    let timeout = duration(&at("timeout"), file.timeout.as_deref(), Duration::from_secs(5))?;
    Ok((!every.is_zero()).then_some(Probe { every, timeout }))
}

fn timeouts(name: &str, file: &file::Timeouts) -> Result<Timeouts, ConfigError> {
    let at = |key: &str| format!("providers.{name}.timeouts.{key}");
    Ok(Timeouts {
        connect: duration(&at("connect"), file.connect.as_deref(), Duration::from_secs(5))?,
        first_byte: optional(&at("first_byte"), file.first_byte.as_deref())?,
        idle: duration(&at("idle"), file.idle.as_deref(), Duration::from_secs(60))?,
        total: duration(&at("total"), file.total.as_deref(), Duration::from_secs(600))?,
    })
}

fn retry(name: &str, file: &file::Retry) -> Result<Retry, ConfigError> {
    let at = |key: &str| format!("providers.{name}.retry.{key}");
    Ok(Retry {
        attempts: file.attempts.unwrap_or(3).max(1),
        base: duration(&at("base"), file.base.as_deref(), Duration::from_millis(250))?,
        max: duration(&at("max"), file.max.as_deref(), Duration::from_secs(8))?,
        budget: within(&at("budget"), file.budget, 0.1, 0.0..=1.0)?,
        min_per_second: within(&at("min_per_second"), file.min_per_second, 1.0, 0.0..=1000.0)?,
    })
}

fn breaker(name: &str, file: &file::Breaker) -> Result<Breaker, ConfigError> {
    let at = |key: &str| format!("providers.{name}.breaker.{key}");
    Ok(Breaker {
        failures: file.failures.unwrap_or(5).max(1),
        window: duration(&at("window"), file.window.as_deref(), Duration::from_secs(30))?,
        open: duration(&at("open"), file.open.as_deref(), Duration::from_secs(15))?,
        slow_first_token: optional(&at("slow_first_token"), file.slow_first_token.as_deref())?,
    })
}

/// A duration that may be left out.
pub(super) fn optional(key: &str, given: Option<&str>) -> Result<Option<Duration>, ConfigError> {
    given.map(|given| duration(key, Some(given), Duration::ZERO)).transpose()
}

/// A number between two bounds.
pub(super) fn within(key: &str, given: Option<f64>, default: f64, bounds: RangeInclusive<f64>) -> Result<f64, ConfigError> {
    let number = given.unwrap_or(default);
    let (least, most) = (bounds.start(), bounds.end());
    if bounds.contains(&number) {
        Ok(number)
    } else {
        Err(ConfigError(format!("{key}: {number} is not within {least} and {most}")))
    }
}

/// Where a kind is spoken unless the configuration says otherwise. Azure's accounts have no address in
/// common; its own tools keep theirs in a variable.
fn usual_address(kind: &dyn providers::Provider, account: &providers::Account, environment: Environment<'_>) -> Option<String> {
    let of_tools = || set(environment, "AZURE_OPENAI_ENDPOINT").filter(|_| kind.kind() == "azure");
    kind.base_url(account).or_else(of_tools)
}

/// The variable that moves a provider.
fn base_url_variable(name: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    name.chars().map(letter).collect::<String>() + "_BASE_URL"
}

fn unknown_kind(key: &str, given: &str) -> ConfigError {
    let nearest = super::nearest(given, providers::all().map(providers::Provider::kind));
    let hint = nearest.map(|kind| format!("; did you mean \"{kind}\"?")).unwrap_or_default();
    ConfigError(format!(
        "{key}: there is no kind \"{given}\"{hint} (any service that speaks OpenAI's API: \"openai-compatible\")"
    ))
}

/// Whether a provider's address is the one that is listened on.
fn is_own_address(url: &str, listen: SocketAddr) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = match host.parse::<IpAddr>() {
        Ok(address) => {
            address == listen.ip() || address.is_loopback() && (listen.ip().is_unspecified() || listen.ip().is_loopback())
        }
        Err(_) => host == "localhost",
    };
    is_here && port == listen.port()
}

fn check_url(key: &str, url: &str) -> Result<(), ConfigError> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let is_sound = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['?', '#', ' ', '@']));
    let wrong = || ConfigError(format!("{key}: must begin with http:// or https:// and have no query, fragment or credentials"));
    if is_sound && url.parse::<http::Uri>().is_ok() { Ok(()) } else { Err(wrong()) }
}

/// The file's keys, and `CHOREOAI_API_KEYS` (`name=secret,…`), which goes before them.
fn keys(file: Vec<file::Key>, environment: Environment<'_>) -> Result<Vec<Key>, ConfigError> {
    let mut keys: Vec<Key> = file.into_iter().map(key).collect::<Result<_, _>>()?;
    for pair in set(environment, "CHOREOAI_API_KEYS").unwrap_or_default().split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, secret) =
            pair.trim().split_once('=').ok_or_else(|| ConfigError("CHOREOAI_API_KEYS: expected name=secret,…".to_owned()))?;
        if name.is_empty() || secret.is_empty() {
            return Err(ConfigError("CHOREOAI_API_KEYS: expected name=secret,…".to_owned()));
        }
        let sha256 = Sha256::digest(secret.as_bytes()).into();
        match keys.iter_mut().find(|key| key.name == name) {
            Some(known) => known.sha256 = sha256,
            None => keys.push(Key {
                name: name.to_owned(),
                sha256,
                models: Vec::new(),
                limits: Limits::default(),
                limits_per_model: Vec::new(),
            }),
        }
    }
    for (index, key) in keys.iter().enumerate() {
        let earlier = &keys[..index];
        if earlier.iter().any(|other| other.name == key.name) {
            return Err(ConfigError(format!("keys.{}: the name is used twice", key.name)));
        }
        if let Some(other) = earlier.iter().find(|other| other.sha256 == key.sha256) {
            return Err(ConfigError(format!("keys.{}: \"{}\" has the same key", key.name, other.name)));
        }
    }
    Ok(keys)
}

fn key(file: file::Key) -> Result<Key, ConfigError> {
    let name = file.name;
    if name.is_empty() {
        return Err(ConfigError("keys: every key needs a name".to_owned()));
    }
    let sha256 = match (file.key.as_deref(), file.key_sha256.as_deref()) {
        (Some(""), _) => return Err(ConfigError(format!("keys.{name}: the key is empty"))),
        (Some(key), None) => Sha256::digest(key.as_bytes()).into(),
        (None, Some(hex)) => {
            digest_from_hex(hex).ok_or_else(|| ConfigError(format!("keys.{name}.key_sha256: expected 64 hexadecimal digits")))?
        }
        _ => return Err(ConfigError(format!("keys.{name}: give either key or key_sha256"))),
    };
    let per_model = file.limits_per_model.into_iter().map(|(model, written)| (model, limits!(written)));
    Ok(Key { sha256, models: file.models, limits: limits!(file), limits_per_model: per_model.collect(), name })
}

fn digest_from_hex(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

fn prices(file: BTreeMap<String, file::Price>, providers: &[Provider]) -> Result<Vec<PriceRow>, ConfigError> {
    let text = |given: Option<file::Decimal>| given.map(|decimal| decimal.0);
    let rows = file.into_iter().map(|(target, written)| {
        let (provider, model) = models::split_target("prices", &target, providers)
            .map_err(|_| ConfigError(format!("prices.\"{target}\": expected \"provider/model\" with a configured provider")))?;
        Ok(PriceRow {
            provider,
            model,
            input: text(written.input),
            output: text(written.output),
            cache_read: text(written.cache_read),
            cache_write: text(written.cache_write),
            cache_write_1h: text(written.cache_write_1h),
            reasoning: text(written.reasoning),
            audio_input: text(written.audio_input),
            audio_output: text(written.audio_output),
        })
    });
    rows.collect()
}
