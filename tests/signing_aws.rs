//! What opens AWS: keys of every place they may be in, each seen in the signature of the request that arrives.
//! It must not know how the gateway is wired beyond its upstream room.

use choreoai::config::Config;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::cloud::{
    MARK, PLACE, Watch, assert_signed, at, call, calls, fake, file, form, header, is_signed, request, trouble, way,
};
use crate::support::provider::{FakeProvider, Reply};
use crate::support::{PATIENCE, soon};

fn keys(name: &str, seconds: u64) -> Value {
    json!({"Code": "Success", "AccessKeyId": format!("ID-{name}"), "SecretAccessKey": format!("secret-{name}-{MARK}"),
        "Token": format!("session-{name}-{MARK}"), "Expiration": at(seconds)})
}

fn assert_signed_by(fake: &FakeProvider, name: &str) {
    assert_signed(fake, &format!("ID-{name}"), &format!("secret-{name}-{MARK}"), &format!("session-{name}-{MARK}"));
}

#[tokio::test]
async fn keys_of_the_environment_and_of_profiles() {
    let fake = fake(|_| Reply::json(500, &json!({}))).await;
    let credentials = file(
        "credentials",
        "[default]\naws_access_key_id = ID-d\naws_secret_access_key = sd\n[work]\naws_access_key_id = ID-w\naws_secret_access_key = sw\naws_session_token = tw\n",
    );
    let environment = [("AWS_ACCESS_KEY_ID", "ID-e"), ("AWS_SECRET_ACCESS_KEY", "se"), ("AWS_SESSION_TOKEN", "te")];
    let files = [("AWS_SHARED_CREDENTIALS_FILE", credentials.as_str()), ("AWS_CONFIG_FILE", "/nowhere")];
    let all = [&environment[..], &files].concat();
    let work = [&files[..], &[("AWS_PROFILE", "work")]].concat();
    let cases = [
        ("", &all, ("ID-e", "se", "te")),
        ("", &files.to_vec(), ("ID-d", "sd", "")),
        ("", &work, ("ID-w", "sw", "tw")),
        ("credentials = \"work\"", &all, ("ID-w", "sw", "tw")),
    ];
    for (more, environment, (id, secret, session)) in cases {
        let way = way("bedrock", more, &fake, environment, &Watch::new());
        assert_eq!(call(&way).await, Ok(200), "{more} {environment:?}");
        assert_signed(&fake, id, secret, session);
        assert_eq!(header(&calls(&fake).pop().unwrap(), "x-amz-date"), "20260203T040506Z");
    }
    let way = way("bedrock", "credentials = \"absent\"", &fake, &all, &Watch::new());
    assert_eq!(trouble(&way).await, "there is no AWS profile \"absent\"");
}

#[tokio::test]
async fn a_bedrock_api_key_is_a_bearer() {
    let fake = fake(|_| Reply::json(500, &json!({}))).await;
    let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_BEARER_TOKEN_BEDROCK", "from-environment")];
    for (more, expected) in [("", "Bearer from-environment"), ("api_key = \"from-file\"", "Bearer from-file")] {
        let way = way("bedrock", more, &fake, &keys, &Watch::new());
        assert_eq!(call(&way).await, Ok(200));
        let call = calls(&fake).pop().unwrap();
        assert_eq!(header(&call, "authorization"), expected);
        assert_eq!(call.head.header("x-amz-date"), None, "{more}");
    }
}

