//! What opens a provider: Google's tokens, and what is true of whatever has to be fetched and ends: once for all, renewed in
//! time, never shown. The clock is told, not waited for. AWS and Azure have stories of their own.
//! It must not know how the gateway is wired beyond its upstream room and its door.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use choreoai::upstream::Failure;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::client::Request;
use crate::support::cloud::{
    MARK, NOW, PLACE, Watch, asked, call, calls, fake, file, form, header, is_signed, request, token, trouble, way,
};
use crate::support::gateway::{Setup, free_address};
use crate::support::provider::{FakeProvider, Gate, Reply, Step};
use crate::support::{PATIENCE, soon};

/// A key that opens nothing: made for these tests.
const RSA_KEY: &str = include_str!("support/rsa.pem");

#[tokio::test]
async fn a_google_service_account_signs_for_its_token() {
    let fake = fake(|_| token("of-account", 3599)).await;
    let url = format!("http://{}/token", fake.address);
    let account = json!({"type": "service_account", "project_id": "p", "private_key_id": "key-7", "private_key": RSA_KEY,
        "client_email": "robot@p.iam.gserviceaccount.com", "client_id": "1", "token_uri": url});
    let path = file("account.json", &account.to_string());
    let from_environment = [("GOOGLE_APPLICATION_CREDENTIALS", path.as_str())];
    let written = format!("credentials = \"{path}\"");
    for (more, environment) in [("", &from_environment[..]), (written.as_str(), &[])] {
        let way = way("vertex", more, &fake, environment, &Watch::new());
        assert_eq!(call(&way).await, Ok(200));
        assert_eq!(header(&calls(&fake).pop().unwrap(), "authorization"), format!("Bearer of-account-{MARK}"));
    }
    let pairs = form(&asked(&fake, "/token")[0]);
    assert_eq!(pairs[0], ("grant_type".to_owned(), "urn:ietf:params:oauth:grant-type:jwt-bearer".to_owned()));
    let (name, assertion) = &pairs[1];
    assert_eq!(name, "assertion");
    let (said, signature) = assertion.rsplit_once('.').unwrap();
    let parts: Vec<Value> =
        said.split('.').map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()).collect();
    assert_eq!(parts[0], json!({"alg": "RS256", "typ": "JWT", "kid": "key-7"}));
    assert_eq!(
        parts[1],
        json!({"iss": "robot@p.iam.gserviceaccount.com", "scope": "https://www.googleapis.com/auth/cloud-platform",
            "aud": url, "iat": NOW, "exp": NOW + 3600})
    );
    let key = ring::signature::UnparsedPublicKey::new(&ring::signature::RSA_PKCS1_2048_8192_SHA256, public_key());
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    assert!(key.verify(said.as_bytes(), &signature).is_ok());
    assert!(key.verify(b"something else", &signature).is_err());
}

fn public_key() -> Vec<u8> {
    let body: String = RSA_KEY.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(body).unwrap();
    ring::signature::RsaKeyPair::from_pkcs8(&der).unwrap().public().as_ref().to_vec()
}

