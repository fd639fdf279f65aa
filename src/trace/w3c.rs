//! W3C Trace Context: the headers `traceparent` and `tracestate`, read and written.
//! It must not know spans or sampling.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;

struct Read<'h>(&'h HeaderMap);

impl Extractor for Read<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

#[derive(Default)]
struct Written(Vec<(HeaderName, HeaderValue)>);

impl Injector for Written {
    fn set(&mut self, key: &str, value: String) {
        let (name, value) = (HeaderName::try_from(key), HeaderValue::try_from(value));
        if let (Ok(name), Ok(value)) = (name, value)
            && !value.is_empty()
        {
            self.0.push((name, value));
        }
    }
}

/// The client's context, when it sent a sane one.
pub(super) fn read(headers: &HeaderMap) -> Option<SpanContext> {
    let around = TraceContextPropagator::new().extract_with_context(&Context::new(), &Read(headers));
    around.has_active_span().then(|| around.span().span_context().clone()).filter(SpanContext::is_valid)
}

/// The context as headers.
pub(super) fn write(context: &SpanContext) -> Vec<(HeaderName, HeaderValue)> {
    let mut written = Written::default();
    TraceContextPropagator::new().inject_context(&Context::new().with_remote_span_context(context.clone()), &mut written);
    written.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(parent: &'static str, state: &'static str) -> HeaderMap {
        let pairs = [("traceparent", parent), ("tracestate", state)];
        pairs.into_iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_came_in_goes_out() {
        let context = read(&headers(PARENT, "vendor=1,other=2")).expect("a context");
        let out: Vec<_> = write(&context).iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(out, [format!("traceparent: {PARENT}"), "tracestate: vendor=1,other=2".to_owned()]);
        let out = write(&read(&headers(PARENT, "")).expect("a context without state"));
        assert_eq!(out.len(), 1, "an empty tracestate is not sent: {out:?}");
    }

    #[test]
    fn what_is_no_context_is_no_parent() {
        let wrong = [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-zz",
        ];
        for parent in wrong {
            assert!(read(&headers(parent, "vendor=1")).is_none(), "{parent:?}");
        }
        assert!(read(&HeaderMap::new()).is_none());
    }
}
