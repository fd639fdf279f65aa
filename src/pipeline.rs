//! One call, top to bottom: the only control flow. Who is it, what do they want, may they, where does
//! it go, what came of it.
//! It must not know any wire, how bytes travel, or how anything is counted.

mod admission;
mod attempt;
mod deadline;
mod hedge;
mod origin;
mod reply;
mod route;
mod told;
mod verdict;
mod wish;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt;
use http::Request;
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use providers::ChatRequest;
use tokio::time::{Instant, sleep, timeout};

use crate::auth::Caller;
use crate::config::OnDisconnect;
use crate::error::{Error, Kind, Surface};
use crate::house::{House, OTHER, Plan, unix_seconds};
use crate::limits::Standing;
use crate::meter::{Call, Facts};
use crate::status::Page;
use crate::stream::KEEP_ALIVE;
use admission::Ahead;
use attempt::{Reply, Stopped};
pub use origin::{Origin, new_request_id};
pub use wish::Wish;

/// The largest body that is copied out of its connection's read buffer, in bytes. A body in one piece
/// is a view of that buffer and would keep all of it for as long as the call lasts; a larger one is a
/// buffer of its own by then, or nearly all of one.
const MAX_COPIED_BODY: usize = 16 * 1024;

/// Where a call came from, and by which route.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The call's id.
    pub request_id: String,
    /// The client's address.
    pub address: IpAddr,
    /// The HTTP method.
    pub method: &'static str,
    /// The route it matched; a metric label.
    pub route: &'static str,
    /// The API it speaks.
    pub surface: Surface,
}

/// What a call asks for, once it was let in.
#[derive(Clone)]
struct Ask {
    request: Arc<ChatRequest>,
    plan: Arc<Plan>,
    standing: Standing,
    ahead: Ahead,
    /// The caller's name: whose turn it is in a provider's line.
    key: String,
    /// The id of a chat completion whose provider gives none.
    completion_id: String,
    /// What such a chat completion says of when it was made, in seconds since 1970.
    created: u64,
    /// When the client no longer wants an answer, if it said so.
    deadline: Option<Instant>,
}

impl Ask {
    /// Whether the client no longer wants an answer.
    fn is_over(&self) -> bool {
        self.is_over_in(Duration::ZERO)
    }

    /// Whether it no longer will after this time.
    fn is_over_in(&self, wait: Duration) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() + wait >= deadline)
    }
}

/// Answers one call.
pub async fn answer(house: Arc<House>, wish: Wish, arrival: Arrival, request: Request<Body>) -> Response {
    let address = arrival.address;
    let mut call = open(&house, arrival);
    call.trace(request.headers(), request.uri().path());
    match let_in(&house, &wish, request, address, &mut call).await {
        Ok(ask) => carry_out(house, ask, call).await,
        Err(error) => reply::refused(call, &error),
    }
}

/// Answers a call that asks nothing of a provider: `respond` says what, for whoever may call.
pub fn answer_here(
    house: &House,
    arrival: Arrival,
    request: &Request<Body>,
    respond: impl FnOnce(Option<&Caller>) -> Result<Bytes, Error>,
) -> Response {
    let address = arrival.address;
    let mut call = open(house, arrival);
    call.trace(request.headers(), request.uri().path());
    let caller = house.admit_address(address).and_then(|()| house.auth.identify(request.headers(), address));
    if let Ok(Some(caller)) = &caller {
        call.caller(Arc::clone(&caller.metrics));
    }
    match caller.and_then(|caller| respond(caller.as_deref())) {
        Ok(body) => reply::here(call, body),
        Err(error) => reply::refused(call, &error),
    }
}

/// Answers with a page that anyone may see.
pub fn answer_anyone(house: &House, arrival: Arrival, page: Page) -> Response {
    reply::page(open(house, arrival), page)
}

/// Answers what is no call at all, counted all the same.
pub fn refuse(house: &House, arrival: Arrival, error: &Error) -> Response {
    reply::refused(open(house, arrival), error)
}

