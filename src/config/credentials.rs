//! Where a provider's credentials come from, as the file and the environment say: a key, or what a
//! cloud's tokens are got with.
//! It must not know how a token is fetched or a request is signed.

use std::path::PathBuf;

use providers::Auth;

use super::checking::{Environment, set};
use super::{ConfigError, Secret, file};

/// What opens a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing is sent.
    None,
    /// Keys that stay as they are, or ready tokens; never empty. Calls are spread over them.
    Keys(Vec<Secret>),
    /// Keys that sign every request.
    Aws(Box<Aws>),
    /// Access tokens of Google Cloud.
    Google(Google),
    /// Access tokens of Microsoft Entra ID.
    Entra(Box<Entra>),
}

/// The places where AWS keys may be, in the order of AWS's own libraries,
/// <https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aws {
    /// The region that requests are signed for: `region`, `AWS_REGION` or `AWS_DEFAULT_REGION`.
    pub region: String,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub keys: Option<AwsKeys>,
    /// `AWS_ACCESS_KEY_ID` without `AWS_SECRET_ACCESS_KEY`.
    pub is_half_set: bool,
    /// A profile of the profile files.
    pub profile: AwsProfile,
    /// `AWS_ROLE_ARN` and `AWS_WEB_IDENTITY_TOKEN_FILE`.
    pub web_identity: Option<AwsWebIdentity>,
    /// The address of STS: `AWS_ENDPOINT_URL_STS`, or the region's.
    pub sts_url: String,
    /// The keys of an ECS task or an EKS pod.
    pub container: Option<AwsContainer>,
    /// The instance's metadata service, `AWS_EC2_METADATA_SERVICE_ENDPOINT` or the usual address;
    /// `None` with `AWS_EC2_METADATA_DISABLED=true`.
    pub instance_url: Option<String>,
}

/// An AWS access key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKeys {
    /// The access key's id.
    pub id: Secret,
    /// The secret access key.
    pub secret: Secret,
    /// The session token of keys that live for a while.
    pub session: Option<Secret>,
}

/// A profile in `~/.aws/credentials` and `~/.aws/config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsProfile {
    /// `credentials` of the provider, `AWS_PROFILE`, or `default`.
    pub name: String,
    /// The provider's `credentials` names it: no other place is asked.
    pub is_only: bool,
    /// Somebody named it, so that it must exist.
    pub is_named: bool,
    /// `AWS_SHARED_CREDENTIALS_FILE`, or `.aws/credentials` in `HOME`.
    pub credentials_file: Option<PathBuf>,
    /// `AWS_CONFIG_FILE`, or `.aws/config` in `HOME`.
    pub config_file: Option<PathBuf>,
}

/// A token that STS takes for the keys of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsWebIdentity {
    /// `AWS_ROLE_ARN`
    pub role_arn: String,
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`; somebody else keeps it fresh.
    pub token_file: PathBuf,
    /// `AWS_ROLE_SESSION_NAME`, or `choreoai`.
    pub session_name: String,
}

/// The service that hands keys to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsContainer {
    /// `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` at its usual address, or `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
    pub url: String,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN`
    pub token: Option<Secret>,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`; goes before the token.
    pub token_file: Option<PathBuf>,
}

/// Where a Google access token comes from,
/// <https://cloud.google.com/docs/authentication/application-default-credentials>.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Google {
    /// `credentials` of the provider, or `GOOGLE_APPLICATION_CREDENTIALS`: it must exist.
    pub named_file: Option<PathBuf>,
    /// What `gcloud auth application-default login` wrote, if it is there: in `CLOUDSDK_CONFIG`, or in
    /// `.config/gcloud` in `HOME`.
    pub usual_file: Option<PathBuf>,
    /// The metadata server of Google Cloud: `GCE_METADATA_HOST`, or the usual name.
    pub metadata_url: String,
}

/// Who is known to Microsoft Entra ID, in the order of Azure's own libraries,
/// <https://learn.microsoft.com/dotnet/azure/sdk/authentication/credential-chains>.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entra {
    /// An application that proves itself.
    Application(Application),
    /// The machine or service that the gateway runs on, for which Azure vouches.
    Managed(ManagedIdentity),
}

/// An application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// `AZURE_TENANT_ID`
    pub tenant: String,
    /// `AZURE_CLIENT_ID`
    pub client: String,
    /// What it proves itself with.
    pub proof: Proof,
    /// `AZURE_AUTHORITY_HOST`, or the public cloud's.
    pub authority: String,
}

/// What an application proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// `AZURE_CLIENT_SECRET`
    Secret(Secret),
    /// `AZURE_FEDERATED_TOKEN_FILE`, which Kubernetes keeps fresh (workload identity).
    TokenFile(PathBuf),
}

