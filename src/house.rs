//! Everything a call needs, built once from the configuration: who may call, what may be called, and
//! the rooms that carry it out.
//! It must not know how a call runs through it.

mod health;
mod heritage;
mod observer;
mod presence;
mod remaining;

pub use health::Health;
pub use presence::PER_ADDRESS;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use providers::Endpoint;

use crate::auth::{Auth, Caller};
use crate::config::{self, Backend, Config, ConfigError, Unpriced};
use crate::error::{Error, Kind};
use crate::flood::PerAddress;
use crate::limits::{Ledger, Limits, OnFailure, Queue, QueueOptions, RedisOptions, Rule, Scope, Span};
use crate::meter::{Account, Meter};
use crate::metrics::Metrics;
use crate::prices::{Override, Price, Prices, Rate};
use crate::router::{Budget, Named, Place, Router, Target};
use crate::trace::Peer;
use crate::upstream::{Clock, Upstream};

/// The `model` label of everything that neither the configuration nor the catalogue knows.
pub const OTHER: &str = "other";

/// One configured provider and the way to it.
#[derive(Debug)]
pub struct Provider {
    /// What the configuration says.
    pub config: config::Provider,
    /// The wire it speaks.
    pub wire: Wire,
    /// The way to it.
    pub upstream: Arc<Upstream>,
    /// Its own limits per minute, when it has any.
    pub ledgers: Vec<Arc<Ledger>>,
    /// The line before its concurrent places, when they are limited.
    pub queue: Option<Queue>,
    /// How many attempts beyond a call's first it may get while it fails.
    pub budget: Arc<Budget>,
    /// The account of models that may not be labels.
    other: Arc<Account>,
}

/// A wire with a readable `Debug`.
#[derive(Clone, Copy)]
pub struct Wire(pub &'static dyn providers::Provider);

impl std::fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.0.kind())
    }
}

/// A target with everything that an attempt on it needs.
#[derive(Debug)]
pub struct Lane {
    /// Whose model it is.
    pub provider: Arc<Provider>,
    /// The model there, and how it is.
    pub target: Arc<Target>,
    /// What is counted for it.
    pub account: Arc<Account>,
    /// How many tokens the model can see, where the catalogue knows.
    context: Option<u32>,
    /// Whether it accepts to be asked for usage on a stream.
    pub asks_usage: AtomicBool,
    /// What traces call it.
    pub peer: Arc<Peer>,
}

/// What a model name leads to.
#[derive(Debug)]
pub struct Plan {
    /// The name as a label, while no target is chosen.
    pub label: String,
    /// The name under which limits on a model are kept: another spelling of the same target must not
    /// pass by them.
    limited_as: String,
    /// The lanes.
    pub lanes: Vec<Place<Arc<Lane>>>,
    /// How one of a tier is chosen.
    pub balance: config::Balance,
    /// The failures after which the next target is tried.
    pub fallback_on: Vec<config::Reason>,
    /// What this model changes in its providers' timeouts.
    pub timeouts: config::ModelTimeouts,
    /// When a second attempt runs beside a slow first one.
    pub hedge: Option<config::Hedge>,
    /// The model's own limits, when it has any.
    ledgers: Vec<Arc<Ledger>>,
}

/// The whole house.
#[derive(Debug)]
pub struct House {
    /// What we were told.
    pub config: Config,
    /// Every metric.
    pub metrics: Arc<Metrics>,
    /// Who may call.
    pub auth: Auth,
    /// May they, now.
    pub limits: Limits,
    /// What it uses and costs.
    pub meter: Meter,
    /// The prices and the catalogue.
    pub prices: Prices,
    /// How many calls one address may make, when that is limited.
    flood: Option<Arc<PerAddress>>,
    router: Router,
    providers: HashMap<String, Arc<Provider>>,
    /// Plans of names that the configuration or the catalogue knows; bounded by them.
    plans: RwLock<HashMap<String, Arc<Plan>>>,
    /// Their lanes, so that two names for one target share its health and its learning.
    lanes: RwLock<HashMap<(String, String), Arc<Lane>>>,
    gateway: Vec<Arc<Ledger>>,
    keys: HashMap<String, KeyLedgers>,
    lost: Arc<Mutex<health::Lost>>,
}

/// What a house is built of.
struct Rooms {
    metrics: Arc<Metrics>,
    meter: Meter,
    limits: Limits,
    prices: Prices,
    providers: HashMap<String, Arc<Provider>>,
}

