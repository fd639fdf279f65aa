//! What the headers of an answer tell: the room left in the limits, who answered, what it took and what it cost.
//! It must not know what is in the answer, or why it came to that.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::decimal;
use crate::house::Lane;
use crate::limits::{Standing, Window};
use crate::meter::Call;

/// Limit, room left and time until all of it is free.
type Names = [HeaderName; 3];

const REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];
const PROVIDER: HeaderName = HeaderName::from_static("x-choreoai-provider");
const MODEL: HeaderName = HeaderName::from_static("x-choreoai-model");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-choreoai-attempts");
const COST: HeaderName = HeaderName::from_static("x-choreoai-cost-usd");
const DROPPED: HeaderName = HeaderName::from_static("x-choreoai-dropped");

/// Headers that an answer usually has at most, so that their table is made once.
const USUAL_HEADERS: usize = 16;
/// Bytes that a number or a span usually takes at most.
const USUAL_TEXT: usize = 32;

/// What there is to tell about an answer.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) lane: Arc<Lane>,
    pub(super) attempts: u32,
    pub(super) cost: Option<u64>,
    pub(super) dropped: Vec<&'static str>,
}

impl About {
    /// What there is to tell of a call whose last attempt was made on `lane`.
    pub(super) fn of(lane: &Arc<Lane>, call: &Call, dropped: Vec<&'static str>) -> Self {
        Self { lane: Arc::clone(lane), attempts: call.attempts(), cost: call.cost(), dropped }
    }
}

/// Headers, and the text that the next value is written in.
pub(super) struct Told {
    headers: HeaderMap,
    text: String,
}

impl Told {
    /// The room left, as OpenAI's `x-ratelimit-*` headers say it.
    pub(super) fn of(standing: &Standing) -> Self {
        let headers = HeaderMap::with_capacity(USUAL_HEADERS);
        let mut told = Self { headers, text: String::with_capacity(USUAL_TEXT) };
        told.window(&standing.requests, REQUESTS);
        told.window(&standing.tokens, TOKENS);
        told
    }

    /// And which target was asked last, how many attempts it took, and what they cost.
    pub(super) fn about(mut self, about: &About) -> Self {
        let About { lane, attempts, cost, dropped } = about;
        self.put(PROVIDER, |text| text.push_str(&lane.provider.config.name));
        self.put(MODEL, |text| text.push_str(&lane.target.model));
        if let Some(cost) = *cost {
            self.put(COST, |text| decimal::parts(text, cost));
        }
        self.put(DROPPED, |text| text.push_str(&dropped.join(", ")));
        self.put(ATTEMPTS, |text| decimal::whole(text, (*attempts).into(), 1));
        self
    }

    /// All of it.
    pub(super) fn headers(self) -> HeaderMap {
        self.headers
    }

    fn window(&mut self, window: &Option<Window>, [limit, remaining, reset]: Names) {
        let Some(window) = window else { return };
        self.put(limit, |text| decimal::whole(text, window.limit, 1));
        self.put(remaining, |text| decimal::whole(text, window.remaining, 1));
        self.put(reset, |text| span(text, window.reset));
    }

    /// A header with what `write` writes; none where that is nothing, or what no header can carry.
    fn put(&mut self, name: HeaderName, write: impl FnOnce(&mut String)) {
        self.text.clear();
        write(&mut self.text);
        if let (false, Ok(value)) = (self.text.is_empty(), HeaderValue::from_str(&self.text)) {
            self.headers.insert(name, value);
        }
    }
}

/// A span as OpenAI writes it: `6ms`, `1.5s`, `1m2s`.
fn span(text: &mut String, time: Duration) {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if millis < 1000 {
        decimal::whole(text, millis, 1);
        text.push_str("ms");
        return;
    }
    if millis >= 60_000 {
        decimal::whole(text, millis / 60_000, 1);
        text.push('m');
    }
    decimal::whole(text, millis % 60_000 / 1000, 1);
    if !millis.is_multiple_of(1000) {
        text.push('.');
        decimal::whole(text, millis % 1000, 3);
    }
    text.push('s');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_openai_writes_them() {
        let cases =
            [(0, "0ms"), (6, "6ms"), (999, "999ms"), (1000, "1s"), (1500, "1.500s"), (60_000, "1m0s"), (62_300, "1m2.300s")];
        for (millis, expected) in cases {
            let mut text = String::new();
            span(&mut text, Duration::from_millis(millis));
            assert_eq!(text, expected);
        }
    }
}
