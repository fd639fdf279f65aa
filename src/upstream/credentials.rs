//! Puts onto a request what opens its provider.
//! It must not know how a token is got or how the request is sent.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use providers::Auth;
use reqwest::{Method, Url};
use tokio::time::Instant;

use super::aws::Chain;
use super::entra::Principal;
use super::google::Account;
use super::keys::Keys;
use super::lease::{Clock, Lease, Source, Trouble};
use super::sigv4::{self, Scope, sensitive};
use crate::config::{self, Secret};

/// What opens one provider.
#[derive(Debug)]
pub(super) enum Credentials {
    /// Nothing.
    None,
    /// One of several keys, or always the same.
    Keys(Keys),
    /// A signature over every request.
    Signature { keys: Lease<Chain>, region: String, service: &'static str, clock: Clock },
    /// A bearer token of Google.
    Google(Lease<Account>),
    /// A bearer token of Microsoft Entra ID.
    Entra(Lease<Principal>),
}

impl Credentials {
    /// What the configuration of `owner` says; `None` when its key holds characters that no header can carry.
    pub(super) fn new(owner: &str, config: &config::Credentials, auth: Auth, clock: Clock) -> Option<Self> {
        Some(match config {
            config::Credentials::None => Self::None,
            config::Credentials::Keys(keys) => match auth {
                Auth::None => Self::None,
                Auth::Header(name) => {
                    let values = keys.iter().map(|key| sensitive(key.reveal()));
                    Self::Keys(Keys::new(HeaderName::from_static(name), values.collect::<Option<_>>()?))
                }
                // A Bedrock API key and a ready Google token travel like any other key.
                Auth::Bearer | Auth::Google | Auth::SigV4(_) => {
                    Self::Keys(Keys::new(header::AUTHORIZATION, keys.iter().map(bearer).collect::<Option<_>>()?))
                }
            },
            config::Credentials::Aws(aws) => {
                let service = if let Auth::SigV4(service) = auth { service } else { return Some(Self::None) };
                let keys = Lease::new(owner, Chain(aws.clone()), clock.clone());
                Self::Signature { keys, region: aws.region.clone(), service, clock }
            }
            config::Credentials::Google(google) => Self::Google(Lease::new(owner, Account(google.clone()), clock)),
            config::Credentials::Entra(entra) => Self::Entra(Lease::new(owner, Principal(entra.clone()), clock)),
        })
    }

    /// The keys, where there are keys.
    pub(super) fn keys(&self) -> Option<&Keys> {
        if let Self::Keys(keys) = self { Some(keys) } else { None }
    }

    /// Adds what is needed to the headers of a request that is ready but for them; gives the number of the key
    /// that was used.
    pub(super) async fn attach(
        &self,
        (method, url, headers): (&Method, &Url, &mut HeaderMap),
        body: &[u8],
        deadline: Instant,
    ) -> Result<usize, Trouble> {
        match self {
            Self::None => {}
            Self::Keys(keys) => {
                let (number, name, value) = keys.next(std::time::Instant::now);
                headers.extend(value.map(|value| (name, value)));
                return Ok(number);
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
        Ok(0)
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
