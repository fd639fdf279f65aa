//! AWS keys, out of the first place that has some: environment, profile (which may name a
//! program), web identity, container, instance.
//! It must not know what is signed with them.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use reqwest::Method;
use serde::Deserialize;

use super::exchange::{self, Question, ask};
use super::lease::{Granted, Source, Trouble};
use super::profile::{self, Found};
use super::program;
use super::sigv4::sensitive;
use crate::config::{Aws, AwsContainer, AwsKeys, AwsWebIdentity, Secret};

/// How long the keys of a file are used before it is looked at again.
const FILE_LIFE: Duration = Duration::from_secs(15 * 60);
const STS: &str = "AWS STS";
const CONTAINER: &str = "the container's credentials service";
const INSTANCE: &str = "the instance metadata service";
const PROGRAM: &str = "the AWS profile's credential_process";
/// The token for the instance's metadata, and how many seconds it lives.
const INSTANCE_TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const INSTANCE_TOKEN_LIFE: (HeaderName, &str) = (HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds"), "300");

/// The chain of places.
#[derive(Debug)]
pub(super) struct Chain(pub(super) Box<Aws>);

impl Source for Chain {
    type Value = AwsKeys;

    async fn fetch(&self, now: SystemTime) -> Result<Granted<AwsKeys>, Trouble> {
        let config = &self.0;
        if let Some(keys) = config.keys.as_ref().filter(|_| !config.profile.is_only) {
            return Ok(Granted { value: keys.clone(), until: None });
        }
        let name = &config.profile.name;
        match profile::find(&config.profile).await? {
            Found::Keys(value) => return Ok(Granted { value, until: now.checked_add(FILE_LIFE) }),
            Found::Role(role) => return self.assume(&role).await,
            Found::Program(command) => return of_program(&command).await,
            Found::Other(way) => {
                let message = format!("the AWS profile \"{name}\" gets its keys by {way}, which is not supported");
                return Err(Trouble::lasting(message));
            }
            Found::Nothing if config.profile.is_named => {
                return Err(Trouble::lasting(format!("there is no AWS profile \"{name}\"")));
            }
            Found::NoKeys if config.profile.is_only => {
                return Err(Trouble::lasting(format!("the AWS profile \"{name}\" holds no keys")));
            }
            Found::Nothing | Found::NoKeys => {}
        }
        if let Some(role) = &config.web_identity {
            return self.assume(role).await;
        }
        if let Some(container) = &config.container {
            return of_container(container).await;
        }
        match &config.instance_url {
            Some(url) => of_instance(url.trim_end_matches('/')).await.map_err(|trouble| self.nowhere(&trouble.message)),
            None => Err(self.nowhere("the instance metadata service is switched off")),
        }
    }
}

impl Chain {
    /// Every place was looked at.
    fn nowhere(&self, last: &str) -> Trouble {
        let config = &self.0;
        let variable = if config.is_half_set { "AWS_SECRET_ACCESS_KEY" } else { "AWS_ACCESS_KEY_ID" };
        let profile = &config.profile.name;
        Trouble::passing(format!(
            "no AWS credentials: {variable} is not set, no keys in the profile \"{profile}\", AWS_WEB_IDENTITY_TOKEN_FILE and AWS_CONTAINER_CREDENTIALS_* are not set, {last}"
        ))
    }

    /// The keys of a role for a token, <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>.
    async fn assume(&self, role: &AwsWebIdentity) -> Result<Granted<AwsKeys>, Trouble> {
        let token = exchange::read(&role.token_file, "the web identity token").await?;
        let body = ask(Question {
            whom: STS,
            method: Method::POST,
            url: &self.0.sts_url,
            headers: HeaderMap::new(),
            form: &[
                ("Action", "AssumeRoleWithWebIdentity"),
                ("Version", "2011-06-15"),
                ("RoleArn", &role.role_arn),
                ("RoleSessionName", &role.session_name),
                ("WebIdentityToken", token.trim()),
            ],
            is_near: false,
        })
        .await?;
        let text = String::from_utf8_lossy(&body);
        let part = |name| exchange::tag(&text, name).map(str::to_owned);
        granted(
            STS,
            Document {
                access_key_id: part("AccessKeyId"),
                secret_access_key: part("SecretAccessKey"),
                token: part("SessionToken"),
                expiration: part("Expiration"),
            },
        )
    }
}

/// What the container's and the instance's services answer, and what a program prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    /// A program calls it otherwise.
    #[serde(alias = "SessionToken")]
    token: Option<String>,
    expiration: Option<String>,
}

