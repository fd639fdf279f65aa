//! Every way a call can go, as a table. It must not know how a case is played or judged.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::bill::{Bill, Tokens};
use crate::support::dialect::{
    self, DIALECTS, Dialect, Placement, called, openai, prompt_tokens, request, said, said_in_groups, thought,
};
use crate::support::provider::{Exchange, Reply, Step};
use crate::support::words;

/// Words in the prompts whose tokens are estimated.
pub const PROMPT: usize = 120;

type Script = Arc<dyn Fn(&Exchange) -> Reply + Send + Sync>;

/// How a client closes.
#[derive(Clone, Copy, Debug)]
pub enum How {
    Close,
    Reset,
}

/// When a client leaves.
#[derive(Clone, Copy, Debug)]
pub enum Leaves {
    Never,
    BeforeFirst(How),
    After(usize, How),
}

/// What the client must have seen.
#[derive(Clone, Copy, Debug)]
pub enum Sees {
    Complete { usage: bool },
    Cut,
    Refused(u16),
}

/// One way a call can go.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub provider: &'static str,
    /// The upstream model: one for each case, so that its series are the case's own.
    pub model: String,
    pub path: &'static str,
    pub request: Value,
    pub script: Script,
    pub leaves: Leaves,
    pub sees: Sees,
    pub bill: Bill,
    /// The `outcome` and `usage_source` its attempts may have.
    pub marks: Vec<(&'static str, &'static str)>,
    /// Tokens that may be on their way between the gateway's last look and its hanging up.
    pub in_flight: u64,
    /// Calls whose bill is known and whose booking is not looked at.
    pub warm_up: usize,
    pub calls: usize,
    pub attempts: u64,
    /// Whether the configuration has a price for it.
    pub priced: bool,
}

impl Case {
    pub fn new(name: &str, provider: &'static str, script: impl Fn(&Exchange) -> Reply + Send + Sync + 'static) -> Self {
        let slug: String = format!("{provider} {name}")
            .chars()
            .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
            .collect();
        let request = request(&format!("{provider}/{slug}"), PROMPT);
        Self {
            name: name.into(),
            provider,
            model: slug,
            path: "/v1/chat/completions",
            request,
            script: Arc::new(script),
            leaves: Leaves::Never,
            sees: Sees::Complete { usage: false },
            bill: Bill::Nothing,
            marks: vec![("completed", "provider")],
            in_flight: 0,
            warm_up: 0,
            calls: 1,
            attempts: 1,
            priced: true,
        }
    }

    pub fn streamed(mut self) -> Self {
        self.request["stream"] = json!(true);
        self
    }

    pub fn asking(mut self, usage: bool) -> Self {
        self.request["stream_options"] = json!({"include_usage": usage});
        self.sees = Sees::Complete { usage };
        self
    }

    pub fn billed(mut self, tokens: Tokens) -> Self {
        self.bill = Bill::Reported(tokens);
        self
    }

    /// No report: the prompt and what was written count.
    pub fn counted(mut self) -> Self {
        self.bill = Bill::Counted { input: prompt_tokens(PROMPT), percent: 100 };
        self.marks = vec![("completed", "estimated")];
        self
    }

    pub fn marked(mut self, outcome: &'static str, source: &'static str) -> Self {
        self.marks = vec![(outcome, source)];
        self
    }

    pub fn cut(mut self, outcome: &'static str, source: &'static str) -> Self {
        self.sees = Sees::Cut;
        self.marked(outcome, source)
    }

    pub fn left(mut self, leaves: Leaves) -> Self {
        self.leaves = leaves;
        self.marked("client_disconnect", "estimated")
    }
}

/// The whole table.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for dialect in DIALECTS {
        cases.extend(every_dialect(dialect));
    }
    cases.extend(reported());
    cases.extend(rejected_options());
    cases.extend(unreported());
    cases.extend(super::leaving::cases());
    cases.extend(super::foreign::cases());
    cases.extend(super::native::cases());
    cases.extend(refused());
    cases
}

/// The report in this dialect's terms.
fn report(dialect: Dialect, tokens: Tokens) -> Value {
    let mut usage = tokens.report();
    if dialect.excludes_reasoning {
        usage["completion_tokens"] = json!(tokens.output - tokens.reasoning);
    }
    usage
}

