//! What OpenTelemetry's standard variables say about traces. The receiver's address, headers and
//! certificates are read by the exporter itself, under the same variables; here is only checked what
//! it would pass over in silence.
//! It must not know how a span is made or sent.

use std::time::Duration;

use super::ConfigError;
use super::checking::{Environment, set};

/// What a trace's resource says when nobody names the service.
const SERVICE: &str = "choreoai";
/// How long one export may take, unless told otherwise; the standard's figure.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Spans that may wait, spans in one export, and how long a span waits at most; the standard's figures.
const QUEUE: usize = 2048;
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(5);

/// Traces, turned on.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// The service's name in every span.
    pub service: String,
    /// Which traces are exported.
    pub sampler: Sampler,
    /// Whether `traceparent` and `tracestate` are read from clients and sent to providers.
    pub propagates: bool,
    /// How spans travel.
    pub protocol: Protocol,
    /// Where they go.
    pub endpoint: String,
    /// How long one export may take.
    pub timeout: Duration,
    /// Spans that may wait to be exported; more are dropped.
    pub queue: usize,
    /// Spans in one export at most.
    pub batch: usize,
    /// How long a span waits at most for others to travel with.
    pub delay: Duration,
}

/// Which traces are exported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether the client's own decision goes first, where it sent one.
    pub follows_parent: bool,
    /// The share of the others, from 0 to 1.
    pub ratio: f64,
}

/// How spans travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP with protobuf bodies.
    HttpProtobuf,
}

pub(super) fn traces(environment: Environment<'_>) -> Result<Option<Traces>, ConfigError> {
    let is_on = switch(environment, "OTEL_ENABLED")? && !switch(environment, "OTEL_SDK_DISABLED")?;
    let goes_nowhere = match set(environment, "OTEL_TRACES_EXPORTER").as_deref() {
        None | Some("otlp") => false,
        Some("none") => true,
        Some(other) => return Err(ConfigError(format!("OTEL_TRACES_EXPORTER: \"{other}\" is not one of \"otlp\", \"none\""))),
    };
    if !is_on || goes_nowhere {
        return Ok(None);
    }
    let (protocol_name, protocol) = either(environment, "PROTOCOL");
    let protocol = match protocol.as_deref() {
        None | Some("http/protobuf") => Protocol::HttpProtobuf,
        Some("grpc") => Protocol::Grpc,
        Some(other) => {
            return Err(ConfigError(format!("{protocol_name}: \"{other}\" is not one of \"grpc\", \"http/protobuf\"")));
        }
    };
    let (endpoint_name, endpoint) = either(environment, "ENDPOINT");
    // The address is not repeated: it may hold a password.
    if endpoint.as_ref().is_some_and(|endpoint| !is_address(endpoint, protocol)) {
        return Err(ConfigError(format!("{endpoint_name}: this is no address like http://collector:4318")));
    }
    let (timeout_name, timeout) = either(environment, "TIMEOUT");
    let default = if protocol == Protocol::Grpc { "http://localhost:4317" } else { "http://localhost:4318" };
    Ok(Some(Traces {
        service: service(environment),
        sampler: sampler(environment)?,
        propagates: propagates(environment)?,
        protocol,
        endpoint: endpoint.unwrap_or_else(|| default.to_owned()),
        timeout: milliseconds(&timeout_name, timeout, TIMEOUT)?,
        queue: count(environment, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE)?,
        batch: count(environment, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH)?,
        delay: milliseconds("OTEL_BSP_SCHEDULE_DELAY", set(environment, "OTEL_BSP_SCHEDULE_DELAY"), DELAY)?,
    }))
}

/// gRPC takes a host and port alone as well.
fn is_address(endpoint: &str, protocol: Protocol) -> bool {
    let Ok(uri) = endpoint.parse::<http::Uri>() else { return false };
    let is_whole = uri.scheme_str().map_or(protocol == Protocol::Grpc, |scheme| ["http", "https"].contains(&scheme));
    is_whole && uri.host().is_some_and(|host| !host.is_empty())
}

