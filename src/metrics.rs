//! Every metric of the gateway, once: a documented field each, the document being its help text.
//! The only file that names prometheus. It must not know calls, providers or configuration; whoever
//! counts hands in label values that come from configuration or the catalogue.

mod exemplars;
mod memo;
mod money;
mod text;

use std::time::SystemTime;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use exemplars::Exemplars;
use text::{Format, Writer};

pub use memo::Memo;
pub use money::{MoneyCounter, MoneyCounterVec};
pub use prometheus::{Histogram, IntCounter as Counter, IntGauge as CountGauge};

/// Latency buckets in seconds, up to the longest answers; every threshold of the alert rules is an edge.
const LATENCY: [f64; 18] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Buckets for the gateway's own time, in seconds.
const OVERHEAD: [f64; 12] = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0];
/// Buckets for the first token, in seconds; 2.5 is the objective.
const FIRST_TOKEN: [f64; 16] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0];
/// Buckets for the time between tokens, in seconds.
const TOKEN_GAP: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5];
/// Buckets for one command of the limiter's script, in seconds.
const SCRIPT: [f64; 10] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1];

/// A metric that can be made from its name, help text, label names and buckets.
trait Metric: Sized + Clone + Collector + 'static {
    fn make(opts: Opts, labels: &[&str], buckets: &[f64]) -> prometheus::Result<Self>;
}

macro_rules! metric_types {
    ($($type:ty: |$opts:ident, $labels:ident, $buckets:ident| $make:expr;)*) => {$(
        impl Metric for $type {
            fn make($opts: Opts, $labels: &[&str], $buckets: &[f64]) -> prometheus::Result<Self> {
                $make
            }
        }
    )*};
}

