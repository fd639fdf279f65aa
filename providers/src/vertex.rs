//! Google Cloud's Vertex AI: addresses with a project and a location, and behind them models of many
//! makers, each asked in its maker's words: Gemini's, Claude's, Mistral's, and OpenAI's for all others.
//! Reference: <https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest>.
//! It must not know where an access token comes from, nor any of those wires.

mod predict;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::Provider;
use crate::anthropic::{self, answer::MessageStream, request::Host};
use crate::call::{Account, Answer, Auth, Call, Endpoint, Facts, StreamTranslator, UpstreamRequest};
use crate::compatible;
use crate::error::{Refusal, UpstreamError};
use crate::frames::Framing;
use crate::gemini::{bare_name, error, reply, request};
use crate::native::messages;
use crate::segment::{self, is_host_label};

/// The versions of the API, unless the account names one; those that the makers' own SDKs use.
const GOOGLE_VERSION: &str = "v1beta1";
const PARTNER_VERSION: &str = "v1";

/// The location that needs no region.
const EVERYWHERE: &str = "global";

/// What the names of Mistral's models begin with.
const MISTRAL_NAMES: [&str; 4] = ["mistral-", "ministral-", "codestral", "magistral-"];

/// Vertex AI.
pub(crate) struct Vertex;

/// A model by the words it is asked in.
#[derive(Debug)]
enum Model<'a> {
    /// Google's own, or an endpoint somebody deployed (`endpoints/123`).
    Gemini(&'a str),
    /// Anthropic's.
    Claude(&'a str),
    /// Mistral's.
    Mistral(&'a str),
    /// Any other maker's, by whose name it is called (`meta/llama-…`).
    Other(String),
}

impl<'a> Model<'a> {
    /// The model of this name: alone, after its publisher, or as the resource that Google's lists write.
    fn named(name: &'a str) -> Self {
        let name = bare_name(name);
        let resource = name.strip_prefix("publishers/").and_then(|rest| rest.split_once("/models/"));
        match resource.or_else(|| name.split_once('/')) {
            Some(("endpoints", _)) => Self::Gemini(name),
            Some(("google", name)) => Self::Gemini(name),
            Some(("anthropic", name)) => Self::Claude(name),
            Some(("mistralai", name)) => Self::Mistral(name),
            Some((publisher, name)) => Self::Other(format!("{publisher}/{name}")),
            None if name.starts_with("claude-") => Self::Claude(name),
            None if MISTRAL_NAMES.iter().any(|start| name.starts_with(start)) => Self::Mistral(name),
            None => Self::Gemini(name),
        }
    }
}

impl Provider for Vertex {
    fn facts(&self) -> Facts {
        Facts {
            kind: "vertex",
            base_url: None,
            auth: Auth::Google,
            key_variable: None,
            serves: &[Endpoint::Embeddings, Endpoint::Messages],
            health_path: "/",
        }
    }

    fn base_url(&self, account: &Account) -> Option<String> {
        match account.region.as_deref() {
            None | Some(EVERYWHERE) => Some("https://aiplatform.googleapis.com".to_owned()),
            Some(region) => is_host_label(region).then(|| format!("https://{region}-aiplatform.googleapis.com")),
        }
    }

    fn request(&self, call: &Call<'_>) -> Result<UpstreamRequest, Refusal> {
        match (Model::named(call.model), call.endpoint) {
            (Model::Gemini(name), Endpoint::Chat) => {
                let (body, dropped) = request::body(call, self.kind())?;
                Ok(UpstreamRequest::post(gemini_path(call, name, request::action(call))?, &body, Framing::Sse, dropped))
            }
            (Model::Gemini(name), Endpoint::Embeddings) => {
                let (body, dropped) = predict::request(call, self.kind())?;
                Ok(UpstreamRequest::post(gemini_path(call, name, "predict")?, &body, Framing::Sse, dropped))
            }
            (Model::Claude(name), Endpoint::Chat) => claude(call, name),
            (Model::Claude(name), Endpoint::Messages) => carried_claude(call, name),
            (Model::Mistral(name), Endpoint::Chat) => mistral(call, name),
            (Model::Other(name), Endpoint::Chat) => other(call, &name),
            (_, Endpoint::Embeddings) => {
                Err(Refusal::field("model", "model_not_found", format!("`{}` makes no embeddings on Vertex AI", call.model)))
            }
            (_, other) => {
                let route = other.route();
                Err(Refusal::field("model", "model_not_found", format!("Vertex AI does not serve {route} for `{}`", call.model)))
            }
        }
    }

    fn answer(&self, call: &Call<'_>, headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
        match (Model::named(call.model), call.endpoint) {
            (_, Endpoint::Embeddings) => predict::answer(call, &body),
            (_, Endpoint::Messages) => messages::answer(call, body),
            (Model::Gemini(_), _) => reply::answer(call, &body),
            (Model::Claude(_), _) => anthropic::answer::whole(call, &body),
            (Model::Mistral(_) | Model::Other(_), _) => compatible::USUAL.answer(call, headers, body),
        }
    }

    /// Google's own error, or what the model's maker said behind it.
    fn error(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
        let is_message =
            serde_json::from_slice::<Value>(body).is_ok_and(|body| body.get("type").is_some_and(|kind| kind == "error"));
        if is_message { anthropic::error::read(status, headers, body) } else { error::read(status, headers, body) }
    }

    fn stream(&self, call: &Call<'_>) -> Box<dyn StreamTranslator> {
        match Model::named(call.model) {
            _ if call.endpoint == Endpoint::Messages => Box::new(messages::Stream::new(call)),
            Model::Gemini(_) => Box::new(reply::Translator::new(call)),
            Model::Claude(_) => Box::new(MessageStream::new(call)),
            Model::Mistral(_) | Model::Other(_) => compatible::USUAL.stream(call),
        }
    }
}

/// The project and location under which everything stands.
fn place(call: &Call<'_>, version: &str) -> Result<String, Refusal> {
    let account = call.account;
    let Some(project) = account.project.as_deref() else {
        return Err(Refusal {
            message: "this Vertex AI account names no Google Cloud project".to_owned(),
            param: None,
            code: "provider_misconfigured",
        });
    };
    let version = segment::percent_encoded(account.api_version.as_deref().unwrap_or(version));
    let location = segment::percent_encoded(account.region.as_deref().unwrap_or(EVERYWHERE));
    Ok(format!("/{version}/projects/{}/locations/{location}", segment::percent_encoded(project)))
}

fn gemini_path(call: &Call<'_>, name: &str, action: &str) -> Result<String, Refusal> {
    let place = place(call, GOOGLE_VERSION)?;
    match name.strip_prefix("endpoints/") {
        Some(endpoint) => Ok(format!("{place}/endpoints/{}:{action}", segment::of_model(endpoint)?)),
        None => Ok(format!("{place}/publishers/google/models/{}:{action}", segment::of_model(name)?)),
    }
}

/// A partner's model, whose own body goes through as it is.
fn raw_path(call: &Call<'_>, publisher: &str, name: &str) -> Result<String, Refusal> {
    let verb = if call.request.stream { "streamRawPredict" } else { "rawPredict" };
    let place = place(call, PARTNER_VERSION)?;
    Ok(format!("{place}/publishers/{publisher}/models/{}:{verb}", segment::of_model(name)?))
}

/// <https://cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude>
fn claude(call: &Call<'_>, name: &str) -> Result<UpstreamRequest, Refusal> {
    let said = anthropic::request::say(&Call { model: name, ..*call }, Host::Vertex)?;
    let body = Value::Object(said.body);
    let headers = anthropic::beta_header(&said.betas).into_iter().collect();
    let path = raw_path(call, "anthropic", name)?;
    Ok(UpstreamRequest { headers, ..UpstreamRequest::post(path, &body, Framing::Sse, said.dropped) })
}

/// The same in Claude's own words.
fn carried_claude(call: &Call<'_>, name: &str) -> Result<UpstreamRequest, Refusal> {
    let body = messages::body(call, Host::Vertex)?;
    let betas = call.request.headers.iter().filter(|(name, _)| name == "anthropic-beta");
    let headers = betas.cloned().collect();
    Ok(UpstreamRequest { headers, ..UpstreamRequest::carry(raw_path(call, "anthropic", name)?, body, Framing::Sse) })
}

/// <https://cloud.google.com/vertex-ai/generative-ai/docs/partner-models/mistral>. The version that may
/// stand in the address (`@001`) is no part of the name.
fn mistral(call: &Call<'_>, name: &str) -> Result<UpstreamRequest, Refusal> {
    let plain = name.split('@').next().unwrap_or(name);
    let said = compatible::MISTRAL.request(&Call { model: plain, ..*call })?;
    Ok(UpstreamRequest { path: raw_path(call, "mistralai", name)?, ..said })
}

/// <https://cloud.google.com/vertex-ai/generative-ai/docs/maas/call-open-model-apis>
fn other(call: &Call<'_>, name: &str) -> Result<UpstreamRequest, Refusal> {
    let said = compatible::USUAL.request(&Call { model: name, ..*call })?;
    Ok(UpstreamRequest { path: format!("{}/endpoints/openapi{}", place(call, PARTNER_VERSION)?, said.path), ..said })
}