impl Drop for House {
    fn drop(&mut self) {
        self.metrics.configs_in_use.dec();
    }
}

#[derive(Debug)]
struct KeyLedgers {
    all: Vec<Arc<Ledger>>,
    by_model: HashMap<String, Vec<Arc<Ledger>>>,
}

impl House {
    /// Builds the house.
    ///
    /// # Errors
    /// A [`ConfigError`] for what only shows when it is carried out: a key that no header can carry, a price that is no number.
    pub fn build(config: Config, metrics: Arc<Metrics>, meter: Meter, limits: Limits) -> Result<Self, ConfigError> {
        let prices = prices(&config, Prices::builtin())?;
        let mut providers = HashMap::new();
        for provider in &config.providers {
            let provider = Provider::new(provider, &metrics, &limits, None)?;
            providers.insert(provider.config.name.clone(), Arc::new(provider));
        }
        let house = Self::furnish(config, Rooms { metrics, meter, limits, prices, providers });
        house.present_at_zero();
        Ok(house)
    }

    /// The house around these rooms.
    fn furnish(config: Config, rooms: Rooms) -> Self {
        let Rooms { metrics, meter, limits, prices, providers } = rooms;
        let auth = Auth::new(&config.keys, &metrics);
        let router = Router::new(&config.models, &config.providers);
        let gateway = ledgers(&limits, Scope::Gateway, "gateway", config.rate_limit.limits);
        let keys = config.keys.iter().map(|key| (key.name.clone(), KeyLedgers::new(&limits, key))).collect();
        let per_second = config.rate_limit.per_ip_per_second.and_then(NonZeroU32::new);
        metrics.configs_in_use.inc();
        Self {
            config,
            metrics,
            auth,
            limits,
            meter,
            prices,
            flood: per_second.map(|times| Arc::new(PerAddress::per_second(times))),
            router,
            providers,
            plans: RwLock::default(),
            lanes: RwLock::default(),
            gateway,
            keys,
            lost: Arc::default(),
        }
    }

    /// Whether this address may make one more call: looked at before anything is known of the caller.
    ///
    /// # Errors
    /// `RateLimited` when it made too many.
    pub fn admit_address(&self, address: IpAddr) -> Result<(), Error> {
        let Some(flood) = &self.flood else { return Ok(()) };
        flood.count(address).map_err(|wait| {
            self.metrics.rate_limit_hits.with_label_values(&PER_ADDRESS).inc();
            Error::new(Kind::RateLimited, "too many requests from this address").retry_after(Some(wait))
        })
    }

