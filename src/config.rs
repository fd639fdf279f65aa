//! What we were told: the file and the environment become one struct, read once and checked once.
//! The only place that reads the environment. It must not know how any setting is carried out.

mod checking;
mod credentials;
mod file;
mod models;
mod reading;
mod reload;
mod secret;
mod traces;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use credentials::{
    Application, Aws, AwsContainer, AwsKeys, AwsProfile, AwsWebIdentity, Credentials, Entra, Google, ManagedIdentity, Proof,
};
pub use secret::Secret;
pub use traces::{Protocol, Sampler, Traces};

/// A mistake in the configuration, worded for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// The whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it was read from, if from a file.
    pub path: Option<PathBuf>,
    /// The listener.
    pub server: Server,
    /// Limits and where they are counted.
    pub rate_limit: RateLimit,
    /// Log lines.
    pub log: Log,
    /// Traces, when they are turned on.
    pub traces: Option<Traces>,
    /// What happens to calls of models without a price.
    pub unpriced: Unpriced,
    /// The upstream accounts.
    pub providers: Vec<Provider>,
    /// The configured model names.
    pub models: Vec<Model>,
    /// The callers; empty means that everyone may call.
    pub keys: Vec<Key>,
    /// Prices that go before the built-in table.
    pub prices: Vec<PriceRow>,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Log {
    /// How lines are written; `None` is text at a terminal and JSON elsewhere.
    pub format: Option<LogFormat>,
    /// Whether each line says where in the code it comes from, and from which thread.
    pub source: bool,
    /// The share of the lines about calls that went well which is written, from 0 to 1.
    pub sample_success: f64,
}

/// `[server]`
#[derive(Clone, Debug)]
pub struct Server {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// How long a client may take to send its body.
    pub body_timeout: Duration,
    /// How long running calls may go on after a request to stop.
    pub shutdown_grace: Duration,
    /// How long new calls are still taken before that, while `/ready` already says no.
    pub shutdown_delay: Duration,
    /// How often it is looked whether the file changed; zero is never.
    pub watch: Duration,
    /// Addresses whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<IpAddr>,
}

/// `[rate_limit]`
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// Where limits are counted.
    pub backend: Backend,
    /// The Redis address; it may hold a password.
    pub redis_url: Secret,
    /// What happens when Redis does not answer.
    pub on_failure: OnFailure,
    /// How long one Redis command may take.
    pub deadline: Duration,
    /// Limits of the whole gateway.
    pub limits: Limits,
    /// Requests per second from one address; `None` is no flood guard.
    pub per_ip_per_second: Option<u32>,
    /// How long a place among concurrent calls outlives a gateway that crashed.
    pub lease: Duration,
    /// Whether metrics tell what is left of each caller's limits.
    pub report_remaining: bool,
}

/// The limits that every scope has; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests in any span of 60 seconds.
    pub requests_per_minute: Option<u64>,
    /// Tokens in any span of 60 seconds.
    pub tokens_per_minute: Option<u64>,
    /// Requests in any span of one second.
    pub requests_per_second: Option<u64>,
    /// Tokens in any span of one second.
    pub tokens_per_second: Option<u64>,
    /// Calls at once.
    pub max_concurrent: Option<u64>,
}

/// Where limits are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In this process.
    Memory,
    /// In Redis, shared by all replicas.
    Redis,
}

/// What the limiter does when Redis does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// This replica keeps its share of every limit.
    Local,
    /// Everything passes.
    Open,
    /// Nothing passes.
    Closed,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people at a terminal.
    Text,
}

/// What happens to calls of models without a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpriced {
    /// They pass.
    Allow,
    /// They pass and a warning is logged.
    Warn,
    /// They are refused.
    Reject,
}