fn every_dialect(dialect: Dialect) -> Vec<Case> {
    let kind = dialect.kind;
    let plain = Tokens::of(131, 17);
    let detailed = Tokens { input: 1400, output: 320, cache_read: 1024, reasoning: 200, ..Tokens::default() };
    let stream =
        move |tokens: Tokens| move |exchange: &Exchange| dialect.stream(exchange, &said(17), Some(&report(dialect, tokens)));
    let thinking = move |exchange: &Exchange| {
        let pieces = [thought(dialect.reasoning_field, 20), said(12)].concat();
        dialect.stream(exchange, &pieces, Some(&report(dialect, detailed)))
    };
    vec![
        Case::new("whole", kind, move |exchange| {
            let message = json!({"role": "assistant", "content": words(17).concat()});
            dialect.whole(exchange, &message, Some(&report(dialect, plain)))
        })
        .billed(plain),
        Case::new("stream, usage not asked for", kind, stream(plain)).streamed().billed(plain),
        Case::new("stream, usage asked for", kind, stream(plain)).streamed().asking(true).billed(plain),
        Case::new("stream, usage declined", kind, stream(plain)).streamed().asking(false).billed(plain),
        Case::new("stream, every byte a segment", kind, move |exchange| {
            dialect.stream(exchange, &said(5), Some(&report(dialect, detailed))).byte_by_byte()
        })
        .streamed()
        .asking(true)
        .billed(detailed),
        Case::new("stream, cached and reasoning", kind, thinking).streamed().billed(detailed),
    ]
}

/// Bills with parts, several choices, zeroes and places for usage: exact, over OpenAI's own wire.
fn reported() -> Vec<Case> {
    let bills = [
        ("cached", Tokens { input: 2000, output: 30, cache_read: 1920, ..Tokens::default() }),
        ("cache write", Tokens { input: 2000, output: 30, cache_write: 1500, cache_read: 400, ..Tokens::default() }),
        ("reasoning", Tokens { input: 50, output: 900, reasoning: 850, ..Tokens::default() }),
        ("audio in", Tokens { input: 700, output: 40, audio_in: 650, ..Tokens::default() }),
        ("audio out", Tokens { input: 60, output: 800, audio_out: 720, ..Tokens::default() }),
        ("explicit zero", Tokens::default()),
        ("large", Tokens { input: 987_654, output: 128_000, cache_read: 900_001, reasoning: 99_999, ..Tokens::default() }),
    ];
    let mut cases = Vec::new();
    for (name, tokens) in bills {
        let message = json!({"role": "assistant", "content": words(9).concat()});
        cases.push(
            Case::new(&format!("{name}, whole"), "openai", move |exchange| {
                openai().whole(exchange, &message, Some(&tokens.report()))
            })
            .billed(tokens),
        );
        cases.push(
            Case::new(&format!("{name}, streamed"), "openai", move |exchange| {
                openai().stream(exchange, &said(9), Some(&tokens.report()))
            })
            .streamed()
            .billed(tokens),
        );
    }
    cases.extend(shaped());
    cases
}

fn shaped() -> Vec<Case> {
    let tokens = Tokens::of(140, 60);
    let every = Dialect { placement: Placement::EveryChunk, ..openai() };
    let mut two = Case::new("n = 2", "openai", move |exchange| {
        let mut pieces = said(30);
        for (n, piece) in pieces.iter_mut().enumerate() {
            piece.choice = n as u64 % 2;
        }
        openai().stream(exchange, &pieces, Some(&tokens.report()))
    })
    .streamed()
    .billed(tokens);
    two.request["n"] = json!(2);
    let cost = 1_234_567_890;
    let mut named = Case::new("price named by the provider", "openrouter", move |exchange| {
        let mut usage = tokens.report();
        usage["cost"] = json!(0.001_234_567_89);
        Dialect { kind: "openrouter", placement: Placement::LastChoice, ..openai() }.stream(exchange, &said(9), Some(&usage))
    })
    .streamed();
    named.bill = Bill::Named(tokens, cost);
    named.priced = false;
    vec![
        two,
        named,
        Case::new("parallel tool calls", "openai", move |exchange| {
            openai().stream(exchange, &[called(0, 12), called(1, 12)].concat(), Some(&tokens.report()))
        })
        .streamed()
        .asking(true)
        .billed(tokens),
        Case::new("usage in every chunk", "openai", move |exchange| every.stream(exchange, &said(9), Some(&tokens.report())))
            .streamed()
            .asking(true)
            .billed(tokens),
        Case::new("usage in every chunk, not asked for", "openai", move |exchange| {
            every.stream(exchange, &said(9), Some(&tokens.report()))
        })
        .streamed()
        .billed(tokens),
    ]
}

