//! What a failed attempt means: what the client would be told, what it says about the target and its key, and
//! what is to be done next.
//! It must not know which targets there are, or how an attempt is made.

use std::time::Duration;

use http::StatusCode;
use providers::{Class, UpstreamError};
use tokio::time::Instant;

use super::Ask;
use super::attempt::UnderWay;
use crate::config::Reason;
use crate::error::{Error, Kind, TOO_LATE};
use crate::house::House;
use crate::meter::{Call, Outcome};
use crate::metrics::Metrics;
use crate::router;
use crate::stream::End;
use crate::upstream::{Answer, Failure};

/// The most of an error's body that is read, in time and in bytes.
const ERROR_BODY: (Duration, usize) = (Duration::from_secs(5), 1024 * 1024);
/// How long one of several keys is left alone that was too fast, when the provider does not say.
const TOO_FAST: Duration = Duration::from_secs(1);

/// What to do after an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The same again, at once, asked in another way.
    Rephrase,
    /// The same again, at once, with another key.
    OtherKey,
    /// The same again, after a while.
    Again,
    /// The next target.
    Next,
    /// Tell the client.
    Stop,
}

/// An attempt that failed.
pub(super) struct Failed {
    /// The call's record, given back.
    pub(super) call: Call,
    /// What the client is told if nothing better comes.
    pub(super) error: Error,
    /// What next.
    pub(super) then: Then,
    /// Why; `None` when another target would find the same.
    pub(super) reason: Option<Reason>,
}

impl Failed {
    pub(super) fn new(call: Call, error: Error, (then, reason): (Then, Option<Reason>)) -> Box<Self> {
        Box::new(Self { call, error, then, reason })
    }
}

/// Nobody else can help.
pub(super) const STOP: (Then, Option<Reason>) = (Then::Stop, None);

/// The client's own deadline is over.
pub(super) fn too_late() -> Error {
    Error::new(Kind::DeadlineExceeded, TOO_LATE)
}

/// No head of an answer came, or not all of its body.
pub(super) fn unreached(house: &House, ask: &Ask, under_way: &UnderWay, mut call: Call, failure: Failure) -> Box<Failed> {
    if failure == Failure::Timeout && ask.is_over() {
        call.settle(Outcome::Timeout);
        return Failed::new(call, too_late(), STOP);
    }
    let lane = &under_way.lane;
    let (outcome, error, reason) = match failure {
        Failure::Timeout => {
            lane.target.latency.observe(router::now(), under_way.sent.elapsed());
            let error = Error::new(Kind::UpstreamTimeout, "the provider did not answer in time");
            (Outcome::Timeout, error, Reason::Timeout)
        }
        Failure::Connect => {
            let error = Error::new(Kind::UpstreamUnavailable, "the provider cannot be reached");
            (Outcome::UpstreamError, error, Reason::Overloaded)
        }
        Failure::Credentials(trouble) => {
            call.settle(Outcome::UpstreamError);
            let kind = if trouble.is_passing { Kind::UpstreamUnavailable } else { Kind::UpstreamAuth };
            let message = format!("provider \"{}\": {}", lane.provider.config.name, trouble.message);
            // The model is well, and what is missing will not be there a moment later.
            return Failed::new(call, Error::new(kind, message), (Then::Next, Some(Reason::Auth)));
        }
        Failure::Broken | Failure::TooLarge | Failure::Compressed => {
            let why = match failure {
                Failure::TooLarge => "the provider's answer is too large",
                Failure::Compressed => "the provider's answer is compressed, which was not asked for",
                _ => "the provider broke the connection",
            };
            (Outcome::UpstreamError, Error::new(Kind::UpstreamFailed, why), Reason::ServerError)
        }
    };
    let then = match failure {
        // Another try would meet the same.
        Failure::TooLarge | Failure::Compressed => Then::Next,
        Failure::Timeout => after_silence(under_way),
        _ => Then::Again,
    };
    call.settle(outcome);
    unwell(&house.metrics, under_way);
    Failed::new(call, error, (then, Some(reason)))
}

/// What to do after a timeout. Silence may have been the connection's, and is tried again; a model that had all the time
/// there is would want it again, and every time it is paid for.
fn after_silence(under_way: &UnderWay) -> Then {
    if Instant::now() >= under_way.times.deadline { Then::Next } else { Then::Again }
}

/// An answer with a status that says no.
pub(super) async fn refused(house: &House, ask: &Ask, under_way: &UnderWay, mut call: Call, answer: Answer) -> Box<Failed> {
    let lane = &under_way.lane;
    let (status, headers) = (answer.status, answer.headers.clone());
    let (time, size) = ERROR_BODY;
    let body = answer.beginning(size, (Instant::now() + time).min(under_way.times.deadline)).await;
    call.settle(Outcome::UpstreamError);
    if ask.request.stream && lane.asks_usage() && rejects_usage(status, &body) {
        lane.stop_asking_usage();
        let error = Error::new(Kind::UpstreamRefused, "the provider rejects stream_options");
        return Failed::new(call, error, (Then::Rephrase, None));
    }
    let reported = lane.provider.wire.0.error(status, &headers, &body);
    reported_by(house, under_way, call, reported)
}

