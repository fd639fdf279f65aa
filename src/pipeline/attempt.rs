//! One attempt on one target: find a place, translate, send, and read until there is an answer for the client
//! or it has failed.
//! It must not know how answers are worded for HTTP, which targets there are, or what is tried next.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use providers::frames::Framing;
use providers::{Class, Kind as Heard, UpstreamError, UpstreamRequest};
use tokio::time::{Instant, timeout_at};

use super::told::About;
use super::verdict::{self, Failed, STOP, Then};
use super::{Ask, admission};
use crate::config::{OnDisconnect, Reason};
use crate::error::{Error, Kind, Surface};
use crate::house::{House, Lane};
use crate::limits::{Limit, Permit, QueueReason, QueueRefused, Scope, Slot};
use crate::meter::{Call, OnSettled, Outcome};
use crate::metrics::Metrics;
use crate::router::{self, Running};
use crate::stream::{End, Limits, Parts, Pump, Source, Stop, Watch};
use crate::{tokens, upstream};

/// An answer that is ready to go to the client.
pub(super) enum Reply {
    /// All of it.
    Whole {
        /// The JSON.
        body: bytes::Bytes,
        /// What it took.
        about: About,
        /// The record to close when it is sent.
        call: Call,
    },
    /// A stream that has begun.
    Stream {
        /// The rest of it.
        pump: Box<Pump<upstream::Answer, Watched>>,
        /// What it took so far.
        about: About,
        /// What the provider says of bytes that are no events: their type and name.
        plain: Option<HeaderMap>,
    },
}

/// No answer: why.
pub(super) struct Stopped {
    /// The call's record, given back.
    pub(super) call: Option<Call>,
    /// What the client is told.
    pub(super) error: Error,
    /// What was tried last, if anything was.
    pub(super) about: Option<About>,
}

impl Stopped {
    /// The task that ran the call is gone; its record was closed when it went.
    pub(super) fn lost() -> Self {
        Self { call: None, error: Error::new(Kind::Internal, "the call was lost in the gateway"), about: None }
    }
}

/// How long the stages of one attempt may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    first_byte: Duration,
    idle: Duration,
    /// When it must be over: the attempt's own total, or the client's deadline.
    pub(super) deadline: Instant,
    /// Whether that is the client's.
    is_clients: bool,
}

impl Times {
    fn of(ask: &Ask, lane: &Lane, sent: Instant) -> Self {
        let timeouts = ask.plan.timeouts.or(lane.provider.config.timeouts);
        let total = sent + timeouts.total;
        let deadline = ask.deadline.map_or(total, |deadline| deadline.min(total));
        let first_byte = timeouts.first_byte_of(ask.request.stream);
        Self { first_byte, idle: timeouts.idle, deadline, is_clients: deadline < total }
    }
}

/// What is held while an attempt runs.
pub(super) struct UnderWay {
    pub(super) lane: Arc<Lane>,
    pub(super) running: Running,
    pub(super) times: Times,
    pub(super) sent: Instant,
    /// The number of the key that was used.
    pub(super) key: usize,
    dropped: Vec<&'static str>,
}

/// One attempt.
pub(super) async fn once(
    house: &House,
    ask: &Ask,
    (lane, running): (&Arc<Lane>, Running),
    mut call: Call,
) -> Result<Reply, Box<Failed>> {
    let on_settled = match place(house, ask, (lane, &running), &mut call).await {
        Ok(on_settled) => on_settled,
        Err((error, next)) => return Err(Failed::new(call, error, next)),
    };
    let mut outgoing = match translate(ask, lane) {
        Ok(outgoing) => outgoing,
        Err(error) => return Err(Failed::new(call, error, STOP)),
    };
    let (framing, dropped) = (outgoing.framing, outgoing.dropped.clone());
    let sent = Instant::now();
    let times = Times::of(ask, lane, sent);
    let mut under_way = UnderWay { lane: Arc::clone(lane), running, times, sent, key: 0, dropped };
    call.open((&lane.account, &ask.request), on_settled, sent.into_std());
    outgoing.headers.extend(call.sent_to(&lane.peer, ask.request.endpoint.operation()));
    let sending = lane.provider.upstream.send(outgoing, times.first_byte, times.deadline).await;
    let heard = Instant::now();
    call.heard(sending.as_ref().ok().map(|answer| answer.status.as_u16()), heard.into_std());
    let answer = match sending {
        Ok(answer) => answer,
        Err(failure) => return Err(verdict::unreached(house, ask, &under_way, call, failure)),
    };
    under_way.key = answer.key;
    if !answer.status.is_success() {
        return Err(verdict::refused(house, ask, &under_way, call, answer).await);
    }
    note_what_is_left(&house.metrics, lane, &answer.headers);
    match frames(ask, framing, &answer.headers) {
        Some(framing) => stream(house, ask, (call, heard), answer, (framing, under_way)).await,
        None => whole(house, ask, (call, heard), answer, under_way).await,
    }
}

