//! What the gateway tells about itself: health, readiness, metrics, and (in `models`) the models it can route.
//! It must not know how a call runs.

mod memory;
pub mod models;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::error::{Error, Kind};
use crate::house::{Health, House};
use crate::limits::BackendState;
use crate::router;

/// A page about the gateway itself.
#[derive(Debug)]
pub struct Page {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Page {
    fn json(status: StatusCode, body: &Value) -> Self {
        Self::new(status, "application/json", Bytes::from(body.to_string()))
    }

    fn new(status: StatusCode, kind: &'static str, body: Bytes) -> Self {
        Self { status, headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]), body }
    }
}

/// `GET /health`: what is well and what is not; 503 when no call could be answered.
#[must_use]
pub fn health(house: &House, is_leaving: bool) -> Page {
    let targets = house.health(router::now());
    let checks =
        [("upstreams", upstreams(&targets)), ("redis", redis(house)), ("metering", metering(house)), ("memory", memory::check())];
    let can_route = targets.can_route();
    let is_well = checks.iter().all(|(_, (is_well, _))| *is_well);
    let status = match (can_route, is_leaving, is_well) {
        (false, _, _) => "unhealthy",
        (true, true, _) => "draining",
        (true, false, false) => "degraded",
        (true, false, true) => "healthy",
    };
    let checks: Value = checks.into_iter().map(|(name, (_, check))| (name.to_owned(), check)).collect();
    let body = json!({
        "status": status,
        "timestamp": humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "checks": checks,
    });
    Page::json(if can_route { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

/// One check: whether all is well, and what is shown.
type Check = (bool, Value);

fn upstreams(targets: &Health) -> Check {
    let is_well = targets.resting.is_empty();
    let status = if is_well {
        "ok"
    } else if targets.can_route() {
        "degraded"
    } else {
        "failing"
    };
    (is_well, json!({"status": status, "known": targets.known, "resting": targets.resting}))
}

fn redis(house: &House) -> Check {
    let state = house.limits.state();
    match state {
        BackendState::Memory => (true, json!({"status": "unused"})),
        BackendState::Starting | BackendState::Shared => {
            (true, json!({"status": "ok", "state": state.label(), "replicas": house.limits.replicas()}))
        }
        BackendState::Degraded => (false, json!({"status": "degraded", "state": state.label()})),
    }
}

fn metering(house: &House) -> Check {
    let is_well = !house.lost_lines_lately(router::now());
    let status = if is_well { "ok" } else { "degraded" };
    (is_well, json!({"status": status, "running": house.meter.running(), "lines_dropped": house.metrics.dropped_lines()}))
}

/// `GET /ready`: whether new calls are welcome.
#[must_use]
pub fn ready(house: &House, is_leaving: bool) -> Page {
    let is_ready = !is_leaving && house.health(router::now()).can_route();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Page::json(status, &json!({"ready": is_ready}))
}

/// `GET /live`: the process answers.
#[must_use]
pub fn live() -> Page {
    Page::json(StatusCode::OK, &json!({"alive": true}))
}

/// `GET /metrics`: OpenMetrics for whoever accepts it, else Prometheus' older text.
#[must_use]
pub fn metrics(house: &House, request: &HeaderMap) -> Page {
    house.show_health(router::now());
    house.show_remaining();
    let accepted = request.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepted.contains("application/openmetrics-text") {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        return Page::new(StatusCode::OK, kind, Bytes::from(house.metrics.openmetrics()));
    }
    Page::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", Bytes::from(house.metrics.text()))
}

/// The refusal of a call that comes while the gateway is leaving.
#[must_use]
pub fn leaving() -> Error {
    Error::new(Kind::ShuttingDown, "this gateway is shutting down; call again and another one answers")
        .retry_after(Some(Duration::from_secs(1)))
}
