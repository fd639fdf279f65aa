//! The attempts on one target: send, see what came, and say whether to answer with it, try again, or
//! go on to the next.
//! It must not know how answers are worded for HTTP, or which targets there are.

use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use providers::frames::Framing;
use providers::{Class, Kind as Heard, UpstreamRequest};
use tokio::time::{Instant, sleep};

use super::{Ask, admission};
use crate::config::OnDisconnect;
use crate::error::{Error, Kind};
use crate::house::{House, Lane, unix_seconds};
use crate::limits::{Limit, QueueReason, QueueRefused, Scope};
use crate::meter::{Call, OnSettled, Outcome};
use crate::metrics::Metrics;
use crate::router::{self, Running};
use crate::stream::{End, Limits, Parts, Pump, Source, Watch};
use crate::upstream::{self, Failure};

/// The most of an error's body that is read, in time.
const ERROR_BODY: Duration = Duration::from_secs(5);

/// An answer that is ready to go to the client.
pub(super) enum Reply {
    /// All of it.
    Whole {
        /// The JSON.
        body: bytes::Bytes,
        /// What it took.
        about: About,
        /// The record to close when it is sent.
        call: Box<Call>,
    },
    /// A stream that has begun.
    Stream {
        /// The rest of it.
        pump: Box<Pump<upstream::Answer, Watched>>,
        /// What it took so far.
        about: About,
    },
}

/// What the response headers tell about an answer.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) provider: String,
    pub(super) model: String,
    pub(super) attempts: u32,
    pub(super) cost: Option<u64>,
    pub(super) dropped: Vec<&'static str>,
}

/// No answer: why, and whether another target could have one.
pub(super) struct Stopped {
    /// The call's record, given back.
    pub(super) call: Option<Box<Call>>,
    /// What the client is told if nothing better comes.
    pub(super) error: Error,
    /// Nothing else can help.
    pub(super) is_final: bool,
}

impl Stopped {
    /// The task that ran the call is gone; its record was closed when it went.
    pub(super) fn lost() -> Self {
        Self { call: None, error: Error::new(Kind::Internal, "the call was lost in the gateway"), is_final: true }
    }
}

/// What to do after an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The same again, at once, asked in another way.
    Rephrase,
    /// The same again, after a while.
    Again,
    /// The next target.
    Next,
    /// Tell the client.
    Stop,
}

struct Failed {
    call: Call,
    error: Error,
    then: Then,
}

/// Tries one lane as often as its provider's rule says.
pub(super) async fn on_lane(house: &House, ask: &Ask, lane: &Arc<Lane>, mut call: Call) -> Result<Reply, Stopped> {
    let rule = lane.provider.config.retry;
    let mut tried = 0;
    loop {
        let now = router::now();
        let Some(running) = lane.target.begin(now) else {
            let error = Error::new(Kind::UpstreamUnavailable, "the provider has failed repeatedly and is left alone for a while");
            return Err(stopped(call, error.retry_after(lane.target.breaker.wait(now)), false));
        };
        let failed = match once(house, ask, (lane, running), call).await {
            Ok(reply) => return Ok(reply),
            Err(failed) => *failed,
        };
        call = failed.call;
        tried += u32::from(failed.then != Then::Rephrase);
        match failed.then {
            Then::Rephrase => {}
            Then::Stop => return Err(stopped(call, failed.error, true)),
            Then::Next => return Err(stopped(call, failed.error, false)),
            Then::Again => {
                let wait = pause(rule.base, rule.max, tried, failed.error.wait());
                let Some(wait) = wait.filter(|_| tried < rule.attempts) else {
                    return Err(stopped(call, failed.error, false));
                };
                let labels = [lane.provider.config.name.as_str(), failed.error.label()];
                house.metrics.upstream_retries.with_label_values(&labels).inc();
                sleep(wait).await;
                call.waited(wait);
            }
        }
    }
}

fn stopped(call: Call, error: Error, is_final: bool) -> Stopped {
    Stopped { call: Some(Box::new(call)), error, is_final }
}

/// How long to wait before try `tried + 1`: a random share of a doubling span, and never less than
/// the provider asked for; `None` when it asked for longer than we are willing to wait.
fn pause(base: Duration, max: Duration, tried: u32, asked: Option<Duration>) -> Option<Duration> {
    let span = base.saturating_mul(1 << tried.saturating_sub(1).min(16)).min(max);
    let jittered = span.mul_f64(fastrand::f64());
    match asked {
        Some(asked) if asked > max => None,
        Some(asked) => Some(asked.max(jittered)),
        None => Some(jittered),
    }
}

