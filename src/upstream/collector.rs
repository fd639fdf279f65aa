//! The way to whoever receives telemetry.
//! It must not know what is sent.

use std::time::Duration;

use http::Uri;
use reqwest::Client;
use reqwest::redirect::Policy;

use super::connect::is_loopback;
use crate::config::ConfigError;

/// A client for the receiver at `endpoint`, whose requests take `timeout` at most. Loopback is never
/// reached through the environment's proxy.
///
/// # Errors
/// When the TLS roots cannot be read.
pub fn to_collector(endpoint: &str, timeout: Duration) -> Result<Client, ConfigError> {
    // The process needs one default cryptography; a second call finds it already chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().timeout(timeout).redirect(Policy::none()).referer(false);
    let is_near = endpoint.parse().is_ok_and(|to: Uri| is_loopback(&to));
    let builder = if is_near { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| ConfigError(format!("no HTTP client for traces: {error}")))
}