/// An identity that Azure gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedIdentity {
    /// Where its tokens are: `IDENTITY_ENDPOINT` of a hosted service, or the instance's metadata service, which
    /// `AZURE_POD_IDENTITY_AUTHORITY_HOST` moves.
    pub url: String,
    /// `IDENTITY_HEADER` of a hosted service.
    pub header: Option<Secret>,
    /// `AZURE_CLIENT_ID`: one of several identities.
    pub client: Option<String>,
}

/// The environment variable of a key that Bedrock takes as bearer; it goes before every other credential.
const BEDROCK_KEY: &str = "AWS_BEARER_TOKEN_BEDROCK";
/// The kind that Entra ID knows.
const AZURE: &str = "azure";
/// Each of these says that an application, or a hosted service, has an identity.
const ENTRA: [&[&str]; 3] = [
    &["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"],
    &["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"],
    &["IDENTITY_ENDPOINT", "IDENTITY_HEADER"],
];

/// Whether the environment holds what turns this kind on.
pub(super) fn are_set(kind: &dyn providers::Provider, environment: Environment<'_>) -> bool {
    let Some(variable) = kind.key_variable() else { return false };
    let has_bearer = || matches!(kind.auth(), Auth::SigV4(_)) && set(environment, BEDROCK_KEY).is_some();
    let are_there = |names: &&[&str]| names.iter().all(|name| set(environment, name).is_some());
    let has_entra = || kind.kind() == AZURE && ENTRA.iter().any(are_there);
    set(environment, variable).is_some() || has_bearer() || has_entra()
}

/// What opens the provider `name`.
pub(super) fn find(
    name: &str,
    kind: &dyn providers::Provider,
    (file, region): (&file::Provider, Option<&str>),
    environment: Environment<'_>,
) -> Result<Credentials, ConfigError> {
    let named = file.credentials.as_deref();
    if let Some(keys) = keys(name, file)? {
        return match named {
            Some(_) => Err(ConfigError(format!("providers.{name}.credentials: give either api_key or credentials"))),
            None => Ok(Credentials::Keys(keys)),
        };
    }
    match kind.auth() {
        Auth::SigV4(_) => match set(environment, BEDROCK_KEY).filter(|_| named.is_none()) {
            Some(key) => Ok(Credentials::Keys(vec![Secret::new(key)])),
            None => aws(name, named, region, environment),
        },
        Auth::Google => Ok(Credentials::Google(google(named, environment))),
        _ if named.is_some() => {
            let kind = kind.kind();
            Err(ConfigError(format!("providers.{name}.credentials: the kind \"{kind}\" has none; it takes an api_key")))
        }
        _ => match kind.key_variable().and_then(|variable| set(environment, variable)) {
            Some(key) => Ok(Credentials::Keys(vec![Secret::new(key)])),
            None if kind.kind() == AZURE => entra(name, environment),
            None => Ok(Credentials::None),
        },
    }
}

/// The keys that the file gives.
fn keys(name: &str, file: &file::Provider) -> Result<Option<Vec<Secret>>, ConfigError> {
    let wrong = |what: &str| ConfigError(format!("providers.{name}.api_keys: {what}"));
    match (&file.api_key, &file.api_keys) {
        (Some(_), Some(_)) => Err(wrong("give either api_key or api_keys")),
        (Some(key), None) => Ok(Some(vec![Secret::new(key)])),
        (None, Some(keys)) if keys.is_empty() || keys.iter().any(String::is_empty) => {
            Err(wrong("a list of keys, none of them empty"))
        }
        (None, Some(keys)) => {
            let is_twice = |(index, key): (usize, &String)| keys.iter().take(index).any(|other| other == key);
            if keys.iter().enumerate().any(is_twice) {
                Err(wrong("a key is in it twice"))
            } else {
                Ok(Some(keys.iter().map(Secret::new).collect()))
            }
        }
        (None, None) => Ok(None),
    }
}

fn path(environment: Environment<'_>, variable: &str, in_home: &str) -> Option<PathBuf> {
    let usual = || set(environment, "HOME").map(|home| PathBuf::from(home).join(in_home));
    set(environment, variable).map(PathBuf::from).or_else(usual)
}

