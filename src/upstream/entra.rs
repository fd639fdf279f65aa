//! Access tokens of Microsoft Entra ID for an application with a secret,
//! <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>.
//! It must not know what they open.

use std::time::SystemTime;

use http::HeaderMap;
use reqwest::Method;

use super::exchange::{self, Question, ask};
use super::lease::{Granted, Source, Trouble};
use crate::config::{Entra, Secret};

/// What the tokens are for: every Azure AI service.
const SCOPE: &str = "https://cognitiveservices.azure.com/.default";
const SERVICE: &str = "Microsoft Entra ID";

/// The application.
#[derive(Debug)]
pub(super) struct Application(pub(super) Box<Entra>);

impl Source for Application {
    type Value = Secret;

    async fn fetch(&self, now: SystemTime) -> Result<Granted<Secret>, Trouble> {
        let Entra { tenant, client, secret, authority } = &*self.0;
        let body = ask(Question {
            whom: SERVICE,
            method: Method::POST,
            url: &format!("{authority}/{tenant}/oauth2/v2.0/token"),
            headers: HeaderMap::new(),
            form: &[
                ("grant_type", "client_credentials"),
                ("client_id", client),
                ("client_secret", secret.reveal()),
                ("scope", SCOPE),
            ],
            is_near: false,
        })
        .await?;
        let (value, until) = exchange::token(SERVICE, &body, now)?;
        Ok(Granted { value, until: Some(until) })
    }
}