#[tokio::test]
async fn google_tokens_of_a_user_of_the_metadata_server_and_ready_ones() {
    let fake = fake(|exchange| match exchange.path.as_str() {
        "/token" => token("of-user", 3599),
        "/computeMetadata/v1/instance/service-accounts/default/token" if header(exchange, "metadata-flavor") == "Google" => {
            token("of-machine", 3599)
        }
        _ => Reply::json(404, &json!({})),
    })
    .await;
    let url = format!("http://{}/token", fake.address);
    let user =
        json!({"type": "authorized_user", "client_id": "c", "client_secret": "d", "refresh_token": "1//r", "token_uri": url});
    let path = file("user.json", &user.to_string());
    let host = fake.address.to_string();
    let cases = [
        ("", vec![("GOOGLE_APPLICATION_CREDENTIALS", path.as_str())], format!("Bearer of-user-{MARK}")),
        ("", vec![("GCE_METADATA_HOST", host.as_str())], format!("Bearer of-machine-{MARK}")),
        ("api_key = \"ready\"", vec![], "Bearer ready".to_owned()),
    ];
    for (more, environment, expected) in cases {
        let way = way("vertex", more, &fake, &environment, &Watch::new());
        assert_eq!(call(&way).await, Ok(200), "{environment:?}");
        assert_eq!(header(&calls(&fake).pop().unwrap(), "authorization"), expected);
    }
    let pairs = form(&asked(&fake, "/token")[0]);
    let refresh = [("grant_type", "refresh_token"), ("client_id", "c"), ("client_secret", "d"), ("refresh_token", "1//r")];
    assert_eq!(pairs, refresh.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_calls_at_once_fetch_one_token() {
    let gate = Gate::closed();
    let held = gate.clone();
    let fake = fake(move |_| token("shared", 3600).after(Step::Wait(held.clone()))).await;
    let host = fake.address.to_string();
    let way = Arc::new(way("vertex", "", &fake, &[("GCE_METADATA_HOST", &host)], &Watch::new()));
    // The one that began the fetch leaves; the fetch goes on for the others.
    let first = tokio::spawn({
        let way = Arc::clone(&way);
        async move { call(&way).await }
    });
    fake.until("", |exchanges| exchanges.len() == 1).await;
    first.abort();
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let way = Arc::clone(&way);
            tokio::spawn(async move { call(&way).await })
        })
        .collect();
    tokio::task::yield_now().await;
    gate.open();
    for caller in callers {
        assert_eq!(soon("a caller", caller).await.unwrap(), Ok(200));
    }
    assert_eq!(calls(&fake).len(), 100);
    assert_eq!(asked(&fake, "/computeMetadata").len(), 1, "one flight for all");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_off_the_path_of_calls() {
    let gate = Gate::closed();
    let held = gate.clone();
    let fake = fake(move |exchange| {
        let metadata = "/computeMetadata/v1/instance/service-accounts/default/token";
        assert_eq!(exchange.path, metadata);
        // The second answer waits: whoever needs it to go on would wait too.
        match exchange.number {
            0 => token("first", 3600),
            _ => token("second", 3600).after(Step::Wait(held.clone())),
        }
    })
    .await;
    let host = fake.address.to_string();
    let watch = Watch::new();
    let way = way("vertex", "", &fake, &[("GCE_METADATA_HOST", &host)], &watch);
    let bearer = |fake: &FakeProvider| header(&calls(fake).pop().unwrap(), "authorization");
    let fetches = |fake: &FakeProvider| asked(fake, "/computeMetadata").len();
    for seconds in [0, 1800, 1499] {
        watch.forward(seconds);
        assert_eq!(call(&way).await, Ok(200));
        assert_eq!((bearer(&fake), fetches(&fake)), (format!("Bearer first-{MARK}"), 1), "3299 seconds are no reason");
    }
    watch.forward(1);
    for _ in 0..3 {
        assert_eq!(soon("a call beside the renewal", call(&way)).await, Ok(200));
        assert_eq!(bearer(&fake), format!("Bearer first-{MARK}"), "the old one is good for five minutes");
    }
    fake.until("", |_| fetches(&fake) == 2).await;
    gate.open();
    let renewed = async {
        while bearer(&fake) != format!("Bearer second-{MARK}") {
            assert_eq!(call(&way).await, Ok(200));
        }
    };
    soon("the new token", renewed).await;
    assert_eq!(fetches(&fake), 2);
    watch.forward(3595);
    assert_eq!(call(&way).await, Ok(200));
    assert_eq!(fetches(&fake), 3, "what has all but ended is not used");
}

/// Kind, environment, and what the message says.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

/// What went wrong is named; what was sent, and what the service said of it, is not.
#[tokio::test]
async fn what_is_missing_is_named_and_no_secret_with_it() {
    let fake = fake(|exchange| {
        let echo = format!("you sent {} {MARK}", String::from_utf8_lossy(&exchange.body));
        match exchange.path.as_str() {
            "/refuses" => Reply::json(400, &json!({"error": "invalid_grant", "error_description": echo})),
            "/tenant/oauth2/v2.0/token" => Reply::json(401, &json!({"error": echo})),
            "/sts" => Reply::whole(403, "text/xml", format!("<Error><Code>AccessDenied</Code><Message>{echo}</Message></Error>")),
            "/nonsense" => Reply::whole(200, "text/html", echo),
            _ => Reply::json(404, &json!({})),
        }
    })
    .await;
    let url = |path: &str| format!("http://{}{path}", fake.address);
    let user = |path: &str| {
        let user = json!({"type": "authorized_user", "client_id": "c", "client_secret": MARK, "refresh_token": MARK, "token_uri": url(path)});
        file(path.trim_start_matches('/'), &user.to_string())
    };
    let (refused, nonsense) = (user("/refuses"), user("/nonsense"));
    let broken_key = json!({"type": "service_account", "client_email": "e", "private_key": format!("-----BEGIN PRIVATE KEY-----\n{MARK}\n-----END PRIVATE KEY-----")});
    let (broken_key, broken_file) =
        (file("broken", &broken_key.to_string()), file("half", &format!("{{\"private_key\": \"{MARK}")));
    let other = file("other", "{\"type\": \"external_account\"}");
    let identity = file("secret-identity", MARK);
    let browser = file("browser", "[profile p]\nsso_session = corp\n");
    let (authority, sts, dead) = (url(""), url("/sts"), free_address().to_string());
    let dead_url = format!("http://{dead}");
    let google = "GOOGLE_APPLICATION_CREDENTIALS";
    let role = [("AWS_ROLE_ARN", "r"), ("AWS_WEB_IDENTITY_TOKEN_FILE", &identity), ("AWS_ENDPOINT_URL_STS", &sts)];
    let application = [
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "c"),
        ("AZURE_CLIENT_SECRET", MARK),
        ("AZURE_AUTHORITY_HOST", &authority),
    ];
    let half = [("AWS_ACCESS_KEY_ID", MARK), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &dead_url)];
    let identity_header = [("IDENTITY_ENDPOINT", dead_url.as_str()), ("IDENTITY_HEADER", MARK)];
    let machine = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", dead_url.as_str())];
    let cases: [Case<'_>; 13] = [
        ("vertex", &[(google, &refused)], &["Google's token service answered 400 (invalid_grant)"]),
        ("vertex", &[(google, &nonsense)], &["without a token"]),
        ("vertex", &[(google, &broken_key)], &["private key"]),
        ("vertex", &[(google, &broken_file)], &["not one of Google's"]),
        ("vertex", &[(google, &other)], &["service_account"]),
        ("vertex", &[(google, "/nowhere/at-all")], &["credentials file cannot be read"]),
        ("vertex", &[("GCE_METADATA_HOST", &dead)], &[google, "metadata server cannot be reached"]),
        ("azure", &application, &["Microsoft Entra ID answered 401"]),
        ("azure", &identity_header, &["no Azure credentials", "the Azure identity endpoint cannot be reached"]),
        ("azure", &machine, &["AZURE_CLIENT_SECRET", "the Azure instance metadata service cannot be reached"]),
        ("bedrock", &role, &["AWS STS answered 403 (AccessDenied)"]),
        ("bedrock", &[("AWS_CONFIG_FILE", &browser), ("AWS_PROFILE", "p")], &["\"p\"", "sso_session"]),
        ("bedrock", &half, &["AWS_SECRET_ACCESS_KEY is not set", "\"default\"", "instance metadata service cannot be reached"]),
    ];
    for (kind, environment, expected) in cases {
        let way = way(kind, "", &fake, environment, &Watch::new());
        let message = trouble(&way).await;
        for words in expected {
            assert!(message.contains(words), "{message:?} does not say {words:?}");
        }
        let shown = format!("{message}{way:?}");
        assert!(!shown.contains(MARK), "{shown}");
    }
    assert!(calls(&fake).is_empty(), "nothing is sent without credentials");
}

