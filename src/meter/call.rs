//! The guard of one client call: it holds the attempt that is running, if any, and is told what
//! happens. When it is dropped everything is settled, counted and logged, once.
//! It must not know how an answer is made or sent.

mod traced;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use providers::{Answer, ChatRequest, Kind, Usage};

use super::twin::Beside;
use super::{Account, Meter, Outcome, UsageRecord, UsageSource};
use crate::error::Surface;
use crate::metrics::{AnswerMetrics, KeyMetrics, RouteMetrics};
use crate::tokens::Sample;
use crate::trace::Trace;

/// The status that is counted for a client that left before it was answered; nginx's.
const CLIENT_LEFT: u16 = 499;

/// What is known of a call when it arrives.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When that was.
    pub arrived: Instant,
    /// Its id.
    pub request_id: String,
    /// Its HTTP method.
    pub method: &'static str,
    /// The route it matched; a metric label.
    pub endpoint: &'static str,
    /// The API it speaks.
    pub surface: Surface,
}

/// Whoever must be told how many tokens a call used in all, when it is over.
pub type OnEnd = Box<dyn FnOnce(u64) + Send>;

/// Whoever must be told how many tokens one attempt used, when it is settled.
pub type OnSettled = Option<OnEnd>;

/// One call of a client, from its arrival to the last byte of its answer: a handle, so that it can go from hand
/// to hand without its record being copied each time.
pub struct Call(Box<Record>);

impl Deref for Call {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.0
    }
}

impl DerefMut for Call {
    fn deref_mut(&mut self) -> &mut Record {
        &mut self.0
    }
}

/// What is known of a call so far.
pub struct Record {
    pub(super) meter: Meter,
    pub(super) facts: Facts,
    route: Arc<RouteMetrics>,
    pub(super) key: Option<Arc<KeyMetrics>>,
    /// The model label while no target is chosen.
    requested: String,
    attempt: Option<Attempt>,
    /// The account of the last attempt; the labels of the call.
    pub(super) account: Option<Arc<Account>>,
    pub(super) last: Option<UsageRecord>,
    attempts: u32,
    pub(super) tokens: u64,
    cost: u64,
    stream: bool,
    status: Option<u16>,
    error_type: Option<&'static str>,
    has_left: bool,
    first_token: Option<Duration>,
    /// Time that was spent waiting for others: the client's body, the provider's answer.
    pub(super) not_ours: Duration,
    pub(super) on_end: Option<OnEnd>,
    /// What attempts used that ran at the same time.
    pub(super) beside: Option<Arc<Beside>>,
    /// It stands for one of two attempts of a call, not for the call.
    pub(super) is_twin: bool,
    /// Only while traces are on.
    pub(super) trace: Option<Box<Trace>>,
}

/// The attempt that is running.
struct Attempt {
    request: Arc<ChatRequest>,
    on_settled: OnSettled,
    sent: Instant,
    answered: Option<Instant>,
    first_token: Option<Instant>,
    /// The HTTP status of the provider's answer.
    status: Option<u16>,
    sample: Sample,
    usage: Option<Usage>,
    /// Nothing was generated since `usage` was told.
    usage_is_fresh: bool,
    finished: bool,
    generated: bool,
    tool_calls: u64,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Call").field("request_id", &self.facts.request_id).finish_non_exhaustive()
    }
}

impl Meter {
    /// Opens the record of a call.
    #[must_use]
    pub fn call(&self, facts: Facts) -> Call {
        let call = Call::new(self.clone(), facts);
        call.route.in_flight.inc();
        self.begun();
        call
    }
}

impl Call {
    pub(super) fn new(meter: Meter, facts: Facts) -> Self {
        Self(Box::new(Record {
            route: meter.0.books.routes.get(facts.endpoint, || RouteMetrics::new(meter.metrics(), facts.endpoint)),
            meter,
            facts,
            key: None,
            requested: String::new(),
            attempt: None,
            account: None,
            last: None,
            attempts: 0,
            tokens: 0,
            cost: 0,
            stream: false,
            status: None,
            error_type: None,
            has_left: false,
            first_token: None,
            not_ours: Duration::ZERO,
            on_end: None,
            beside: None,
            is_twin: false,
            trace: None,
        }))
    }
}