/// One attempt.
async fn once(house: &House, ask: &Ask, (lane, running): (&Arc<Lane>, Running), mut call: Call) -> Result<Reply, Box<Failed>> {
    let on_settled = match place(house, ask, lane, &mut call).await {
        Ok(on_settled) => on_settled,
        Err(error) => return Err(Box::new(Failed { call, error, then: Then::Next })),
    };
    let outgoing = match translate(ask, lane, &call) {
        Ok(outgoing) => outgoing,
        Err(error) => return Err(Box::new(Failed { call, error, then: Then::Stop })),
    };
    let (framing, dropped) = (outgoing.framing, outgoing.dropped.clone());
    let deadline = Instant::now() + lane.provider.upstream.timeouts.total;
    let sent = Instant::now();
    call.open(&lane.account, &ask.request, on_settled);
    let sending = lane.provider.upstream.send(outgoing, deadline).await;
    call.heard();
    let answer = match sending {
        Ok(answer) => answer,
        Err(failure) => return Err(unreached(house, lane, call, failure)),
    };
    if !answer.status.is_success() {
        return Err(refused(house, ask, lane, call, answer).await);
    }
    lane.target.took(sent.elapsed());
    note_what_is_left(&house.metrics, lane, &answer.headers);
    let under_way = UnderWay { lane: Arc::clone(lane), _running: running, dropped };
    if ask.request.stream && !(framing == Framing::Sse && is_json(&answer)) {
        stream(house, ask, call, answer, (framing, deadline, under_way)).await
    } else {
        whole(house, ask, call, answer, (deadline, under_way)).await
    }
}

/// Remembers what the provider says is left of its own limits, where it says so as OpenAI does.
fn note_what_is_left(metrics: &Metrics, lane: &Lane, headers: &HeaderMap) {
    for (kind, name) in [("requests", "x-ratelimit-remaining-requests"), ("tokens", "x-ratelimit-remaining-tokens")] {
        if let Some(left) = headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok()) {
            metrics.upstream_ratelimit_remaining.with_label_values(&[lane.provider.config.name.as_str(), kind]).set(left);
        }
    }
}

/// What is held while an attempt runs.
struct UnderWay {
    lane: Arc<Lane>,
    _running: Running,
    dropped: Vec<&'static str>,
}

impl UnderWay {
    fn about(&self, call: &Call) -> About {
        let (provider, model) = (self.lane.provider.config.name.clone(), self.lane.target.model.clone());
        About { provider, model, attempts: call.attempts(), cost: call.cost(), dropped: self.dropped.clone() }
    }
}

/// A place within the provider's own limits, as what is to be told when the attempt is settled.
async fn place(house: &House, ask: &Ask, lane: &Lane, call: &mut Call) -> Result<OnSettled, Error> {
    let slot = match &lane.provider.queue {
        Some(queue) => {
            let began = Instant::now();
            let entered = queue.enter(&ask.key).await;
            call.waited(began.elapsed());
            Some(entered.map_err(|refused| queue_full(house, &refused))?)
        }
        None => None,
    };
    let permit = match &lane.provider.ledger {
        Some(ledger) => {
            let admitted = house.limits.admit(&[Arc::clone(ledger)], lane.account.reservation(&ask.request)).await;
            Some(admitted.map_err(|denied| admission::refusal(house, &denied))?)
        }
        None => None,
    };
    if slot.is_none() && permit.is_none() {
        return Ok(None);
    }
    Ok(Some(Box::new(move |used| {
        if let Some(mut permit) = permit {
            permit.settle(used);
        }
        drop(slot);
    })))
}

fn queue_full(house: &House, refused: &QueueRefused) -> Error {
    house.metrics.rate_limit_hits.with_label_values(&[Scope::Provider.label(), Limit::Concurrency.label()]).inc();
    let why = match refused.reason {
        QueueReason::Full => "the line for this provider is full",
        QueueReason::TooLong => "the wait for this provider was too long",
    };
    Error::new(Kind::QueueFull, why).retry_after(Some(refused.retry_after))
}

fn translate(ask: &Ask, lane: &Lane, call: &Call) -> Result<UpstreamRequest, Error> {
    with_call(ask, lane, call.request_id(), |wire, call| wire.request(call).map_err(Error::from))
}

