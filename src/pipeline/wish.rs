//! What a client wants, by the path it called: its request, and where that leads.
//! It must not know how a call is carried out.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use providers::{ChatRequest, Endpoint, Passage};

use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::house::{House, Plan};

/// What a client wants.
#[derive(Clone, Debug)]
pub enum Wish {
    /// An answer of this endpoint.
    Call(Endpoint),
    /// To be passed on.
    Pass {
        /// The provider that the path names before `/v1`.
        provider: Option<String>,
        /// The path after `/v1`.
        path: String,
    },
}

impl Wish {
    /// The request with this head and body.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn read(&self, head: &Parts, body: Bytes) -> Result<ChatRequest, Error> {
        let request = match self {
            Self::Call(endpoint) => ChatRequest::parse(body, *endpoint)?,
            Self::Pass { path, .. } => {
                let kind = head.headers.get(http::header::CONTENT_TYPE);
                ChatRequest::passed(body, Passage::new(&head.method, path, head.uri.query(), kind)?)?
            }
        };
        Ok(request.with_headers(&head.headers))
    }

    /// Where a request leads, for whoever may go there. A model is named as the path completes it.
    ///
    /// # Errors
    /// When it leads nowhere, or this caller may not go there.
    pub(super) fn plan(&self, house: &House, caller: Option<&Caller>, request: &mut ChatRequest) -> Result<Arc<Plan>, Error> {
        let provider = match self {
            Self::Call(_) => None,
            Self::Pass { provider, .. } => provider.as_deref(),
        };
        if request.endpoint == Endpoint::Account {
            return account(house, caller, provider).map(Arc::new);
        }
        if let Some(provider) = provider {
            request.model = format!("{provider}/{}", request.model);
        }
        let model = &request.model;
        if caller.is_some_and(|caller| !caller.may_call(model)) {
            return Err(Error::new(Kind::Forbidden, "this API key may not call this model").param("model"));
        }
        let plan = house.plan(model).ok_or_else(|| unknown(model))?;
        if plan.serves(request.endpoint) { Ok(plan) } else { Err(unserved(model, request.endpoint)) }
    }
}

/// What stands in a provider's account is for those who may call all of its models: what is done there can
/// name any of them.
fn account(house: &House, caller: Option<&Caller>, named: Option<&str>) -> Result<Plan, Error> {
    let holder = house.account_holder(named).ok_or_else(|| {
        let how = "no provider is meant: put the name of one before /v1, as in /NAME/v1/files, or name a model";
        Error::new(Kind::NotFound, how)
    })?;
    if caller.is_some_and(|caller| !caller.may_call(&format!("{holder}/"))) {
        return Err(Error::new(Kind::Forbidden, "this API key may not call all models of this provider"));
    }
    let plan = house.account_plan(holder).filter(|plan| plan.serves(Endpoint::Account));
    plan.ok_or_else(|| Error::new(Kind::NotFound, format!("nothing can be passed on to a provider named `{}`", shown(holder))))
}

fn unknown(model: &str) -> Error {
    let shown = shown(model);
    Error::new(Kind::ModelNotFound, format!("the model `{shown}` does not exist here; GET /v1/models lists those that do"))
        .param("model")
}

fn unserved(model: &str, endpoint: Endpoint) -> Error {
    let (shown, route) = (shown(model), endpoint.route());
    Error::new(Kind::ModelNotFound, format!("no provider of the model `{shown}` serves {route}")).param("model")
}

fn shown(name: &str) -> String {
    name.chars().filter(|letter| !letter.is_control()).take(100).collect()
}