fn aws(
    name: &str,
    profile: Option<&str>,
    region: Option<&str>,
    environment: Environment<'_>,
) -> Result<Credentials, ConfigError> {
    let missing = || ConfigError(format!("providers.{name}.region: missing; requests are signed for a region"));
    let region = region.ok_or_else(missing)?.to_owned();
    let (id, secret) = (set(environment, "AWS_ACCESS_KEY_ID"), set(environment, "AWS_SECRET_ACCESS_KEY"));
    let is_half_set = id.is_some() && secret.is_none();
    let keys = id.zip(secret).map(|(id, secret)| AwsKeys {
        id: Secret::new(id),
        secret: Secret::new(secret),
        session: set(environment, "AWS_SESSION_TOKEN").map(Secret::new),
    });
    let web_identity =
        set(environment, "AWS_ROLE_ARN").zip(set(environment, "AWS_WEB_IDENTITY_TOKEN_FILE")).map(|(role_arn, file)| {
            let session_name = set(environment, "AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "choreoai".to_owned());
            AwsWebIdentity { role_arn, token_file: PathBuf::from(file), session_name }
        });
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let sts_url = set(environment, "AWS_ENDPOINT_URL_STS").unwrap_or_else(|| format!("https://sts.{region}.{domain}"));
    let is_disabled = set(environment, "AWS_EC2_METADATA_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true"));
    let instance = set(environment, "AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| "http://169.254.169.254".to_owned());
    let chosen = profile.map(str::to_owned).or_else(|| set(environment, "AWS_PROFILE"));
    Ok(Credentials::Aws(Box::new(Aws {
        keys,
        is_half_set,
        profile: AwsProfile {
            is_only: profile.is_some(),
            is_named: chosen.is_some(),
            name: chosen.unwrap_or_else(|| "default".to_owned()),
            credentials_file: path(environment, "AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
            config_file: path(environment, "AWS_CONFIG_FILE", ".aws/config"),
        },
        web_identity,
        sts_url,
        container: container(environment)?,
        instance_url: (!is_disabled).then_some(instance),
        region,
    })))
}

/// Its token must not go over the network in the clear to just anybody, so that a full address is
/// `https`, this machine, or one of AWS's two addresses.
fn container(environment: Environment<'_>) -> Result<Option<AwsContainer>, ConfigError> {
    const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    let relative = set(environment, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let relative = relative.map(|path| format!("http://169.254.170.2{path}"));
    let full = set(environment, FULL).filter(|_| relative.is_none());
    if let Some(url) = &full {
        let host = url.strip_prefix("http://").and_then(|rest| rest.split(['/', '?']).next()).unwrap_or_default();
        let host = host.strip_prefix('[').map_or_else(|| host.split(':').next(), |rest| rest.split(']').next());
        let is_near =
            matches!(host, Some("localhost" | "127.0.0.1" | "::1" | "169.254.170.2" | "169.254.170.23" | "fd00:ec2::23"));
        if !is_near && !url.starts_with("https://") {
            return Err(ConfigError(format!("{FULL}: must begin with https:// or be an address of this machine")));
        }
    }
    Ok(relative.or(full).map(|url| AwsContainer {
        url,
        token: set(environment, "AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::new),
        token_file: set(environment, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from),
    }))
}

fn google(named: Option<&str>, environment: Environment<'_>) -> Google {
    const USUAL: &str = "application_default_credentials.json";
    let folder = path(environment, "CLOUDSDK_CONFIG", ".config/gcloud");
    let host = set(environment, "GCE_METADATA_HOST").unwrap_or_else(|| "metadata.google.internal".to_owned());
    Google {
        named_file: named.map(str::to_owned).or_else(|| set(environment, "GOOGLE_APPLICATION_CREDENTIALS")).map(PathBuf::from),
        usual_file: folder.map(|folder| folder.join(USUAL)),
        metadata_url: format!("http://{host}"),
    }
}

fn entra(name: &str, environment: Environment<'_>) -> Result<Credentials, ConfigError> {
    let missing = |variable: &str| ConfigError(format!("providers.{name}.api_key: missing, and {variable} is not set"));
    let needed = |variable: &str| set(environment, variable).ok_or_else(|| missing(variable));
    let secret = set(environment, "AZURE_CLIENT_SECRET").map(|secret| Proof::Secret(Secret::new(secret)));
    let file = || set(environment, "AZURE_FEDERATED_TOKEN_FILE").map(|path| Proof::TokenFile(PathBuf::from(path)));
    if let Some(proof) = secret.or_else(file) {
        let usual = || "https://login.microsoftonline.com".to_owned();
        let authority = set(environment, "AZURE_AUTHORITY_HOST").unwrap_or_else(usual).trim_end_matches('/').to_owned();
        let (tenant, client) = (needed("AZURE_TENANT_ID")?, needed("AZURE_CLIENT_ID")?);
        return Ok(Credentials::Entra(Box::new(Entra::Application(Application { tenant, client, proof, authority }))));
    }
    let client = set(environment, "AZURE_CLIENT_ID");
    let (url, header) = match set(environment, "IDENTITY_ENDPOINT") {
        // Without the header it is a machine of Azure Arc's, whose tokens need files of its own.
        Some(url) => (url, Some(Secret::new(needed("IDENTITY_HEADER")?))),
        None => {
            let host = set(environment, "AZURE_POD_IDENTITY_AUTHORITY_HOST");
            let host = host.unwrap_or_else(|| "http://169.254.169.254".to_owned());
            (format!("{}/metadata/identity/oauth2/token", host.trim_end_matches('/')), None)
        }
    };
    Ok(Credentials::Entra(Box::new(Entra::Managed(ManagedIdentity { url, header, client }))))
}
