//! What a call's record tells its trace, when traces are on.
//! It must not know what a span looks like, or who exports it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Attempt, CLIENT_LEFT, Facts, Outcome, Record, UsageRecord};
use crate::metrics::Timed;
use crate::trace::{AttemptEnd, CallEnd, Peer};

impl Record {
    /// Begins the call's trace, or goes on with the client's; nothing while traces are off.
    pub fn trace(&mut self, headers: &HeaderMap, path: &str) {
        self.trace = self.meter.0.tracer.as_ref().map(|tracer| Box::new(tracer.begin(headers, path)));
    }

    /// Whom the running attempt goes to; gives the headers that tell them of the trace, if there is one.
    pub fn sent_to(
        &mut self,
        peer: &Arc<Peer>,
        operation: &'static str,
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        if let (Some(trace), Some(attempt)) = (&mut self.trace, &self.attempt) {
            trace.attempt(peer, &attempt.request, operation);
        }
        self.trace.as_ref().map(|trace| trace.headers()).into_iter().flatten()
    }

    /// Tells the trace of an attempt that was settled.
    pub(super) fn tell_trace(&mut self, record: &UsageRecord, attempt: &Attempt) {
        let number = self.attempts();
        let Some(trace) = &mut self.trace else { return };
        let stream = attempt.request.stream;
        if let (true, Some(account)) = (trace.is_sampled(), &self.account) {
            let (metrics, trace_id) = (self.meter.metrics(), trace.trace_id().to_string());
            let (provider, model) = (account.provider.as_str(), account.model.as_str());
            metrics.exemplar(&Timed::Attempt { provider, model }, attempt.sent.elapsed().as_secs_f64(), &trace_id);
            if let Some(first) = attempt.first_token.filter(|_| self.stream) {
                metrics.exemplar(&Timed::FirstToken { provider, model }, (first - attempt.sent).as_secs_f64(), &trace_id);
            }
        }
        trace.attempt_ended(&AttemptEnd {
            number,
            outcome: record.outcome.label(),
            usage_source: record.source.label(),
            is_complete: record.outcome == Outcome::Completed,
            is_clients: record.outcome == Outcome::ClientDisconnect,
            status: attempt.status,
            stream,
            first_token: attempt.first_token.filter(|_| stream).map(|first| first - attempt.sent),
            usage: record.usage,
            cost: record.cost,
        });
    }

    /// Ends the trace, if there is one.
    pub(super) fn end_trace(&self, took: Duration) {
        let Some(trace) = &self.trace else { return };
        let (provider, model) = self.labels();
        let Facts { method, endpoint, .. } = self.facts;
        if trace.is_sampled() {
            self.meter.metrics().exemplar(
                &Timed::Call { provider, endpoint, method },
                took.as_secs_f64(),
                &trace.trace_id().to_string(),
            );
        }
        trace.ended(&CallEnd {
            request_id: &self.facts.request_id,
            method,
            route: endpoint,
            status: self.status.unwrap_or(CLIENT_LEFT),
            error_type: self.error_type,
            is_failure: self.is_failure(),
            key: self.key.as_ref().map(|key| key.name.as_str()),
            provider,
            model,
            attempts: self.attempts(),
            stream: self.stream,
            cost: self.cost(),
        });
    }
}
