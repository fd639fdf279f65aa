//! Reads what a provider of OpenAI's wire says when it fails: error objects in all their dialects,
//! plain text, HTML pages, nothing at all; as a whole answer or in the middle of a stream.
//! It must not know which provider speaks, nor what the gateway does about it.

use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use crate::error::{Class, UpstreamError, scrub};
use crate::retry::retry_after;

/// The longest message that is passed on, in bytes; pages and stack traces are cut here.
const MAX_MESSAGE_BYTES: usize = 4096;

/// A failed answer: status 400 or above, or a body that turned out to be an error.
pub(crate) fn from_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
    let text = String::from_utf8_lossy(body);
    let told = match serde_json::from_str::<Value>(&text) {
        Ok(value) => Told::read(&value),
        Err(_) => Told { message: plain(&text), ..Told::default() },
    };
    let mut error = told.into_error(Some(status));
    error.retry_after = retry_after(headers);
    error
}

/// An error that came as JSON in the middle of a stream, or with a status that says success.
pub(crate) fn from_value(value: &Value) -> UpstreamError {
    Told::read(value).into_error(None)
}

/// Whether a whole JSON body, or one event of a stream, is an error and not an answer.
pub(crate) fn is_failure(body: &Map<String, Value>) -> bool {
    let given = |name: &str| body.get(name).is_some_and(is_something);
    let is_named =
        body.get("object").and_then(Value::as_str) == Some("error") || body.get("type").is_some_and(|kind| kind == "error");
    let is_answer = given("choices") || given("data") || given("usage");
    let complains =
        given("detail") || given("errors") || (given("message") && (given("code") || given("type") || given("status")));
    given("error") || is_named || (!is_answer && complains)
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// What an error says of itself.
#[derive(Debug, Default)]
struct Told {
    message: Option<String>,
    kind: Option<String>,
    code: Option<String>,
    param: Option<String>,
    /// A status written inside the body.
    status: Option<StatusCode>,
}

impl Told {
    fn read(value: &Value) -> Self {
        match value {
            Value::Array(items) => items.first().map(Self::read).unwrap_or_default(),
            Value::Object(members) => Self::from_members(members),
            Value::String(text) => Self::from_text(text),
            other => Self { message: is_something(other).then(|| other.to_string()), ..Self::default() },
        }
    }

    /// Some gateways put the error as JSON text into a string.
    fn from_text(text: &str) -> Self {
        match serde_json::from_str::<Value>(text) {
            Ok(inner @ (Value::Object(_) | Value::Array(_))) => Self::read(&inner),
            _ => Self { message: plain(text), ..Self::default() },
        }
    }

    fn from_members(members: &Map<String, Value>) -> Self {
        let outer = Self::flat(members);
        let inner = match members.get("error").or_else(|| members.get("errors")).filter(|error| is_something(error)) {
            Some(error) => Self::read(error),
            None => return outer,
        };
        Self {
            message: inner.message.or(outer.message),
            kind: inner.kind.or(outer.kind.filter(|kind| kind != "error")),
            code: inner.code.or(outer.code),
            param: inner.param.or(outer.param),
            status: inner.status.or(outer.status),
        }
    }

    fn flat(members: &Map<String, Value>) -> Self {
        let word = |name: &str| members.get(name).and_then(word).filter(|text| !text.is_empty());
        let status = ["status_code", "raw_status_code", "status", "code", "http_code"];
        let message = ["message", "detail", "msg", "error_message", "error_msg", "reason"];
        let mut told = Self {
            message: message.iter().find_map(|name| members.get(*name).and_then(sentence)),
            kind: word("type"),
            code: word("code").or_else(|| word("error_code")),
            param: word("param"),
            status: status.iter().find_map(|name| members.get(*name).and_then(http_status)),
        };
        told.explain(members.get("metadata"));
        told
    }

    /// OpenRouter passes on what the provider behind it said in `metadata.raw`.
    fn explain(&mut self, metadata: Option<&Value>) {
        let Some(raw) = metadata.and_then(|metadata| metadata.get("raw")).filter(|raw| is_something(raw)) else { return };
        let behind = Self::read(raw);
        if let Some(reason) = behind.message {
            let said = self.message.take().unwrap_or_else(|| "Provider returned error".to_owned());
            self.message = Some(format!("{said}: {reason}"));
        }
        self.param = self.param.take().or(behind.param);
        if behind.code.as_deref().is_some_and(|code| code.parse::<u16>().is_err()) {
            self.code = behind.code;
        }
    }

    fn into_error(self, status: Option<StatusCode>) -> UpstreamError {
        let status = status.filter(|status| status.is_client_error() || status.is_server_error()).or(self.status);
        let class = self.class(status);
        let mut message = self.message.unwrap_or_else(|| silence(status));
        shorten(&mut message);
        if class == Class::Quota {
            // OpenAI's clients tell this by its type and code from a limit that is over in a moment.
            return UpstreamError { param: self.param, ..UpstreamError::new(class, message) };
        }
        let is_status = |code: &String| code.parse::<u16>().is_ok_and(|code| (100..600).contains(&code));
        UpstreamError {
            class,
            status: status.map_or_else(|| class.status(), |status| for_client(status, class)),
            message: scrub(&message),
            type_name: self.kind.unwrap_or_else(|| class.type_name().to_owned()),
            param: self.param,
            code: self.code.filter(|code| !is_status(code)).or_else(|| class.code().map(str::to_owned)),
            retry_after: None,
        }
    }

    fn class(&self, status: Option<StatusCode>) -> Class {
        let lower = |text: &Option<String>| text.as_deref().unwrap_or_default().to_lowercase();
        let named = format!("{}\n{}", lower(&self.kind), lower(&self.code));
        let message = lower(&self.message);
        let code = status.map_or(0, |status| status.as_u16());
        let suspects = SIGNS.iter().filter(|sign| sign.statuses.is_empty() || code == 0 || sign.statuses.contains(&code));
        let by_words = suspects
            .filter(|sign| sign.names.iter().any(|name| named.lines().any(|word| word == *name)) || says(sign, &message))
            .map(|sign| sign.class)
            .next();
        by_words.unwrap_or_else(|| status.map_or(Class::Server, class_of_status))
    }
}

fn says(sign: &Sign, message: &str) -> bool {
    sign.phrases
        .iter()
        .any(|phrase| phrase.split('*').try_fold(message, |rest, part| rest.split_once(part).map(|found| found.1)).is_some())
}

/// How a class of failure shows beside its status.
struct Sign {
    class: Class,
    /// The statuses under which to look for it; none: any.
    statuses: &'static [u16],
    /// Exact `type`s and `code`s, in lower case.
    names: &'static [&'static str],
    /// Parts of messages, in lower case; `*` stands for anything.
    phrases: &'static [&'static str],
}