/// `[providers.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    /// The configured name; a metric label.
    pub name: String,
    /// The wire it speaks.
    pub kind: String,
    /// Its address, without a trailing slash.
    pub base_url: String,
    /// What opens it.
    pub credentials: Credentials,
    /// How long one of several keys is left alone once the provider refused it.
    pub key_cooldown: Duration,
    /// Options for the wire.
    pub account: providers::Account,
    /// Models listed in `/v1/models` beside the catalogue's, and known as metric labels.
    pub models: Vec<String>,
    /// What happens to the upstream call when the client leaves.
    pub on_disconnect: OnDisconnect,
    /// How long a drained answer is read on.
    pub drain_timeout: Duration,
    /// Speak HTTP/2 without asking, as h2c servers need it.
    pub http2_prior_knowledge: bool,
    /// Limits of this provider.
    pub limits: Limits,
    /// The queue before `max_concurrent`.
    pub queue: Queue,
    /// How long each stage may take.
    pub timeouts: Timeouts,
    /// Trying again.
    pub retry: Retry,
    /// When to stop calling for a while.
    pub breaker: Breaker,
    /// Asking it from time to time whether it is there; `None` is never.
    pub probe: Option<Probe>,
}

/// What happens to the upstream call when the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisconnect {
    /// It is stopped, and settled on what was seen.
    Cancel,
    /// It is read to its end, and settled on the real usage.
    Drain,
}

/// A provider's waiting line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Calls that may wait.
    pub size: usize,
    /// How long one may wait.
    pub wait: Duration,
}

/// How long each stage of an attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// From sending the request to the first byte of the answer; `None`: as [`first_byte_of`](Self::first_byte_of) says.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the answer.
    pub idle: Duration,
    /// The whole attempt.
    pub total: Duration,
}

impl Timeouts {
    /// How long the first byte of an answer may take. Unless it is set, that of a stream has a minute, and that of
    /// a whole answer the whole attempt: it comes when the model is through, and cutting a model that is still at
    /// work only buys the same work again.
    #[must_use]
    pub fn first_byte_of(self, is_streamed: bool) -> Duration {
        self.first_byte.unwrap_or(if is_streamed { Duration::from_secs(60) } else { self.total })
    }
}

/// Trying again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Attempts in all on this provider.
    pub attempts: u32,
    /// The first wait; it doubles.
    pub base: Duration,
    /// The longest wait.
    pub max: Duration,
    /// Attempts beyond the first that a call may make on targets that fail, as a share of first attempts.
    pub budget: f64,
    /// So many of them a second are allowed in any case.
    pub min_per_second: f64,
}

/// When to stop calling a target for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Failures in a row, within `window`, that open it.
    pub failures: u32,
    /// The time in which failures are counted.
    pub window: Duration,
    /// How long it stays open before one call may try.
    pub open: Duration,
    /// A stream that takes longer to its first token counts as a failure; `None`: none does.
    pub slow_first_token: Option<Duration>,
}

/// Asking a provider from time to time whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How often.
    pub every: Duration,
    /// How long it may take to answer.
    pub timeout: Duration,
}

/// `[models.NAME]`
#[derive(Clone, Debug)]
pub struct Model {
    /// What clients call it.
    pub name: String,
    /// Where its calls go.
    pub targets: Vec<Target>,
    /// How one of a tier is chosen.
    pub balance: Balance,
    /// The failures after which the next target is tried.
    pub fallback_on: Vec<Reason>,
    /// How long each stage may take, where this model differs from its providers.
    pub timeouts: ModelTimeouts,
    /// When a second attempt runs beside a slow first one; `None`: never.
    pub hedge: Option<Hedge>,
    /// Limits of this model.
    pub limits: Limits,
}

/// Why an attempt failed, as far as it decides whether another target is tried. What is not among
/// them is the caller's own mistake, which every target would find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The provider failed, broke the connection, or answered nonsense.
    ServerError,
    /// It took too long.
    Timeout,
    /// Too fast for it, or for the limits that the gateway keeps for it; or no quota left.
    RateLimit,
    /// It has no capacity, or cannot be reached.
    Overloaded,
    /// The prompt is too long for the model.
    ContextOverflow,
    /// It does not accept the gateway's credentials, or there are none.
    Auth,
    /// Its content policy refused.
    ContentFilter,
    /// It does not know the model.
    NotFound,
}

impl Reason {
    /// Every reason, with its word in the file.
    pub const ALL: [(&str, Self); 8] = [
        ("server_error", Self::ServerError),
        ("timeout", Self::Timeout),
        ("rate_limit", Self::RateLimit),
        ("overloaded", Self::Overloaded),
        ("context_overflow", Self::ContextOverflow),
        ("auth", Self::Auth),
        ("content_filter", Self::ContentFilter),
        ("not_found", Self::NotFound),
    ];

