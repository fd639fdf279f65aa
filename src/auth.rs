//! API key → `Caller`. Keys are compared by their SHA-256, so that neither the table nor the time a
//! look-up takes tells anything about them; addresses that fail are slowed.
//! It must not know what a caller is going to ask for, or what the limits are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::config;
use crate::error::{Error, Kind};
use crate::flood::PerAddress;
use crate::metrics::{KeyMetrics, Metrics};

/// Failed keys one address may try in a minute before it is slowed.
const FAILURES_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).unwrap();

/// Who an API key stands for.
#[derive(Debug)]
pub struct Caller {
    /// Models it may call; empty is all.
    models: Vec<String>,
    /// Its name and its counters.
    pub metrics: Arc<KeyMetrics>,
}

impl Caller {
    /// Whether this caller may call `model`; a rule `provider/*` allows everything of that provider.
    #[must_use]
    pub fn may_call(&self, model: &str) -> bool {
        let allows = |rule: &String| match rule.strip_suffix('*') {
            Some(prefix) => model.starts_with(prefix),
            None => rule == model,
        };
        self.models.is_empty() || self.models.iter().any(allows)
    }
}

/// The table of keys.
#[derive(Debug)]
pub struct Auth {
    callers: HashMap<[u8; 32], Arc<Caller>>,
    failures: Arc<PerAddress>,
}

impl Auth {
    /// The table of these keys; without keys everyone may call.
    #[must_use]
    pub fn new(keys: &[config::Key], metrics: &Metrics) -> Self {
        let caller =
            |key: &config::Key| Caller { models: key.models.clone(), metrics: Arc::new(KeyMetrics::new(metrics, &key.name)) };
        Self {
            callers: keys.iter().map(|key| (key.sha256, Arc::new(caller(key)))).collect(),
            failures: Arc::new(PerAddress::per_minute(FAILURES_PER_MINUTE)),
        }
    }

    /// Goes on slowing whom `before` slowed.
    pub fn take_over(&mut self, before: &Self) {
        self.failures = Arc::clone(&before.failures);
    }

    /// Whether everyone may call.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.callers.is_empty()
    }

    /// Who sent these headers; `None` when everyone may call.
    ///
    /// # Errors
    /// `Unauthorized` for a missing or unknown key, `RateLimited` when this address failed too often.
    pub fn identify(&self, headers: &HeaderMap, address: IpAddr) -> Result<Option<Arc<Caller>>, Error> {
        if self.is_open() {
            return Ok(None);
        }
        let presented = presented_key(headers);
        let known = presented.and_then(|key| self.callers.get(&<[u8; 32]>::from(Sha256::digest(key))));
        match known {
            Some(caller) => Ok(Some(Arc::clone(caller))),
            None => Err(self.failed(presented.is_some(), address)),
        }
    }

    fn failed(&self, was_presented: bool, address: IpAddr) -> Error {
        if let Err(wait) = self.failures.count(address) {
            return Error::new(Kind::RateLimited, "too many requests with a wrong API key from this address")
                .retry_after(Some(wait));
        }
        let message =
            if was_presented { "the API key is not known here" } else { "no API key: send it as `Authorization: Bearer KEY`" };
        Error::new(Kind::Unauthorized, message)
    }
}

/// `Authorization: Bearer KEY`, or `x-api-key: KEY` as Anthropic's clients send it.
fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        return scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii());
    }
    headers.get("x-api-key").map(|value| value.as_bytes())
}