#[tokio::test]
async fn a_service_that_fails_is_left_alone_for_a_moment_and_what_it_gave_is_used_to_its_end() {
    let fake = fake(|exchange| if exchange.number == 0 { token("first", 3600) } else { Reply::json(503, &json!({})) }).await;
    let host = fake.address.to_string();
    let watch = Watch::new();
    let way = way("vertex", "", &fake, &[("GCE_METADATA_HOST", &host)], &watch);
    let fetches = |fake: &FakeProvider| asked(fake, "/computeMetadata").len();
    assert_eq!(call(&way).await, Ok(200));
    watch.forward(3400);
    assert_eq!(call(&way).await, Ok(200), "the renewal fails beside it");
    fake.until("", |_| fetches(&fake) == 2).await;
    watch.forward(195);
    // The answer may still be on its way to the gateway; another fetch would be counted below.
    let message = soon("the end of the token", async { trouble(&way).await }).await;
    assert!(message.contains("503"), "{message}");
    let before = fetches(&fake);
    for _ in 0..50 {
        assert_eq!(trouble(&way).await, message);
    }
    assert_eq!(fetches(&fake), before, "fifty calls ask nobody");
    watch.forward(5);
    assert_eq!(trouble(&way).await, message);
    assert_eq!(fetches(&fake), before + 1);
}