/// The answer when a request made the gateway stumble.
#[must_use]
pub fn reply_to_panic() -> Response {
    reply::plain(&Error::new(Kind::Internal, "the gateway failed; the failure is logged"))
}

fn open(house: &House, arrival: Arrival) -> Call {
    let Arrival { request_id, method, route, surface, .. } = arrival;
    let mut call = house.meter.call(Facts { arrived: Instant::now().into_std(), request_id, method, endpoint: route, surface });
    call.requested(OTHER);
    call
}

/// Everything that can refuse a call before it costs anything, in order.
async fn let_in(house: &House, wish: &Wish, request: Request<Body>, address: IpAddr, call: &mut Call) -> Result<Ask, Error> {
    house.admit_address(address)?;
    let caller = house.auth.identify(request.headers(), address)?;
    if let Some(caller) = &caller {
        call.caller(Arc::clone(&caller.metrics));
    }
    let (head, body) = request.into_parts();
    let body = read_body(house, body, call).await?;
    let mut request = wish.read(&head, body)?;
    let deadline = deadline::of(&head.headers, &request, Instant::from_std(call.arrived()))?;
    let plan = wish.plan(house, caller.as_deref(), &mut request)?;
    call.requested(&plan.label);
    if request.may_cost() && plan.is_refused_by(house.config.unpriced) {
        return Err(
            Error::new(Kind::Forbidden, "this model has no price here, and calls without a price are refused").param("model")
        );
    }
    let (standing, ahead) = admission::admit(house, caller.as_deref(), &request, &plan, call).await?;
    let key = caller.map(|caller| caller.metrics.name.clone()).unwrap_or_default();
    let completion_id = ["chatcmpl-", call.request_id()].concat();
    Ok(Ask { request: Arc::new(request), plan, standing, ahead, key, completion_id, created: unix_seconds(), deadline })
}

async fn read_body(house: &House, body: Body, call: &mut Call) -> Result<Bytes, Error> {
    let limit = house.config.server.max_body_bytes;
    let too_large = || Error::new(Kind::TooLarge, format!("the request body is larger than {limit} bytes"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut reading = pin!(Limited::new(body, limit).collect());
    // What is there already needs no look at the clock.
    let collected = match reading.as_mut().now_or_never() {
        Some(collected) => collected,
        None => {
            let began = Instant::now();
            let slow = |_| Error::new(Kind::SlowRequest, "the request body did not arrive in time");
            let collected = timeout(house.config.server.body_timeout, reading).await.map_err(slow)?;
            call.waited(began.elapsed());
            collected
        }
    };
    let collected = collected.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return too_large();
        }
        Error::new(Kind::InvalidRequest, "the request body could not be read")
    });
    let body = collected?.to_bytes();
    Ok(if body.len() <= MAX_COPIED_BODY { Bytes::copy_from_slice(&body) } else { body })
}

/// Runs the attempts and answers with what came of them. A stream that is long in coming is begun
/// with comments, so that nobody on the way takes it for dead.
async fn carry_out(house: Arc<House>, ask: Ask, call: Call) -> Response {
    let standing = ask.standing;
    if !ask.request.stream {
        return match keep_going(house, ask, call).await {
            Ok(reply) => reply::begun(reply, &standing),
            Err(stopped) => reply::stopped(stopped),
        };
    }
    let mut running = Box::pin(keep_going(house, ask, call));
    tokio::select! {
        biased;
        ran = &mut running => match ran {
            Ok(reply) => reply::begun(reply, &standing),
            Err(stopped) => reply::stopped(stopped),
        },
        () = sleep(KEEP_ALIVE) => reply::late(running, &standing),
    }
}

/// The attempts; where a provider is to be drained they go on although the client leaves.
async fn keep_going(house: Arc<House>, ask: Ask, call: Call) -> Result<Reply, Stopped> {
    let drains = ask.plan.lanes.iter().any(|place| place.target.provider.config.on_disconnect == OnDisconnect::Drain);
    if !drains {
        return route::run(&house, &ask, call).await;
    }
    let task = tokio::spawn(async move { route::run(&house, &ask, call).await });
    task.await.unwrap_or(Err(Stopped::lost()))
}