/// From the specific to the general: the first that fits decides.
const SIGNS: [Sign; 8] = [
    Sign {
        class: Class::Quota,
        statuses: &[],
        names: &[
            "insufficient_quota",
            "insufficient_balance",
            "billing_hard_limit_reached",
            "billing_not_active",
            "billing_error",
            "exceeded_current_quota_error",
            "arrearage",
            "1113",
            "1008",
        ],
        phrases: &[
            "exceeded your current quota",
            "insufficient balance",
            "credit balance is too low",
            "insufficient credits",
            "used all available credits",
            "exceeded your monthly included credits",
            "余额不足",
        ],
    },
    Sign {
        class: Class::ContextOverflow,
        statuses: &[400, 413, 422, 500],
        names: &[
            "context_length_exceeded",
            "exceed_context_size_error",
            "too_many_prompt_tokens",
            "context_window_exceeded",
            "model_context_window_exceeded",
            "too_many_tokens",
            "1261",
        ],
        phrases: &[
            "maximum context length",
            "context length exceeded",
            "max context length",
            "exceeds the context",
            "exceeds the available context",
            "context window",
            "context_length_exceeded",
            "prompt is too long",
            "prompt too long",
            "prompt contains*tokens*too large for model",
            "maximum prompt length",
            "input is too long",
            "too many tokens",
            "tokens exceed",
            "messages is too long",
            "is too large to process",
            "range of input length",
            "exceeds the maximum number of tokens",
            "reduce the length of the messages",
        ],
    },
    Sign {
        class: Class::ContentFilter,
        statuses: &[400, 403, 422, 451, 500],
        names: &[
            "content_filter",
            "content_policy_violation",
            "content_policy_violation_error",
            "data_inspection_failed",
            "datainspectionfailed",
            "responsibleaipolicyviolation",
            "sensitive_content",
            "1301",
            "1026",
            "1027",
        ],
        phrases: &[
            "content management policy",
            "content violates",
            "content policy",
            "content exists risk",
            "inappropriate content",
            "flagged by moderation",
            "flagged for*moderation",
            "considered high risk",
            "unsafe or sensitive content",
        ],
    },
    Sign {
        class: Class::Authentication,
        statuses: &[400, 403, 500],
        names: &[
            "invalid_api_key",
            "authentication_error",
            "invalid_authentication_error",
            "unauthorized",
            "unauthenticated",
            "1004",
        ],
        phrases: &["incorrect api key", "api key not valid", "invalid api key", "invalid api-key"],
    },
    Sign {
        class: Class::NotFound,
        statuses: &[400, 403, 404, 422],
        names: &[
            "model_not_found",
            "invalid_model",
            "model_decommissioned",
            "deploymentnotfound",
            "not_found_error",
            "not_found",
            "resource_not_found_error",
            "unknown_model",
            "model_not_available",
            "model_not_supported",
        ],
        phrases: &[
            "invalid model:",
            "model not found",
            "model * not found",
            "model * does not exist",
            "model * not exist",
            "is not a valid model",
            "supported api model names are",
            "unknown model",
            "not a supported model",
            "unable to access model",
        ],
    },
    Sign {
        class: Class::RateLimited,
        statuses: &[400, 403, 413, 429, 500],
        names: &[
            "rate_limit_exceeded",
            "rate_limit_error",
            "ratelimitreached",
            "rate_limit_reached_error",
            "too_many_requests",
            "throttling",
            "tokens",
            "requests",
            "1302",
            "1002",
        ],
        phrases: &["rate limit", "too many requests", "rate-limited"],
    },
    Sign {
        class: Class::Overloaded,
        statuses: &[429, 498, 500, 502, 503, 529],
        names: &[
            "overloaded_error",
            "engine_overloaded_error",
            "service_unavailable",
            "service_unavailable_error",
            "servererror_overloaded",
            "capacity_exceeded",
            "insufficient_system_resource",
            "1305",
            "3505",
        ],
        phrases: &["overloaded", "at capacity", "capacity exceeded", "no available capacity", "loading model"],
    },
    Sign {
        class: Class::Timeout,
        statuses: &[500, 502, 503],
        names: &["timeout", "timeout_error", "request_timeout", "gateway_timeout"],
        phrases: &["timed out"],
    },
];