/// The call as adapters see it.
fn with_call<T>(
    ask: &Ask,
    lane: &Lane,
    request_id: &str,
    say: impl FnOnce(&dyn providers::Provider, &providers::Call<'_>) -> T,
) -> T {
    let id = format!("chatcmpl-{request_id}");
    let call = providers::Call {
        endpoint: ask.endpoint,
        request: &ask.request,
        model: &lane.target.model,
        account: &lane.provider.config.account,
        id: &id,
        created: unix_seconds(),
        ask_usage: lane.asks_usage(),
    };
    say(lane.provider.wire.0, &call)
}

/// A stream was asked for and JSON came: an error, or a provider that does not stream.
fn is_json(answer: &upstream::Answer) -> bool {
    answer.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

/// No head of an answer came.
fn unreached(house: &House, lane: &Lane, mut call: Call, failure: Failure) -> Box<Failed> {
    let (outcome, error) = match failure {
        Failure::Timeout => (Outcome::Timeout, Error::new(Kind::UpstreamTimeout, "the provider did not answer in time")),
        Failure::Connect => (Outcome::UpstreamError, Error::new(Kind::UpstreamUnavailable, "the provider cannot be reached")),
        Failure::Credentials(trouble) => {
            call.settle(Outcome::UpstreamError);
            let kind = if trouble.is_passing { Kind::UpstreamUnavailable } else { Kind::UpstreamAuth };
            let message = format!("provider \"{}\": {}", lane.provider.config.name, trouble.message);
            // The model is well, and what is missing will not be there a moment later.
            return Box::new(Failed { call, error: Error::new(kind, message), then: Then::Next });
        }
        Failure::Broken | Failure::TooLarge => {
            (Outcome::UpstreamError, Error::new(Kind::UpstreamFailed, "the provider broke the connection"))
        }
    };
    call.settle(outcome);
    unwell(&house.metrics, lane);
    Box::new(Failed { call, error, then: Then::Again })
}

/// An answer with a status that says no.
async fn refused(house: &House, ask: &Ask, lane: &Lane, mut call: Call, mut answer: upstream::Answer) -> Box<Failed> {
    let (status, headers) = (answer.status, std::mem::take(&mut answer.headers));
    let body = answer.whole(ERROR_BODY, Instant::now() + ERROR_BODY).await.unwrap_or_default();
    call.settle(Outcome::UpstreamError);
    if ask.request.stream && lane.asks_usage() && rejects_usage(status, &body) {
        lane.stop_asking_usage();
        let error = Error::new(Kind::UpstreamRefused, "the provider rejects stream_options");
        return Box::new(Failed { call, error, then: Then::Rephrase });
    }
    let reported = lane.provider.wire.0.error(status, &headers, &body);
    let then = judge(house, lane, reported.class, reported.retry_after);
    Box::new(Failed { call, error: Error::from(reported), then })
}

/// Whether a provider refused the one field that was added to the client's request.
fn rejects_usage(status: StatusCode, body: &[u8]) -> bool {
    let names = |word: &[u8]| memchr::memmem::find(body, word).is_some();
    matches!(status.as_u16(), 400 | 422) && (names(b"stream_options") || names(b"include_usage"))
}

/// What a reported error says about the target, and what to do next.
fn judge(house: &House, lane: &Lane, class: Class, retry_after: Option<Duration>) -> Then {
    match class {
        Class::Invalid | Class::NotFound | Class::ContentFilter => {
            lane.target.breaker.succeeded();
            Then::Stop
        }
        Class::ContextOverflow | Class::Authentication | Class::Permission | Class::Quota => Then::Next,
        Class::RateLimited => {
            let longest = lane.provider.config.retry.max;
            if let Some(wait) = retry_after.filter(|wait| *wait > longest) {
                lane.target.breaker.cool_down(router::now(), wait);
            }
            Then::Again
        }
        Class::Overloaded | Class::Timeout | Class::Server => {
            unwell(&house.metrics, lane);
            Then::Again
        }
    }
}

fn unwell(metrics: &Metrics, lane: &Lane) {
    let provider = lane.provider.config.name.as_str();
    if lane.target.breaker.failed(router::now()) {
        metrics.circuit_breaker_trips.with_label_values(&[provider]).inc();
    }
}

/// The whole answer.
async fn whole(
    house: &House,
    ask: &Ask,
    mut call: Call,
    mut answer: upstream::Answer,
    (deadline, under_way): (Instant, UnderWay),
) -> Result<Reply, Box<Failed>> {
    let lane = Arc::clone(&under_way.lane);
    let headers = std::mem::take(&mut answer.headers);
    let began = Instant::now();
    let body = answer.whole(lane.provider.upstream.timeouts.idle, deadline).await;
    call.waited(began.elapsed());
    let body = match body {
        Ok(body) => body,
        Err(failure) => return Err(unreached(house, &lane, call, failure)),
    };
    let translated = with_call(ask, &lane, call.request_id(), |wire, call| wire.answer(call, &headers, body));
    let reported = match translated {
        Ok(_) if ask.request.stream => providers::UpstreamError::new(Class::Server, "the provider did not stream its answer"),
        Err(reported) => reported,
        Ok(answer) => {
            call.whole(&answer);
            call.settle(Outcome::Completed);
            lane.target.breaker.succeeded();
            return Ok(Reply::Whole { body: answer.body, about: under_way.about(&call), call: Box::new(call) });
        }
    };
    call.settle(Outcome::UpstreamError);
    let then = judge(house, &lane, reported.class, reported.retry_after);
    Err(Box::new(Failed { call, error: Error::from(reported), then }))
}

/// The beginning of a streamed answer.
async fn stream(
    house: &House,
    ask: &Ask,
    call: Call,
    answer: upstream::Answer,
    (framing, deadline, under_way): (Framing, Instant, UnderWay),
) -> Result<Reply, Box<Failed>> {
    let lane = Arc::clone(&under_way.lane);
    let config = &lane.provider.config;
    let drain = (config.on_disconnect == OnDisconnect::Drain).then_some(config.drain_timeout);
    let limits = Limits { idle: lane.provider.upstream.timeouts.idle, deadline, drain };
    let about = About { cost: None, ..under_way.about(&call) };
    let translator = with_call(ask, &lane, call.request_id(), |wire, call| wire.stream(call));
    let watch = Watched { call, under_way, metrics: Arc::clone(&house.metrics) };
    let began = Instant::now();
    let (watched, end) =
        match Pump::begin(Parts { source: answer, framing, translator, watch, limits, stop: Box::pin(house.meter.stopped()) })
            .await
        {
            Ok(mut pump) => {
                pump.watch_mut(|watched| watched.call.waited(began.elapsed()));
                lane.target.breaker.succeeded();
                return Ok(Reply::Stream { pump: Box::new(pump), about });
            }
            Err(failed) => failed,
        };
    let then = match &end {
        End::Failed(reported) => judge(house, &lane, reported.class, reported.retry_after),
        End::Stopped => Then::Stop,
        End::Unreadable(_) => Then::Next,
        End::Complete | End::Truncated | End::TimedOut => {
            unwell(&house.metrics, &lane);
            Then::Again
        }
    };
    let error = end.error().unwrap_or_else(|| Error::new(Kind::UpstreamStream, "the provider sent an empty stream"));
    Err(Box::new(Failed { call: watched.into_call(), error, then }))
}

impl Source for upstream::Answer {
    async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, ()> {
        Self::chunk(self).await.map_err(|_| ())
    }
}

/// A call whose answer is streamed, with what it holds at its target.
pub(super) struct Watched {
    pub(super) call: Call,
    under_way: UnderWay,
    metrics: Arc<Metrics>,
}

impl Watched {
    fn into_call(self) -> Call {
        self.call
    }
}

impl Watch for Watched {
    fn event(&mut self, kind: &Heard<'_>) {
        self.call.event(kind);
    }

    fn end(&mut self, end: End) {
        let outcome = match &end {
            End::Complete => Outcome::Completed,
            End::Truncated | End::Unreadable(_) => Outcome::UpstreamTruncated,
            End::Failed(_) => Outcome::UpstreamError,
            End::TimedOut => Outcome::Timeout,
            End::Stopped => Outcome::GatewayShutdown,
        };
        self.call.settle(outcome);
        if let Some(error) = end.error().filter(|_| self.call.has_begun()) {
            self.call.broke(error.label());
            if !matches!(end, End::Stopped) {
                unwell(&self.metrics, &self.under_way.lane);
            }
        }
    }

    fn client_left(&mut self) {
        self.call.client_left();
    }
}
