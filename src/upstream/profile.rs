//! AWS's profile files, <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>.
//! It must not know what else may hold keys.

use std::collections::HashMap;

use super::exchange;
use super::lease::Trouble;
use crate::config::{AwsKeys, AwsProfile, AwsWebIdentity, Secret};

/// What a profile says about keys.
pub(super) enum Found {
    /// There is no such profile.
    Nothing,
    /// It says nothing about keys.
    NoKeys,
    /// The keys themselves.
    Keys(AwsKeys),
    /// A token for a role.
    Role(AwsWebIdentity),
    /// A command that prints the keys.
    Program(String),
    /// This way, which is not ours.
    Other(&'static str),
}

/// Ways to keys that need a browser or a second account.
const OTHER_WAYS: [&str; 4] = ["sso_session", "sso_start_url", "source_profile", "credential_source"];

/// Looks the profile up in both files; the credentials file goes before.
pub(super) async fn find(profile: &AwsProfile) -> Result<Found, Trouble> {
    let mut settings = HashMap::new();
    let mut is_there = false;
    for (path, is_config, what) in
        [(&profile.config_file, true, "the AWS config file"), (&profile.credentials_file, false, "the AWS credentials file")]
    {
        let Some(path) = path.as_ref().filter(|path| path.exists()) else { continue };
        let text = exchange::read(path, what).await?;
        if let Some(section) = section(&text, &profile.name, is_config) {
            is_there = true;
            settings.extend(section);
        }
    }
    Ok(if is_there { judge(settings) } else { Found::Nothing })
}

fn judge(mut settings: HashMap<String, String>) -> Found {
    let (id, secret) = (settings.remove("aws_access_key_id"), settings.remove("aws_secret_access_key"));
    if let Some((id, secret)) = id.zip(secret) {
        let session = settings.remove("aws_session_token").map(Secret::new);
        return Found::Keys(AwsKeys { id: Secret::new(id), secret: Secret::new(secret), session });
    }
    if let Some(token_file) = settings.remove("web_identity_token_file")
        && let Some(role_arn) = settings.remove("role_arn")
    {
        let session_name = settings.remove("role_session_name").unwrap_or_else(|| "choreoai".to_owned());
        return Found::Role(AwsWebIdentity { role_arn, token_file: token_file.into(), session_name });
    }
    if let Some(command) = settings.remove("credential_process") {
        return Found::Program(command);
    }
    OTHER_WAYS.into_iter().find(|way| settings.contains_key(*way)).map_or(Found::NoKeys, Found::Other)
}

/// The settings of a profile. In the config file its heading is `[profile NAME]`, but for `[default]`.
fn section(text: &str, name: &str, is_config: bool) -> Option<HashMap<String, String>> {
    let mut settings = None;
    let mut is_ours = false;
    for line in text.lines() {
        // What is indented belongs to the setting above; none of those is about keys.
        if line.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        if let Some(heading) = line.trim().strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let mut words = heading.split_whitespace();
            let (first, second) = (words.next(), words.next());
            is_ours = match (is_config, second) {
                (true, Some(second)) => first == Some("profile") && second == name,
                (true, None) => first == Some(name) && name == "default",
                (false, None) => first == Some(name),
                (false, Some(_)) => false,
            };
            if is_ours {
                settings.get_or_insert_with(HashMap::new);
            }
        } else if is_ours
            && let Some((key, value)) = line.split_once('=')
            && let Some(settings) = &mut settings
        {
            settings.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
# everything
[default]
region = eu-west-1
[profile work]
role_arn = arn:aws:iam::1:role/r
web_identity_token_file = /token
s3 =
  aws_access_key_id = nested
[profile browser]
sso_session = corp
[profile printed]
credential_process = /opt/keys --for = me
[work]
aws_access_key_id = not-a-profile-here
aws_secret_access_key = not-a-profile-here
";

    fn of_config(name: &str) -> Option<Found> {
        section(CONFIG, name, true).map(judge)
    }

    #[test]
    fn sections_of_the_config_file() {
        assert!(matches!(of_config("default"), Some(Found::NoKeys)));
        assert!(matches!(of_config("work"), Some(Found::Role(role)) if role.role_arn.ends_with("role/r")));
        assert!(matches!(of_config("browser"), Some(Found::Other("sso_session"))));
        assert!(matches!(of_config("printed"), Some(Found::Program(command)) if command == "/opt/keys --for = me"));
        assert!(of_config("absent").is_none());
    }

    #[test]
    fn sections_of_the_credentials_file() {
        let text = "[default]\naws_access_key_id=A\naws_secret_access_key = S=/+ \n\n[ b ]\r\nAWS_ACCESS_KEY_ID = B\r\naws_secret_access_key = T\r\naws_session_token = U\r\n";
        for (name, id, secret, session) in [("default", "A", "S=/+", None), ("b", "B", "T", Some("U"))] {
            let Some(Found::Keys(keys)) = section(text, name, false).map(judge) else { panic!("no keys in {name}") };
            assert_eq!((keys.id.reveal(), keys.secret.reveal()), (id, secret));
            assert_eq!(keys.session.as_ref().map(Secret::reveal), session);
        }
    }
}
