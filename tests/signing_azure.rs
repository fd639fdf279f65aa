//! What opens Azure: a key, an application of Entra ID, or an identity that Azure itself vouches for, each token fetched
//! from a fake service on loopback. It must not know how the gateway is wired beyond its upstream room.

use choreoai::config::Config;
use serde_json::json;

use crate::support::cloud::{MARK, NOW, Watch, asked, call, calls, fake, file, form, header, pairs, token, way};
use crate::support::provider::{Exchange, Reply};
use crate::support::soon;

#[tokio::test]
async fn azure_by_key_or_by_an_application_of_entra() {
    let fake = fake(|_| token("of-entra", 3599)).await;
    let authority = format!("http://{}/", fake.address);
    let application = [
        ("AZURE_TENANT_ID", "tenant-1"),
        ("AZURE_CLIENT_ID", "client-1"),
        ("AZURE_CLIENT_SECRET", "s&cret"),
        ("AZURE_AUTHORITY_HOST", &authority),
    ];
    let by_token = way("azure", "", &fake, &application, &Watch::new());
    assert_eq!(call(&by_token).await, Ok(200));
    let arrived = calls(&fake).pop().unwrap();
    assert_eq!(header(&arrived, "authorization"), format!("Bearer of-entra-{MARK}"));
    assert_eq!(arrived.head.header("api-key"), None);
    let question = asked(&fake, "/tenant-1").remove(0);
    assert_eq!(question.path, "/tenant-1/oauth2/v2.0/token");
    let pairs = [
        ("grant_type", "client_credentials"),
        ("client_id", "client-1"),
        ("scope", "https://cognitiveservices.azure.com/.default"),
        ("client_secret", "s&cret"),
    ];
    assert_eq!(form(&question), pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let by_key = way("azure", "api_key = \"k\"", &fake, &application, &Watch::new());
    assert_eq!(call(&by_key).await, Ok(200));
    let arrived = calls(&fake).pop().unwrap();
    assert_eq!((header(&arrived, "api-key"), arrived.head.header("authorization")), ("k".to_owned(), None));
    for (given, missing) in [("AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"), ("IDENTITY_ENDPOINT", "IDENTITY_HEADER")] {
        let half = |name: &str| (name == given).then(|| "t".to_owned());
        let refused = Config::from_text("[providers.azure]\nbase_url = \"http://h\"\n", &half).unwrap_err().to_string();
        assert!(refused.contains(&format!("{missing} is not set")), "{refused}");
    }
}

/// What a token service is asked: method, path without its query, header, and the pairs of form or query.
fn question(exchange: &Exchange, secret: &str) -> (String, String, String, Vec<(String, String)>) {
    let (path, query) = exchange.path.split_once('?').unwrap_or((&exchange.path, ""));
    let pairs = if query.is_empty() { form(exchange) } else { pairs(query) };
    let method = exchange.head.first_line.split(' ').next().unwrap();
    (method.to_owned(), path.to_owned(), header(exchange, secret), pairs)
}

/// Environment; the token's name; the question, its header, and its pairs.
type Vouched<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, (&'a str, &'a str), &'a [(&'a str, &'a str)]);

/// Workload identity, a hosted service and a virtual machine: three ways in which Azure vouches without a secret.
#[tokio::test]
async fn azure_by_what_azure_itself_vouches_for() {
    let until = NOW + 86_400;
    let fake = fake(move |exchange| match exchange.path.split('?').next().unwrap() {
        "/tenant-1/oauth2/v2.0/token" => token("federated", 3599),
        "/msi/token" => Reply::json(
            200,
            &json!({"access_token": format!("hosted-{MARK}"), "expires_on": until.to_string(), "resource": "r", "token_type": "Bearer"}),
        ),
        "/metadata/identity/oauth2/token" => Reply::json(
            200,
            &json!({"access_token": format!("machine-{MARK}"), "expires_in": "86399", "expires_on": until.to_string(), "token_type": "Bearer"}),
        ),
        _ => Reply::json(404, &json!({})),
    })
    .await;
    let base = format!("http://{}", fake.address);
    let (hosted, jwt) = (format!("{base}/msi/token"), file("federated", "ey.federated.token\n"));
    let secret = format!("identity-header-{MARK}");
    let (tenant, client) = (("AZURE_TENANT_ID", "tenant-1"), ("AZURE_CLIENT_ID", "client-1"));
    let federated = [tenant, client, ("AZURE_FEDERATED_TOKEN_FILE", &jwt), ("AZURE_AUTHORITY_HOST", &base)];
    let service = [client, ("IDENTITY_ENDPOINT", &hosted), ("IDENTITY_HEADER", &secret)];
    let machine = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", base.as_str())];
    let resource = ("resource", "https://cognitiveservices.azure.com");
    let jwt_bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let cases: [Vouched<'_>; 3] = [
        (
            &federated,
            "federated",
            "POST /tenant-1/oauth2/v2.0/token",
            ("authorization", ""),
            &[
                ("grant_type", "client_credentials"),
                ("client_id", "client-1"),
                ("scope", "https://cognitiveservices.azure.com/.default"),
                ("client_assertion_type", jwt_bearer),
                ("client_assertion", "ey.federated.token"),
            ],
        ),
        (
            &service,
            "hosted",
            "GET /msi/token",
            ("x-identity-header", &secret),
            &[("api-version", "2019-08-01"), resource, ("client_id", "client-1")],
        ),
        (
            &machine,
            "machine",
            "GET /metadata/identity/oauth2/token",
            ("metadata", "true"),
            &[("api-version", "2018-02-01"), resource],
        ),
    ];
    for (environment, name, asked_for, (header_name, value), expected) in cases {
        let watch = Watch::new();
        let way = way("azure", "", &fake, environment, &watch);
        let before = fake.count();
        assert_eq!(call(&way).await, Ok(200), "{name}");
        assert_eq!(call(&way).await, Ok(200), "{name}");
        assert_eq!(fake.count() - before, 3, "{name}: one token for two calls");
        let arrived = calls(&fake).pop().unwrap();
        assert_eq!(header(&arrived, "authorization"), format!("Bearer {name}-{MARK}"));
        let (method, path, told, pairs) = question(&fake.exchanges("")[before], header_name);
        assert_eq!((format!("{method} {path}"), told), (asked_for.to_owned(), value.to_owned()), "{name}");
        let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(pairs, expected, "{name}");
        // Five minutes before its end it is renewed, beside the call.
        watch.forward(86_400 - 299);
        assert_eq!(soon("a call beside the renewal", call(&way)).await, Ok(200), "{name}");
        fake.until("", |all| all.len() == before + 5).await;
        assert!(!format!("{way:?}").contains(MARK), "{way:?}");
    }
}
