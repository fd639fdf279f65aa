//! From attempt to attempt: which target next, the same one again or another one, after what wait, and when it
//! is enough. The one loop of a call.
//! It must not know how an attempt is made, or how answers are worded for HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::attempt::{Reply, Stopped};
use super::told::About;
use super::verdict::{Failed, Then};
use super::{Ask, hedge};
use crate::config::Reason;
use crate::error::{Error, Kind};
use crate::house::{House, Lane};
use crate::meter::Call;
use crate::router::{self, Running, State, Why, order};

/// The target that was tried last, and how it ended there.
struct Left {
    lane: Arc<Lane>,
    error: Error,
    reason: Option<Reason>,
}

/// Tries the targets in order, each as often as its provider's rule says, until one answers.
pub(super) async fn run(house: &Arc<House>, ask: &Ask, mut call: Call) -> Result<Reply, Stopped> {
    let mut now = router::now();
    let mut lanes = order(&ask.plan.lanes, ask.plan.balance, now, |lane| &lane.target);
    lanes.retain(|lane| lane.serves(ask.request.endpoint));
    let mut last: Option<Left> = None;
    let mut spared: Option<(Duration, Why)> = None;
    for (index, lane) in lanes.iter().enumerate() {
        if last.as_ref().is_some_and(|left| left.reason == Some(Reason::ContextOverflow) && !lane.may_hold_more_than(&left.lane))
        {
            continue;
        }
        let Some(running) = enter(house, lane, last.is_none(), now) else {
            let wait = lane.target.breaker.wait(now);
            spared = [spared, wait].into_iter().flatten().min_by_key(|(wait, _)| *wait);
            continue;
        };
        if let Some(left) = &last {
            let labels = [&left.lane.provider.config.name, &lane.provider.config.name, left.error.label()];
            house.metrics.fallbacks.with_label_values(&labels).inc();
        }
        let others = lanes.get(index + 1..).unwrap_or_default();
        let Failed { call: returned, error, then, reason } = match on_lane(house, ask, (lane, running), others, call).await {
            Ok(reply) => return Ok(reply),
            Err(failed) => *failed,
        };
        call = returned;
        let goes_on = then != Then::Stop && reason.is_some_and(|reason| ask.plan.fallback_on.contains(&reason));
        last = Some(Left { lane: Arc::clone(lane), error, reason });
        if !goes_on || ask.is_over() {
            break;
        }
        now = router::now();
    }
    Err(gave_up(call, last, spared))
}

/// Lets an attempt on a target begin: its breaker must let it, and what is not a call's first attempt must not
/// bury a target that is failing. One that is well is not rationed: a call that another target failed is
/// welcome there.
fn enter(house: &House, lane: &Lane, is_first: bool, now: Instant) -> Option<Running> {
    let running = lane.target.begin(now)?;
    if is_first {
        lane.provider.budget.earn();
        return Some(running);
    }
    is_within_budget(house, lane, now).then_some(running)
}

fn is_within_budget(house: &House, lane: &Lane, now: Instant) -> bool {
    let is_allowed = !lane.target.breaker.is_failing(now) || lane.provider.budget.spend(now);
    if !is_allowed {
        house.metrics.retry_budget_exhausted.with_label_values(&[&lane.provider.config.name]).inc();
    }
    is_allowed
}

/// Tries one lane as often as its provider's rule says.
async fn on_lane(
    house: &Arc<House>,
    ask: &Ask,
    (lane, mut running): (&Arc<Lane>, Running),
    others: &[&Arc<Lane>],
    mut call: Call,
) -> Result<Reply, Box<Failed>> {
    let rule = lane.provider.config.retry;
    let tries = if ask.request.is_once() { 1 } else { rule.attempts };
    let (mut tried, mut keys) = (0, 1);
    loop {
        let failed = match hedge::attempt(house, ask, (lane, running), others, call).await {
            Ok(reply) => return Ok(reply),
            Err(failed) => failed,
        };
        let wait = match failed.then {
            Then::Rephrase => Some(Duration::ZERO),
            Then::OtherKey if keys < lane.provider.upstream.key_count() => {
                keys += 1;
                Some(Duration::ZERO)
            }
            Then::Again if !is_better_elsewhere(ask, lane, others, &failed) => {
                tried += 1;
                let wait = pause((rule.base, rule.max), tried, failed.error.wait(), fastrand::f64());
                wait.filter(|wait| tried < tries && !ask.is_over_in(*wait) && is_within_budget(house, lane, router::now()))
            }
            Then::Again | Then::OtherKey | Then::Next | Then::Stop => None,
        };
        let Some(wait) = wait else { return Err(failed) };
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let Some(next) = lane.target.begin(router::now()) else { return Err(failed) };
        if failed.then != Then::Rephrase {
            let labels = [lane.provider.config.name.as_str(), failed.error.label()];
            house.metrics.upstream_retries.with_label_values(&labels).inc();
        }
        running = next;
        call = failed.call;
        call.waited(wait);
    }
}