metric_types! {
    IntCounter: |opts, _labels, _buckets| Self::with_opts(opts);
    IntCounterVec: |opts, labels, _buckets| Self::new(opts, labels);
    IntGauge: |opts, _labels, _buckets| Self::with_opts(opts);
    IntGaugeVec: |opts, labels, _buckets| Self::new(opts, labels);
    Gauge: |opts, _labels, _buckets| Self::with_opts(opts);
    GaugeVec: |opts, labels, _buckets| Self::new(opts, labels);
    Histogram: |opts, _labels, buckets| Self::with_opts(HistogramOpts::from(opts).buckets(buckets.to_vec()));
    HistogramVec: |opts, labels, buckets| Self::new(HistogramOpts::from(opts).buckets(buckets.to_vec()), labels);
    MoneyCounterVec: |opts, labels, _buckets| Self::new(opts, labels);
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $type:ty = $name:literal [$($label:literal),*] $(in $buckets:ident)?;)*) => {
        /// Every metric, registered.
        #[derive(Debug)]
        pub struct Metrics {
            all: Collectors,
            exemplars: Exemplars,
            $($(#[doc = $help])+ pub $field: $type,)*
        }

        impl Metrics {
            /// Makes and registers every metric.
            ///
            /// # Errors
            /// Only when two metrics have one name.
            pub fn new() -> prometheus::Result<Self> {
                let mut all: Vec<Box<dyn Collector>> = vec![Box::new(ProcessCollector::for_self())];
                $(
                    let help = concat!($($help),+).trim();
                    let buckets: &[f64] = None$(.or(Some(&$buckets[..])))?.unwrap_or_default();
                    let $field = <$type as Metric>::make(Opts::new($name, help), &[$($label),*], buckets)?;
                    all.push(Box::new($field.clone()));
                )*
                Ok(Self { all: Collectors::new(all)?, exemplars: Exemplars::default(), $($field,)* })
            }

            /// Name, labels and help text of every metric, for the reference in `docs/metrics.md`.
            pub const LIST: &[(&str, &[&str], &str)] = &[$(($name, &[$($label),*], concat!($($help),+)),)*];
        }
    };
}

metrics! {
    /// Calls answered, once each, whatever the answer.
    requests: IntCounterVec = "choreoai_requests_total" ["provider", "model", "endpoint", "status", "method"];
    /// Time from a call's first byte to the last byte of its answer, in seconds.
    request_duration: HistogramVec = "choreoai_request_duration_seconds" ["provider", "endpoint", "method"] in LATENCY;
    /// Calls answered with a stream.
    streaming_requests: IntCounterVec = "choreoai_streaming_requests_total" ["provider", "model"];
    /// Tokens by direction: type is input (cached ones included) or output (reasoning included).
    tokens: IntCounterVec = "choreoai_tokens_total" ["provider", "model", "type"];
    /// Calls that failed as the client saw it, once each.
    errors: IntCounterVec = "choreoai_errors_total" ["provider", "error_type", "endpoint"];
    /// Client connections that are open.
    active_connections: IntGauge = "choreoai_active_connections" [];
    /// Parts of the tokens: type is cache_read, cache_write, reasoning or audio. Never added to the tokens.
    token_details: IntCounterVec = "choreoai_token_details_total" ["provider", "model", "type"];
    /// Tools called in answers.
    tool_calls: IntCounterVec = "choreoai_tool_calls_total" ["provider", "model"];
    /// Cost in USD.
    cost: MoneyCounterVec = "choreoai_cost_total" ["provider", "model"];
    /// Tokens of models that have no price; they are missing from the cost.
    unpriced_tokens: IntCounterVec = "choreoai_unpriced_tokens_total" ["provider", "model"];
    /// Attempts settled, once each, by how they ended and where their usage came from.
    settlements: IntCounterVec = "choreoai_settlements_total" ["provider", "model", "outcome", "usage_source"];
    /// Attempts whose answer held no usage, so that it was estimated.
    usage_missing: IntCounterVec = "choreoai_usage_missing_total" ["provider", "model"];
    /// Calls by caller.
    key_requests: IntCounterVec = "choreoai_key_requests_total" ["key"];
    /// Tokens by caller: type is input or output.
    key_tokens: IntCounterVec = "choreoai_key_tokens_total" ["key", "type"];
    /// Cost in USD by caller.
    key_cost: MoneyCounterVec = "choreoai_key_cost_total" ["key"];
    /// Time a call spent in the gateway that was not the provider's, in seconds, until its answer began.
    overhead: HistogramVec = "choreoai_overhead_seconds" ["endpoint"] in OVERHEAD;
    /// Time from sending an attempt to its first generated token, in seconds; streams only.
    time_to_first_token: HistogramVec = "choreoai_time_to_first_token_seconds" ["provider", "model"] in FIRST_TOKEN;
    /// Mean time per output token after the first, in seconds; streams only.
    time_per_output_token: HistogramVec = "choreoai_time_per_output_token_seconds" ["provider", "model"] in TOKEN_GAP;
    /// Calls refused by a limit: scope is global, key, key_model, model or provider, limit is rpm, tpm, rps, tps or concurrency; or address and rps.
    rate_limit_hits: IntCounterVec = "choreoai_rate_limit_hits_total" ["scope", "limit"];
    /// Whether the limiter's backend answers: 0 it does, 1 it does not and the failure policy rules.
    rate_limit_backend_state: IntGaugeVec = "choreoai_rate_limit_backend_state" ["backend"];
    /// Decisions taken by the failure policy while the limiter's backend did not answer.
    rate_limit_degraded: IntCounter = "choreoai_rate_limit_degraded_total" [];
    /// What is left of a caller's own limits per minute, from 1 (all) to 0, as this gateway knows it: limit is rpm or tpm. Only with rate_limit.report_remaining.
    rate_limit_remaining: GaugeVec = "choreoai_rate_limit_remaining_ratio" ["key", "limit"];
    /// Time of one limiter script in the shared backend, in seconds.
    rate_limit_script: Histogram = "choreoai_rate_limit_script_seconds" [] in SCRIPT;
    /// Calls that are being answered.
    requests_in_flight: IntGaugeVec = "choreoai_requests_in_flight" ["endpoint"];
    /// Attempts that are running.
    attempts_in_flight: IntGaugeVec = "choreoai_attempts_in_flight" ["provider"];
    /// Attempts sent to providers, by outcome.
    upstream_requests: IntCounterVec = "choreoai_upstream_requests_total" ["provider", "outcome"];
    /// Time of one attempt, from sending it to its end, in seconds.
    upstream_request_duration: HistogramVec = "choreoai_upstream_request_duration_seconds" ["provider", "model"] in LATENCY;
    /// Attempts made again on the same provider, by reason.
    upstream_retries: IntCounterVec = "choreoai_upstream_retries_total" ["provider", "reason"];
    /// Further attempts that were not made because the provider fails and its retry budget is used up.
    retry_budget_exhausted: IntCounterVec = "choreoai_retry_budget_exhausted_total" ["provider"];
    /// Attempts made beside a slow one, by the provider that got them.
    hedges: IntCounterVec = "choreoai_hedges_total" ["provider"];
    /// Times a provider refused a key: reason is auth, quota or rate_limited.
    upstream_key_refusals: IntCounterVec = "choreoai_upstream_key_refusals_total" ["provider", "reason"];
    /// Keys of a provider that are left alone for a while because it refused them.
    upstream_keys_resting: IntGaugeVec = "choreoai_upstream_keys_resting" ["provider"];
    /// Calls that went on to another target, by reason.
    fallbacks: IntCounterVec = "choreoai_fallbacks_total" ["from_provider", "to_provider", "reason"];
    /// Circuit breaker of a provider's targets, the worst of them: 0 closed, 1 half-open, 2 open.
    circuit_breaker_state: IntGaugeVec = "choreoai_circuit_breaker_state" ["provider"];
    /// Times a circuit breaker opened.
    circuit_breaker_trips: IntCounterVec = "choreoai_circuit_breaker_trips_total" ["provider"];
    /// Whether calls for a model can be routed to this target: 1 yes, 0 no.
    model_available: IntGaugeVec = "choreoai_model_available" ["provider", "model"];
    /// Times a provider was asked whether it is there, beside all calls: result is ok or failed.
    probes: IntCounterVec = "choreoai_probes_total" ["provider", "result"];
    /// Calls waiting for one of a provider's concurrent places.
    queue_size: IntGaugeVec = "choreoai_queue_size" ["provider"];
    /// Time calls waited for a provider's concurrent place, in seconds.
    queue_wait: HistogramVec = "choreoai_queue_wait_seconds" ["provider"] in LATENCY;
    /// Streams that ended before their answer was complete: side is client or upstream.
    stream_aborts: IntCounterVec = "choreoai_stream_aborts_total" ["side"];
    /// Events of providers that could not be read and were skipped.
    malformed_events: IntCounterVec = "choreoai_malformed_events_total" ["provider"];
    /// Connections opened to providers.
    upstream_connections_created: IntCounterVec = "choreoai_upstream_connections_created_total" ["provider"];
    /// Attempts that went over a connection that was already open.
    upstream_connections_reused: IntCounterVec = "choreoai_upstream_connections_reused_total" ["provider"];
    /// What a provider says is left of its own limits: kind is requests or tokens.
    upstream_ratelimit_remaining: IntGaugeVec = "choreoai_upstream_ratelimit_remaining" ["provider", "kind"];
    /// Telemetry that was dropped rather than slow a call down, by signal.
    telemetry_dropped: IntCounterVec = "choreoai_telemetry_dropped_total" ["signal"];
    /// Whether the last attempt to read the configuration succeeded: 1 yes, 0 no.
    config_last_reload_successful: IntGauge = "choreoai_config_last_reload_successful" [];
    /// When the configuration that is in use was read, in seconds since 1970.
    config_last_reload_success_timestamp: Gauge = "choreoai_config_last_reload_success_timestamp_seconds" [];
    /// Times the configuration was read again while the gateway ran: result is success or failure.
    config_reloads: IntCounterVec = "choreoai_config_reloads_total" ["result"];
    /// Configurations in memory: one, and each earlier one under which a call still looks for its answer.
    configs_in_use: IntGauge = "choreoai_configs_in_use" [];
    /// Time from the start of the process until it listened, in seconds.
    startup_duration: Gauge = "choreoai_startup_duration_seconds" [];
    /// The running version; always 1.
    build_info: IntGaugeVec = "choreoai_build_info" ["version", "commit"];
}

impl Metrics {
    /// Notes that a configuration was taken in.
    pub fn config_was_read(&self) {
        self.config_last_reload_successful.set(1);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.config_last_reload_success_timestamp.set(now.as_secs_f64());
    }

    /// Log lines that were dropped, and with them the usage records they hold.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.telemetry_dropped.with_label_values(&["logs"]).get()
    }

    /// Every series as OpenMetrics text (version 1.0.0).
    #[must_use]
    pub fn openmetrics(&self) -> String {
        self.all.write(Format::OpenMetrics, &self.exemplars)
    }

    /// Every series as Prometheus text (format 0.0.4).
    #[must_use]
    pub fn text(&self) -> String {
        self.all.write(Format::Prometheus, &self.exemplars)
    }

    /// Notes the exported trace behind something that was timed, as an exemplar of its bucket.
    pub fn exemplar(&self, of: &Timed<'_>, seconds: f64, trace_id: &str) {
        match *of {
            Timed::Call { provider, endpoint, method } => {
                let labels = [("endpoint", endpoint), ("method", method), ("provider", provider)];
                self.exemplars.keep("choreoai_request_duration_seconds", &LATENCY, &labels, (seconds, trace_id));
            }
            Timed::Attempt { provider, model } => {
                let labels = [("model", model), ("provider", provider)];
                self.exemplars.keep("choreoai_upstream_request_duration_seconds", &LATENCY, &labels, (seconds, trace_id));
            }
            Timed::FirstToken { provider, model } => {
                let labels = [("model", model), ("provider", provider)];
                self.exemplars.keep("choreoai_time_to_first_token_seconds", &FIRST_TOKEN, &labels, (seconds, trace_id));
            }
        }
    }
}