    /// What `name` leads to, if anything.
    #[must_use]
    pub fn plan(&self, name: &str) -> Option<Arc<Plan>> {
        if let Some(plan) = self.plans.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Some(Arc::clone(plan));
        }
        let plan = Arc::new(self.make_plan(name)?);
        let is_bounded = plan.lanes.iter().all(|place| place.target.account.model != OTHER);
        if is_bounded {
            let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
            plans.entry(name.to_owned()).or_insert_with(|| Arc::clone(&plan));
        }
        Some(plan)
    }

    /// The provider whose account a call is about that names no model: the one it names, else the maker of the API
    /// that clients speak, else the only one that it can be passed on to.
    #[must_use]
    pub fn account_holder<'n>(&'n self, named: Option<&'n str>) -> Option<&'n str> {
        if named.is_some() {
            return named;
        }
        let wire = |provider: &config::Provider| self.providers.get(&provider.name).map(|provider| provider.wire.0);
        let serves = |provider: &&config::Provider| wire(provider).is_some_and(|wire| wire.serves(Endpoint::Account));
        let mut serving = self.config.providers.iter().filter(serves);
        let maker = serving.clone().find(|provider| wire(provider).is_some_and(providers::Provider::is_maker));
        let only = serving.next().filter(|_| serving.next().is_none());
        maker.or(only).map(|provider| provider.name.as_str())
    }

    /// What leads to a provider's account.
    #[must_use]
    pub fn account_plan(&self, provider: &str) -> Option<Plan> {
        let target = self.lane(provider, "")?;
        Some(Plan {
            label: OTHER.to_owned(),
            limited_as: String::new(),
            lanes: vec![Place { target, weight: 1, tier: 1, price: None }],
            balance: config::Balance::Weighted,
            fallback_on: Vec::new(),
            timeouts: config::ModelTimeouts::default(),
            hedge: None,
            ledgers: Vec::new(),
        })
    }

    /// The ledgers that a call of `caller` for `name` is written in.
    #[must_use]
    pub fn ledgers(&self, caller: Option<&Caller>, name: &str, plan: &Plan) -> Vec<Arc<Ledger>> {
        let key = caller.and_then(|caller| self.keys.get(&caller.metrics.name));
        let of_key = key.map(|key| &key.all);
        let of_key_and_model = key.and_then(|key| key.by_model.get(name).or_else(|| key.by_model.get(&plan.limited_as)));
        let rules = [Some(&self.gateway), of_key, of_key_and_model, Some(&plan.ledgers)];
        rules.into_iter().flatten().flatten().cloned().collect()
    }

    fn make_plan(&self, name: &str) -> Option<Plan> {
        if let Some(model) = self.router.configured(name) {
            let places = model.targets.iter().filter_map(|target| {
                let lane = self.lane(&target.provider, &target.model)?;
                Some(Place { price: self.price_for_order(&lane), target: lane, weight: target.weight, tier: target.tier })
            });
            return Some(Plan {
                label: name.to_owned(),
                limited_as: name.to_owned(),
                lanes: places.collect(),
                balance: model.balance,
                fallback_on: model.fallback_on.clone(),
                timeouts: model.timeouts,
                hedge: model.hedge,
                ledgers: ledgers(&self.limits, Scope::Model, name, model.limits),
            });
        }
        let named = self.router.named(name, |bare| self.prices.kinds_of(bare).collect())?;
        let lane = self.lane(&named.provider, &named.model)?;
        let lanes = vec![Place { target: lane, weight: 1, tier: 1, price: None }];
        let configured = self.configured_with(&named);
        Some(Plan {
            label: OTHER.to_owned(),
            lanes,
            balance: config::Balance::Weighted,
            fallback_on: Vec::new(),
            timeouts: config::ModelTimeouts::default(),
            hedge: None,
            ledgers: configured.map(|model| ledgers(&self.limits, Scope::Model, &model.name, model.limits)).unwrap_or_default(),
            limited_as: configured.map_or(named.model, |model| model.name.clone()),
        })
    }

    /// The configured model that has this target; of several, the one whose limits are to be kept is
    /// the one that is called as the target is, else the first.
    fn configured_with(&self, named: &Named) -> Option<&config::Model> {
        let is_it = |target: &config::Target| target.provider == named.provider && target.model == named.model;
        let mut having = self.config.models.iter().filter(|model| model.targets.iter().any(is_it));
        let first = having.clone().next();
        having.find(|model| model.name == named.model).or(first)
    }

    fn lane(&self, provider: &str, model: &str) -> Option<Arc<Lane>> {
        let key = (provider.to_owned(), model.to_owned());
        if let Some(lane) = self.lanes.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Some(Arc::clone(lane));
        }
        let lane = Arc::new(self.make_lane(provider, model)?);
        if lane.account.model == OTHER {
            return Some(lane);
        }
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(lanes.entry(key).or_insert(lane)))
    }

    fn make_lane(&self, provider: &str, model: &str) -> Option<Lane> {
        let provider = self.providers.get(provider)?;
        let price = self.prices.find(&provider.config.kind, &provider.config.name, model);
        let account = if self.may_be_label(&provider.config, model) {
            Arc::new(Account::new(&self.metrics, &provider.config.name, model, price))
        } else if price.is_some() {
            Arc::new(Account::new(&self.metrics, &provider.config.name, OTHER, price))
        } else {
            Arc::clone(&provider.other)
        };
        if account.model != OTHER && !account.is_priced() && self.config.unpriced == Unpriced::Warn {
            tracing::warn!(target: "choreoai", provider = provider.config.name, model, "this model has no price: its cost will be missing");
        }
        let context = self.prices.model(&provider.config.kind, model);
        Some(Lane {
            provider: Arc::clone(provider),
            target: Arc::new(Target::new(&provider.config.name, model, provider.config.breaker)),
            account,
            context: context.and_then(|model| model.context),
            asks_usage: AtomicBool::new(true),
            peer: Arc::new(Peer {
                system: providers::semantic_name(provider.wire.0.kind()),
                provider: provider.config.name.clone(),
                model: model.to_owned(),
                server: provider.upstream.server(),
            }),
        })
    }

    /// Labels come from the configuration and the catalogue only.
    fn may_be_label(&self, provider: &config::Provider, model: &str) -> bool {
        let is_target = |target: &config::Target| target.provider == provider.name && target.model == model;
        self.prices.knows(&provider.kind, model)
            || provider.models.iter().any(|known| known == model)
            || self.config.models.iter().flat_map(|model| &model.targets).any(is_target)
            || self.config.prices.iter().any(|row| row.provider == provider.name && row.model == model)
    }

    /// What a thousand tokens in and out cost, to compare targets by.
    fn price_for_order(&self, lane: &Lane) -> Option<u64> {
        let usage = providers::Usage { input: 1000, output: 1000, ..providers::Usage::default() };
        let price = self.prices.find(&lane.provider.config.kind, &lane.provider.config.name, &lane.target.model)?;
        Some(price.cost(&usage).0)
    }
}

