//! Makes every series that the configuration foretells, at 0, so that the first event of each is seen as
//! a change, and so that nothing a caller invents adds one.
//! It must not know what is counted when.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use providers::Endpoint;

use super::{House, Lane, OTHER};
use crate::config::{self, Backend};
use crate::error::{Kind, LEFT, RETRIED};
use crate::limits::{Limit, Scope};
use crate::meter::Outcome;

/// The endpoints that ask a provider.
const ENDPOINTS: [Endpoint; 6] =
    [Endpoint::Chat, Endpoint::Completions, Endpoint::Embeddings, Endpoint::Responses, Endpoint::Messages, Endpoint::CountTokens];
/// The endpoints that the gateway answers itself.
const PAGES: [&str; 6] = ["/v1/models", "/v1/models/{id}", "/health", "/ready", "/live", "/metrics"];
/// The statuses of a target's calls that stand at 0 from the start.
const STATUSES: [&str; 6] = ["200", "429", "500", "502", "503", "504"];
/// The statuses of calls that are refused before a target is chosen.
const REFUSALS: [&str; 8] = ["400", "401", "403", "404", "408", "413", "429", "503"];
/// The methods of calls that meet no route.
const METHODS: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "other"];
/// Why a provider refuses a key.
const KEY_REFUSALS: [&str; 3] = ["auth", "quota", "rate_limited"];
/// Scope and limit of what the guard against floods from one address refuses.
pub const PER_ADDRESS: [&str; 2] = ["address", "rps"];

impl House {
    /// Makes them.
    pub(super) fn present_at_zero(&self) {
        for model in &self.config.models {
            let _ = self.plan(&model.name);
        }
        for provider in &self.config.providers {
            for model in &provider.models {
                let _ = self.plan(&format!("{}/{model}", provider.name));
            }
            self.present_provider(&provider.name);
        }
        let plans = self.plans.read().unwrap_or_else(PoisonError::into_inner);
        for lane in plans.values().flat_map(|plan| &plan.lanes).map(|place| &place.target) {
            self.present_lane(lane);
        }
        for model in &self.config.models {
            self.present_fallbacks(model);
        }
        self.present_limits();
        self.present_refusals();
    }

    /// One target, as far as its [`Account`](crate::meter::Account) does not make it.
    fn present_lane(&self, lane: &Arc<Lane>) {
        let metrics = &self.metrics;
        let (provider, model) = (lane.account.provider.as_str(), lane.account.model.as_str());
        for status in STATUSES {
            metrics.requests.with_label_values(&[provider, model, Endpoint::Chat.route(), status, "POST"]);
        }
        for (outcome, source) in
            Outcome::ALL.into_iter().flat_map(|outcome| outcome.sources().iter().map(move |one| (outcome, one)))
        {
            metrics.settlements.with_label_values(&[provider, model, outcome.label(), source.label()]);
        }
        metrics.model_available.with_label_values(&[provider, model]);
    }

    fn present_provider(&self, provider: &str) {
        self.present_errors(provider);
        for result in ["ok", "failed"] {
            self.metrics.probes.with_label_values(&[provider, result]);
        }
        for outcome in Outcome::ALL {
            self.metrics.upstream_requests.with_label_values(&[provider, outcome.label()]);
        }
        for reason in RETRIED.map(Kind::label) {
            self.metrics.upstream_retries.with_label_values(&[provider, reason]);
        }
        for reason in KEY_REFUSALS {
            self.metrics.upstream_key_refusals.with_label_values(&[provider, reason]);
        }
        self.metrics.upstream_keys_resting.with_label_values(&[provider]);
        self.metrics.retry_budget_exhausted.with_label_values(&[provider]);
        self.metrics.hedges.with_label_values(&[provider]);
    }

    fn present_errors(&self, provider: &str) {
        let served = self.providers.get(provider).map(|provider| provider.wire.0);
        let is_served = |endpoint: &Endpoint| served.is_none_or(|wire| wire.serves(*endpoint));
        for endpoint in ENDPOINTS.into_iter().filter(is_served).map(Endpoint::route) {
            for label in crate::error::labels() {
                self.metrics.errors.with_label_values(&[provider, label, endpoint]);
            }
            self.metrics.request_duration.with_label_values(&[provider, endpoint, "POST"]);
        }
    }