fn granted(whom: &str, document: Document) -> Result<Granted<AwsKeys>, Trouble> {
    let (Some(id), Some(secret)) = (document.access_key_id, document.secret_access_key) else {
        return Err(Trouble::passing(format!("{whom} answered without keys")));
    };
    let until = match document.expiration {
        Some(text) => Some(exchange::time(&text).ok_or_else(|| Trouble::passing(format!("{whom} answered without a time")))?),
        None => None,
    };
    let value = AwsKeys { id: Secret::new(id), secret: Secret::new(secret), session: document.token.map(Secret::new) };
    Ok(Granted { value, until })
}

fn from_json(whom: &str, body: &[u8]) -> Result<Granted<AwsKeys>, Trouble> {
    let document = serde_json::from_slice(body).map_err(|_| Trouble::passing(format!("{whom} answered without keys")))?;
    granted(whom, document)
}

/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>
async fn of_program(command: &str) -> Result<Granted<AwsKeys>, Trouble> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Form {
        version: u64,
    }
    let printed = program::run(command, PROGRAM).await?;
    match serde_json::from_slice(&printed) {
        Ok(Form { version: 1 }) => from_json(PROGRAM, &printed),
        _ => Err(Trouble::lasting(format!("{PROGRAM} does not print keys in the first version of their form"))),
    }
}

/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>
async fn of_container(container: &AwsContainer) -> Result<Granted<AwsKeys>, Trouble> {
    let token = match (&container.token_file, &container.token) {
        (Some(file), _) => Some(exchange::read(file, "the container's authorization token").await?.trim().to_owned()),
        (None, token) => token.as_ref().map(|token| token.reveal().to_owned()),
    };
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let broken = || Trouble::lasting("the container's authorization token holds characters that a header cannot carry");
        headers.insert(header::AUTHORIZATION, sensitive(&token).ok_or_else(broken)?);
    }
    let is_near = container.url.starts_with("http://");
    let question = Question { whom: CONTAINER, method: Method::GET, url: &container.url, headers, form: &[], is_near };
    from_json(CONTAINER, &ask(question).await?)
}

/// The role of an EC2 instance, by the second version of its metadata service,
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>.
async fn of_instance(base: &str) -> Result<Granted<AwsKeys>, Trouble> {
    let (name, seconds) = INSTANCE_TOKEN_LIFE;
    let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(seconds))]);
    let token = ask(near(Method::PUT, &format!("{base}/latest/api/token"), headers)).await?;
    let token = std::str::from_utf8(&token).ok().and_then(sensitive);
    let token = token.ok_or_else(|| Trouble::passing(format!("{INSTANCE} answered without a token")))?;
    let headers = HeaderMap::from_iter([(INSTANCE_TOKEN, token)]);
    let roles = format!("{base}/latest/meta-data/iam/security-credentials/");
    let listed = ask(near(Method::GET, &roles, headers.clone())).await?;
    let listed = String::from_utf8_lossy(&listed);
    let role = listed.lines().next().unwrap_or_default().trim();
    // IAM allows no other letters in a role's name; the name becomes part of an address.
    if role.is_empty() || !role.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte)) {
        return Err(Trouble::passing("the instance has no role"));
    }
    from_json(INSTANCE, &ask(near(Method::GET, &format!("{roles}{role}"), headers)).await?)
}

fn near(method: Method, url: &str, headers: HeaderMap) -> Question<'_> {
    Question { whom: INSTANCE, method, url, headers, form: &[], is_near: true }
}
