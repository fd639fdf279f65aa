//! The built-in demo provider: a real server on a real loopback socket that speaks OpenAI's wire and
//! answers the same to the same, so that everything can be tried without a key. Model names are its knobs.
//! It must not know the gateway; it could as well run elsewhere.

mod answer;
mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::config;
use answer::Answer;
use words::Api;

/// The name under which the gateway configures it.
pub const NAME: &str = "demo";

/// One model of the demo provider: its name, what it does, and its price in USD per million tokens.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Its name.
    pub name: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// Price of input and output; `None` is a model without a price.
    pub price: Option<(&'static str, &'static str)>,
    delay: Duration,
    gap: Duration,
    fate: Fate,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// Every third call fails with a 500.
    SometimesFails,
    /// Every call fails with a 500.
    Fails,
    /// Every call is refused with a 429.
    Refused,
    /// The connection breaks in the middle of a stream.
    Cut,
    /// Streams carry no usage.
    WithoutUsage,
}

const fn model(name: &'static str, about: &'static str, fate: Fate) -> Model {
    Model { name, about, price: Some(("0.50", "1.50")), delay: Duration::ZERO, gap: Duration::from_millis(20), fate }
}

/// Every model there is.
pub const MODELS: [Model; 8] = [
    model("echo", "repeats the last message, quickly", Fate::Answered),
    Model {
        delay: Duration::from_secs(4),
        gap: Duration::from_millis(200),
        ..model("slow", "takes four seconds to begin, then crawls", Fate::Answered)
    },
    model("flaky", "fails every third call", Fate::SometimesFails),
    model("broken", "fails every call", Fate::Fails),
    model("limited", "refuses every call with a 429", Fate::Refused),
    model("cut", "breaks off in the middle of a stream", Fate::Cut),
    model("silent", "tells no usage", Fate::WithoutUsage),
    Model { price: None, ..model("unpriced", "has no price", Fate::Answered) },
];

/// The configuration of the demo provider when it listens on `port`: the provider, and its prices.
#[must_use]
pub fn configuration(port: u16) -> (config::Provider, Vec<config::PriceRow>) {
    let seconds = Duration::from_secs;
    let provider = config::Provider {
        name: NAME.to_owned(),
        kind: "openai-compatible".to_owned(),
        base_url: format!("http://127.0.0.1:{port}/v1"),
        credentials: config::Credentials::None,
        key_cooldown: seconds(60),
        account: providers::Account::default(),
        models: MODELS.iter().map(|model| model.name.to_owned()).collect(),
        on_disconnect: config::OnDisconnect::Cancel,
        drain_timeout: seconds(120),
        http2_prior_knowledge: false,
        limits: config::Limits::default(),
        queue: config::Queue { size: 1024, wait: seconds(10) },
        timeouts: config::Timeouts { connect: seconds(5), first_byte: None, idle: seconds(60), total: seconds(600) },
        retry: config::Retry { attempts: 1, base: Duration::from_millis(250), max: seconds(8), budget: 0.1, min_per_second: 1.0 },
        breaker: config::Breaker { failures: 20, window: seconds(30), open: seconds(15), slow_first_token: None },
        probe: None,
    };
    let priced = MODELS.iter().filter_map(|model| {
        let (input, output) = model.price?;
        Some(config::PriceRow {
            provider: NAME.to_owned(),
            model: model.name.to_owned(),
            input: Some(input.to_owned()),
            output: Some(output.to_owned()),
            ..config::PriceRow::default()
        })
    });
    (provider, priced.collect())
}

/// Serves the demo provider until the task is dropped.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let calls = Arc::new(AtomicU64::new(0));
    let routes = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(|calls, body| beside(calls, body, Api::Completions)))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/messages", post(|calls, body| beside(calls, body, Api::Messages)))
        .route("/v1/responses", post(|calls, body| beside(calls, body, Api::Responses)))
        .route("/v1/models", get(models));
    axum::serve(listener, routes.with_state(calls)).await
}

async fn models() -> Response {
    let data: Vec<Value> = MODELS
        .iter()
        .map(|model| json!({"id": model.name, "object": "model", "created": 0, "owned_by": NAME, "about": model.about}))
        .collect();
    json_answer(StatusCode::OK, &json!({"object": "list", "data": data}))
}

async fn embeddings(body: Bytes) -> Response {
    match serde_json::from_slice::<Value>(&body) {
        Ok(request) => json_answer(StatusCode::OK, &answer::embeddings(&request)),
        Err(_) => failed(StatusCode::BAD_REQUEST, "invalid_request_error", "the body is not JSON"),
    }
}

async fn chat(State(calls): State<Arc<AtomicU64>>, body: Bytes) -> Response {
    answered(&calls, &body, None).await
}

/// A call of an API beside chat completions.
async fn beside(State(calls): State<Arc<AtomicU64>>, body: Bytes, api: Api) -> Response {
    answered(&calls, &body, Some(api)).await
}

async fn answered(calls: &AtomicU64, body: &Bytes, api: Option<Api>) -> Response {
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return failed(StatusCode::BAD_REQUEST, "invalid_request_error", "the body is not JSON");
    };
    let name = request["model"].as_str().unwrap_or_default();
    let Some(model) = MODELS.iter().find(|model| model.name == name) else {
        return failed(StatusCode::NOT_FOUND, "invalid_request_error", "the demo provider has no such model");
    };
    let nth = calls.fetch_add(1, Ordering::Relaxed);
    sleep(model.delay).await;
    match model.fate {
        Fate::Fails => {
            return failed(
                StatusCode::INTERNAL_SERVER_ERROR,
                "server_error",
                "the demo provider fails, as this model always does",
            );
        }
        Fate::SometimesFails if nth % 3 == 2 => {
            return failed(
                StatusCode::INTERNAL_SERVER_ERROR,
                "server_error",
                "the demo provider fails, as this model sometimes does",
            );
        }
        Fate::Refused => {
            let mut response =
                failed(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "the demo provider refuses, as this model always does");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        }
        Fate::Answered | Fate::SometimesFails | Fate::Cut | Fate::WithoutUsage => {}
    }
    let chat = api.map(|api| api.as_chat(&request));
    let answer = Answer::to(chat.as_ref().unwrap_or(&request), model.fate != Fate::WithoutUsage);
    if request["stream"] == true {
        return stream(api.map_or_else(|| answer.events(), |api| api.events(&answer)), model);
    }
    json_answer(StatusCode::OK, &api.map_or_else(|| answer.whole(), |api| api.whole(&answer)))
}

fn stream(mut events: Vec<Bytes>, model: &'static Model) -> Response {
    if model.fate == Fate::Cut {
        events.truncate(events.len() / 2);
    }
    let body = unfold(events.into_iter(), move |mut events| async move {
        match events.next() {
            Some(event) => {
                sleep(model.gap).await;
                Some((Ok::<_, std::io::Error>(event), events))
            }
            None if model.fate == Fate::Cut => Some((Err(std::io::Error::other("cut")), events)),
            None => None,
        }
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn failed(status: StatusCode, kind: &str, message: &str) -> Response {
    json_answer(status, &json!({"error": {"message": message, "type": kind, "param": null, "code": null}}))
}

fn json_answer(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Listens on a free loopback port and serves there; gives the port.
///
/// # Errors
/// When no loopback port can be listened on.
pub async fn start(port: u16) -> std::io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(serve(listener));
    Ok(port)
}