/// The limits where the configuration wants them counted. Must be called within the runtime.
///
/// # Errors
/// When the Redis address cannot be read.
pub fn limits(config: &config::RateLimit, metrics: &Arc<Metrics>) -> Result<Limits, ConfigError> {
    let (name, limits) = match config.backend {
        Backend::Memory => ("memory", Limits::memory()),
        Backend::Redis => {
            let mut options = RedisOptions::new(config.redis_url.reveal());
            options.deadline = config.deadline;
            options.lease = config.lease;
            options.on_failure = match config.on_failure {
                config::OnFailure::Local => OnFailure::Local,
                config::OnFailure::Open => OnFailure::Open,
                config::OnFailure::Closed => OnFailure::Closed,
            };
            let observer = Arc::new(observer::LimitsObserver(Arc::clone(metrics)));
            ("redis", Limits::redis(options, observer).map_err(|error| ConfigError(format!("rate_limit: {error}")))?)
        }
    };
    metrics.rate_limit_backend_state.with_label_values(&[name]);
    Ok(limits)
}

impl Provider {
    /// The provider as configured, with what it may take over from the one of its name `before`.
    fn new(
        config: &config::Provider,
        metrics: &Arc<Metrics>,
        limits: &Limits,
        before: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        let unknown = || ConfigError(format!("providers.{}: there is no kind \"{}\"", config.name, config.kind));
        let wire = providers::provider(&config.kind).ok_or_else(unknown)?;
        metrics.circuit_breaker_state.with_label_values(&[&config.name]);
        metrics.circuit_breaker_trips.with_label_values(&[&config.name]);
        // Alone, the line before the provider counts its places; where replicas share them, Redis does.
        let max_concurrent = config.limits.max_concurrent.filter(|_| limits.are_shared());
        let rule = config::Limits { max_concurrent, ..config.limits };
        let upstream = match before.filter(|before| before.config.is_reached_like(config)) {
            Some(before) => Arc::clone(&before.upstream),
            None => Arc::new(Upstream::new(config, wire.auth(), metrics, Clock::default())?),
        };
        Ok(Self {
            wire: Wire(wire),
            upstream,
            ledgers: ledgers(limits, Scope::Provider, &config.name, rule),
            queue: queue(config, metrics, before.and_then(|before| before.queue.as_ref())),
            budget: match before.filter(|before| before.config.retry == config.retry) {
                Some(before) => Arc::clone(&before.budget),
                None => Arc::new(Budget::new(config.retry)),
            },
            other: Arc::new(Account::new(metrics, &config.name, OTHER, None)),
            config: config.clone(),
        })
    }
}

impl Lane {
    /// Whether the provider has this endpoint.
    #[must_use]
    pub fn serves(&self, endpoint: Endpoint) -> bool {
        self.provider.wire.0.serves(endpoint)
    }

    /// Whether the provider is to be asked for usage on a stream.
    #[must_use]
    pub fn asks_usage(&self) -> bool {
        self.asks_usage.load(Ordering::Relaxed)
    }

    /// Whether a prompt that was too long for `other` may find room here: not when it is the same model, and not when
    /// this one is known to be no larger.
    #[must_use]
    pub fn may_hold_more_than(&self, other: &Self) -> bool {
        let is_larger = self.context.zip(other.context).map(|(ours, theirs)| ours > theirs);
        is_larger.unwrap_or(self.target.model != other.target.model)
    }

