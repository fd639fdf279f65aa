//! Every URL and every layer, in the order in which a request meets them: the table of contents.
//! It must not know how anything is answered.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, get, on, post};
use futures_util::FutureExt;
use http::Method;
use providers::Endpoint;
use tokio::sync::Notify;
use tower::Service;

use crate::error::{Error, Kind, Surface};
use crate::house::House;
use crate::pipeline::{self, Arrival, Origin, Wish};
use crate::status;

/// What every route needs: the house as it is now, and whether the gateway is leaving. Clones are the same one.
#[derive(Clone, Debug)]
pub struct App(Arc<Door>);

#[derive(Debug)]
struct Door {
    current: ArcSwap<House>,
    moved: Notify,
    is_leaving: AtomicBool,
    is_closed: AtomicBool,
}

impl App {
    /// A gateway that has just opened this house.
    #[must_use]
    pub fn new(house: House) -> Self {
        let (current, moved) = (ArcSwap::from_pointee(house), Notify::new());
        Self(Arc::new(Door { current, moved, is_leaving: false.into(), is_closed: false.into() }))
    }

    /// The house as it is now. A call asks once and keeps to its answer, whatever comes after.
    #[must_use]
    pub fn house(&self) -> Arc<House> {
        self.0.current.load_full()
    }

    /// Lets the next calls into another house; those that run stay where they are.
    pub fn move_to(&self, house: House) {
        self.0.current.store(Arc::new(house));
        self.0.moved.notify_one();
    }

    /// Waits until the house is another than when this came back last. For one who waits at a time.
    pub async fn moved(&self) {
        self.0.moved.notified().await;
    }

    /// From now on `/ready` says that new calls are better sent elsewhere.
    pub fn leave(&self) {
        self.0.is_leaving.store(true, Ordering::Release);
    }

    /// From now on no new call is let in.
    pub fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed.load(Ordering::Acquire)
    }

    /// Whether this address may say for whom it speaks.
    #[must_use]
    pub fn trusts(&self, proxy: IpAddr) -> bool {
        self.0.current.load().config.server.trusted_proxies.contains(&proxy)
    }

    /// Whether the gateway is about to end.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.0.is_leaving.load(Ordering::Acquire)
    }
}

/// Other paths of OpenAI's API, passed on with all that stands below them; as metrics name them. None of them
/// hands out keys, as `/v1/realtime` and `/v1/chatkit` do: with those a client would call the provider itself.
const PASSED: [&str; 17] = [
    "/v1/assistants",
    "/v1/audio",
    "/v1/batches",
    "/v1/containers",
    "/v1/conversations",
    "/v1/evals",
    "/v1/files",
    "/v1/fine_tuning",
    "/v1/images",
    "/v1/moderations",
    "/v1/rerank",
    "/v1/responses/{*rest}",
    "/v1/skills",
    "/v1/threads",
    "/v1/uploads",
    "/v1/vector_stores",
    "/v1/videos",
];

/// Answers a request: it meets the panic catch, then its route.
pub async fn answer(mut routes: Router, request: Request) -> Response {
    // As a tower layer the catch would put the answer's body into two more boxes, and every event would pass through them.
    // What was on its way when it panicked is dropped, so nobody sees it half done.
    match AssertUnwindSafe(routes.call(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => pipeline::reply_to_panic(),
    }
}

/// All routes.
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
        .merge(passages())
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/live", get(live))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(wrong_method)
        .fallback(nowhere)
        .with_state(app.clone())
}

/// What is passed on: with and without `/v1`, and with a provider named before it.
fn passages() -> Router<App> {
    PASSED.into_iter().fold(Router::new(), |router, route| {
        let methods = MethodFilter::GET.or(MethodFilter::POST).or(MethodFilter::DELETE);
        let here = on(methods, move |State(app): State<App>, request: Request| passed(app, route, request));
        let there = on(methods, move |State(app): State<App>, request: Request| passed_to(app, route, request));
        let mut paths = vec![route.to_owned()];
        paths.extend((!route.ends_with('}')).then(|| format!("{route}/{{*rest}}")));
        paths.iter().fold(router, |router, path| {
            let bare = path.trim_start_matches("/v1");
            router.merge(with_and_without_v1(bare, &here)).route(&format!("/{{provider}}{path}"), there.clone())
        })
    })
}

fn with_and_without_v1(path: &str, handler: &MethodRouter<App>) -> Router<App> {
    Router::new().route(&format!("/v1{path}"), handler.clone()).route(path, handler.clone())
}

async fn chat(State(app): State<App>, request: Request) -> Response {
    ask(app, Endpoint::Chat, request).await
}

async fn completions(State(app): State<App>, request: Request) -> Response {
    ask(app, Endpoint::Completions, request).await
}