    /// From each target of a model to each that can be the next: another of its tier, or one of the tier after it.
    fn present_fallbacks(&self, model: &config::Model) {
        let tiers: BTreeSet<u32> = model.targets.iter().map(|target| target.tier).collect();
        for (index, from) in model.targets.iter().enumerate() {
            let after = tiers.iter().find(|tier| **tier > from.tier);
            let follows =
                |(other, to): &(usize, &config::Target)| (to.tier == from.tier && *other != index) || Some(&to.tier) == after;
            for (_, to) in model.targets.iter().enumerate().filter(follows) {
                for reason in RETRIED.iter().chain(&LEFT).map(|kind| kind.label()) {
                    self.metrics.fallbacks.with_label_values(&[from.provider.as_str(), &to.provider, reason]);
                }
            }
        }
    }

    /// What each configured limit can refuse.
    fn present_limits(&self) {
        let config = &self.config;
        let all = [(Scope::Gateway, config.rate_limit.limits)].into_iter();
        let keys = config.keys.iter().map(|key| (Scope::Key, key.limits));
        let keys_and_models =
            config.keys.iter().flat_map(|key| &key.limits_per_model).map(|(_, limits)| (Scope::KeyModel, *limits));
        let models = config.models.iter().map(|model| (Scope::Model, model.limits));
        let providers = config.providers.iter().map(|provider| (Scope::Provider, provider.limits));
        // A limiter that is told to refuse while it cannot count says that calls per minute are used up.
        let refuses_blindly =
            config.rate_limit.backend == Backend::Redis && config.rate_limit.on_failure == config::OnFailure::Closed;
        let hit = |scope: &str, limit: &str| drop(self.metrics.rate_limit_hits.with_label_values(&[scope, limit]));
        for (scope, limits) in all.chain(keys).chain(keys_and_models).chain(models).chain(providers) {
            let figures = [
                (Limit::Requests, limits.requests_per_minute),
                (Limit::Tokens, limits.tokens_per_minute),
                (Limit::RequestsPerSecond, limits.requests_per_second),
                (Limit::TokensPerSecond, limits.tokens_per_second),
                (Limit::Concurrency, limits.max_concurrent),
            ];
            let mut set = figures.iter().filter(|(_, figure)| figure.is_some()).peekable();
            if refuses_blindly && set.peek().is_some() {
                hit(scope.label(), Limit::Requests.label());
            }
            set.for_each(|(limit, _)| hit(scope.label(), limit.label()));
        }
        // So that the family is there without any limit.
        hit(Scope::Gateway.label(), Limit::Requests.label());
        if config.rate_limit.per_ip_per_second.is_some() {
            let [scope, limit] = PER_ADDRESS;
            hit(scope, limit);
        }
    }

    /// What can be counted before a target is chosen, so that nobody's junk adds a series.
    fn present_refusals(&self) {
        let metrics = &self.metrics;
        self.present_errors("");
        for side in ["client", "upstream"] {
            metrics.stream_aborts.with_label_values(&[side]);
        }
        for signal in ["logs", "traces"] {
            metrics.telemetry_dropped.with_label_values(&[signal]);
        }
        for result in ["success", "failure"] {
            metrics.config_reloads.with_label_values(&[result]);
        }
        let request = |model: &str, endpoint: &str, status: &str, method: &str| {
            metrics.requests.with_label_values(&["", model, endpoint, status, method]);
            metrics.request_duration.with_label_values(&["", endpoint, method]);
        };
        for endpoint in ENDPOINTS.map(Endpoint::route) {
            REFUSALS.iter().for_each(|status| request(OTHER, endpoint, status, "POST"));
        }
        for model in &self.config.models {
            request(&model.name, Endpoint::Chat.route(), "429", "POST");
        }
        for method in METHODS {
            ["404", "405"].iter().for_each(|status| request(OTHER, OTHER, status, method));
        }
        for page in PAGES {
            request(OTHER, page, "200", "GET");
        }
        for page in &PAGES[..2] {
            ["401", "404", "429"].iter().for_each(|status| request(OTHER, page, status, "GET"));
        }
        for endpoint in ENDPOINTS.map(Endpoint::route).iter().chain(&PAGES).chain(&[OTHER]) {
            metrics.requests_in_flight.with_label_values(&[endpoint]);
            metrics.overhead.with_label_values(&[endpoint]);
        }
        for (endpoint, label) in
            [(OTHER, "not_found"), (PAGES[0], "unauthorized"), (PAGES[1], "unauthorized"), (PAGES[1], "not_found")]
                .into_iter()
                .chain([(PAGES[0], "rate_limited"), (PAGES[1], "rate_limited")])
        {
            metrics.errors.with_label_values(&["", label, endpoint]);
        }
    }
}