#[tokio::test]
async fn a_service_that_is_silent_costs_a_call_no_more_than_its_deadline() {
    let fake = fake(|_| token("late", 3600).after(Step::Stall)).await;
    let host = fake.address.to_string();
    let way = way("vertex", "", &fake, &[("GCE_METADATA_HOST", &host)], &Watch::new());
    let sending = way.send(request("/call"), PATIENCE, Instant::now() + Duration::from_millis(20));
    let Err(Failure::Credentials(trouble)) = soon("the deadline", sending).await else { panic!("it was sent") };
    assert!(trouble.is_passing && trouble.message.contains("in time"), "{trouble:?}");
}

fn converse(gateway: &str) -> Value {
    json!({"model": format!("{gateway}/us.anthropic.claude-3-5-haiku-v1:0"), "messages": [{"role": "user", "content": "hi"}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_signs_a_converse_call() {
    let fake = FakeProvider::start().await;
    let secret = format!("secret-{MARK}");
    let expected = secret.clone();
    fake.on("", move |exchange| {
        if exchange.path != "/model/us.anthropic.claude-3-5-haiku-v1%3A0/converse" || !is_signed(exchange, &expected, PLACE) {
            return Reply::json(403, &json!({"message": "The request signature we calculated does not match"}));
        }
        Reply::json(
            200,
            &json!({"output": {"message": {"role": "assistant", "content": [{"text": "signed"}]}}, "stopReason": "end_turn",
                "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, "metrics": {"latencyMs": 1}}),
        )
    });
    let url = format!("http://{}", fake.address);
    let session = format!("session-{MARK}");
    let gateway = Setup::new("[providers.bedrock]\nretry = { attempts = 1 }\n")
        .env("BEDROCK_BASE_URL", &url)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "AKID")
        .env("AWS_SECRET_ACCESS_KEY", &secret)
        .env("AWS_SESSION_TOKEN", &session)
        .env("RUST_LOG", "trace")
        .start()
        .await;
    let answer = Request::chat(&converse("bedrock")).send(gateway.address).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "signed");
    assert_eq!(header(&fake.exchanges("")[0], "x-amz-security-token"), session);
    let logs = gateway.output().join("\n");
    let seen = logs.lines().find(|line| line.contains(MARK));
    assert!(seen.is_none(), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_credentials_the_next_target_answers_or_the_error_says_what_is_missing() {
    let fake = FakeProvider::start().await;
    fake.on("m", |_| {
        Reply::json(
            200,
            &json!({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0,
                "message": {"role": "assistant", "content": "second"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}),
        )
    });
    let toml = format!(
        "[providers.bedrock]\n[providers.other]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key = \"k\"\n\
         [models.both]\ntargets = [{{ target = \"bedrock/m\" }}, {{ target = \"other/m\", tier = 2 }}]\n",
        fake.url()
    );
    let setup = Setup::new(toml).env("AWS_REGION", "us-east-1").env("AWS_EC2_METADATA_DISABLED", "true");
    let gateway = setup.env("BEDROCK_BASE_URL", &format!("http://{}", free_address())).start().await;
    let answer = Request::chat(&converse("bedrock")).send(gateway.address).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let message = answer.error()["message"].to_string();
    for words in ["bedrock", "no AWS credentials", "AWS_ACCESS_KEY_ID is not set"] {
        assert!(message.contains(words), "{message}");
    }
    let both = json!({"model": "both", "messages": [{"role": "user", "content": "hi"}]});
    let answer = Request::chat(&both).send(gateway.address).await;
    assert_eq!((answer.status, answer.json()["choices"][0]["message"]["content"].as_str()), (200, Some("second")));
    gateway.log("of the trouble", |line| line.to_string().contains("no AWS credentials")).await;
}