/// Something that was timed in a call whose trace is exported, with the labels of its histogram.
#[derive(Clone, Copy, Debug)]
pub enum Timed<'a> {
    /// The whole call.
    Call {
        /// The label of that name.
        provider: &'a str,
        /// The label of that name.
        endpoint: &'a str,
        /// The label of that name.
        method: &'a str,
    },
    /// One attempt.
    Attempt {
        /// The label of that name.
        provider: &'a str,
        /// The label of that name.
        model: &'a str,
    },
    /// The first token of a stream.
    FirstToken {
        /// The label of that name.
        provider: &'a str,
        /// The label of that name.
        model: &'a str,
    },
}

/// All families, in the order of their names.
struct Collectors(Vec<Box<dyn Collector>>);

impl Collectors {
    fn new(mut all: Vec<Box<dyn Collector>>) -> prometheus::Result<Self> {
        let name = |one: &dyn Collector| one.desc().first().map(|desc| desc.fq_name.clone()).unwrap_or_default();
        all.sort_by_cached_key(|one| name(one.as_ref()));
        let has_twice = all.windows(2).any(|pair| name(pair[0].as_ref()) == name(pair[1].as_ref()));
        if has_twice { Err(prometheus::Error::AlreadyReg) } else { Ok(Self(all)) }
    }

