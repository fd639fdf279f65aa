//! AWS Signature Version 4, <https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html>.
//! It must not know where keys come from, what a request means or what time it is.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use reqwest::{Method, Url};
use ring::{digest, hmac};

use crate::config::AwsKeys;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SESSION: HeaderName = HeaderName::from_static("x-amz-security-token");

/// What a signature is good for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// Adds the date, the session token and the signature to the headers of a request that is ready but for them.
///
/// Signed are the host, `content-type` and every `x-amz-` header: what anyone on the way may add or
/// change stays out. `None` when a key holds characters that no header can carry.
pub(super) fn sign(
    (method, url, headers): (&Method, &Url, &mut HeaderMap),
    body: &[u8],
    keys: &AwsKeys,
    scope: Scope<'_>,
    now: SystemTime,
) -> Option<()> {
    let time = humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "");
    headers.insert(DATE, HeaderValue::from_str(&time).ok()?);
    if let Some(session) = &keys.session {
        headers.insert(SESSION, sensitive(session.reveal())?);
    }
    let signed = signed_headers(url, headers)?;
    let canonical = canonical_request(method, url, &signed, body);
    let day = time.get(..8)?;
    let place = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let to_sign = format!("{ALGORITHM}\n{time}\n{place}\n{}", sha256(canonical.as_bytes()));
    let signature = hex(hmac::sign(&signing_key(keys.secret.reveal(), day, scope), to_sign.as_bytes()).as_ref());
    let names = names(&signed);
    let id = keys.id.reveal();
    let authorization = format!("{ALGORITHM} Credential={id}/{place}, SignedHeaders={names}, Signature={signature}");
    headers.insert(header::AUTHORIZATION, sensitive(&authorization)?);
    Some(())
}

/// A header value that no `Debug` shows.
pub(super) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

type Signed<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// The headers to sign, in order.
fn signed_headers<'a>(url: &'a Url, headers: &'a HeaderMap) -> Option<Signed<'a>> {
    let host = url.host_str()?;
    let host = url.port().map_or(Cow::Borrowed(host), |port| Cow::Owned(format!("{host}:{port}")));
    let mut signed = vec![("host", host)];
    for name in headers.keys().filter(|name| **name == header::CONTENT_TYPE || name.as_str().starts_with("x-amz-")) {
        let values: Option<Vec<&str>> = headers.get_all(name).iter().map(|value| value.to_str().ok()).collect();
        let values: Vec<String> = values?.into_iter().map(without_spaces).collect();
        signed.push((name.as_str(), Cow::Owned(values.join(","))));
    }
    signed.sort_unstable_by_key(|(name, _)| *name);
    Some(signed)
}

/// One space where there are several, none at either end.
fn without_spaces(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn names(signed: &Signed<'_>) -> String {
    signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";")
}

fn canonical_request(method: &Method, url: &Url, signed: &Signed<'_>, body: &[u8]) -> String {
    let mut text = format!("{method}\n{}\n{}\n", canonical_path(url.path()), canonical_query(url));
    for (name, value) in signed {
        text.extend([name, ":", value, "\n"]);
    }
    text.extend(["\n", &names(signed), "\n", &sha256(body)]);
    text
}

/// The path is encoded once more than it is sent (`:` is sent as `%3A` and signed as `%253A`):
/// so for every service but S3.
fn canonical_path(path: &str) -> String {
    path.split('/').map(encoded).collect::<Vec<_>>().join("/")
}

