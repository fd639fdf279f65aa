//! What a call and an attempt look like as spans: names and attributes of OpenTelemetry's conventions
//! for HTTP servers and generative AI clients (semantic-conventions 1.44, semantic-conventions-genai),
//! and `choreoai.*` for what they have no word for. Prompts, answers, keys and headers never stand in a span.
//! It must not know who reads them.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status};
use opentelemetry::{Array, KeyValue, StringValue, Value};
use serde::Deserialize;

use super::{AttemptEnd, CallEnd, Sent, Span, Trace};

/// 10⁻¹² USD in a USD.
const PICO_PER_USD: f64 = 1e12;
/// Longer answers are not looked through for what they say about themselves, in bytes.
const MAX_LOOKED_THROUGH: usize = 1024 * 1024;

/// What an answer says about itself. Only read for a trace that is exported.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    id: Option<String>,
    model: Option<String>,
    choices: Vec<Choice>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    finish_reason: Option<String>,
}

impl Answer {
    /// What stands in this whole answer in OpenAI's grammar.
    pub(super) fn of(body: &[u8]) -> Self {
        if body.len() > MAX_LOOKED_THROUGH { Self::default() } else { serde_json::from_slice(body).unwrap_or_default() }
    }
}

/// Attributes of one span, those that are known.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(key, value));
    }

    fn count(&mut self, key: &'static str, count: u64) {
        self.set(key, i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn count_some(&mut self, key: &'static str, count: u64) {
        if count > 0 {
            self.count(key, count);
        }
    }

    fn cost(&mut self, cost: Option<u64>) {
        if let Some(pico) = cost {
            self.set("choreoai.cost_usd", pico as f64 / PICO_PER_USD);
        }
    }
}

/// The span of a call: kind server, named after its route.
pub(super) fn of_call(trace: &Trace, end: &CallEnd<'_>) -> Span {
    let mut attributes = Attributes::default();
    attributes.set("http.request.method", end.method);
    attributes.set("http.route", end.route);
    attributes.set("url.path", trace.path.clone());
    attributes.set("url.scheme", "http");
    attributes.count("http.response.status_code", end.status.into());
    attributes.set("choreoai.request_id", end.request_id.to_owned());
    attributes.set("choreoai.model", end.model.to_owned());
    attributes.count("choreoai.attempts", end.attempts.into());
    attributes.set("choreoai.stream", end.stream);
    if !end.provider.is_empty() {
        attributes.set("choreoai.provider", end.provider.to_owned());
    }
    if let Some(key) = end.key {
        attributes.set("choreoai.key", key.to_owned());
    }
    if let Some(error_type) = end.error_type {
        attributes.set("error.type", error_type);
    }
    attributes.cost(end.cost);
    let (name, context) = (format!("{} {}", end.method, end.route), trace.context.clone());
    let times = (trace.began, SystemTime::now());
    let mut span = span(trace, (name.into(), SpanKind::Server), (context, trace.parent), times, attributes);
    span.parent_span_is_remote = trace.parent_is_remote;
    span.status = status(end.is_failure);
    span
}

/// The span of an attempt: kind client, named after what is asked of which model.
pub(super) fn of_attempt(trace: &Trace, sent: Sent, end: &AttemptEnd) -> Span {
    let mut attributes = Attributes::default();
    let peer = &sent.peer;
    attributes.set("gen_ai.operation.name", sent.operation);
    attributes.set("gen_ai.provider.name", peer.system);
    attributes.set("gen_ai.request.model", peer.model.clone());
    if let Some((address, port)) = &peer.server {
        attributes.set("server.address", address.clone());
        attributes.count("server.port", (*port).into());
    }
    if end.stream {
        attributes.set("gen_ai.request.stream", true);
    }
    if let Some(max_tokens) = sent.max_tokens {
        attributes.count("gen_ai.request.max_tokens", max_tokens);
    }
    if sent.choices != 1 {
        attributes.count("gen_ai.request.choice.count", sent.choices);
    }
    if let Some(status) = end.status {
        attributes.count("http.response.status_code", status.into());
    }
    if let Some(wait) = end.first_token {
        attributes.set("gen_ai.response.time_to_first_chunk", wait.as_secs_f64());
    }
    attributes.set("choreoai.provider", peer.provider.clone());
    attributes.count("choreoai.attempt", end.number.into());
    attributes.set("choreoai.outcome", end.outcome);
    attributes.cost(end.cost);
    of_answer(&mut attributes, sent.answer);
    usage(&mut attributes, end);
    if !end.is_complete {
        attributes.set("error.type", error_type(end));
    }
    let name = format!("{} {}", sent.operation, peer.model).into();
    let times = (sent.began, SystemTime::now());
    let mut span = span(trace, (name, SpanKind::Client), (sent.context, trace.context.span_id()), times, attributes);
    span.status = status(!end.is_complete && !end.is_clients);
    span
}

/// A status of the provider that says no is the most precise word for an error; else how the attempt ended.
fn error_type(end: &AttemptEnd) -> Value {
    match end.status {
        Some(status @ 400..) => status.to_string().into(),
        _ => end.outcome.into(),
    }
}

fn of_answer(attributes: &mut Attributes, answer: Answer) {
    if let Some(id) = answer.id {
        attributes.set("gen_ai.response.id", id);
    }
    if let Some(model) = answer.model {
        attributes.set("gen_ai.response.model", model);
    }
    let reasons: Vec<StringValue> =
        answer.choices.into_iter().filter_map(|choice| choice.finish_reason).map(StringValue::from).collect();
    if !reasons.is_empty() {
        attributes.set("gen_ai.response.finish_reasons", Value::Array(Array::String(reasons)));
    }
}

/// The tokens, as far as there is anything to tell.
fn usage(attributes: &mut Attributes, end: &AttemptEnd) {
    attributes.set("choreoai.usage_source", end.usage_source);
    let usage = &end.usage;
    if usage.input + usage.output == 0 {
        return;
    }
    attributes.count("gen_ai.usage.input_tokens", usage.input);
    attributes.count("gen_ai.usage.output_tokens", usage.output);
    attributes.count_some("gen_ai.usage.cache_read.input_tokens", usage.cache_read);
    attributes.count_some("gen_ai.usage.cache_write.input_tokens", usage.cache_write + usage.cache_write_1h);
    attributes.count_some("gen_ai.usage.reasoning.output_tokens", usage.reasoning);
    attributes.count_some("gen_ai.usage.audio.input_tokens", usage.audio_in);
    attributes.count_some("gen_ai.usage.audio.output_tokens", usage.audio_out);
}

/// Providers' own words may hold what was sent to them, so an error has no description.
fn status(is_error: bool) -> Status {
    if is_error { Status::error("") } else { Status::Unset }
}

fn span(
    trace: &Trace,
    (name, span_kind): (Cow<'static, str>, SpanKind),
    (span_context, parent_span_id): (SpanContext, SpanId),
    (start_time, end_time): (SystemTime, SystemTime),
    Attributes(attributes): Attributes,
) -> Span {
    Span {
        span_context,
        parent_span_id,
        parent_span_is_remote: false,
        span_kind,
        name,
        start_time,
        end_time,
        attributes,
        dropped_attributes_count: 0,
        events: opentelemetry_sdk::trace::SpanEvents::default(),
        links: opentelemetry_sdk::trace::SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: trace.tracer.0.scope.clone(),
    }
}
