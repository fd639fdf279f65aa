//! The cases through the adapters of wires that are not OpenAI's: caches of both lifetimes, thoughts,
//! counts that come again and again, and every way to end.
//! It must not know how a case is judged.

use std::time::Duration;

use serde_json::json;

use super::bill::{Bill, Tokens};
use super::cases::{Case, How, Leaves, PROMPT, paced};
use super::wires::{Generated, WIRES, Wire};
use crate::support::dialect::prompt_tokens;
use crate::support::provider::{Exchange, Reply, Step};

/// Words of an answer that is cut: enough that one more or less is little.
const CUT: Generated = Generated { thoughts: 0, words: 150 };

/// Input tokens that a provider reports of the prompt.
const REPORTED: u64 = 131;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for wire in WIRES {
        cases.extend(finished(wire));
        cases.extend(counted_on_the_way(wire));
        cases.extend(broken(wire));
        cases.extend(left(wire));
        cases.extend(refused(wire));
    }
    cases.extend(imitators());
    cases
}

fn case(name: &str, wire: Wire, script: impl Fn(&Exchange) -> Reply + Send + Sync + 'static) -> Case {
    Case::new(name, wire.kind(), script)
}

/// Bills with all parts that a wire has, whole and streamed.
fn finished(wire: Wire) -> Vec<Case> {
    let plain = Tokens::of(REPORTED, 17);
    let mut bills = vec![
        ("plain", plain),
        ("cache read", Tokens { input: 2000, output: 30, cache_read: 1920, ..Tokens::default() }),
        ("large", Tokens { input: 987_654, output: 128_000, cache_read: 900_001, ..Tokens::default() }),
        ("explicit zero", Tokens::default()),
    ];
    if wire != Wire::Gemini {
        bills.extend([
            ("cache write 5 m", Tokens { input: 2000, output: 30, cache_read: 400, cache_write: 1500, ..Tokens::default() }),
            ("cache write 1 h", Tokens { input: 2000, output: 30, cache_write: 1500, cache_write_1h: 1500, ..Tokens::default() }),
            (
                "cache write of both lifetimes",
                Tokens { input: 3000, output: 30, cache_read: 700, cache_write: 2000, cache_write_1h: 1300, ..Tokens::default() },
            ),
        ]);
    }
    if wire != Wire::Bedrock {
        bills.push(("thinking", Tokens { input: 50, output: 900, reasoning: 850, ..Tokens::default() }));
    }
    if wire == Wire::Gemini {
        bills.push(("audio in", Tokens { input: 700, output: 40, audio_in: 650, ..Tokens::default() }));
    }
    let said = Generated { thoughts: 8, words: 9 };
    let mut cases = Vec::new();
    for (name, tokens) in bills {
        let script = move |exchange: &Exchange| wire.answer(exchange, said, &tokens);
        cases.push(case(&format!("{name}, whole"), wire, script).billed(tokens));
        cases.push(case(&format!("{name}, streamed"), wire, script).streamed().billed(tokens));
    }
    let script = move |exchange: &Exchange| wire.answer(exchange, said, &plain);
    for asked in [true, false] {
        let name = if asked { "stream, usage asked for" } else { "stream, usage declined" };
        cases.push(case(name, wire, script).streamed().asking(asked).billed(plain));
    }
    let slowly = move |exchange: &Exchange| wire.answer(exchange, said, &plain).byte_by_byte();
    cases.push(case("stream, every byte a segment", wire, slowly).streamed().asking(true).billed(plain));
    let forgotten = move |_: &Exchange| {
        let steps = [wire.beginning(CUT, None), wire.ending(None)].concat();
        wire.reply(steps)
    };
    cases.push(case("no usage, streamed", wire, forgotten).streamed().counted());
    cases
}

/// Counts in a stream are cumulative: the last ones are the bill, whatever came before.
fn counted_on_the_way(wire: Wire) -> Vec<Case> {
    let tokens = Tokens { input: 2500, output: 60, cache_read: 2000, ..Tokens::default() };
    let rising = move |_: &Exchange| {
        let mut steps = Vec::new();
        for (n, step) in wire.beginning(CUT, None).into_iter().enumerate() {
            let so_far = wire.report(&Tokens { output: n as u64 / 3, ..tokens });
            steps.push(step);
            steps.extend((wire == Wire::Anthropic && n > 0).then(|| {
                let progress = json!({"type": "message_delta", "delta": {}, "usage": so_far});
                wire.event("message_delta", &progress, 0)
            }));
            steps.extend((wire == Wire::Gemini).then(|| wire.event("", &json!({"usageMetadata": so_far}), 0)));
        }
        steps.extend(wire.ending(Some(&wire.report(&tokens))));
        wire.reply(steps)
    };
    if wire == Wire::Bedrock { Vec::new() } else { vec![case("counts in every event", wire, rising).streamed().billed(tokens)] }
}

