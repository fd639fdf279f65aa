//! The configuration file as it is written: every key that `choreoai.toml` may have, nothing decided yet.
//! It must not know the environment's meaning or what a value is used for.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct File {
    pub unpriced: Option<String>,
    pub server: Server,
    pub rate_limit: RateLimit,
    pub log: Log,
    pub providers: BTreeMap<String, Provider>,
    pub models: BTreeMap<String, Model>,
    pub keys: Vec<Key>,
    pub prices: BTreeMap<String, Price>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Server {
    pub listen: Option<String>,
    pub max_body_bytes: Option<usize>,
    pub body_timeout: Option<String>,
    pub shutdown_grace: Option<String>,
    pub shutdown_delay: Option<String>,
    pub watch: Option<String>,
    pub allow_anonymous: Option<bool>,
    pub trusted_proxies: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RateLimit {
    pub backend: Option<String>,
    pub redis_url: Option<String>,
    pub on_failure: Option<String>,
    pub deadline: Option<String>,
    pub requests_per_minute: Option<u64>,
    pub tokens_per_minute: Option<u64>,
    pub requests_per_second: Option<u64>,
    pub tokens_per_second: Option<u64>,
    pub max_concurrent: Option<u64>,
    pub per_ip_per_second: Option<u32>,
    pub lease: Option<String>,
    pub report_remaining: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Log {
    pub format: Option<String>,
    pub source: Option<bool>,
    pub sample_success: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Provider {
    pub kind: Option<String>,
    pub base_url: Option<String>,
    pub api_key: Option<String>,
    pub api_keys: Option<Vec<String>>,
    pub key_cooldown: Option<String>,
    pub credentials: Option<String>,
    pub region: Option<String>,
    pub project: Option<String>,
    pub api_version: Option<String>,
    pub models: Vec<String>,
    pub unsupported: Option<String>,
    pub on_disconnect: Option<String>,
    pub drain_timeout: Option<String>,
    pub http2_prior_knowledge: Option<bool>,
    pub requests_per_minute: Option<u64>,
    pub tokens_per_minute: Option<u64>,
    pub requests_per_second: Option<u64>,
    pub tokens_per_second: Option<u64>,
    pub max_concurrent: Option<u64>,
    pub queue: Queue,
    pub timeouts: Timeouts,
    pub retry: Retry,
    pub breaker: Breaker,
    pub probe: Probe,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Queue {
    pub size: Option<usize>,
    pub wait: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Timeouts {
    pub connect: Option<String>,
    pub first_byte: Option<String>,
    pub idle: Option<String>,
    pub total: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Retry {
    pub attempts: Option<u32>,
    pub base: Option<String>,
    pub max: Option<String>,
    pub budget: Option<f64>,
    pub min_per_second: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Breaker {
    pub failures: Option<u32>,
    pub window: Option<String>,
    pub open: Option<String>,
    pub slow_first_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Probe {
    pub every: Option<String>,
    pub timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Model {
    pub targets: Vec<Target>,
    pub balance: Option<String>,
    pub fallback_on: Option<Vec<String>>,
    pub timeouts: ModelTimeouts,
    pub hedge: Option<Hedge>,
    pub requests_per_minute: Option<u64>,
    pub tokens_per_minute: Option<u64>,
    pub requests_per_second: Option<u64>,
    pub tokens_per_second: Option<u64>,
    pub max_concurrent: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct ModelTimeouts {
    pub first_byte: Option<String>,
    pub idle: Option<String>,
    pub total: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Hedge {
    pub percentile: Option<f64>,
    pub at_least: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Target {
    pub target: String,
    pub weight: Option<u32>,
    pub tier: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Key {
    pub name: String,
    pub key: Option<String>,
    pub key_sha256: Option<String>,
    pub models: Vec<String>,
    pub requests_per_minute: Option<u64>,
    pub tokens_per_minute: Option<u64>,
    pub requests_per_second: Option<u64>,
    pub tokens_per_second: Option<u64>,
    pub max_concurrent: Option<u64>,
    pub limits_per_model: BTreeMap<String, Limits>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Limits {
    pub requests_per_minute: Option<u64>,
    pub tokens_per_minute: Option<u64>,
    pub requests_per_second: Option<u64>,
    pub tokens_per_second: Option<u64>,
    pub max_concurrent: Option<u64>,
}

/// Prices stay text: they are money and never pass through a float.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Price {
    pub input: Option<Decimal>,
    pub output: Option<Decimal>,
    pub cache_read: Option<Decimal>,
    pub cache_write: Option<Decimal>,
    pub cache_write_1h: Option<Decimal>,
    pub reasoning: Option<Decimal>,
    pub audio_input: Option<Decimal>,
    pub audio_output: Option<Decimal>,
}

/// A decimal number as text. TOML's float is written back in its shortest form, which is exact for
/// every decimal of up to 15 digits.
#[derive(Clone, Debug)]
pub(super) struct Decimal(pub String);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a price in USD per million tokens, like 2.50")]
        enum Written {
            Integer(u64),
            Float(f64),
            Text(String),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Integer(number) => number.to_string(),
            Written::Float(number) => number.to_string(),
            Written::Text(text) => text,
        }))
    }
}