impl Record {
    /// The call's id.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.facts.request_id
    }

    /// When it came.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.facts.arrived
    }

    /// The API that its client speaks.
    #[must_use]
    pub fn surface(&self) -> Surface {
        self.facts.surface
    }

    /// Who calls.
    pub fn caller(&mut self, key: Arc<KeyMetrics>) {
        key.requests.inc();
        self.key = Some(key);
    }

    /// The model that was asked for, as far as it may be a label.
    pub fn requested(&mut self, label: &str) {
        label.clone_into(&mut self.requested);
    }

    /// Time that went by waiting for somebody else.
    pub fn waited(&mut self, time: Duration) {
        self.not_ours += time;
    }

    /// Tells `on_end` the tokens used in all, when the call is over.
    pub fn when_over(&mut self, on_end: OnEnd) {
        self.on_end = Some(on_end);
    }

    /// Opens the record of an attempt that is sent now.
    pub fn open(&mut self, (account, request): (&Arc<Account>, &Arc<ChatRequest>), on_settled: OnSettled, sent: Instant) {
        self.settle(Outcome::UpstreamError);
        account.metrics.in_flight.inc();
        self.account = Some(Arc::clone(account));
        match &self.beside {
            Some(beside) => drop(beside.attempts.fetch_add(1, Ordering::Relaxed)),
            None => self.attempts += 1,
        }
        self.attempt = Some(Attempt {
            request: Arc::clone(request),
            on_settled,
            sent,
            answered: None,
            first_token: None,
            status: None,
            sample: Sample::default(),
            usage: None,
            usage_is_fresh: false,
            finished: false,
            generated: false,
            tool_calls: 0,
        });
    }

    /// How many attempts were made.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts + self.beside.as_ref().map_or(0, |beside| beside.attempts.load(Ordering::Relaxed))
    }

    /// What all attempts cost so far, in 10⁻¹² USD; `None` when the last one's model has no price.
    #[must_use]
    pub fn cost(&self) -> Option<u64> {
        let beside = self.beside.as_ref().map_or(0, |beside| beside.cost.load(Ordering::Relaxed));
        self.last.as_ref().and_then(|record| record.cost).map(|_| self.cost + beside)
    }

    /// The provider has begun to answer (a stream) or has answered (the whole), with this HTTP status; or it never will.
    pub fn heard(&mut self, status: Option<u16>, now: Instant) {
        if let Some(attempt) = &mut self.attempt {
            attempt.status = status;
            attempt.answered = Some(now);
            self.not_ours += now - attempt.sent;
        }
    }

    /// Something happened in the answer.
    pub fn event(&mut self, kind: &Kind<'_>) {
        let Some(attempt) = &mut self.attempt else { return };
        match kind {
            Kind::Delta(text) => attempt.delta(text),
            Kind::Usage(usage) => attempt.usage(*usage),
            Kind::Finish { tool_calls } => {
                attempt.finished = true;
                attempt.tool_calls += *tool_calls as u64;
            }
            Kind::Malformed => {
                if let Some(account) = &self.account {
                    account.metrics.malformed.inc();
                }
            }
            Kind::Open | Kind::Error(_) | Kind::Done => {}
        }
    }

    /// A whole answer came.
    pub fn whole(&mut self, answer: &Answer) {
        let Some(attempt) = &mut self.attempt else { return };
        if let Some(trace) = &mut self.trace {
            trace.answered(&answer.body);
        }
        attempt.finished = true;
        attempt.tool_calls = answer.tool_calls as u64;
        match answer.usage {
            Some(usage) => attempt.usage(usage),
            None => {
                attempt.sample.push(&answer.text);
                attempt.generated = true;
            }
        }
    }

    /// Whether the provider's count of the running attempt is missing, or not its last word: if it ended now, its
    /// text would have to be counted.
    #[must_use]
    pub fn lacks_usage(&self) -> bool {
        let lacks = |attempt: &Attempt| attempt.usage.is_none() || !attempt.usage_is_fresh;
        self.attempt.as_ref().is_some_and(|attempt| attempt.request.endpoint.is_billed() && lacks(attempt))
    }

    /// Closes the running attempt, if there is one.
    pub fn settle(&mut self, outcome: Outcome) {
        let (Some(attempt), Some(account)) = (self.attempt.take(), &self.account) else { return };
        // An answer that was read to its end for a client that had left is still one that it left.
        let outcome = if self.has_left && outcome == Outcome::Completed { Outcome::ClientDisconnect } else { outcome };
        let (usage, source) = attempt.bill(account, outcome);
        let record = UsageRecord { outcome, source, usage, cost: account.cost(&usage) };
        account.metrics.in_flight.dec();
        account.count(self.meter.metrics(), &record, self.key.as_deref());
        account.metrics.tool_calls.inc_by(attempt.tool_calls);
        account.metrics.upstream_duration.observe(attempt.sent.elapsed().as_secs_f64());
        if let Some(first) = attempt.first_token.filter(|_| self.stream) {
            let wait = first - attempt.sent;
            self.first_token = Some(wait);
            account.metrics.first_token.observe(wait.as_secs_f64());
            if record.usage.output > 1 && outcome == Outcome::Completed {
                account.metrics.token_gap.observe(first.elapsed().as_secs_f64() / (record.usage.output - 1) as f64);
            }
        }
        if source == UsageSource::Provider && outcome == Outcome::Completed {
            account.learn(&attempt.request, &attempt.sample, &usage);
        }
        self.tell_trace(&record, &attempt);
        let tokens = usage.input + usage.output;
        if let Some(on_settled) = attempt.on_settled {
            on_settled(tokens);
        }
        let cost = record.cost.unwrap_or(0);
        match &self.beside {
            Some(beside) => beside.add(tokens, cost),
            None => {
                self.tokens += tokens;
                self.cost += cost;
            }
        }
        self.last = Some(record);
    }

    /// The answer is on its way to the client, with this status.
    pub fn answered(&mut self, status: u16, stream: bool) {
        self.status = Some(status);
        self.stream = stream;
        let overhead = self.facts.arrived.elapsed().saturating_sub(self.not_ours);
        self.route.overhead.observe(overhead.as_secs_f64());
        if let (true, Some(account)) = (stream, &self.account) {
            account.metrics.streaming.inc();
        }
    }

    /// The call failed, as the client sees it; the first word counts.
    pub fn failed(&mut self, label: &'static str) {
        self.error_type.get_or_insert(label);
    }

    /// Whether the client has seen the beginning of its answer.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.status.is_some()
    }

    /// A stream that the client has seen the beginning of broke.
    pub fn broke(&mut self, label: &'static str) {
        if self.error_type.is_none() {
            self.meter.metrics().stream_aborts.with_label_values(&["upstream"]).inc();
        }
        self.failed(label);
    }

    /// The client left before its answer was complete.
    pub fn client_left(&mut self) {
        self.has_left = true;
        if self.error_type.is_none() {
            let side = if self.meter.is_stopping() { "shutting_down" } else { "client_disconnect" };
            self.error_type = Some(side);
            self.meter.metrics().stream_aborts.with_label_values(&["client"]).inc();
        }
    }

    /// Whether the call failed by no fault of the client: with a status that says so, or in the middle of its answer.
    fn is_failure(&self) -> bool {
        match (self.status.unwrap_or(CLIENT_LEFT), self.error_type) {
            (_, Some("deadline_exceeded")) => false,
            (500.., _) => true,
            (200..=299, Some(error_type)) => {
                matches!(error_type, "upstream_stream_error" | "upstream_timeout" | "upstream_error")
            }
            _ => false,
        }
    }

    /// Provider and model: the last target's, or what is known while there is none.
    fn labels(&self) -> (&str, &str) {
        self.account.as_ref().map_or(("", self.requested.as_str()), |account| (&account.provider, &account.model))
    }

    fn count(&self, took: Duration) {
        let metrics = self.meter.metrics();
        let Facts { method, endpoint, .. } = self.facts;
        let (provider, model) = self.labels();
        let status = self.status.unwrap_or(CLIENT_LEFT);
        let look_up = || AnswerMetrics::new(metrics, (provider, model), (endpoint, method), status);
        let counted = match &self.account {
            Some(account) => account.answers.get((endpoint, method, status), look_up),
            None => Arc::new(look_up()),
        };
        counted.requests.inc();
        counted.duration.observe(took.as_secs_f64());
        if let Some(error_type) = self.error_type {
            metrics.errors.with_label_values(&[provider, error_type, endpoint]).inc();
        }
    }

    fn log(&self, took: Duration) {
        let status = self.status.unwrap_or(CLIENT_LEFT);
        let went_well = status < 400 && self.error_type.is_none();
        if went_well && self.meter.0.logged < 1.0 && fastrand::f64() >= self.meter.0.logged {
            return;
        }
        let (provider, model) = self.labels();
        let trace = self.trace.as_ref();
        let record = self.last.as_ref();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "choreoai",
                    message = "request completed",
                    request_id = self.facts.request_id,
                    method = self.facts.method,
                    path = self.facts.endpoint,
                    status_code = status,
                    duration = took.as_secs_f64(),
                    provider,
                    model,
                    stream = self.stream,
                    ttft = self.first_token.map(|wait| wait.as_secs_f64()),
                    input_tokens = record.map(|record| record.usage.input),
                    output_tokens = record.map(|record| record.usage.output),
                    cost_usd = self.cost().map(|cost| cost as f64 / 1e12),
                    outcome = record.map(|record| record.outcome.label()),
                    usage_source = record.map(|record| record.source.label()),
                    error_type = self.error_type,
                    key = self.key.as_ref().map(|key| key.name.as_str()),
                    attempt = self.attempts(),
                    trace_id = trace.map(|trace| tracing::field::debug(trace.trace_id())),
                    span_id = trace.map(|trace| tracing::field::debug(trace.span_id())),
                )
            };
        }
        if self.is_failure() {
            line!(error);
        } else if status >= 400 {
            line!(warn);
        } else {
            line!(info);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let is_stopping = self.meter.is_stopping();
        if self.attempt.is_some() {
            if !self.is_twin {
                self.client_left();
            }
            self.settle(if is_stopping { Outcome::GatewayShutdown } else { Outcome::ClientDisconnect });
        }
        if self.is_twin {
            self.meter.ended();
            return;
        }
        if self.status.is_none() {
            self.failed(if is_stopping { "shutting_down" } else { "client_disconnect" });
        }
        self.route.in_flight.dec();
        self.meter.ended();
        let took = self.facts.arrived.elapsed();
        self.count(took);
        self.log(took);
        self.end_trace(took);
        if let Some(on_end) = self.on_end.take() {
            on_end(self.tokens);
        }
    }
}