/// The provider stops in mid-stream. Anthropic and Gemini have told the prompt's count by then.
fn broken(wire: Wire) -> Vec<Case> {
    let opening = Tokens { output: 1, ..Tokens::of(REPORTED, 1) };
    let counts_early = wire != Wire::Bedrock;
    let cut = |name: &str, last: Vec<Step>, outcome: &'static str| {
        let script = move |_: &Exchange| {
            let mut steps = wire.beginning(CUT, Some(&wire.report(&opening)));
            steps.extend(last.clone());
            wire.reply(steps)
        };
        let mut case = case(name, wire, script).streamed().counted();
        let source = if counts_early { "partial" } else { "estimated" };
        if counts_early {
            case.bill = Bill::Counted { input: REPORTED, percent: 100 };
        }
        case.cut(outcome, source)
    };
    vec![
        cut("closed without the end of the body", vec![Step::HangUp], "upstream_truncated"),
        cut("clean end without finish", Vec::new(), "upstream_truncated"),
        cut("reset in mid-stream", vec![Step::Pause(Duration::from_millis(300)), Step::Reset], "upstream_truncated"),
        cut("error in mid-stream", vec![wire.failure()], "upstream_error"),
    ]
}

/// The client leaves a provider that speaks slowly.
fn left(wire: Wire) -> Vec<Case> {
    const SLOW: Duration = Duration::from_millis(40);
    let opening = Tokens::of(REPORTED, 1);
    let mut cases = Vec::new();
    for (after, how) in [(5, How::Close), (40, How::Reset)] {
        let script = move |_: &Exchange| wire.reply(paced(wire.beginning(CUT, Some(&wire.report(&opening))), SLOW));
        let name = format!("client gone after {after}, {how:?}");
        let mut case = case(&name, wire, script).streamed().counted().left(Leaves::After(after, how));
        case.in_flight = 1;
        if wire != Wire::Bedrock {
            case.bill = Bill::Counted { input: REPORTED, percent: 100 };
            case.marks = vec![("client_disconnect", "partial")];
        }
        cases.push(case);
    }
    let silent = |_: &Exchange| Reply::stream(Vec::new()).after(Step::Stall);
    let before = case("client gone before the first byte", wire, silent);
    cases.push(before.streamed().counted().left(Leaves::BeforeFirst(How::Reset)));
    cases
}

/// Refused before anything was generated: nothing is booked.
fn refused(wire: Wire) -> Vec<Case> {
    use super::cases::Sees;
    let mut cases = Vec::new();
    for (given, seen) in [(400, 400), (401, 401), (429, 429), (500, 500), (503, 503), (529, 503)] {
        let script = move |_: &Exchange| Reply::json(given, &json!({"message": "no", "error": {"message": "no"}}));
        let mut case = case(&format!("refused with {given}"), wire, script).streamed().marked("upstream_error", "none");
        case.sees = Sees::Refused(seen);
        cases.push(case);
    }
    cases
}

/// Servers that imitate Anthropic count the prompt at the end only, and older ones the answer only.
fn imitators() -> Vec<Case> {
    let wire = Wire::Anthropic;
    let said = Generated { thoughts: 0, words: 9 };
    let tokens = Tokens { input: 2000, output: 30, cache_read: 400, cache_write: 1500, cache_write_1h: 200, ..Tokens::default() };
    let stream = move |opening: serde_json::Value, ending: serde_json::Value| {
        move |_: &Exchange| {
            let steps = [wire.beginning(said, Some(&opening)), wire.ending(Some(&ending))].concat();
            wire.reply(steps)
        }
    };
    let whole = wire.report(&tokens);
    let at_the_end = stream(json!({"input_tokens": 0, "output_tokens": 0}), whole.clone());
    let answer_only = stream(whole.clone(), json!({"output_tokens": tokens.output}));
    let zeros_at_the_end = stream(
        whole,
        json!({"input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": tokens.output}),
    );
    vec![
        case("prompt counted at the end only", wire, at_the_end).streamed().billed(tokens),
        case("answer counted at the end only", wire, answer_only).streamed().billed(tokens),
        case("prompt counted as nothing at the end", wire, zeros_at_the_end).streamed().billed(tokens),
        case("message that was half told twice", wire, move |_| {
            let opening = wire.report(&Tokens { output: 1, ..tokens });
            let mut steps = wire.beginning(said, Some(&opening));
            let more = json!({"type": "message_delta", "delta": {"stop_reason": null}, "usage": wire.report(&Tokens { output: 12, ..tokens })});
            steps.push(wire.event("message_delta", &more, 0));
            steps.extend(wire.ending(Some(&wire.report(&tokens))));
            wire.reply(steps)
        })
        .streamed()
        .asking(true)
        .billed(tokens),
        case("estimated without any count", wire, move |_| {
            let steps = [wire.beginning(CUT, None), vec![Step::HangUp]].concat();
            wire.reply(steps)
        })
        .streamed()
        .counted()
        .cut("upstream_truncated", "estimated"),
    ]
}

/// What an estimate takes the prompt of a case to be.
#[test]
fn the_prompt_is_as_long_as_reported() {
    assert!(prompt_tokens(PROMPT).abs_diff(REPORTED) < 10);
}