/// Statuses outside the registry that providers and their front doors use.
fn class_of_status(status: StatusCode) -> Class {
    match status.as_u16() {
        498 => Class::Overloaded,
        522 | 524 => Class::Timeout,
        _ => Class::from_status(status),
    }
}

/// The provider's status, unless no OpenAI client would know what to do with it.
fn for_client(status: StatusCode, class: Class) -> StatusCode {
    match status.as_u16() {
        500.. if matches!(class, Class::ContextOverflow | Class::ContentFilter) => class.status(),
        498 | 529 => StatusCode::SERVICE_UNAVAILABLE,
        522 | 524 => StatusCode::GATEWAY_TIMEOUT,
        424 | 520..=599 => StatusCode::BAD_GATEWAY,
        _ => status,
    }
}

fn silence(status: Option<StatusCode>) -> String {
    status.map_or_else(
        || "the provider failed without a message".to_owned(),
        |status| format!("the provider answered {status} without a message"),
    )
}

fn http_status(value: &Value) -> Option<StatusCode> {
    let code = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
    let status = StatusCode::from_u16(u16::try_from(code).ok()?).ok()?;
    (status.is_client_error() || status.is_server_error()).then_some(status)
}

/// A short member: text, or a number as text.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A message: text, or a list of faults as validators write it (`loc`, `msg`), or whatever was said.
fn sentence(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => plain(text),
        Value::Array(items) => {
            let said: Vec<String> = items.iter().filter_map(sentence).collect();
            (!said.is_empty()).then(|| said.join("; "))
        }
        Value::Object(members) => {
            let said = ["message", "msg", "detail", "error"].iter().find_map(|name| members.get(*name).and_then(sentence));
            let place = members
                .get("loc")
                .and_then(Value::as_array)
                .map(|path| path.iter().filter_map(word).collect::<Vec<_>>().join("."));
            match (place, said) {
                (Some(place), Some(said)) => Some(format!("{place}: {said}")),
                (None, Some(said)) => Some(said),
                (_, None) => (!members.is_empty()).then(|| value.to_string()),
            }
        }
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) => None,
    }
}

/// The words of a body that is no JSON: of an HTML page its title, else its text.
fn plain(text: &str) -> Option<String> {
    let text = text.trim();
    if !text.starts_with('<') {
        return (!text.is_empty()).then(|| text.to_owned());
    }
    let lower = text.to_ascii_lowercase();
    let title = ["title", "h1"].iter().find_map(|tag| {
        let inner = lower.find(&format!("<{tag}"))?;
        let start = inner + lower[inner..].find('>')? + 1;
        let end = start + lower[start..].find("</")?;
        Some(text[start..end].split_whitespace().collect::<Vec<_>>().join(" ")).filter(|title| !title.is_empty())
    });
    Some(title.map_or_else(
        || "the provider answered with a web page".to_owned(),
        |title| format!("the provider answered with a web page: {title}"),
    ))
}

fn shorten(message: &mut String) {
    if message.len() > MAX_MESSAGE_BYTES {
        let cut = (0..=MAX_MESSAGE_BYTES).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(cut);
        message.push('…');
    }
}
