//! May this call run now: its ledgers are asked once, and told what it used when it is over.
//! It must not know how limits are counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use providers::ChatRequest;

use crate::auth::Caller;
use crate::decimal;
use crate::error::{Error, Kind};
use crate::house::{House, Plan};
use crate::limits::{Denied, Ledger, Permit, Reason, Standing, Window};
use crate::meter::Call;
use crate::router::{self, State};

/// How long a client is told to wait when no wait can help: the span of all limits.
const A_WHOLE_SPAN: Duration = Duration::from_secs(60);

/// A provider's permit that was had ahead of the first attempt there, for that attempt to take.
#[derive(Clone, Debug, Default)]
pub(super) struct Ahead(Option<Arc<Mutex<Option<Permit>>>>);

impl Ahead {
    fn new(permit: Option<Permit>) -> Self {
        Self(permit.map(|permit| Arc::new(Mutex::new(Some(permit)))))
    }

    pub(super) fn take(&self) -> Option<Permit> {
        self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Takes the call from all its ledgers or from none. Where one provider is all it can go to, what the first attempt needs
/// of that is asked in the same step.
pub(super) async fn admit(
    house: &House,
    caller: Option<&Caller>,
    request: &ChatRequest,
    plan: &Plan,
    call: &mut Call,
) -> Result<(Standing, Ahead), Error> {
    let ledgers = house.ledgers(caller, &request.model, plan);
    if ledgers.is_empty() {
        return Ok(Default::default());
    }
    let account = plan.lanes.first().map(|place| &place.target.account);
    let tokens = account.map_or(0, |account| account.reservation(request));
    let admitted = house.limits.admit_ahead(ledgers, of_the_only_provider(plan, request), tokens).await;
    let (mut permit, ahead) = admitted.map_err(|denied| refusal(house, &denied))?;
    let standing = permit.standing();
    call.when_over(Box::new(move |used| permit.settle(used)));
    Ok((standing, Ahead::new(ahead)))
}

/// The ledgers of the provider that the call goes to, when that is certain, and nobody waits in line there.
fn of_the_only_provider<'a>(plan: &'a Plan, request: &ChatRequest) -> &'a [Arc<Ledger>] {
    let [place] = plan.lanes.as_slice() else { return &[] };
    let lane = &place.target;
    let is_waited_for = lane.provider.queue.as_ref().is_some_and(|queue| queue.waiting() > 0);
    let may_go = lane.serves(request.endpoint) && lane.target.breaker.state(router::now()) == State::Closed;
    if may_go && !is_waited_for { &lane.provider.ledgers } else { &[] }
}

/// A refusal by one of the gateway's limits, counted and worded.
pub(super) fn refusal(house: &House, denied: &Denied) -> Error {
    let (scope, limit) = (denied.scope.label(), denied.limit.label());
    house.metrics.rate_limit_hits.with_label_values(&[scope, limit]).inc();
    let message = match denied.reason {
        Reason::Exhausted => format!("the gateway's {limit} limit of {scope} `{}` is reached", denied.rule),
        Reason::TooLarge => {
            format!("this call alone asks for more than the gateway's {limit} limit of {scope} `{}`", denied.rule)
        }
        Reason::Unavailable => "the gateway cannot count limits at the moment, and is told to refuse then".to_owned(),
    };
    let error = Error::new(Kind::RateLimited, message).retry_after(denied.retry_after.or(Some(A_WHOLE_SPAN)));
    let headers = headers(&denied.standing);
    headers
        .into_iter()
        .filter_map(|(name, value)| Some((name?, value)))
        .fold(error, |error, (name, value)| error.header(name, value))
}

/// Limit, room left and time until all of it is free.
type Names = [HeaderName; 3];

const REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Headers that an answer usually has at most, so that their table is made once.
const USUAL_HEADERS: usize = 16;

/// The room left, as OpenAI's `x-ratelimit-*` headers say it.
pub(super) fn headers(standing: &Standing) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(USUAL_HEADERS);
    let mut window = |window: &Option<Window>, [limit, remaining, reset]: Names| {
        let Some(window) = window else { return };
        headers.insert(limit, HeaderValue::from(window.limit));
        headers.insert(remaining, HeaderValue::from(window.remaining));
        if let Ok(text) = HeaderValue::try_from(span(window.reset)) {
            headers.insert(reset, text);
        }
    };
    window(&standing.requests, REQUESTS);
    window(&standing.tokens, TOKENS);
    headers
}

/// A span as OpenAI writes it: `6ms`, `1.5s`, `1m2s`.
fn span(time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::with_capacity(16);
    if millis < 1000 {
        decimal::whole(&mut text, millis, 1);
        text.push_str("ms");
        return text;
    }
    if millis >= 60_000 {
        decimal::whole(&mut text, millis / 60_000, 1);
        text.push('m');
    }
    decimal::whole(&mut text, millis % 60_000 / 1000, 1);
    if !millis.is_multiple_of(1000) {
        text.push('.');
        decimal::whole(&mut text, millis % 1000, 3);
    }
    text.push('s');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_openai_writes_them() {
        let cases =
            [(0, "0ms"), (6, "6ms"), (999, "999ms"), (1000, "1s"), (1500, "1.500s"), (60_000, "1m0s"), (62_300, "1m2.300s")];
        for (millis, text) in cases {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}