/// Whether a provider refused the one field that was added to the client's request.
fn rejects_usage(status: StatusCode, body: &[u8]) -> bool {
    let names = |word: &[u8]| memchr::memmem::find(body, word).is_some();
    matches!(status.as_u16(), 400 | 422) && (names(b"stream_options") || names(b"include_usage"))
}

/// An error in the provider's own words, for an attempt that is settled.
pub(super) fn reported_by(house: &House, under_way: &UnderWay, call: Call, reported: UpstreamError) -> Box<Failed> {
    let next = judge(house, under_way, &reported);
    Failed::new(call, Error::from(reported), next)
}

/// A stream that ended before its first content; it is settled.
pub(super) fn ended(house: &House, under_way: &UnderWay, call: Call, end: End) -> Box<Failed> {
    let next = match &end {
        End::Failed(reported) => judge(house, under_way, reported),
        End::Stopped | End::Overdue => STOP,
        End::Unreadable(_) => {
            unwell(&house.metrics, under_way);
            (Then::Next, Some(Reason::ServerError))
        }
        End::TimedOut => {
            under_way.lane.target.latency.observe(router::now(), under_way.sent.elapsed());
            unwell(&house.metrics, under_way);
            (after_silence(under_way), Some(Reason::Timeout))
        }
        End::Complete | End::Truncated => {
            unwell(&house.metrics, under_way);
            (Then::Again, Some(Reason::ServerError))
        }
    };
    let error = end.error().unwrap_or_else(|| Error::new(Kind::UpstreamStream, "the provider sent an empty stream"));
    Failed::new(call, error, next)
}

/// What a reported error says about the target, and what to do next.
fn judge(house: &House, under_way: &UnderWay, reported: &UpstreamError) -> (Then, Option<Reason>) {
    let lane = &under_way.lane;
    let reason = match reported.class {
        Class::Invalid => {
            under_way.running.succeeded();
            return STOP;
        }
        Class::NotFound => Reason::NotFound,
        Class::ContentFilter => Reason::ContentFilter,
        Class::ContextOverflow => Reason::ContextOverflow,
        Class::Authentication | Class::Permission => Reason::Auth,
        Class::RateLimited | Class::Quota => Reason::RateLimit,
        Class::Overloaded => Reason::Overloaded,
        Class::Timeout => Reason::Timeout,
        Class::Server => Reason::ServerError,
    };
    let then = match reported.class {
        Class::Invalid | Class::NotFound | Class::ContentFilter | Class::ContextOverflow => {
            under_way.running.succeeded();
            Then::Next
        }
        Class::Permission => {
            lane.target.breaker.declined(router::now());
            Then::Next
        }
        Class::Authentication | Class::Quota | Class::RateLimited => {
            lane.target.breaker.declined(router::now());
            key_refused(house, under_way, reported)
        }
        Class::Overloaded | Class::Timeout | Class::Server => {
            unwell(&house.metrics, under_way);
            Then::Again
        }
    };
    (then, Some(reason))
}

/// The provider did not take the key, or not now: another one may do, and where there is none the target is spared
/// for as long as it asks.
fn key_refused(house: &House, under_way: &UnderWay, reported: &UpstreamError) -> Then {
    let (lane, now) = (&under_way.lane, router::now());
    let config = &lane.provider.config;
    let (why, wait) = match reported.class {
        Class::RateLimited => ("rate_limited", reported.retry_after.unwrap_or(TOO_FAST)),
        Class::Quota => ("quota", reported.retry_after.unwrap_or_default().max(config.key_cooldown)),
        _ => ("auth", config.key_cooldown),
    };
    house.metrics.upstream_key_refusals.with_label_values(&[config.name.as_str(), why]).inc();
    if why != "rate_limited" {
        let (provider, number, of) = (config.name.as_str(), under_way.key + 1, lane.provider.upstream.key_count());
        tracing::warn!(target: "choreoai", provider, number, of, why, "the provider refused a key");
    }
    if lane.provider.upstream.set_key_aside(under_way.key, now, wait) {
        return Then::OtherKey;
    }
    if reported.class != Class::RateLimited {
        return Then::Next;
    }
    if let Some(wait) = reported.retry_after.filter(|wait| *wait > config.retry.max) {
        lane.target.breaker.cool_down(now, wait, router::Why::TooFast);
    }
    Then::Again
}

/// The target failed.
pub(super) fn unwell(metrics: &Metrics, under_way: &UnderWay) {
    if under_way.running.failed(router::now()) {
        let provider = under_way.lane.provider.config.name.as_str();
        metrics.circuit_breaker_trips.with_label_values(&[provider]).inc();
        tracing::warn!(target: "choreoai", provider, model = under_way.lane.target.model, "circuit breaker opened");
    }
}
