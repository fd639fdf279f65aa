//! The models that the gateway can route, in OpenAI's shape with what the catalogue knows of them.
//! It must not know how a call runs.

use bytes::Bytes;
use providers::{Endpoint, Tier};
use serde_json::{Map, Value, json};

use crate::auth::Caller;
use crate::config;
use crate::error::{Error, Kind};
use crate::house::House;
use crate::prices::{Mode, Model, Prices, Rate, Rates};

/// What a model can be made for.
const ENDPOINTS: [Endpoint; 5] =
    [Endpoint::Chat, Endpoint::Completions, Endpoint::Embeddings, Endpoint::Responses, Endpoint::Messages];

/// A name that can be called, and what it leads to.
struct Listed<'a> {
    name: String,
    targets: Vec<(&'a config::Provider, &'a str)>,
}

/// `GET /v1/models`: the models that this caller may call.
#[must_use]
pub fn list(house: &House, caller: Option<&Caller>) -> Bytes {
    let mut listed: Vec<Listed<'_>> = configured(house).chain(of_providers(house)).collect();
    listed.retain(|model| caller.is_none_or(|caller| caller.may_call(&model.name)));
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    listed.dedup_by(|one, other| one.name == other.name);
    let data: Vec<Value> = listed.iter().map(|model| model.describe(&house.prices)).collect();
    Bytes::from(json!({"object": "list", "data": data}).to_string())
}

/// `GET /v1/models/{id}`
///
/// # Errors
/// `ModelNotFound` when it cannot be routed or this caller may not call it.
pub fn one(house: &House, caller: Option<&Caller>, id: &str) -> Result<Bytes, Error> {
    let is_allowed = caller.is_none_or(|caller| caller.may_call(id));
    let plan = house.plan(id).filter(|_| is_allowed);
    let plan = plan.ok_or_else(|| Error::new(Kind::ModelNotFound, "this model does not exist here").param("model"))?;
    let targets = plan.lanes.iter().map(|place| (&place.target.provider.config, place.target.target.model.as_str()));
    let listed = Listed { name: id.to_owned(), targets: targets.collect() };
    Ok(Bytes::from(listed.describe(&house.prices).to_string()))
}

/// The names of `[models]`.
fn configured(house: &House) -> impl Iterator<Item = Listed<'_>> {
    let provider = |name: &str| house.config.providers.iter().find(|provider| provider.name == name);
    house.config.models.iter().map(move |model| {
        let targets = model.targets.iter().filter_map(|target| Some((provider(&target.provider)?, target.model.as_str())));
        Listed { name: model.name.clone(), targets: targets.collect() }
    })
}

/// `provider/model`: what a provider is said to have, and what the catalogue knows it to have and the
/// gateway has an endpoint for.
fn of_providers(house: &House) -> impl Iterator<Item = Listed<'_>> {
    house.config.providers.iter().flat_map(|provider| {
        let wire = providers::provider(&provider.kind);
        let can_call = move |model: &&Model| wire.is_some_and(|wire| endpoints(model.mode).iter().any(|one| wire.serves(*one)));
        let catalogued = house.prices.catalogue(&provider.kind).filter(can_call).map(|model| model.name);
        let names = provider.models.iter().map(String::as_str).chain(catalogued);
        names.map(move |model| Listed { name: format!("{}/{model}", provider.name), targets: vec![(provider, model)] })
    })
}

/// Where a model of this mode can be asked, if its provider serves that.
fn endpoints(mode: Mode) -> &'static [Endpoint] {
    match mode {
        Mode::Chat => &[Endpoint::Chat, Endpoint::Responses, Endpoint::Messages],
        Mode::Embedding => &[Endpoint::Embeddings],
        Mode::Responses => &[Endpoint::Responses],
        Mode::Completion => &[Endpoint::Completions],
        Mode::Other => &[],
    }
}

impl Listed<'_> {
    /// OpenAI's members, and those facts that hold for every target: a name promises what its least target can.
    fn describe(&self, prices: &Prices) -> Value {
        let owner = self.targets.first().map_or("", |(provider, _)| provider.name.as_str());
        let mut said = json!({"id": self.name, "object": "model", "created": 0, "owned_by": owner});
        let known: Vec<&Model> =
            self.targets.iter().filter_map(|(provider, model)| prices.model(&provider.kind, model)).collect();
        said["endpoints"] = self.endpoints(&known).into();
        if known.len() < self.targets.len() {
            return self.priced(said, prices);
        }
        for (name, least) in [
            ("context_length", known.iter().map(|model| model.context).min()),
            ("max_completion_tokens", known.iter().map(|model| model.max_output).min()),
        ] {
            if let Some(Some(count)) = least {
                said[name] = count.into();
            }
        }
        self.priced(said, prices)
    }

    /// What all targets can be asked for: by the catalogue, and for models it does not know by their wire.
    fn endpoints(&self, known: &[&Model]) -> Vec<&'static str> {
        let serves = |endpoint: Endpoint| {
            let wires = self.targets.iter().map(|(provider, _)| providers::provider(&provider.kind));
            wires.flatten().all(|wire| wire.serves(endpoint))
        };
        let is_made_for = |wanted: Endpoint| known.iter().all(|model| endpoints(model.mode).contains(&wanted));
        ENDPOINTS.into_iter().filter(|one| serves(*one) && is_made_for(*one)).map(Endpoint::route).collect()
    }

    /// With the usual price, if all targets have the same one.
    fn priced(&self, mut said: Value, prices: &Prices) -> Value {
        let offers = self.targets.iter().map(|(provider, model)| prices.find(&provider.kind, &provider.name, model));
        let usual = offers.map(|price| price.map(|price| *price.rates(Tier::Standard, 0)));
        let mut usual = usual.collect::<Option<Vec<Rates>>>().unwrap_or_default();
        usual.dedup();
        if let [rates] = usual[..] {
            said["pricing"] = pricing(&rates);
        }
        said
    }
}

/// USD per million tokens, under the names of the configuration's `[prices]`; what costs as much as
/// input or output is left out.
fn pricing(rates: &Rates) -> Value {
    let parts: [(&str, Rate, Option<Rate>); 8] = [
        ("input", rates.input, None),
        ("output", rates.output, None),
        ("cache_read", rates.cache_read, Some(rates.input)),
        ("cache_write", rates.cache_write, Some(rates.input)),
        ("cache_write_1h", rates.cache_write_1h, Some(rates.cache_write)),
        ("reasoning", rates.reasoning, Some(rates.output)),
        ("audio_input", rates.audio_input, Some(rates.input)),
        ("audio_output", rates.audio_output, Some(rates.output)),
    ];
    let apart = parts.into_iter().filter(|(_, rate, usual)| *usual != Some(*rate));
    let mut said: Map<String, Value> = apart.map(|(name, rate, _)| (name.to_owned(), rate.to_string().into())).collect();
    said.insert("unit".to_owned(), "USD per million tokens".into());
    Value::Object(said)
}