    fn write(&self, format: Format, exemplars: &Exemplars) -> String {
        let mut writer = Writer::new(format, exemplars);
        self.0.iter().for_each(|one| writer.collected(one.as_ref()));
        writer.finish()
    }
}

impl std::fmt::Debug for Collectors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} families", self.0.len())
    }
}

/// What every call counts under its route.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    /// `choreoai_requests_in_flight`
    pub in_flight: IntGauge,
    /// `choreoai_overhead_seconds`
    pub overhead: Histogram,
}

impl RouteMetrics {
    /// Those of this route.
    #[must_use]
    pub fn new(metrics: &Metrics, endpoint: &str) -> Self {
        Self {
            in_flight: metrics.requests_in_flight.with_label_values(&[endpoint]),
            overhead: metrics.overhead.with_label_values(&[endpoint]),
        }
    }
}

/// What every call counts when it is over.
#[derive(Clone, Debug)]
pub struct AnswerMetrics {
    /// `choreoai_requests_total`
    pub requests: IntCounter,
    /// `choreoai_request_duration_seconds`
    pub duration: Histogram,
}

impl AnswerMetrics {
    /// Those of an answer with this status on this route, by this target.
    #[must_use]
    pub fn new(metrics: &Metrics, (provider, model): (&str, &str), (endpoint, method): (&str, &str), status: u16) -> Self {
        let status = status.to_string();
        Self {
            requests: metrics.requests.with_label_values(&[provider, model, endpoint, &status, method]),
            duration: metrics.request_duration.with_label_values(&[provider, endpoint, method]),
        }
    }
}

