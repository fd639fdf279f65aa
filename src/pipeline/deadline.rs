//! How long a client is willing to wait, as its headers say.
//! It must not know what takes the time.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use providers::ChatRequest;
use tokio::time::Instant;

use crate::error::{Error, Kind};

/// The deadline of a whole call, streamed or not, in milliseconds.
const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// How long OpenAI's SDKs wait for an answer, in seconds: Node's whole timeout, and Python's for one read. A stream
/// that has begun is not bound by them.
const OF_SDKS: [HeaderName; 2] =
    [HeaderName::from_static("x-stainless-timeout"), HeaderName::from_static("x-stainless-read-timeout")];
/// The longest that a client may ask for: a day, beyond which the gateway's own timeouts have long ended the call.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// When the answer is no longer wanted, for a request that `arrived` then.
///
/// # Errors
/// When the client's own header is no whole number of milliseconds.
pub(super) fn of(headers: &HeaderMap, request: &ChatRequest, arrived: Instant) -> Result<Option<Instant>, Error> {
    let wait = match headers.get(TIMEOUT) {
        Some(value) => Some(millis(value.to_str().unwrap_or_default()).ok_or_else(malformed)?),
        // Nobody wrote these by hand: what cannot be read is as if it were not there.
        None if !request.stream => OF_SDKS.iter().find_map(|name| seconds(headers.get(name)?.to_str().ok()?)),
        None => None,
    };
    Ok(wait.map(|wait| arrived + wait.min(LONGEST)))
}

fn malformed() -> Error {
    let name = TIMEOUT;
    Error::new(Kind::InvalidRequest, format!("the header {name} must be a whole number of milliseconds, 1 or more"))
        .param(TIMEOUT.as_str())
}

fn millis(text: &str) -> Option<Duration> {
    text.trim().parse().ok().filter(|millis| *millis > 0).map(Duration::from_millis)
}

fn seconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().filter(|seconds| *seconds > 0.0).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

#[cfg(test)]
mod tests {
    use providers::Endpoint;

    use super::*;

    fn wait(name: &'static str, value: &str, stream: bool) -> Result<Option<u128>, Error> {
        let body = format!("{{\"model\":\"m\",\"messages\":[],\"stream\":{stream}}}");
        let request = ChatRequest::parse(body.into(), Endpoint::Chat).unwrap();
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]);
        let now = Instant::now();
        Ok(of(&headers, &request, now)?.map(|until| (until - now).as_millis()))
    }

    #[test]
    fn the_clients_own_word_holds_for_every_call_and_must_be_sound() {
        for stream in [false, true] {
            assert_eq!(wait("x-request-timeout-ms", "1500", stream).unwrap(), Some(1500));
            assert_eq!(wait("x-request-timeout-ms", "99999999999999", stream).unwrap(), Some(LONGEST.as_millis()));
            for wrong in ["", "0", "-1", "1.5", "10s", "soon", "99999999999999999999999"] {
                let error = wait("x-request-timeout-ms", wrong, stream).unwrap_err();
                assert_eq!(error.status(), 400, "{wrong}");
            }
        }
    }

    #[test]
    fn the_sdks_word_holds_until_an_answer_begins() {
        assert_eq!(wait("x-stainless-timeout", "600", false).unwrap(), Some(600_000));
        assert_eq!(wait("x-stainless-read-timeout", "2.5", false).unwrap(), Some(2500));
        assert_eq!(wait("x-stainless-read-timeout", "2.5", true).unwrap(), None);
        for unread in ["NaN", "None", "-1", "0", "inf"] {
            assert_eq!(wait("x-stainless-read-timeout", unread, false).unwrap(), None, "{unread}");
        }
    }
}