#[tokio::test]
async fn keys_for_a_web_identity() {
    let fake = fake(|_| {
        let keys = keys("web", 3600);
        let part = |name: &str| keys[name].as_str().unwrap().to_owned();
        let (id, secret, token, until) = (part("AccessKeyId"), part("SecretAccessKey"), part("Token"), part("Expiration"));
        let xml = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n<AssumeRoleWithWebIdentityResult>\
             <Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{until}</Expiration></Credentials>\
             </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        );
        Reply::whole(200, "text/xml", xml)
    })
    .await;
    let sts = format!("http://{}", fake.address);
    let token = file("identity", "token/of+the=pod\n");
    let environment =
        [("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"), ("AWS_WEB_IDENTITY_TOKEN_FILE", &token), ("AWS_ENDPOINT_URL_STS", &sts)];
    let way = way("bedrock", "", &fake, &environment, &Watch::new());
    assert_eq!(call(&way).await, Ok(200));
    assert_signed_by(&fake, "web");
    let question = fake.exchanges("").remove(0);
    assert_eq!(question.path, "/");
    let pairs = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", "arn:aws:iam::1:role/r"),
        ("RoleSessionName", "choreoai"),
        ("WebIdentityToken", "token/of+the=pod"),
    ];
    assert_eq!(form(&question), pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// The command of a program that counts how often it was started and says too much; and where the count is.
fn program(name: &str, prints: &str) -> (String, String) {
    let count = file(&format!("{name}-count"), "");
    let script = file(name, &format!("printf x >> '{count}'\nread anything\necho {MARK} >&2\n{prints}\n"));
    (format!("/bin/sh \"{script}\" \"two words\""), count)
}

#[tokio::test]
async fn keys_that_a_program_prints() {
    let fake = fake(|_| Reply::json(500, &json!({}))).await;
    let printed = |name: &str, seconds| {
        json!({"Version": 1, "AccessKeyId": format!("ID-{name}"), "SecretAccessKey": format!("secret-{name}-{MARK}"),
            "SessionToken": format!("session-{name}-{MARK}"), "Expiration": at(seconds)})
    };
    // The first keys end after an hour, the next after a day; the second word of the command is one.
    let text = format!(
        "[ \"$1\" = 'two words' ] || exit 3\nif [ $(wc -c < '{}') = 1 ]; then echo '{}'; else echo '{}'; fi",
        file("keys-count", ""),
        printed("p", 3600),
        printed("q", 86_400)
    );
    let (command, count) = program("keys", &text);
    let profile = file("processes", &format!("[profile work]\ncredential_process = {command}\n"));
    let watch = Watch::new();
    let way = way("bedrock", "credentials = \"work\"", &fake, &[("AWS_CONFIG_FILE", &profile)], &watch);
    let starts = || std::fs::read_to_string(&count).unwrap().len();
    for seconds in [0, 0, 3299] {
        watch.forward(seconds);
        assert_eq!(call(&way).await, Ok(200));
        assert_signed_by(&fake, "p");
    }
    assert_eq!(starts(), 1, "started once for all calls");
    watch.forward(1);
    let renewed = async {
        while !header(&calls(&fake).pop().unwrap(), "authorization").contains("Credential=ID-q/") {
            assert_eq!(call(&way).await, Ok(200));
        }
    };
    soon("the new keys", renewed).await;
    assert_signed_by(&fake, "q");
    assert_eq!(starts(), 2);
    assert!(!format!("{way:?}").contains(MARK), "{way:?}");
}

#[tokio::test]
async fn a_program_without_keys_is_named_and_nothing_that_it_says() {
    let fake = fake(|_| Reply::json(500, &json!({}))).await;
    let cases = [
        ("fails", "exit 7", "ended with status 7"),
        ("newer", "echo '{\"Version\": 2, \"AccessKeyId\": \"a\", \"SecretAccessKey\": \"b\"}'", "first version"),
        ("talks", &format!("echo {MARK}"), "first version"),
        ("keyless", "echo '{\"Version\": 1}'", "without keys"),
    ];
    for (name, prints, expected) in cases {
        let profile = file(&format!("{name}-profile"), &format!("[default]\ncredential_process = {}\n", program(name, prints).0));
        let way = way("bedrock", "", &fake, &[("AWS_CONFIG_FILE", &profile)], &Watch::new());
        let message = trouble(&way).await;
        assert!(message.contains("credential_process") && message.contains(expected), "{name}: {message}");
        assert!(!message.contains(MARK), "{message}");
    }
    for (command, expected) in [("/nowhere/at-all", "cannot be started: entity not found"), ("\"half", "quotation mark")] {
        let profile = file("odd-profile", &format!("[default]\ncredential_process = {command}\n"));
        let way = way("bedrock", "", &fake, &[("AWS_CONFIG_FILE", &profile)], &Watch::new());
        let message = trouble(&way).await;
        assert!(message.contains(expected) && !message.contains("nowhere"), "{command}: {message}");
    }
    assert!(calls(&fake).is_empty(), "nothing is sent without credentials");
}

#[tokio::test]
async fn keys_of_a_container_and_of_an_instance() {
    let fake = fake(|exchange| match (exchange.head.first_line.split(' ').next().unwrap(), exchange.path.as_str()) {
        ("GET", "/container") if header(exchange, "authorization") == "pod-token" => Reply::json(200, &keys("pod", 3600)),
        ("PUT", "/latest/api/token") if exchange.head.header("x-aws-ec2-metadata-token-ttl-seconds").is_some() => {
            Reply::whole(200, "text/plain", "imds-token")
        }
        ("GET", path) if header(exchange, "x-aws-ec2-metadata-token") == "imds-token" => match path {
            "/latest/meta-data/iam/security-credentials/" => Reply::whole(200, "text/plain", "the-role"),
            "/latest/meta-data/iam/security-credentials/the-role" => Reply::json(200, &keys("box", 3600)),
            _ => Reply::json(404, &json!({})),
        },
        _ => Reply::json(401, &json!({})),
    })
    .await;
    let base = format!("http://{}", fake.address);
    let (url, token) = (format!("{base}/container"), file("pod", "pod-token\n"));
    let instance = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", base.as_str());
    let container = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.as_str()),
        instance,
    ];
    for (environment, name) in [(&container[..], "pod"), (&[instance][..], "box")] {
        let way = way("bedrock", "", &fake, environment, &Watch::new());
        assert_eq!(call(&way).await, Ok(200), "{name}");
        assert_signed_by(&fake, name);
    }
    let far = |name: &str| (name == "AWS_CONTAINER_CREDENTIALS_FULL_URI").then(|| "http://example.com/keys".to_owned());
    let refused = Config::from_text("[providers.bedrock]\nregion = \"us-east-1\"\n", &far).unwrap_err().to_string();
    assert!(refused.contains("AWS_CONTAINER_CREDENTIALS_FULL_URI"), "keys do not cross the network in the clear: {refused}");
}

#[tokio::test]
async fn the_signature_covers_the_path_as_it_is_sent() {
    let fake = FakeProvider::start().await;
    fake.on("", |_| Reply::json(200, &json!({})));
    let keys = [("AWS_ACCESS_KEY_ID", "ID"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let way = way("bedrock", "", &fake, &keys, &Watch::new());
    let request = request("/model/us.anthropic.claude-3-v1%3A0/converse");
    assert!(way.send(request, PATIENCE, Instant::now() + PATIENCE).await.is_ok());
    let arrived = fake.exchanges("").remove(0);
    assert_eq!(arrived.path, "/model/us.anthropic.claude-3-v1%3A0/converse");
    assert!(is_signed(&arrived, "secret", PLACE), "{:?}", arrived.head);
}
