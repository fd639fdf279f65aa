//! Model name → `Target`s in the order in which they are to be tried: tiers, balancing within a tier,
//! and what is known of each target's health.
//! It must not know how a target is called, or what a call costs.

mod breaker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use breaker::{Breaker, State};

use crate::config::{self, Balance};

/// The share of a new measurement in the latency that is remembered.
const LATENCY_SHARE: f64 = 0.2;

/// One upstream model at one provider.
#[derive(Debug)]
pub struct Target {
    /// The configured provider's name.
    pub provider: String,
    /// The model's name there.
    pub model: String,
    /// When to leave it alone for a while.
    pub breaker: Breaker,
    running: AtomicU64,
    /// Lately measured time to an answer, in nanoseconds; 0 when none was measured.
    latency: AtomicU64,
}

impl Target {
    /// A target that is well.
    #[must_use]
    pub fn new(provider: &str, model: &str, breaker: config::Breaker) -> Self {
        Self {
            provider: provider.to_owned(),
            model: model.to_owned(),
            breaker: Breaker::new(breaker),
            running: AtomicU64::new(0),
            latency: AtomicU64::new(0),
        }
    }

    /// Lets an attempt begin, which counts as running until the returned guard is dropped; `None`
    /// while the breaker wants the target left alone.
    #[must_use]
    pub fn begin(self: &Arc<Self>, now: Instant) -> Option<Running> {
        if !self.breaker.admits(now) {
            return None;
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        Some(Running(Arc::clone(self)))
    }

    /// Remembers how long an answer took to begin.
    pub fn took(&self, time: Duration) {
        let measured = time.as_nanos() as f64;
        let known = self.latency.load(Ordering::Relaxed) as f64;
        let next = if known == 0.0 { measured } else { known + LATENCY_SHARE * (measured - known) };
        self.latency.store(next as u64, Ordering::Relaxed);
    }

    fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// Expected wait: latency times what already waits; a target that was never measured is tried first.
    fn load(&self) -> u64 {
        self.latency.load(Ordering::Relaxed).saturating_mul(self.running() + 1)
    }
}

/// One running attempt.
#[derive(Debug)]
pub struct Running(Arc<Target>);

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever was let through to find out, and did not, lets the next one try.
        self.0.breaker.learned_nothing();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A target's place in a route.
#[derive(Clone, Debug)]
pub struct Place<T> {
    /// The target, with whatever its user keeps beside it.
    pub target: T,
    /// Its share within the tier.
    pub weight: u32,
    /// Lower tiers are tried first.
    pub tier: u32,
    /// Its price for comparison, when known.
    pub price: Option<u64>,
}

/// What a model name stands for: provider and model names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The configured provider's name.
    pub provider: String,
    /// The model's name there.
    pub model: String,
}

/// The names that calls may use.
#[derive(Debug)]
pub struct Router {
    models: HashMap<String, config::Model>,
    providers: Vec<(String, String)>,
}

impl Router {
    /// A router for these names.
    #[must_use]
    pub fn new(models: &[config::Model], providers: &[config::Provider]) -> Self {
        Self {
            models: models.iter().map(|model| (model.name.clone(), model.clone())).collect(),
            providers: providers.iter().map(|provider| (provider.name.clone(), provider.kind.clone())).collect(),
        }
    }

    /// The configured model of this name.
    #[must_use]
    pub fn configured(&self, name: &str) -> Option<&config::Model> {
        self.models.get(name)
    }

    /// What a name that is not configured stands for: `provider/model`, or a well-known bare name,
    /// for which `kinds_of` tells the kinds that have it, the maker first. Names that could leave
    /// their place in a URL or a header stand for nothing.
    #[must_use]
    pub fn named<'k>(&self, name: &str, kinds_of: impl Fn(&str) -> Vec<&'k str>) -> Option<Named> {
        if !is_safe(name) {
            return None;
        }
        if let Some((provider, model)) = name.split_once('/')
            && self.providers.iter().any(|(known, _)| known == provider)
        {
            return (!model.is_empty()).then(|| Named { provider: provider.to_owned(), model: model.to_owned() });
        }
        let kinds = kinds_of(name);
        let having = kinds.into_iter().find_map(|kind| self.providers.iter().find(|(_, known)| known == kind));
        having.map(|(provider, _)| Named { provider: provider.clone(), model: name.to_owned() })
    }
}

/// The longest model name that is read.
const MAX_MODEL_NAME: usize = 256;

/// Whether a model name may go into a URL path and a header: printable ASCII without what separates
/// or escapes there, and no step up the path.
fn is_safe(name: &str) -> bool {
    let is_plain = |byte: u8| {
        byte.is_ascii_graphic()
            && !matches!(byte, b'?' | b'#' | b'%' | b'\\' | b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | b'|' | b'^')
    };
    let is_step = |part: &str| part == "." || part == "..";
    name.len() <= MAX_MODEL_NAME && name.bytes().all(is_plain) && !name.split('/').any(is_step)
}

/// The places in the order in which they are to be tried.
#[must_use]
pub fn order<T: Clone>(places: &[Place<T>], balance: Balance, target: impl Fn(&T) -> Arc<Target>) -> Vec<T> {
    if let [only] = places {
        return vec![only.target.clone()];
    }
    let mut ranked: Vec<(u32, f64, &Place<T>)> =
        places.iter().map(|place| (place.tier, rank(place, balance, &target(&place.target)), place)).collect();
    ranked.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
    ranked.into_iter().map(|(_, _, place)| place.target.clone()).collect()
}

/// The rank of a place in its tier; the lowest goes first. Weights make a random order in which each
/// place is first as often as its share says (Efraimidis and Spirakis, 2006).
fn rank<T>(place: &Place<T>, balance: Balance, target: &Target) -> f64 {
    match balance {
        Balance::Weighted => -fastrand::f64().max(f64::MIN_POSITIVE).ln() / f64::from(place.weight).max(f64::MIN_POSITIVE),
        Balance::LeastBusy => target.running() as f64 + fastrand::f64() / 2.0,
        Balance::Latency => target.load() as f64,
        Balance::Cost => place.price.map_or(f64::MAX, |price| price as f64),
    }
}

/// The time for breakers: taken in one place so that tests may pass their own.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}
