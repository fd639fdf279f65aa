//! Puts onto a request what opens its provider.
//! It must not know how a token is got or how the request is sent.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use providers::Auth;
use reqwest::{Method, Url};
use tokio::time::Instant;

use super::aws::Chain;
use super::entra::Application;
use super::google::Account;
use super::lease::{Clock, Lease, Source, Trouble};
use super::sigv4::{self, Scope, sensitive};
use crate::config::{self, Secret};

/// What opens one provider.
#[derive(Debug)]
pub(super) enum Credentials {
    /// Nothing.
    None,
    /// Always the same header.
    Fixed(HeaderName, HeaderValue),
    /// A signature over every request.
    Signature { keys: Lease<Chain>, region: String, service: &'static str, clock: Clock },
    /// A bearer token of Google.
    Google(Lease<Account>),
    /// A bearer token of Microsoft Entra ID.
    Entra(Lease<Application>),
}

impl Credentials {
    /// What the configuration of `owner` says; `None` when its key holds characters that no header can carry.
    pub(super) fn new(owner: &str, config: &config::Credentials, auth: Auth, clock: Clock) -> Option<Self> {
        Some(match config {
            config::Credentials::None => Self::None,
            config::Credentials::Key(key) => match auth {
                Auth::None => Self::None,
                Auth::Header(name) => Self::Fixed(HeaderName::from_static(name), sensitive(key.reveal())?),
                // A Bedrock API key and a ready Google token travel like any other key.
                Auth::Bearer | Auth::Google | Auth::SigV4(_) => Self::Fixed(header::AUTHORIZATION, bearer(key)?),
            },
            config::Credentials::Aws(aws) => {
                let service = if let Auth::SigV4(service) = auth { service } else { return Some(Self::None) };
                let keys = Lease::new(owner, Chain(aws.clone()), clock.clone());
                Self::Signature { keys, region: aws.region.clone(), service, clock }
            }
            config::Credentials::Google(google) => Self::Google(Lease::new(owner, Account(google.clone()), clock)),
            config::Credentials::Entra(entra) => Self::Entra(Lease::new(owner, Application(entra.clone()), clock)),
        })
    }

    /// Adds what is needed to the headers of a request that is ready but for them.
    pub(super) async fn attach(
        &self,
        (method, url, headers): (&Method, &Url, &mut HeaderMap),
        body: &[u8],
        deadline: Instant,
    ) -> Result<(), Trouble> {
        match self {
            Self::None => {}
            Self::Fixed(name, value) => {
                headers.insert(name.clone(), value.clone());
            }
            Self::Signature { keys, region, service, clock } => {
                let keys = keys.get(deadline).await?;
                let scope = Scope { region, service };
                let broken = || Trouble::lasting("the AWS keys hold characters that a header cannot carry");
                sigv4::sign((method, url, headers), body, &keys, scope, clock.now()).ok_or_else(broken)?;
            }
            Self::Google(tokens) => attach_token(tokens, headers, deadline).await?,
            Self::Entra(tokens) => attach_token(tokens, headers, deadline).await?,
        }
        Ok(())
    }
}

async fn attach_token<S: Source<Value = Secret>>(
    tokens: &Lease<S>,
    headers: &mut HeaderMap,
    deadline: Instant,
) -> Result<(), Trouble> {
    let token = tokens.get(deadline).await?;
    let broken = || Trouble::passing("the access token holds characters that a header cannot carry");
    headers.insert(header::AUTHORIZATION, bearer(&token).ok_or_else(broken)?);
    Ok(())
}

fn bearer(key: &Secret) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {}", key.reveal()))
}
