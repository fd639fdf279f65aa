//! Every URL and every layer, in the order in which a request meets them: the table of contents.
//! It must not know how anything is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use http::Method;
use providers::Endpoint;
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::{Error, Kind, Surface};
use crate::house::House;
use crate::pipeline::{self, Arrival, Origin};
use crate::status;

/// What every route needs: the house as it is now, and whether the gateway is leaving. Clones are the same one.
#[derive(Clone, Debug)]
pub struct App {
    current: Arc<ArcSwap<House>>,
    is_leaving: Arc<AtomicBool>,
    is_closed: Arc<AtomicBool>,
}

impl App {
    /// A gateway that has just opened this house.
    #[must_use]
    pub fn new(house: House) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(house)), is_leaving: Arc::default(), is_closed: Arc::default() }
    }

    /// The house as it is now. A call asks once and keeps to its answer, whatever comes after.
    #[must_use]
    pub fn house(&self) -> Arc<House> {
        self.current.load_full()
    }

    /// Lets the next calls into another house; those that run stay where they are.
    pub fn move_to(&self, house: House) {
        self.current.store(Arc::new(house));
    }

    /// From now on `/ready` says that new calls are better sent elsewhere.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
    }

    /// From now on no new call is let in.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Whether the gateway is about to end.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }
}

/// All routes. A request meets the panic catch, then its route.
pub fn routes(app: &App) -> Router {
    Router::new()
        .merge(with_and_without_v1("/chat/completions", &post(chat)))
        .merge(with_and_without_v1("/completions", &post(completions)))
        .merge(with_and_without_v1("/embeddings", &post(embeddings)))
        .merge(with_and_without_v1("/responses", &post(responses)))
        .merge(with_and_without_v1("/messages", &post(messages)))
        .merge(with_and_without_v1("/messages/count_tokens", &post(count_tokens)))
        .merge(with_and_without_v1("/models", &get(models)))
        .merge(with_and_without_v1("/models/{*id}", &get(model)))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/live", get(live))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(wrong_method)
        .fallback(nowhere)
        .layer(CatchPanicLayer::custom(|_| pipeline::reply_to_panic()))
        .with_state(app.clone())
}

fn with_and_without_v1(path: &str, handler: &MethodRouter<App>) -> Router<App> {
    Router::new().route(&format!("/v1{path}"), handler.clone()).route(path, handler.clone())
}

async fn chat(State(app): State<App>, request: Request) -> Response {
    call(app, Endpoint::Chat, request).await
}

async fn completions(State(app): State<App>, request: Request) -> Response {
    call(app, Endpoint::Completions, request).await
}

async fn embeddings(State(app): State<App>, request: Request) -> Response {
    call(app, Endpoint::Embeddings, request).await
}

async fn responses(State(app): State<App>, request: Request) -> Response {
    call(app, Endpoint::Responses, request).await
}

async fn messages(State(app): State<App>, request: Request) -> Response {
    call(app, Endpoint::Messages, request).await
}

async fn count_tokens(State(app): State<App>, request: Request) -> Response {
    call(app, Endpoint::CountTokens, request).await
}

async fn call(app: App, endpoint: Endpoint, request: Request) -> Response {
    let arrival = Arrival { surface: endpoint.into(), ..arrival(&request, endpoint.route()) };
    if app.is_closed.load(Ordering::Acquire) {
        return pipeline::refuse(&app.house(), &arrival, &status::leaving());
    }
    // Boxed here, because the router moves a handler's future several times before it is polled.
    Box::pin(pipeline::answer(app.house(), endpoint, arrival, request)).await
}

async fn models(State(app): State<App>, request: Request) -> Response {
    let arrival = arrival(&request, "/v1/models");
    let house = app.house();
    pipeline::answer_here(&house, &arrival, &request, |caller| Ok(status::models::list(&house, caller)))
}

async fn model(State(app): State<App>, Path(id): Path<String>, request: Request) -> Response {
    let arrival = arrival(&request, "/v1/models/{id}");
    let house = app.house();
    pipeline::answer_here(&house, &arrival, &request, |caller| status::models::one(&house, caller, &id))
}

async fn health(State(app): State<App>, request: Request) -> Response {
    let house = app.house();
    pipeline::answer_anyone(&house, &arrival(&request, "/health"), status::health(&house, app.is_leaving()))
}

async fn ready(State(app): State<App>, request: Request) -> Response {
    let house = app.house();
    pipeline::answer_anyone(&house, &arrival(&request, "/ready"), status::ready(&house, app.is_leaving()))
}

async fn live(State(app): State<App>, request: Request) -> Response {
    pipeline::answer_anyone(&app.house(), &arrival(&request, "/live"), status::live())
}

async fn metrics(State(app): State<App>, request: Request) -> Response {
    let house = app.house();
    pipeline::answer_anyone(&house, &arrival(&request, "/metrics"), status::metrics(&house, request.headers()))
}

async fn wrong_method(State(app): State<App>, request: Request) -> Response {
    let error = Error::new(Kind::MethodNotAllowed, format!("{} is not allowed for this path", method_label(request.method())));
    pipeline::refuse(&app.house(), &arrival(&request, "other"), &error)
}

async fn nowhere(State(app): State<App>, request: Request) -> Response {
    let error = Error::new(Kind::NotFound, "there is nothing at this path");
    pipeline::refuse(&app.house(), &arrival(&request, "other"), &error)
}

fn arrival(request: &Request, route: &'static str) -> Arrival {
    let origin = request.extensions().get::<Origin>().cloned().unwrap_or_default();
    let (method, surface) = (method_label(request.method()), Surface::default());
    Arrival { request_id: origin.request_id, address: origin.address, method, route, surface }
}

/// Methods are labels, and clients may invent their own.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