/// How the answer comes in parts; `None`: at once. A stream that was asked for may come as JSON: an error, or a
/// provider that does not stream. What is passed on comes as it comes.
fn frames(ask: &Ask, asked: Framing, headers: &HeaderMap) -> Option<Framing> {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_json = kind.split(|byte| *byte == b';').next().is_some_and(|kind| kind.trim_ascii() == b"application/json");
    if ask.request.passage.is_none() {
        return (ask.request.stream && !(asked == Framing::Sse && is_json)).then_some(asked);
    }
    let in_parts = if kind.starts_with(b"text/event-stream") { Framing::Sse } else { Framing::Pieces };
    (!is_json).then_some(in_parts)
}

/// Remembers what the provider says is left of its own limits, where it says so as OpenAI does.
fn note_what_is_left(metrics: &Metrics, lane: &Lane, headers: &HeaderMap) {
    for (kind, name) in [("requests", "x-ratelimit-remaining-requests"), ("tokens", "x-ratelimit-remaining-tokens")] {
        if let Some(left) = headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok()) {
            metrics.upstream_ratelimit_remaining.with_label_values(&[lane.provider.config.name.as_str(), kind]).set(left);
        }
    }
}

/// Why there is no place, and what to do about it.
type NoPlace = (Error, (Then, Option<Reason>));