impl Attempt {
    fn delta(&mut self, text: &str) {
        self.first_token.get_or_insert_with(Instant::now);
        self.generated = true;
        self.usage_is_fresh = false;
        self.sample.push(text);
    }

    fn usage(&mut self, usage: Usage) {
        self.usage = Some(usage);
        self.usage_is_fresh = true;
    }

    /// What this attempt used, and how that is known.
    fn bill(&self, account: &Account, outcome: Outcome) -> (Usage, UsageSource) {
        let estimated_output = || account.estimate_output(&self.sample);
        match self.usage {
            Some(usage) if outcome == Outcome::Completed || self.is_final(outcome) => (usage, UsageSource::Provider),
            Some(usage) => (Usage { output: usage.output.max(estimated_output()), ..usage }, UsageSource::Partial),
            None if !self.request.endpoint.is_billed() => (Usage::default(), UsageSource::None),
            None if !self.generated && self.was_refused(outcome) => (Usage::default(), UsageSource::None),
            None => {
                let usage =
                    Usage { input: account.estimate_input(&self.request), output: estimated_output(), ..Usage::default() };
                (usage, UsageSource::Estimated)
            }
        }
    }

    /// Whether what the provider counted is its last word: nothing was generated after it, and the
    /// answer had ended or the provider itself ended it with an error.
    fn is_final(&self, outcome: Outcome) -> bool {
        self.usage_is_fresh && (self.finished || outcome == Outcome::UpstreamError)
    }