/// The counters of one target, looked up once so that counting an attempt needs no look-up by name.
#[derive(Clone, Debug)]
pub struct TargetMetrics {
    /// `choreoai_tokens_total{type="input"}`
    pub input: IntCounter,
    /// `choreoai_tokens_total{type="output"}`
    pub output: IntCounter,
    /// `choreoai_token_details_total{type="cache_read"}`
    pub cache_read: IntCounter,
    /// `choreoai_token_details_total{type="cache_write"}`
    pub cache_write: IntCounter,
    /// `choreoai_token_details_total{type="reasoning"}`
    pub reasoning: IntCounter,
    /// `choreoai_token_details_total{type="audio"}`
    pub audio: IntCounter,
    /// `choreoai_tool_calls_total`
    pub tool_calls: IntCounter,
    /// `choreoai_cost_total`
    pub cost: MoneyCounter,
    /// `choreoai_unpriced_tokens_total`
    pub unpriced: IntCounter,
    /// `choreoai_usage_missing_total`
    pub usage_missing: IntCounter,
    /// `choreoai_settlements_total{outcome="completed",usage_source="provider"}`, the usual end.
    pub completed: IntCounter,
    /// `choreoai_upstream_requests_total{outcome="completed"}`
    pub upstream_completed: IntCounter,
    /// `choreoai_streaming_requests_total`
    pub streaming: IntCounter,
    /// `choreoai_time_to_first_token_seconds`
    pub first_token: Histogram,
    /// `choreoai_time_per_output_token_seconds`
    pub token_gap: Histogram,
    /// `choreoai_upstream_request_duration_seconds`
    pub upstream_duration: Histogram,
    /// `choreoai_attempts_in_flight`
    pub in_flight: IntGauge,
    /// `choreoai_malformed_events_total`
    pub malformed: IntCounter,
}

impl TargetMetrics {
    /// The counters of this target, all present at 0.
    #[must_use]
    pub fn new(metrics: &Metrics, provider: &str, model: &str) -> Self {
        let target = [provider, model];
        let tokens = |kind| metrics.tokens.with_label_values(&[provider, model, kind]);
        let detail = |kind| metrics.token_details.with_label_values(&[provider, model, kind]);
        Self {
            input: tokens("input"),
            output: tokens("output"),
            cache_read: detail("cache_read"),
            cache_write: detail("cache_write"),
            reasoning: detail("reasoning"),
            audio: detail("audio"),
            tool_calls: metrics.tool_calls.with_label_values(&target),
            cost: metrics.cost.with_label_values(&target),
            unpriced: metrics.unpriced_tokens.with_label_values(&target),
            usage_missing: metrics.usage_missing.with_label_values(&target),
            completed: metrics.settlements.with_label_values(&[provider, model, "completed", "provider"]),
            upstream_completed: metrics.upstream_requests.with_label_values(&[provider, "completed"]),
            streaming: metrics.streaming_requests.with_label_values(&target),
            first_token: metrics.time_to_first_token.with_label_values(&target),
            token_gap: metrics.time_per_output_token.with_label_values(&target),
            upstream_duration: metrics.upstream_request_duration.with_label_values(&target),
            in_flight: metrics.attempts_in_flight.with_label_values(&[provider]),
            malformed: metrics.malformed_events.with_label_values(&[provider]),
        }
    }
}

/// The counters of one caller, looked up once.
#[derive(Clone, Debug)]
pub struct KeyMetrics {
    /// The caller's configured name.
    pub name: String,
    /// `choreoai_key_requests_total`
    pub requests: IntCounter,
    /// `choreoai_key_tokens_total{type="input"}`
    pub input: IntCounter,
    /// `choreoai_key_tokens_total{type="output"}`
    pub output: IntCounter,
    /// `choreoai_key_cost_total`
    pub cost: MoneyCounter,
}

impl KeyMetrics {
    /// The counters of the caller with this configured name, all present at 0.
    #[must_use]
    pub fn new(metrics: &Metrics, key: &str) -> Self {
        Self {
            name: key.to_owned(),
            requests: metrics.key_requests.with_label_values(&[key]),
            input: metrics.key_tokens.with_label_values(&[key, "input"]),
            output: metrics.key_tokens.with_label_values(&[key, "output"]),
            cost: metrics.key_cost.with_label_values(&[key]),
        }
    }
}