async fn embeddings(State(app): State<App>, request: Request) -> Response {
    ask(app, Endpoint::Embeddings, request).await
}

async fn responses(State(app): State<App>, request: Request) -> Response {
    ask(app, Endpoint::Responses, request).await
}

async fn messages(State(app): State<App>, request: Request) -> Response {
    ask(app, Endpoint::Messages, request).await
}

async fn count_tokens(State(app): State<App>, request: Request) -> Response {
    ask(app, Endpoint::CountTokens, request).await
}

async fn ask(app: App, endpoint: Endpoint, mut request: Request) -> Response {
    let arrival = Arrival { surface: endpoint.into(), ..arrival(&mut request, endpoint.route()) };
    call(app, Wish::Call(endpoint), arrival, request).await
}

async fn call(app: App, wish: Wish, arrival: Arrival, request: Request) -> Response {
    if app.is_closed() {
        return pipeline::refuse(&app.house(), arrival, &status::leaving());
    }
    // Boxed here, because the router moves a handler's future several times before it is polled.
    Box::pin(pipeline::answer(app.house(), wish, arrival, request)).await
}

/// A path of [`PASSED`], without `/v1` or with it.
async fn passed(app: App, route: &'static str, mut request: Request) -> Response {
    let path = request.uri().path();
    let path = path.strip_prefix("/v1").unwrap_or(path).to_owned();
    let arrival = arrival(&mut request, route);
    call(app, Wish::Pass { provider: None, path }, arrival, request).await
}

/// A path of [`PASSED`] after `/v1`, before which a provider is named.
async fn passed_to(app: App, route: &'static str, mut request: Request) -> Response {
    let named =
        request.uri().path().split_once("/v1/").map(|(provider, path)| (provider.replacen('/', "", 1), format!("/{path}")));
    let (provider, path) = named.unwrap_or_default();
    let arrival = arrival(&mut request, route);
    call(app, Wish::Pass { provider: Some(provider), path }, arrival, request).await
}

async fn models(State(app): State<App>, mut request: Request) -> Response {
    let arrival = arrival(&mut request, "/v1/models");
    let house = app.house();
    pipeline::answer_here(&house, arrival, &request, |caller| Ok(status::models::list(&house, caller)))
}

async fn model(State(app): State<App>, Path(id): Path<String>, mut request: Request) -> Response {
    let arrival = arrival(&mut request, "/v1/models/{id}");
    let house = app.house();
    pipeline::answer_here(&house, arrival, &request, |caller| status::models::one(&house, caller, &id))
}

async fn health(State(app): State<App>, mut request: Request) -> Response {
    let house = app.house();
    pipeline::answer_anyone(&house, arrival(&mut request, "/health"), status::health(&house, app.is_leaving()))
}

async fn ready(State(app): State<App>, mut request: Request) -> Response {
    let house = app.house();
    pipeline::answer_anyone(&house, arrival(&mut request, "/ready"), status::ready(&house, app.is_leaving()))
}

async fn live(State(app): State<App>, mut request: Request) -> Response {
    pipeline::answer_anyone(&app.house(), arrival(&mut request, "/live"), status::live())
}

async fn metrics(State(app): State<App>, mut request: Request) -> Response {
    let house = app.house();
    pipeline::answer_anyone(&house, arrival(&mut request, "/metrics"), status::metrics(&house, request.headers()))
}

async fn wrong_method(State(app): State<App>, mut request: Request) -> Response {
    let error = Error::new(Kind::MethodNotAllowed, format!("{} is not allowed for this path", method_label(request.method())));
    pipeline::refuse(&app.house(), arrival(&mut request, "other"), &error)
}

async fn nowhere(State(app): State<App>, mut request: Request) -> Response {
    let error = Error::new(Kind::NotFound, "there is nothing at this path");
    pipeline::refuse(&app.house(), arrival(&mut request, "other"), &error)
}

fn arrival(request: &mut Request, route: &'static str) -> Arrival {
    let Origin { request_id, address } = request.extensions_mut().remove().unwrap_or_default();
    Arrival { request_id, address, method: method_label(request.method()), route, surface: Surface::default() }
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

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};

    use super::*;

    /// A fault in the gateway is an answer, and takes nobody else's connection with it.
    #[tokio::test]
    async fn a_panic_is_an_error_in_openais_words() {
        async fn stumble() {
            panic!("on purpose");
        }
        let routes = Router::new().route("/", get(stumble));
        let response = answer(routes, Request::new(Body::empty())).await;
        assert_eq!(response.status(), 500);
        let body = to_bytes(response.into_body(), 1024).await.expect("a body");
        let error: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(error["error"]["message"], "the gateway failed; the failure is logged");
    }
}
