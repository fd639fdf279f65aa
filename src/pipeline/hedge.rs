//! Hedging: a second attempt beside one that is slower than nearly all before it, for whole answers of models that ask
//! for it. The client gets the first good answer; both attempts are settled.
//! It must not know how an attempt is made, or what is done when both fail.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::{sleep, timeout};

use super::Ask;
use super::attempt::{self, Reply};
use super::told::About;
use super::verdict::Failed;
use crate::config::OnDisconnect;
use crate::house::{House, Lane};
use crate::meter::Call;
use crate::router::{self, Running};

type Attempt = Pin<Box<dyn Future<Output = Result<Reply, Box<Failed>>> + Send>>;

/// An attempt, and the lane that it is made on.
struct Runner {
    lane: Arc<Lane>,
    attempt: Attempt,
}

impl Runner {
    fn start(house: &Arc<House>, ask: &Ask, (lane, running): (&Arc<Lane>, Running), call: Call) -> Self {
        let (house, ask, own) = (Arc::clone(house), ask.clone(), Arc::clone(lane));
        let attempt = async move { attempt::once(&house, &ask, (&own, running), call).await };
        Self { lane: Arc::clone(lane), attempt: Box::pin(attempt) }
    }

    /// The other one was quicker: this one is stopped, or read to its end for its bill, as its provider's rule for
    /// clients that leave says.
    fn lose(self) {
        let config = &self.lane.provider.config;
        if config.on_disconnect == OnDisconnect::Drain {
            // Its record is closed by whatever comes first.
            drop(tokio::spawn(timeout(config.drain_timeout, self.attempt)));
        }
    }
}

/// One attempt, and a second one beside it when that is wished and it is slow.
pub(super) async fn attempt(
    house: &Arc<House>,
    ask: &Ask,
    (lane, running): (&Arc<Lane>, Running),
    others: &[&Arc<Lane>],
    mut call: Call,
) -> Result<Reply, Box<Failed>> {
    let Some(after) = patience(ask, lane) else { return attempt::once(house, ask, (lane, running), call).await };
    let (one, two) = call.twins(&lane.account);
    let mut first = Runner::start(house, ask, (lane, running), one);
    let done = tokio::select! {
        biased;
        done = &mut first.attempt => Some(done),
        () = sleep(after) => None,
    };
    let done = match done {
        Some(done) => done,
        None => match second(house, ask, lane, others) {
            Some((other, running)) => {
                let second = Runner::start(house, ask, (&other, running), two);
                race(first, second).await
            }
            None => first.attempt.await,
        },
    };
    match done {
        Ok(Reply::Whole { body, about, call: twin }) => {
            call.joined(twin);
            let about = About { attempts: call.attempts(), cost: call.cost(), ..about };
            Ok(Reply::Whole { body, about, call })
        }
        Ok(stream @ Reply::Stream { .. }) => Ok(stream),
        Err(failed) => {
            let Failed { call: twin, error, then, reason } = *failed;
            call.joined(twin);
            Err(Failed::new(call, error, (then, reason)))
        }
    }
}

/// How long the first attempt is waited for alone; `None`: for ever.
fn patience(ask: &Ask, lane: &Lane) -> Option<Duration> {
    let hedge = ask.plan.hedge.filter(|_| !ask.request.stream && ask.request.passage.is_none())?;
    let usual = lane.target.latency.percentile(hedge.percentile)?;
    Some(usual.max(hedge.at_least))
}

/// Where the second attempt goes: to the next target of the same tier that may be called, else to the same one.
/// It is always paid out of the retry budget: when all answers become slow, not every call may be made twice.
fn second(house: &House, ask: &Ask, lane: &Arc<Lane>, others: &[&Arc<Lane>]) -> Option<(Arc<Lane>, Running)> {
    let now = router::now();
    let tier = ask.plan.tier(lane);
    let beside = others.iter().copied().filter(|other| ask.plan.tier(other) == tier);
    let (other, running) = beside.chain([lane]).find_map(|other| Some((Arc::clone(other), other.target.begin(now)?)))?;
    let provider = [other.provider.config.name.as_str()];
    if !other.provider.budget.spend(now) {
        house.metrics.retry_budget_exhausted.with_label_values(&provider).inc();
        return None;
    }
    house.metrics.hedges.with_label_values(&provider).inc();
    Some((other, running))
}

/// The first good answer of two, or the later failure.
async fn race(first: Runner, second: Runner) -> Result<Reply, Box<Failed>> {
    let (first_lane, second_lane) = (first.lane, second.lane);
    match select(first.attempt, second.attempt).await {
        Either::Left((Ok(reply), attempt)) => {
            Runner { lane: second_lane, attempt }.lose();
            Ok(reply)
        }
        Either::Right((Ok(reply), attempt)) => {
            Runner { lane: first_lane, attempt }.lose();
            Ok(reply)
        }
        Either::Left((Err(_), other)) | Either::Right((Err(_), other)) => other.await,
    }
}
