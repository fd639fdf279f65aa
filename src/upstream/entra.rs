//! Access tokens of Microsoft Entra ID: for an application with a secret or with a token that somebody else vouches
//! with, <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>, and for the identity
//! that Azure gives to its machines and services.
//! It must not know what they open.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Method;

use super::exchange::{self, Question, ask};
use super::lease::{Granted, Source, Trouble};
use super::sigv4::sensitive;
use crate::config::{Application, Entra, ManagedIdentity, Proof, Secret};

/// What the tokens are for: every Azure AI service.
const RESOURCE: &str = "https://cognitiveservices.azure.com";
const SERVICE: &str = "Microsoft Entra ID";
/// How a token that vouches for the application is announced.
const JWT: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The instance metadata service, the version of its interface, and the header that shows it that nobody was
/// redirected to it, <https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>.
const INSTANCE: (&str, &str) = ("the Azure instance metadata service", "2018-02-01");
const METADATA: HeaderName = HeaderName::from_static("metadata");
/// The same for a service that Azure runs,
/// <https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference>.
const HOSTED: (&str, &str) = ("the Azure identity endpoint", "2019-08-01");
const IDENTITY: HeaderName = HeaderName::from_static("x-identity-header");

/// Whoever is known there.
#[derive(Debug)]
pub(super) struct Principal(pub(super) Box<Entra>);

impl Source for Principal {
    type Value = Secret;

    async fn fetch(&self, now: SystemTime) -> Result<Granted<Secret>, Trouble> {
        match &*self.0 {
            Entra::Application(application) => of_application(application, now).await,
            Entra::Managed(identity) => of_azure(identity, now).await,
        }
    }
}

async fn of_application(application: &Application, now: SystemTime) -> Result<Granted<Secret>, Trouble> {
    let Application { tenant, client, proof, authority } = application;
    let scope = format!("{RESOURCE}/.default");
    let mut form = vec![("grant_type", "client_credentials"), ("client_id", client), ("scope", &scope)];
    // Somebody else keeps the file fresh.
    let assertion = match proof {
        Proof::Secret(_) => String::new(),
        Proof::TokenFile(path) => exchange::read(path, "the federated token").await?,
    };
    match proof {
        Proof::Secret(secret) => form.push(("client_secret", secret.reveal())),
        Proof::TokenFile(_) => form.extend([("client_assertion_type", JWT), ("client_assertion", assertion.trim())]),
    }
    let url = format!("{authority}/{tenant}/oauth2/v2.0/token");
    let headers = HeaderMap::new();
    let question = Question { whom: SERVICE, method: Method::POST, url: &url, headers, form: &form, is_near: false };
    let (value, until) = exchange::token(SERVICE, &ask(question).await?, now)?;
    Ok(Granted { value, until: Some(until) })
}

async fn of_azure(identity: &ManagedIdentity, now: SystemTime) -> Result<Granted<Secret>, Trouble> {
    let ((whom, version), header) = match &identity.header {
        Some(secret) => {
            let broken = || Trouble::lasting("IDENTITY_HEADER holds characters that a header cannot carry");
            (HOSTED, (IDENTITY, sensitive(secret.reveal()).ok_or_else(broken)?))
        }
        None => (INSTANCE, (METADATA, HeaderValue::from_static("true"))),
    };
    let mut query = vec![("api-version", version), ("resource", RESOURCE)];
    query.extend(identity.client.as_deref().map(|client| ("client_id", client)));
    let url = format!("{}?{}", identity.url, exchange::form(&query)?);
    let headers = HeaderMap::from_iter([header]);
    let question = Question { whom, method: Method::GET, url: &url, headers, form: &[], is_near: true };
    let body = ask(question).await.map_err(|trouble| Trouble {
        message: format!(
            "no Azure credentials: no key, AZURE_CLIENT_SECRET and AZURE_FEDERATED_TOKEN_FILE are not set, {}",
            trouble.message
        ),
        ..trouble
    })?;
    let (value, until) = exchange::token(whom, &body, now)?;
    Ok(Granted { value, until: Some(until) })
}