    /// What another target is tried after unless the model says otherwise: what is not about the request itself,
    /// and a prompt that a larger model may take.
    pub const USUAL: [Self; 6] =
        [Self::ServerError, Self::Timeout, Self::RateLimit, Self::Overloaded, Self::ContextOverflow, Self::Auth];
}

/// How long each stage of an attempt may take for one model; `None`: as its provider says.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelTimeouts {
    /// From sending the request to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the answer.
    pub idle: Option<Duration>,
    /// The whole attempt.
    pub total: Option<Duration>,
}

impl ModelTimeouts {
    /// These before those of a provider.
    #[must_use]
    pub fn or(self, provider: Timeouts) -> Timeouts {
        Timeouts {
            connect: provider.connect,
            first_byte: self.first_byte.or(provider.first_byte),
            idle: self.idle.unwrap_or(provider.idle),
            total: self.total.unwrap_or(provider.total),
        }
    }
}

/// When a second attempt runs beside a slow first one.
#[derive(Clone, Copy, Debug)]
pub struct Hedge {
    /// After the time in which this many of a hundred recent answers of the target had come.
    pub percentile: f64,
    /// But not before.
    pub at_least: Duration,
}

/// One target of a model.
#[derive(Clone, Debug)]
pub struct Target {
    /// The configured provider.
    pub provider: String,
    /// The model's name there.
    pub model: String,
    /// Its share within the tier.
    pub weight: u32,
    /// Lower tiers are tried first.
    pub tier: u32,
}

/// How one target of a tier is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// By weight.
    Weighted,
    /// The one with the fewest calls running.
    LeastBusy,
    /// The quickest lately.
    Latency,
    /// The cheapest.
    Cost,
}

/// `[[keys]]`
#[derive(Clone, Debug)]
pub struct Key {
    /// The caller's name; a metric label.
    pub name: String,
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// Models it may call (`provider/*` allowed); empty is all.
    pub models: Vec<String>,
    /// Its limits.
    pub limits: Limits,
    /// Its limits per model.
    pub limits_per_model: Vec<(String, Limits)>,
}

/// One row of `[prices]`: USD per million tokens as decimal text.
#[derive(Clone, Debug, Default)]
pub struct PriceRow {
    /// The configured provider.
    pub provider: String,
    /// The model's name there.
    pub model: String,
    /// Tokens in.
    pub input: Option<String>,
    /// Tokens out.
    pub output: Option<String>,
    /// Read from the prompt cache.
    pub cache_read: Option<String>,
    /// Written to the prompt cache for 5 minutes.
    pub cache_write: Option<String>,
    /// Written to the prompt cache for an hour.
    pub cache_write_1h: Option<String>,
    /// Reasoning.
    pub reasoning: Option<String>,
    /// Audio in.
    pub audio_input: Option<String>,
    /// Audio out.
    pub audio_output: Option<String>,
}

impl Config {
    /// Reads the file at `path` (or at `CHOREOAI_CONFIG`, or none) and the environment.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the first mistake.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let path =
            path.map(Path::to_owned).or_else(|| variable("CHOREOAI_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
        let mut config = Self::read(path.as_deref(), |_, config| Ok(config))?;
        config.path = path;
        Ok(config)
    }

    /// Reads the file and the environment; `accept` has the last word, and its refusal is told with its line.
    fn read(path: Option<&Path>, accept: impl FnOnce(&str, Self) -> Result<Self, ConfigError>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return accept("", Self::from_text("", &variable)?) };
        let at = |error: &dyn fmt::Display| ConfigError(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| at(&error))?;
        Self::from_text(&text, &variable).and_then(|config| accept(&text, config)).map_err(|error| at(&error))
    }

    /// The configuration that `text` and `environment` say.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the first mistake.
    pub fn from_text(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let checked = reading::read(text, environment).and_then(|file| checking::check(file, environment));
        checked.map_err(|error| reading::with_line(text, error))
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The one of `known` that was probably meant by `given`, unless none is like it.
fn nearest<'k>(given: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let distances = known.map(|known| (strsim::damerau_levenshtein(given, known), known));
    let (distance, nearest) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance * 2 <= given.chars().count().max(3)).then_some(nearest)
}

/// The filter for log lines: `RUST_LOG`, else `info`.
#[must_use]
pub fn log_filter() -> String {
    std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty()).unwrap_or_else(|| "info".to_owned())
}