/// A place within the provider's own limits, as what is to be told when the attempt is settled. Time in its line is not the
/// gateway's own, whether there is a place in the end or not.
async fn place(house: &House, ask: &Ask, (lane, running): (&Lane, &Running), call: &mut Call) -> Result<OnSettled, NoPlace> {
    let began = Instant::from_std(running.began());
    let mut entering = pin!(enter(house, ask, lane, began + lane.provider.config.queue.wait));
    // Where there is room, nobody looks at the clock.
    let entered = match entering.as_mut().now_or_never() {
        Some(entered) => entered,
        None => {
            let entered = match ask.deadline {
                Some(deadline) => timeout_at(deadline, entering).await.unwrap_or_else(|_| Err((verdict::too_late(), STOP))),
                None => entering.await,
            };
            if lane.provider.queue.is_some() {
                call.waited(began.elapsed());
            }
            entered
        }
    };
    let (slot, permit) = entered?;
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

/// Through the line before the provider, and then within its limits; both together no longer than the line may last.
async fn enter(house: &House, ask: &Ask, lane: &Lane, until: Instant) -> Result<(Option<Slot>, Option<Permit>), NoPlace> {
    let slot = match &lane.provider.queue {
        Some(queue) => {
            let entered = queue.enter(&ask.key).await;
            Some(entered.map_err(|refused| (queue_full(house, &refused), (Then::Next, Some(Reason::Overloaded))))?)
        }
        None => None,
    };
    let permit = match (ask.ahead.take(), lane.provider.ledgers.as_slice()) {
        (Some(permit), _) => Some(permit),
        (None, []) => None,
        (None, ledgers) => {
            let admitted = house.limits.admit_in_turn(ledgers, lane.account.reservation(&ask.request), until).await;
            let refused = |denied| (admission::refusal(house, &denied), (Then::Next, Some(Reason::RateLimit)));
            Some(admitted.map_err(refused)?)
        }
    };
    Ok((slot, permit))
}

fn queue_full(house: &House, refused: &QueueRefused) -> Error {
    house.metrics.rate_limit_hits.with_label_values(&[Scope::Provider.label(), Limit::Concurrency.label()]).inc();
    let why = match refused.reason {
        QueueReason::Full => "the line for this provider is full",
        QueueReason::TooLong => "the wait for this provider was too long",
    };
    Error::new(Kind::QueueFull, why).retry_after(Some(refused.retry_after))
}

fn translate(ask: &Ask, lane: &Lane) -> Result<UpstreamRequest, Error> {
    with_call(ask, lane, |wire, call| wire.request(call).map_err(Error::from))
}

/// The call as adapters see it.
fn with_call<T>(ask: &Ask, lane: &Lane, say: impl FnOnce(&dyn providers::Provider, &providers::Call<'_>) -> T) -> T {
    let call = providers::Call {
        endpoint: ask.request.endpoint,
        request: &ask.request,
        model: &lane.target.model,
        account: &lane.provider.config.account,
        id: &ask.completion_id,
        created: ask.created,
        ask_usage: lane.asks_usage(),
    };
    say(lane.provider.wire.0, &call)
}

/// The whole answer.
async fn whole(
    house: &House,
    ask: &Ask,
    (mut call, heard): (Call, Instant),
    mut answer: upstream::Answer,
    under_way: UnderWay,
) -> Result<Reply, Box<Failed>> {
    let lane = &under_way.lane;
    let headers = std::mem::take(&mut answer.headers);
    let body = answer.whole(under_way.times.idle, under_way.times.deadline).await;
    let now = Instant::now();
    call.waited(now - heard);
    let body = match body {
        Ok(body) => body,
        Err(failure) => return Err(verdict::unreached(house, ask, &under_way, call, failure)),
    };
    let translated = with_call(ask, lane, |wire, call| wire.answer(call, &headers, body));
    let reported = match translated {
        Ok(_) if ask.request.stream => UpstreamError::new(Class::Server, "the provider did not stream its answer"),
        Err(reported) => reported,
        Ok(answer) => {
            if answer.usage.is_none() && ask.request.endpoint.is_billed() {
                tokens::loaded().await;
            }
            call.whole(&answer);
            call.settle(Outcome::Completed);
            under_way.running.succeeded();
            let took = now - under_way.sent;
            lane.target.latency.observe(now.into_std(), took);
            if ask.plan.hedge.is_some() {
                lane.target.latency.remember(took);
            }
            let about = About::of(lane, &call, under_way.dropped);
            return Ok(Reply::Whole { body: answer.body, about, call });
        }
    };
    call.settle(Outcome::UpstreamError);
    Err(verdict::reported_by(house, &under_way, call, reported))
}

/// The beginning of a streamed answer.
async fn stream(
    house: &House,
    ask: &Ask,
    (call, heard): (Call, Instant),
    answer: upstream::Answer,
    (framing, under_way): (Framing, UnderWay),
) -> Result<Reply, Box<Failed>> {
    let lane = Arc::clone(&under_way.lane);
    let config = &lane.provider.config;
    let drain = (config.on_disconnect == OnDisconnect::Drain).then_some(config.drain_timeout);
    let Times { idle, deadline, is_clients, .. } = under_way.times;
    let limits = Limits { idle, deadline, is_clients, drain };
    let about = About { cost: None, ..About::of(&lane, &call, under_way.dropped.clone()) };
    let plain = (framing == Framing::Pieces).then(|| description(&answer.headers));
    let translator = match &plain {
        Some(_) => Box::new(providers::Plain),
        None => with_call(ask, &lane, |wire, call| wire.stream(call)),
    };
    let watch = Watched { call, under_way, metrics: Arc::clone(&house.metrics) };
    let surface = if plain.is_some() { Surface::Bytes } else { ask.request.endpoint.into() };
    let stop = Box::pin(house.meter.stopped());
    let parts = Parts { source: answer, framing, translator, surface, watch, limits, stop };
    match Pump::begin(parts).await {
        Ok(mut pump) => {
            pump.watch_mut(|watched| {
                watched.call.waited(heard.elapsed());
                watched.has_begun();
            });
            Ok(Reply::Stream { pump: Box::new(pump), about, plain })
        }
        Err((watched, end)) => {
            let Watched { call, under_way, .. } = watched;
            Err(verdict::ended(house, &under_way, call, end))
        }
    }
}

/// What an answer that is no JSON says of itself.
fn description(headers: &HeaderMap) -> HeaderMap {
    let named = |name: HeaderName| Some((name.clone(), headers.get(name)?.clone()));
    [CONTENT_TYPE, CONTENT_DISPOSITION].into_iter().filter_map(named).collect()
}

impl Source for upstream::Answer {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<bytes::Bytes>, ()>> {
        Self::poll_chunk(self, context).map_err(|_| ())
    }
}

/// A call whose answer is streamed, with what it holds at its target.
pub(super) struct Watched {
    pub(super) call: Call,
    under_way: UnderWay,
    metrics: Arc<Metrics>,
}

impl Watched {
    /// The first content is here, in good time or not.
    fn has_begun(&self) {
        let UnderWay { lane, running, sent, .. } = &self.under_way;
        let took = sent.elapsed();
        lane.target.latency.observe(router::now(), took);
        if lane.provider.config.breaker.slow_first_token.is_some_and(|longest| took > longest) {
            verdict::unwell(&self.metrics, &self.under_way);
        } else {
            running.succeeded();
        }
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
            End::TimedOut | End::Overdue => Outcome::Timeout,
            End::Stopped => Outcome::GatewayShutdown,
        };
        self.call.settle(outcome);
        if let Some(error) = end.error().filter(|_| self.call.has_begun()) {
            self.call.broke(error.label());
            if !matches!(end, End::Stopped | End::Overdue) {
                verdict::unwell(&self.metrics, &self.under_way);
            }
        }
    }

    fn client_left(&mut self) {
        self.call.client_left();
    }

    fn before_a_short_end(&self) -> Option<Stop> {
        let must_count = self.call.lacks_usage() && !tokens::is_loaded();
        must_count.then(|| -> Stop { Box::pin(tokens::loaded()) })
    }
}
