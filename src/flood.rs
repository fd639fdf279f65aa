//! The guard at the door: so many requests per second from one address, before anything is known of
//! the caller. A tower layer, because it knows nothing of the call.
//! It must not know keys, models or limits.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use governor::middleware::NoOpMiddleware;
use http::Request;
use tower_governor::GovernorLayer;
use tower_governor::errors::GovernorError;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::KeyExtractor;

use crate::error::{Error, Kind};
use crate::house::{House, OTHER, PER_ADDRESS};
use crate::pipeline::{self, Origin};

/// How often addresses that have been quiet are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(30);

/// The guard, when the configuration wants one.
#[must_use]
pub fn guard(house: &Arc<House>) -> Option<GovernorLayer<ByAddress, NoOpMiddleware<governor::clock::QuantaInstant>, Body>> {
    let per_second = house.config.rate_limit.per_ip_per_second?;
    let period = Duration::from_secs(1) / per_second.max(1);
    let config =
        GovernorConfigBuilder::default().key_extractor(ByAddress).period(period).burst_size(per_second.max(1)).finish()?;
    let limiter = Arc::clone(config.limiter());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            limiter.retain_recent();
        }
    });
    let metrics = Arc::clone(&house.metrics);
    Some(GovernorLayer::new(config).error_handler(move |refused| {
        metrics.requests.with_label_values(&["", OTHER, OTHER, "429", OTHER]).inc();
        metrics.errors.with_label_values(&["", "rate_limited", OTHER]).inc();
        metrics.rate_limit_hits.with_label_values(&PER_ADDRESS).inc();
        let wait = match refused {
            GovernorError::TooManyRequests { wait_time, .. } => Duration::from_secs(wait_time.max(1)),
            GovernorError::UnableToExtractKey | GovernorError::Other { .. } => Duration::from_secs(1),
        };
        let error = Error::new(Kind::RateLimited, "too many requests from this address").retry_after(Some(wait));
        pipeline::plain_refusal(&error)
    }))
}

/// Tells requests apart by the client's address.
#[derive(Clone, Copy, Debug)]
pub struct ByAddress;

impl KeyExtractor for ByAddress {
    type Key = IpAddr;

    fn extract<T>(&self, request: &Request<T>) -> Result<IpAddr, GovernorError> {
        request.extensions().get::<Origin>().map(|origin| origin.address).ok_or(GovernorError::UnableToExtractKey)
    }
}
