//! A call as a trace: where it comes from (W3C context in), what it goes out with (context out), and a
//! span for the call and for each attempt, handed to whoever exports them. Without a [`Tracer`]
//! nothing of this is made.
//! It must not know how spans are sent, or how a call is carried out; it is told and it writes down.

mod spans;
mod w3c;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceFlags, TraceId};
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample};
use providers::Usage;

pub use opentelemetry_sdk::trace::SpanData as Span;

/// Whoever takes finished spans. Taking one never waits and never fails the call: what finds no room
/// is dropped there, and counted.
pub trait Sink: Send + Sync + std::fmt::Debug {
    /// Takes a span.
    fn take(&self, span: Span);
}

/// Begins traces; one for the process.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sampler: Sampler,
    /// Whether context is read from clients and sent to providers.
    propagates: bool,
    scope: InstrumentationScope,
    sink: Box<dyn Sink>,
}

/// Who an attempt goes to, as OpenTelemetry's conventions name it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `gen_ai.provider.name`: whose models the wire leads to.
    pub system: &'static str,
    /// `choreoai.provider`: the configured provider.
    pub provider: String,
    /// `gen_ai.request.model`: the model there.
    pub model: String,
    /// `server.address` and `server.port`.
    pub server: Option<(String, u16)>,
}

/// One call.
#[derive(Debug)]
pub struct Trace {
    tracer: Tracer,
    context: SpanContext,
    parent: SpanId,
    parent_is_remote: bool,
    began: SystemTime,
    /// The path without its query.
    path: String,
    attempt: Option<Sent>,
}

/// The attempt that is running.
#[derive(Debug)]
struct Sent {
    context: SpanContext,
    began: SystemTime,
    peer: Arc<Peer>,
    operation: &'static str,
    max_tokens: Option<u64>,
    choices: u64,
    answer: spans::Answer,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub struct AttemptEnd {
    /// Which attempt of the call it was, from 1.
    pub number: u32,
    /// What the metrics call its end.
    pub outcome: &'static str,
    /// Where `usage` comes from.
    pub usage_source: &'static str,
    /// Whether it reached its end.
    pub is_complete: bool,
    /// Whether its end was the client's doing.
    pub is_clients: bool,
    /// The provider's HTTP status, when it answered.
    pub status: Option<u16>,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// From sending to the first generated token, for a stream.
    pub first_token: Option<Duration>,
    /// The tokens.
    pub usage: Usage,
    /// In 10⁻¹² USD, when the model has a price.
    pub cost: Option<u64>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub struct CallEnd<'a> {
    /// Its id.
    pub request_id: &'a str,
    /// Its HTTP method.
    pub method: &'static str,
    /// The route it matched.
    pub route: &'static str,
    /// The status it was answered with.
    pub status: u16,
    /// What went wrong, as the client saw it.
    pub error_type: Option<&'static str>,
    /// Whether that is an error of the gateway or a provider rather than the client's.
    pub is_failure: bool,
    /// The caller's configured name.
    pub key: Option<&'a str>,
    /// The labels of the target, or what is known of it.
    pub provider: &'a str,
    /// See `provider`.
    pub model: &'a str,
    /// How many attempts were made.
    pub attempts: u32,
    /// Whether a stream was answered.
    pub stream: bool,
    /// In 10⁻¹² USD, when it is known.
    pub cost: Option<u64>,
}

impl Tracer {
    /// Begins traces that `sampler` chooses and hands their spans to `sink`; `propagates` says whether
    /// context is read from clients and sent to providers.
    #[must_use]
    pub fn new(sampler: Sampler, propagates: bool, sink: Box<dyn Sink>) -> Self {
        let scope = InstrumentationScope::builder("choreoai").with_version(env!("CARGO_PKG_VERSION")).build();
        Self(Arc::new(Inner { sampler, propagates, scope, sink }))
    }

    /// Begins the trace of a call that arrived with these headers, or goes on with the client's.
    #[must_use]
    pub fn begin(&self, headers: &HeaderMap, path: &str) -> Trace {
        let parent = if self.0.propagates { w3c::read(headers) } else { None };
        let trace_id = parent.as_ref().map_or_else(|| TraceId::from(fastrand::u128(1..)), SpanContext::trace_id);
        let around = parent.clone().map(|parent| {
            use opentelemetry::trace::TraceContextExt;
            Context::new().with_remote_span_context(parent)
        });
        let sampled = self.0.sampler.should_sample(around.as_ref(), trace_id, path, &SpanKind::Server, &[], &[]);
        let flags =
            if sampled.decision == SamplingDecision::RecordAndSample { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        Trace {
            tracer: self.clone(),
            context: SpanContext::new(trace_id, new_span_id(), flags, false, sampled.trace_state),
            parent: parent.as_ref().map_or(SpanId::INVALID, SpanContext::span_id),
            parent_is_remote: parent.is_some(),
            began: SystemTime::now(),
            path: path.to_owned(),
            attempt: None,
        }
    }
}

impl Trace {
    /// The trace's id, in hex.
    #[must_use]
    pub fn trace_id(&self) -> impl std::fmt::Display + std::fmt::Debug + use<> {
        Hex(self.context.trace_id().to_string())
    }

    /// The id of the call's span, in hex.
    #[must_use]
    pub fn span_id(&self) -> impl std::fmt::Display + std::fmt::Debug + use<> {
        Hex(self.context.span_id().to_string())
    }

    /// Whether this trace is exported.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.context.is_sampled()
    }

    /// The same call, for an attempt that runs at the same time as another.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { tracer: self.tracer.clone(), context: self.context.clone(), path: self.path.clone(), attempt: None, ..*self }
    }

    /// An attempt is about to be sent to `peer`; its context goes with `headers`.
    pub fn attempt(&mut self, peer: &Arc<Peer>, request: &providers::ChatRequest, operation: &'static str) {
        let context = SpanContext::new(
            self.context.trace_id(),
            new_span_id(),
            self.context.trace_flags(),
            false,
            self.context.trace_state().clone(),
        );
        self.attempt = Some(Sent {
            context,
            began: SystemTime::now(),
            peer: Arc::clone(peer),
            operation,
            max_tokens: request.max_tokens,
            choices: request.choices,
            answer: spans::Answer::default(),
        });
    }

    /// The headers that tell the provider of the running attempt.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        let attempt = self.attempt.as_ref().filter(|_| self.tracer.0.propagates);
        attempt.map(|attempt| w3c::write(&attempt.context)).into_iter().flatten()
    }

    /// The running attempt was answered with this whole body.
    pub fn answered(&mut self, body: &[u8]) {
        if let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.context.is_sampled()) {
            attempt.answer = spans::Answer::of(body);
        }
    }

    /// The running attempt is over.
    pub fn attempt_ended(&mut self, end: &AttemptEnd) {
        let Some(attempt) = self.attempt.take() else { return };
        if self.is_sampled() {
            self.tracer.0.sink.take(spans::of_attempt(self, attempt, end));
        }
    }

    /// The call is over.
    pub fn ended(&self, end: &CallEnd<'_>) {
        if self.is_sampled() {
            self.tracer.0.sink.take(spans::of_call(self, end));
        }
    }
}

/// An id whose `Debug` is its text, as log lines need it.
struct Hex(String);

impl std::fmt::Display for Hex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::fmt::Debug for Hex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn new_span_id() -> SpanId {
    SpanId::from(fastrand::u64(1..))
}
