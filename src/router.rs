//! Model name → `Target`s in the order in which they are to be tried: tiers, balancing within a tier,
//! and what is known of each target's health.
//! It must not know how a target is called, or what a call costs.

mod breaker;
mod budget;
mod latency;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub use breaker::{Breaker, Pass, State, Why};
pub use budget::Budget;
pub use latency::Latency;

use crate::config::{self, Balance};

/// One upstream model at one provider.
#[derive(Debug)]
pub struct Target {
    /// The configured provider's name.
    pub provider: String,
    /// The model's name there.
    pub model: String,
    /// When to leave it alone for a while.
    pub breaker: Breaker,
    /// How long its answers took.
    pub latency: Latency,
    running: AtomicU64,
}

impl Target {
    /// A target that is well.
    #[must_use]
    pub fn new(provider: &str, model: &str, breaker: config::Breaker) -> Self {
        Self {
            provider: provider.to_owned(),
            model: model.to_owned(),
            breaker: Breaker::new(breaker),
            latency: Latency::default(),
            running: AtomicU64::new(0),
        }
    }

    /// Lets an attempt begin, which counts as running until the returned guard is dropped; `None`
    /// while the breaker wants the target left alone.
    #[must_use]
    pub fn begin(self: &Arc<Self>, now: Instant) -> Option<Running> {
        let pass = self.breaker.admit(now)?;
        self.running.fetch_add(1, Ordering::Relaxed);
        Some(Running { target: Arc::clone(self), pass, began: now })
    }

    fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// Expected wait: latency times what already waits; a target that was never measured is tried first.
    fn load(&self, now: Instant) -> f64 {
        self.latency.seconds(now) * (self.running() + 1) as f64
    }
}

/// One running attempt, and whoever tells the breaker what came of it.
#[derive(Debug)]
pub struct Running {
    target: Arc<Target>,
    pass: Pass,
    began: Instant,
}

impl Running {
    /// When it was let in.
    #[must_use]
    pub const fn began(&self) -> Instant {
        self.began
    }

    /// The target answered as it should.
    pub fn succeeded(&self) {
        self.target.breaker.succeeded(self.pass);
    }

    /// The target failed; `true` when that opened its breaker.
    #[must_use]
    pub fn failed(&self, now: Instant) -> bool {
        self.target.breaker.failed(self.pass, now)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever was let through to find out, and did not, lets the next one try.
        self.target.breaker.learned_nothing(self.pass);
        self.target.running.fetch_sub(1, Ordering::Relaxed);
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

/// What the places lead to, in the order in which they are to be tried.
#[must_use]
pub fn order<T>(places: &[Place<T>], balance: Balance, now: Instant, target: impl Fn(&T) -> &Target) -> Vec<&T> {
    if let [only] = places {
        return vec![&only.target];
    }
    let mut ranked: Vec<(u32, f64, &T)> =
        places.iter().map(|place| (place.tier, rank(place, balance, target(&place.target), now), &place.target)).collect();
    if balance == Balance::Latency {
        return two_choices(ranked);
    }
    ranked.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
    ranked.into_iter().map(|(_, _, target)| target).collect()
}

/// Again and again the better of two of the lowest tier that are chosen at random: nearly as good as always the best,
/// and not everyone runs to the same one when it has just become quick.
fn two_choices<T>(mut ranked: Vec<(u32, f64, &T)>) -> Vec<&T> {
    fastrand::shuffle(&mut ranked);
    ranked.sort_by_key(|(tier, ..)| *tier);
    let mut chosen = Vec::with_capacity(ranked.len());
    while let [(tier, load, _), rest @ ..] = &ranked[..] {
        let second_is_better = rest.first().is_some_and(|(other, second, _)| other == tier && second < load);
        chosen.push(ranked.remove(usize::from(second_is_better)).2);
    }
    chosen
}

/// The rank of a place in its tier; the lowest goes first. Weights make a random order in which each
/// place is first as often as its share says (Efraimidis and Spirakis, 2006).
fn rank<T>(place: &Place<T>, balance: Balance, target: &Target, now: Instant) -> f64 {
    match balance {
        Balance::Weighted => -fastrand::f64().max(f64::MIN_POSITIVE).ln() / f64::from(place.weight).max(f64::MIN_POSITIVE),
        Balance::LeastBusy => target.running() as f64 + fastrand::f64() / 2.0,
        Balance::Latency => target.load(now),
        Balance::Cost => place.price.map_or(f64::MAX, |price| price as f64),
    }
}

/// The time for breakers: taken in one place so that tests may pass their own.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RULE: config::Breaker =
        config::Breaker { failures: 3, window: Duration::from_secs(30), open: Duration::from_secs(15), slow_first_token: None };

    fn place(name: &str, weight: u32, tier: u32, price: Option<u64>) -> Place<Arc<Target>> {
        Place { target: Arc::new(Target::new("p", name, RULE)), weight, tier, price }
    }

    /// How often each place is first in 3000 orders; every order holds all places, tier by tier.
    fn firsts(places: &[Place<Arc<Target>>], balance: Balance, now: Instant) -> Vec<u32> {
        let mut counts = vec![0; places.len()];
        for _ in 0..3000 {
            let ordered = order(places, balance, now, |target| target);
            let tier = |target: &&Arc<Target>| places.iter().find(|place| Arc::ptr_eq(&place.target, target)).unwrap().tier;
            assert_eq!(ordered.len(), places.len());
            assert!(ordered.windows(2).all(|pair| tier(&pair[0]) <= tier(&pair[1])));
            counts[places.iter().position(|place| Arc::ptr_eq(&place.target, ordered[0])).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn weights_are_shares_and_tiers_come_one_after_the_other() {
        let places = [place("a", 3, 1, None), place("b", 1, 1, None), place("never", 0, 1, None), place("spare", 9, 2, None)];
        let counts = firsts(&places, Balance::Weighted, Instant::now());
        assert!((2100..2400).contains(&counts[0]) && counts[2] == 0 && counts[3] == 0, "{counts:?}");
    }

    #[test]
    fn the_cheapest_and_the_least_busy_come_first() {
        let places = [place("a", 1, 1, Some(5)), place("b", 1, 1, Some(2)), place("unknown", 1, 1, None)];
        assert_eq!(firsts(&places, Balance::Cost, Instant::now()), [0, 3000, 0]);
        let _running = [places[0].target.begin(Instant::now()), places[1].target.begin(Instant::now())];
        assert_eq!(firsts(&places, Balance::LeastBusy, Instant::now()), [0, 0, 3000]);
    }

    #[test]
    fn by_latency_the_better_of_two_is_taken_so_that_the_worst_is_never_first_and_the_best_not_always() {
        let now = Instant::now();
        let places = [place("quick", 1, 1, None), place("middling", 1, 1, None), place("slow", 1, 1, None)];
        for (place, millis) in places.iter().zip([10, 20, 500]) {
            place.target.latency.observe(now, Duration::from_millis(millis));
        }
        let counts = firsts(&places, Balance::Latency, now);
        assert!((1800..2200).contains(&counts[0]) && (800..1200).contains(&counts[1]) && counts[2] == 0, "{counts:?}");
        let _waiting = [places[0].target.begin(now), places[0].target.begin(now)];
        let counts = firsts(&places, Balance::Latency, now);
        assert!(counts[1] > counts[0], "what waits at the quick one counts as well: {counts:?}");
    }
}
