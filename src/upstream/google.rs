//! Access tokens of Google Cloud: for a service account's key, for a user's refresh token, or from
//! the metadata server.
//! It must not know what they open.

use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Method;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;

use super::exchange::{self, Question, ask};
use super::lease::{Granted, Source, Trouble};
use crate::config::{Google, Secret};

/// What the tokens are for: everything that the account may do.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Where tokens come from, unless the file names another place.
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const SERVICE: &str = "Google's token service";
const METADATA: &str = "the Google metadata server";
const FLAVOR: (HeaderName, &str) = (HeaderName::from_static("metadata-flavor"), "Google");
/// How long the assertion of a service account is good, in seconds; the most that Google takes.
const ASSERTION_LIFE: u64 = 3600;

/// Where the tokens come from.
#[derive(Debug)]
pub(super) struct Account(pub(super) Google);

/// A credentials file. It may have more.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum File {
    ServiceAccount {
        client_email: String,
        private_key: String,
        private_key_id: Option<String>,
        token_uri: Option<String>,
    },
    AuthorizedUser {
        client_id: String,
        client_secret: String,
        refresh_token: String,
        token_uri: Option<String>,
    },
    #[serde(other)]
    Other,
}

impl Source for Account {
    type Value = Secret;

    async fn fetch(&self, now: SystemTime) -> Result<Granted<Secret>, Trouble> {
        let config = &self.0;
        if let Some(path) = &config.named_file {
            return of_file(path, now).await;
        }
        if let Some(path) = config.usual_file.as_ref().filter(|path| path.exists()) {
            return of_file(path, now).await;
        }
        of_metadata(&config.metadata_url, now).await.map_err(|trouble| {
            Trouble::passing(format!("no Google credentials: GOOGLE_APPLICATION_CREDENTIALS is not set, {}", trouble.message))
        })
    }
}

async fn of_file(path: &Path, now: SystemTime) -> Result<Granted<Secret>, Trouble> {
    let text = exchange::read(path, "the Google credentials file").await?;
    // The error's own text may quote the file.
    let file = serde_json::from_str(&text).map_err(|_| Trouble::lasting("the Google credentials file is not one of Google's"))?;
    match file {
        File::ServiceAccount { client_email, private_key, private_key_id, token_uri } => {
            let url = token_uri.as_deref().unwrap_or(TOKEN_URL);
            let assertion = assertion((&client_email, private_key_id.as_deref()), &private_key, url, now)?;
            let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
            token(url, &[("grant_type", grant), ("assertion", &assertion)], now).await
        }
        File::AuthorizedUser { client_id, client_secret, refresh_token, token_uri } => {
            let form = [
                ("grant_type", "refresh_token"),
                ("client_id", &client_id),
                ("client_secret", &client_secret),
                ("refresh_token", &refresh_token),
            ];
            token(token_uri.as_deref().unwrap_or(TOKEN_URL), &form, now).await
        }
        File::Other => Err(Trouble::lasting(
            "the Google credentials file is neither a service account's (service_account) nor a user's (authorized_user)",
        )),
    }
}

async fn token(url: &str, form: &[(&str, &str)], now: SystemTime) -> Result<Granted<Secret>, Trouble> {
    let headers = HeaderMap::new();
    let body = ask(Question { whom: SERVICE, method: Method::POST, url, headers, form, is_near: false }).await?;
    let (value, until) = exchange::token(SERVICE, &body, now)?;
    Ok(Granted { value, until: Some(until) })
}

async fn of_metadata(base: &str, now: SystemTime) -> Result<Granted<Secret>, Trouble> {
    let url = format!("{base}/computeMetadata/v1/instance/service-accounts/default/token");
    let headers = HeaderMap::from_iter([(FLAVOR.0, HeaderValue::from_static(FLAVOR.1))]);
    let question = Question { whom: METADATA, method: Method::GET, url: &url, headers, form: &[], is_near: true };
    let (value, until) = exchange::token(METADATA, &ask(question).await?, now)?;
    Ok(Granted { value, until: Some(until) })
}

/// A JSON Web Token that the account signed, RS256,
/// <https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests>.
fn assertion(
    (email, key_id): (&str, Option<&str>),
    private_key: &str,
    audience: &str,
    now: SystemTime,
) -> Result<String, Trouble> {
    let broken = || Trouble::lasting("the private key in the Google credentials file cannot be used");
    let der = PrivatePkcs8KeyDer::from_pem_slice(private_key.as_bytes()).map_err(|_| broken())?;
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| broken())?;
    let issued = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": key_id});
    let claims = json!({"iss": email, "scope": SCOPE, "aud": audience, "iat": issued, "exp": issued + ASSERTION_LIFE});
    let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
    let mut token = format!("{}.{}", encode(&header.to_string()), encode(&claims.to_string()));
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature).map_err(|_| broken())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}