fn switch(environment: Environment<'_>, name: &str) -> Result<bool, ConfigError> {
    match set(environment, name).map(|value| value.to_ascii_lowercase()).as_deref() {
        Some("true" | "1") => Ok(true),
        None | Some("false" | "0") => Ok(false),
        Some(other) => Err(ConfigError(format!("{name}: \"{other}\" is not \"true\" or \"false\""))),
    }
}

/// The variable for traces alone, else the one for all signals; with the name of the one that spoke.
fn either(environment: Environment<'_>, ending: &str) -> (String, Option<String>) {
    let own = format!("OTEL_EXPORTER_OTLP_TRACES_{ending}");
    match set(environment, &own) {
        Some(value) => (own, Some(value)),
        None => {
            let all = format!("OTEL_EXPORTER_OTLP_{ending}");
            let value = set(environment, &all);
            (all, value)
        }
    }
}

fn service(environment: Environment<'_>) -> String {
    let attributes = set(environment, "OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let among = attributes.split(',').filter_map(|pair| pair.split_once('='));
    let named = among.filter(|(key, _)| key.trim() == "service.name").map(|(_, name)| name.trim().to_owned()).next_back();
    set(environment, "OTEL_SERVICE_NAME").or(named).unwrap_or_else(|| SERVICE.to_owned())
}

fn sampler(environment: Environment<'_>) -> Result<Sampler, ConfigError> {
    const KNOWN: &str = "\"always_on\", \"always_off\", \"traceidratio\", and each with \"parentbased_\" before it";
    let name = set(environment, "OTEL_TRACES_SAMPLER").unwrap_or_else(|| "parentbased_always_on".to_owned());
    let (follows_parent, rest) = name.strip_prefix("parentbased_").map_or((false, name.as_str()), |rest| (true, rest));
    let ratio = match rest {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => ratio(environment)?,
        _ => return Err(ConfigError(format!("OTEL_TRACES_SAMPLER: \"{name}\" is not one of {KNOWN}"))),
    };
    Ok(Sampler { follows_parent, ratio })
}

fn ratio(environment: Environment<'_>) -> Result<f64, ConfigError> {
    let Some(given) = set(environment, "OTEL_TRACES_SAMPLER_ARG") else { return Ok(1.0) };
    let ratio = given.parse().ok().filter(|ratio: &f64| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| ConfigError(format!("OTEL_TRACES_SAMPLER_ARG: \"{given}\" is not a number from 0 to 1")))
}

fn propagates(environment: Environment<'_>) -> Result<bool, ConfigError> {
    let given = set(environment, "OTEL_PROPAGATORS").unwrap_or_else(|| "tracecontext".to_owned());
    let mut does = false;
    for name in given.split(',').map(str::trim) {
        match name {
            "tracecontext" => does = true,
            // Baggage is for programs that add to it or read it.
            "none" | "baggage" => {}
            other => {
                let known = "\"tracecontext\", \"baggage\", \"none\"";
                return Err(ConfigError(format!("OTEL_PROPAGATORS: \"{other}\" is not one of {known}")));
            }
        }
    }
    Ok(does)
}

fn milliseconds(name: &str, given: Option<String>, default: Duration) -> Result<Duration, ConfigError> {
    let Some(given) = given else { return Ok(default) };
    let wrong = |_| ConfigError(format!("{name}: \"{given}\" is not a number of milliseconds"));
    given.parse().map(Duration::from_millis).map_err(wrong)
}

fn count(environment: Environment<'_>, name: &str, default: usize) -> Result<usize, ConfigError> {
    let Some(given) = set(environment, name) else { return Ok(default) };
    let count = given.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| ConfigError(format!("{name}: \"{given}\" is not a whole number above 0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(variables: &[(&str, &str)]) -> Result<Option<Traces>, ConfigError> {
        traces(&|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    fn on(variables: &[(&str, &str)]) -> Traces {
        let all: Vec<_> = [("OTEL_ENABLED", "true")].iter().chain(variables).copied().collect();
        told(&all).expect("sound").expect("on")
    }

    #[test]
    fn traces_are_off_until_they_are_turned_on() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let off: [&[(&str, &str)]; 6] = [
            &[],
            &[endpoint],
            &[("OTEL_ENABLED", "false"), endpoint],
            &[("OTEL_ENABLED", "")],
            &[("OTEL_ENABLED", "true"), ("OTEL_SDK_DISABLED", "true")],
            &[("OTEL_ENABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")],
        ];
        for variables in off {
            assert_eq!(told(variables), Ok(None), "{variables:?}");
        }
    }

    #[test]
    fn left_alone_everything_is_as_the_standard_says() {
        let expected = Traces {
            service: "choreoai".to_owned(),
            sampler: Sampler { follows_parent: true, ratio: 1.0 },
            propagates: true,
            protocol: Protocol::HttpProtobuf,
            endpoint: "http://localhost:4318".to_owned(),
            timeout: TIMEOUT,
            queue: 2048,
            batch: 512,
            delay: Duration::from_secs(5),
        };
        assert_eq!(on(&[]), expected);
    }

    #[test]
    fn the_variable_for_traces_goes_before_the_one_for_all() {
        let traces = on(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "9000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "700"),
        ]);
        assert_eq!((traces.protocol, traces.timeout), (Protocol::Grpc, Duration::from_millis(700)));
        assert_eq!(traces.endpoint, "http://localhost:4317");
        let bare = on(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")]);
        assert_eq!(bare.endpoint, "collector:4317");
    }

    #[test]
    fn a_service_has_the_name_it_was_given() {
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name = mine ,c=d");
        assert_eq!(on(&[attributes]).service, "mine");
        assert_eq!(on(&[attributes, ("OTEL_SERVICE_NAME", "gateway")]).service, "gateway");
    }

    #[test]
    fn samplers_have_the_standard_names() {
        let cases = [
            ("always_on", false, 1.0),
            ("always_off", false, 0.0),
            ("traceidratio", false, 0.25),
            ("parentbased_always_off", true, 0.0),
            ("parentbased_traceidratio", true, 0.25),
        ];
        for (name, follows_parent, ratio) in cases {
            let sampler = on(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", "0.25")]).sampler;
            assert_eq!(sampler, Sampler { follows_parent, ratio }, "{name}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            (("OTEL_ENABLED", "yes please"), "OTEL_ENABLED: \"yes please\" is not \"true\" or \"false\""),
            (("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), "OTEL_EXPORTER_OTLP_PROTOCOL: \"http/json\" is not one of"),
            (("OTEL_TRACES_EXPORTER", "zipkin"), "OTEL_TRACES_EXPORTER: \"zipkin\" is not one of"),
            (("OTEL_TRACES_SAMPLER", "jaeger_remote"), "OTEL_TRACES_SAMPLER: \"jaeger_remote\" is not one of"),
            (("OTEL_PROPAGATORS", "b3"), "OTEL_PROPAGATORS: \"b3\" is not one of"),
            (("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"), "OTEL_EXPORTER_OTLP_TIMEOUT: \"10s\" is not a number of milliseconds"),
            (("OTEL_EXPORTER_OTLP_ENDPOINT", "not an address"), "OTEL_EXPORTER_OTLP_ENDPOINT: this is no address"),
            (("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"), "OTEL_EXPORTER_OTLP_ENDPOINT: this is no address"),
            (("OTEL_EXPORTER_OTLP_ENDPOINT", "/only/a/path"), "OTEL_EXPORTER_OTLP_ENDPOINT: this is no address"),
            (("OTEL_BSP_MAX_QUEUE_SIZE", "0"), "OTEL_BSP_MAX_QUEUE_SIZE: \"0\" is not a whole number above 0"),
        ];
        for (variable, message) in cases {
            let ConfigError(said) = told(&[variable, ("OTEL_ENABLED", "true")]).expect_err("a mistake");
            assert!(said.starts_with(message), "{said}");
        }
        let ratio = [("OTEL_ENABLED", "true"), ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "7")];
        assert!(told(&ratio).is_err());
    }
}