/// Whether a failed call had better go to another target than be tried again here: there is one that is well, and
/// this one was too slow, asks for a pause, or has failed often lately.
fn is_better_elsewhere(ask: &Ask, lane: &Lane, others: &[&Arc<Lane>], failed: &Failed) -> bool {
    let now = router::now();
    let is_unpromising =
        failed.reason == Some(Reason::Timeout) || failed.error.wait().is_some() || lane.target.breaker.is_failing(now);
    let may_leave = failed.reason.is_some_and(|reason| ask.plan.fallback_on.contains(&reason));
    let is_well = |other: &&Arc<Lane>| {
        let breaker = &other.target.breaker;
        breaker.state(now) == State::Closed && !breaker.is_failing(now)
    };
    is_unpromising && may_leave && others.iter().any(is_well)
}

/// How long to wait before try `tried + 1`: a share, `random` of 1, of a doubling span, and never less than
/// the provider asked for; `None` when it asked for longer than we are willing to wait.
fn pause((base, max): (Duration, Duration), tried: u32, asked: Option<Duration>, random: f64) -> Option<Duration> {
    let span = base.saturating_mul(1 << tried.saturating_sub(1).min(16)).min(max);
    let jittered = span.mul_f64(random);
    match asked {
        Some(asked) if asked > max => None,
        Some(asked) => Some(asked.max(jittered)),
        None => Some(jittered),
    }
}

/// What the client is told when no target answered: what the last one said, or, when none was asked, how soon one
/// may be, and what keeps the one that is free first: a provider that called a pause told everybody, and to an
/// OpenAI client that is its own limit.
fn gave_up(call: Call, last: Option<Left>, spared: Option<(Duration, Why)>) -> Stopped {
    let (error, about) = match last {
        Some(left) => (left.error, (call.attempts() > 0).then(|| About::of(&left.lane, &call, Vec::new()))),
        None => {
            let (kind, why) = match spared {
                Some((_, Why::TooFast)) => {
                    (Kind::UpstreamRateLimited, "calls came too fast for the provider, which asked for a pause")
                }
                _ => (Kind::UpstreamUnavailable, "no provider of this model can be called now: each has failed repeatedly"),
            };
            (Error::new(kind, why).retry_after(spared.map(|(wait, _)| wait)), None)
        }
    };
    Stopped { call: Some(call), error, about }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_full_jitter_over_doubling_spans_and_obey_the_provider() {
        let rule = (Duration::from_millis(250), Duration::from_secs(8));
        let ms = Duration::from_millis;
        let cases = [
            (1, None, 0.0, Some(ms(0))),
            (1, None, 1.0, Some(ms(250))),
            (2, None, 1.0, Some(ms(500))),
            (3, None, 0.5, Some(ms(500))),
            (6, None, 1.0, Some(ms(8000))),
            (40, None, 1.0, Some(ms(8000))),
            (1, Some(ms(700)), 1.0, Some(ms(700))),
            (4, Some(ms(700)), 1.0, Some(ms(2000))),
            (1, Some(ms(8000)), 0.0, Some(ms(8000))),
            (1, Some(ms(8001)), 0.0, None),
        ];
        for (tried, asked, random, wait) in cases {
            assert_eq!(pause(rule, tried, asked, random), wait, "{tried} {asked:?} {random}");
        }
    }
}