fn canonical_query(url: &Url) -> String {
    let mut pairs: Vec<(String, String)> = url.query_pairs().map(|(name, value)| (encoded(&name), encoded(&value))).collect();
    pairs.sort_unstable();
    pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Everything but letters, digits and `-_.~` as `%XX`.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn signing_key(secret: &str, day: &str, scope: Scope<'_>) -> hmac::Key {
    let first = hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{secret}").as_bytes());
    [day, scope.region, scope.service, "aws4_request"]
        .into_iter()
        .fold(first, |key, word| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, word.as_bytes()).as_ref()))
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Secret;

    /// The access key that AWS's documents sign their examples with.
    const ID: &str = "AKIDEXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    /// 2015-08-30T12:36:00Z, the time of AWS's examples.
    fn example_time() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160)
    }

    fn keys(session: Option<&str>) -> AwsKeys {
        AwsKeys { id: Secret::new(ID), secret: Secret::new(SECRET), session: session.map(Secret::new) }
    }

    /// The headers of a request to `url` once it is signed.
    fn signed(method: &Method, url: &str, more: &[(&'static str, &'static str)], body: &str, service: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in more {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let scope = Scope { region: "us-east-1", service };
        let url = Url::parse(url).unwrap();
        sign((method, &url, &mut headers), body.as_bytes(), &keys(None), scope, example_time()).unwrap();
        headers
    }

    fn signature(headers: &HeaderMap) -> &str {
        headers[header::AUTHORIZATION].to_str().unwrap().rsplit("Signature=").next().unwrap()
    }

    #[test]
    fn the_documented_signing_key() {
        let key = signing_key(SECRET, "20150830", Scope { region: "us-east-1", service: "iam" });
        let of_key = |key: &hmac::Key| hex(hmac::sign(key, b"x").as_ref());
        let bytes: Vec<u8> = (0..32)
            .map(|at| u8::from_str_radix(&"c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"[2 * at..][..2], 16))
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(of_key(&key), of_key(&hmac::Key::new(hmac::HMAC_SHA256, &bytes)));
    }

    /// The request of AWS's step-by-step guide, and requests of its test suite.
    #[test]
    fn the_documented_signatures() {
        const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        let headers = signed(&Method::GET, "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", &[FORM], "", "iam");
        assert_eq!(
            headers[header::AUTHORIZATION],
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
        let cases = [
            ("get-vanilla", Method::GET, "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("post-vanilla", Method::POST, "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                "get-vanilla-query-order-key-case",
                Method::GET,
                "/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
        ];
        for (name, method, path, expected) in cases {
            let headers = signed(&method, &format!("https://example.amazonaws.com{path}"), &[], "", "service");
            assert_eq!(signature(&headers), expected, "{name}");
        }
    }

    #[test]
    fn the_path_is_encoded_twice() {
        let url = Url::parse("https://h/model/anthropic.claude-3%3A0/converse").unwrap();
        assert_eq!(url.path(), "/model/anthropic.claude-3%3A0/converse", "as it is sent");
        assert_eq!(canonical_path(url.path()), "/model/anthropic.claude-3%253A0/converse");
        let arn = "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123%3Aprofile%2Fx/invoke";
        assert_eq!(canonical_path(arn), arn.replace('%', "%25"));
        assert_eq!(canonical_path("/"), "/");
    }

    #[test]
    fn queries_and_headers_in_canonical_form() {
        let query = |text: &str| canonical_query(&Url::parse(&format!("https://h/{text}")).unwrap());
        for (written, canonical) in [
            ("", ""),
            ("?b=2&a=1&a=0", "a=0&a=1&b=2"),
            ("?flag", "flag="),
            ("?k=a%20b&l=%2F%7e", "k=a%20b&l=%2F~"),
            ("?k=%E1%88%B4", "k=%E1%88%B4"),
        ] {
            assert_eq!(query(written), canonical, "{written}");
        }
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-amz-b", "  two   words "), ("x-amz-a", "1"), ("x-amz-a", "2"), ("accept", "*/*")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let url = Url::parse("http://127.0.0.1:99/").unwrap();
        let signed = signed_headers(&url, &headers).unwrap();
        let expected = [("host", "127.0.0.1:99"), ("x-amz-a", "1,2"), ("x-amz-b", "two words")];
        assert_eq!(signed.iter().map(|(name, value)| (*name, &**value)).collect::<Vec<_>>(), expected);
        let usual = Url::parse("https://h:443/").unwrap();
        assert_eq!(signed_headers(&usual, &HeaderMap::new()).unwrap()[0].1, "h", "the usual port is not sent");
    }

    #[test]
    fn a_session_token_is_sent_and_signed_and_nothing_secret_shows() {
        let url = Url::parse("https://h/").unwrap();
        let mut headers = HeaderMap::new();
        let scope = Scope { region: "us-east-1", service: "bedrock" };
        sign((&Method::POST, &url, &mut headers), b"{}", &keys(Some("session-1")), scope, example_time()).unwrap();
        assert_eq!(headers[SESSION], "session-1");
        assert_eq!(headers[DATE], "20150830T123600Z");
        let authorization = headers[header::AUTHORIZATION].to_str().unwrap();
        assert!(authorization.contains("SignedHeaders=host;x-amz-date;x-amz-security-token,"), "{authorization}");
        let shown = format!("{headers:?}{:?}", keys(Some("session-1")));
        for secret in [ID, SECRET, "session-1"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        let broken = AwsKeys { id: Secret::new("a\nb"), ..keys(None) };
        assert!(sign((&Method::POST, &url, &mut headers), b"{}", &broken, scope, example_time()).is_none());
    }
}