    /// Whether an attempt that generated nothing was not taken up by the provider at all. A provider
    /// that was still working when the client or the gateway left, or that was too slow, has read the prompt.
    fn was_refused(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::UpstreamError | Outcome::UpstreamTruncated => true,
            Outcome::Completed | Outcome::ClientDisconnect | Outcome::Timeout | Outcome::GatewayShutdown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::metrics::Metrics;

    /// Every way an attempt can stand when it ends.
    fn attempts() -> impl Iterator<Item = Attempt> {
        let request = |endpoint| {
            let request = ChatRequest::parse("{\"model\":\"m\",\"messages\":[]}".into(), endpoint);
            Arc::new(request.expect("a request"))
        };
        let requests = [request(providers::Endpoint::Chat), request(providers::Endpoint::CountTokens)];
        (0..32).map(move |bits| Attempt {
            request: Arc::clone(&requests[bits >> 4]),
            on_settled: None,
            sent: Instant::now(),
            answered: None,
            first_token: None,
            status: None,
            sample: Sample::default(),
            usage: (bits & 1 == 1).then(Usage::default),
            usage_is_fresh: bits & 2 == 2,
            finished: bits & 4 == 4,
            generated: bits & 8 == 8,
            tool_calls: 0,
        })
    }

    #[test]
    fn the_sources_of_an_outcome_are_those_that_occur() {
        let account = Account::new(&Metrics::new().expect("metrics"), "provider", "model", None);
        for outcome in Outcome::ALL {
            let label = |source: &UsageSource| source.label();
            let occurring: BTreeSet<_> = attempts().map(|attempt| attempt.bill(&account, outcome).1.label()).collect();
            assert_eq!(outcome.sources().iter().map(label).collect::<BTreeSet<_>>(), occurring, "{outcome:?}");
        }
    }
}
