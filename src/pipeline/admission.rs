//! May this call run now: its ledgers are asked once, and told what it used when it is over.
//! It must not know how limits are counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use providers::ChatRequest;

use super::told::Told;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::house::{House, Plan};
use crate::limits::{Denied, Ledger, Permit, Reason, Standing};
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
    let headers = Told::of(&denied.standing).headers();
    headers
        .into_iter()
        .filter_map(|(name, value)| Some((name?, value)))
        .fold(error, |error, (name, value)| error.header(name, value))
}