    /// Never again.
    pub fn stop_asking_usage(&self) {
        self.asks_usage.store(false, Ordering::Relaxed);
    }
}

impl Plan {
    /// Whether any lane has this endpoint.
    #[must_use]
    pub fn serves(&self, endpoint: Endpoint) -> bool {
        self.lanes.iter().any(|place| place.target.serves(endpoint))
    }

    /// Whether every lane has a price.
    #[must_use]
    pub fn is_priced(&self) -> bool {
        self.lanes.iter().all(|place| place.target.account.is_priced())
    }

    /// The tier of one of its lanes.
    #[must_use]
    pub fn tier(&self, lane: &Arc<Lane>) -> Option<u32> {
        self.lanes.iter().find(|place| Arc::ptr_eq(&place.target, lane)).map(|place| place.tier)
    }

    /// Whether calls without a price are refused under this rule and this plan has none.
    #[must_use]
    pub fn is_refused_by(&self, rule: Unpriced) -> bool {
        rule == Unpriced::Reject && !self.is_priced()
    }
}

impl KeyLedgers {
    fn new(limits: &Limits, key: &config::Key) -> Self {
        let by_model = key.limits_per_model.iter().map(|(model, figures)| {
            let name = format!("{}/{model}", key.name);
            (model.clone(), ledgers(limits, Scope::KeyModel, &name, *figures))
        });
        Self { all: ledgers(limits, Scope::Key, &key.name, key.limits), by_model: by_model.collect() }
    }
}

/// The line before a provider's concurrent places; one that is there already goes on.
fn queue(config: &config::Provider, metrics: &Arc<Metrics>, before: Option<&Queue>) -> Option<Queue> {
    metrics.queue_size.with_label_values(&[&config.name]);
    metrics.queue_wait.with_label_values(&[&config.name]);
    let options = queue_options(config)?;
    let new = || Queue::new(options, Arc::new(observer::LimitsObserver(Arc::clone(metrics))));
    Some(before.cloned().unwrap_or_else(new))
}

fn queue_options(config: &config::Provider) -> Option<QueueOptions> {
    let max_concurrent = usize::try_from(config.limits.max_concurrent?).unwrap_or(usize::MAX);
    Some(QueueOptions { provider: config.name.clone(), max_concurrent, size: config.queue.size, wait: config.queue.wait })
}

/// The ledgers of what is configured under one name: one for each span in which something is limited.
fn ledgers(limits: &Limits, scope: Scope, name: &str, figures: config::Limits) -> Vec<Arc<Ledger>> {
    let rule =
        |span, requests, tokens, max_concurrent| Rule { scope, name: name.to_owned(), span, requests, tokens, max_concurrent };
    let rules = [
        rule(Span::Minute, figures.requests_per_minute, figures.tokens_per_minute, figures.max_concurrent),
        rule(Span::Second, figures.requests_per_second, figures.tokens_per_second, None),
    ];
    rules.into_iter().filter(|rule| !rule.limits_nothing()).map(|rule| limits.ledger(rule)).collect()
}

fn prices(config: &Config, table: Prices) -> Result<Prices, ConfigError> {
    let mut prices = table;
    for row in &config.prices {
        let at = |field: &str| format!("prices.\"{}/{}\".{field}", row.provider, row.model);
        let rate = |field: &str, text: &Option<String>| -> Result<Option<Rate>, ConfigError> {
            let Some(text) = text else { return Ok(None) };
            text.parse()
                .map(Some)
                .map_err(|_| ConfigError(format!("{}: \"{text}\" is not a price in USD per million tokens", at(field))))
        };
        let needed = |field: &str, text: &Option<String>| -> Result<Rate, ConfigError> {
            rate(field, text)?.ok_or_else(|| ConfigError(format!("{}: missing", at(field))))
        };
        let price = Override {
            input: needed("input", &row.input)?,
            output: needed("output", &row.output)?,
            cache_read: rate("cache_read", &row.cache_read)?,
            cache_write: rate("cache_write", &row.cache_write)?,
            cache_write_1h: rate("cache_write_1h", &row.cache_write_1h)?,
            reasoning: rate("reasoning", &row.reasoning)?,
            audio_input: rate("audio_input", &row.audio_input)?,
            audio_output: rate("audio_output", &row.audio_output)?,
        };
        prices.with_override(&row.provider, &row.model, Price::from(price));
    }
    Ok(prices)
}

/// Unix time in seconds.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