/// A provider that knows no `stream_options`: asked once with, then without, and never with again.
fn rejected_options() -> Vec<Case> {
    fn refuse(exchange: &Exchange, otherwise: impl Fn(&Exchange) -> Reply) -> Reply {
        if exchange.json().get("stream_options").is_none() {
            return otherwise(exchange);
        }
        let message = "Unrecognized request argument supplied: stream_options";
        Reply::json(
            400,
            &json!({"error": {"message": message, "type": "invalid_request_error", "param": "stream_options", "code": null}}),
        )
    }
    let tokens = Tokens::of(131, 17);
    let last = Dialect { placement: Placement::LastChoice, ..openai() };
    let reporting = move |exchange: &Exchange| last.stream(exchange, &said(17), Some(&tokens.report()));
    let silent = |exchange: &Exchange| openai().stream(exchange, &said(60), None);
    let mut exact =
        Case::new("stream_options rejected, usage comes", "openai", move |exchange| refuse(exchange, reporting)).streamed();
    exact.bill = Bill::Reported(tokens.plus(tokens));
    exact.marks = vec![("upstream_error", "none"), ("completed", "provider")];
    (exact.calls, exact.attempts) = (2, 3);
    let mut counted =
        Case::new("stream_options rejected, no usage", "openai", move |exchange| refuse(exchange, silent)).streamed().counted();
    counted.bill = Bill::Counted { input: 2 * prompt_tokens(PROMPT), percent: 100 };
    counted.marks.push(("upstream_error", "none"));
    (counted.calls, counted.attempts) = (2, 3);
    vec![exact, counted]
}

/// Finished answers without usage.
fn unreported() -> Vec<Case> {
    let silent = |pieces: fn() -> Vec<dialect::Piece>| move |exchange: &Exchange| openai().stream(exchange, &pieces(), None);
    let mut cases = vec![
        Case::new("no usage, whole", "openai", |exchange| {
            let message = json!({"role": "assistant", "content": words(200).concat()});
            let mut reply = openai().whole(exchange, &message, None);
            if let Step::Write(_, tokens) = &mut reply.steps[0] {
                *tokens = 200;
            }
            reply
        })
        .counted(),
        Case::new("no usage, one word an event", "openai", silent(|| said(200))).streamed().counted(),
        Case::new("no usage, eight words an event", "openai", silent(|| said_in_groups(400, 8))).streamed().counted(),
        Case::new("no usage, all in one event", "openai", silent(|| said_in_groups(400, 400))).streamed().counted(),
        Case::new("no usage, tool call", "openai", silent(|| called(0, 200))).streamed().counted(),
        Case::new("no usage, reasoning then text", "openai", silent(|| [thought("reasoning_content", 150), said(50)].concat()))
            .streamed()
            .counted(),
    ];
    cases.push(learned());
    cases
}

/// Tokens that are 1.3 of o200k's: reported twenty times, then left out once.
fn learned() -> Case {
    const REPORTS: usize = 20;
    let input = prompt_tokens(PROMPT) * 130 / 100;
    let script = move |exchange: &Exchange| {
        let usage = dialect::usage(input, 130);
        openai().stream(exchange, &said(100), (exchange.number < REPORTS).then_some(&usage))
    };
    let mut case = Case::new("no usage after twenty reports of 1.3 x", "openai", script).streamed().counted();
    case.bill = Bill::Counted { input, percent: 130 };
    case.warm_up = REPORTS;
    case.attempts = 1 + REPORTS as u64;
    case.marks.push(("completed", "provider"));
    case
}

/// Refused by the provider: nothing is booked.
fn refused() -> Vec<Case> {
    let statuses = [(400, 400), (401, 401), (403, 403), (404, 404), (422, 422), (429, 429), (500, 500), (503, 503), (529, 503)];
    let mut cases = Vec::new();
    for (given, seen) in statuses {
        for streamed in [false, true] {
            let kind = if streamed { "streamed" } else { "whole" };
            let mut case = Case::new(&format!("refused with {given}, {kind}"), "openai", move |_| {
                Reply::json(given, &json!({"error": {"message": "no", "type": "some_error", "param": null, "code": null}}))
            })
            .marked("upstream_error", "none");
            if streamed {
                case = case.streamed();
            }
            case.sees = Sees::Refused(seen);
            cases.push(case);
        }
    }
    cases
}

/// These steps with a pause after each.
pub fn paced(steps: Vec<Step>, pause: Duration) -> Vec<Step> {
    steps.into_iter().flat_map(|step| [step, Step::Pause(pause)]).collect()
}
