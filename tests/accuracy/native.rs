//! The cases of the endpoints that are carried on as they are: bills with their parts, no bill, and every
//! way to end. It must not know how a case is judged.

use std::time::Duration;

use serde_json::json;

use super::bill::{Bill, Tokens};
use super::cases::{Case, How, Leaves, PROMPT, Sees, paced};
use crate::support::dialect::prompt_tokens;
use crate::support::native::{NATIVES, Native};
use crate::support::provider::{Exchange, Reply, Step};

/// Words of an answer that is cut: enough that one more or less is little.
const CUT: usize = 150;

/// What a chat's frame adds to the tokens of its prompt, and a plain prompt has not.
const FRAME: u64 = 7;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for native in NATIVES {
        cases.extend(finished(native));
        cases.extend(broken(native));
        cases.extend(left(native));
        cases.extend(refused(native));
    }
    cases.extend(counts());
    cases
}

fn case(name: &str, native: Native, script: impl Fn(&Exchange) -> Reply + Send + Sync + 'static) -> Case {
    let mut case = Case::new(&format!("{} {name}", native.path()), native.kind(), script);
    case.path = native.path();
    case.request = native.request(&format!("{}/{}", native.kind(), case.model), PROMPT);
    case
}

/// The prompt's tokens by the gateway's careful count.
fn prompt(native: Native) -> u64 {
    prompt_tokens(PROMPT) - if native == Native::Messages { 0 } else { FRAME }
}

fn counted(mut case: Case, native: Native) -> Case {
    case = case.counted();
    case.bill = Bill::Counted { input: prompt(native), percent: 100 };
    case
}

fn finished(native: Native) -> Vec<Case> {
    let mut bills = vec![
        ("plain", Tokens::of(131, 17)),
        ("cached", Tokens { input: 2000, output: 30, cache_read: 1920, ..Tokens::default() }),
        ("explicit zero", Tokens::default()),
    ];
    if native != Native::Completions {
        bills.push(("reasoning", Tokens { input: 50, output: 900, reasoning: 850, ..Tokens::default() }));
    }
    let mut cases = Vec::new();
    for (name, tokens) in bills {
        let bill = native.bill([tokens.input, tokens.output, tokens.cache_read, tokens.reasoning]);
        let script = move |exchange: &Exchange| native.answer(exchange, 9, Some(&bill));
        cases.push(case(&format!("{name}, whole"), native, script.clone()).billed(tokens));
        let mut slow = case(&format!("{name}, every byte a segment"), native, {
            let script = script.clone();
            move |exchange: &Exchange| script(exchange).byte_by_byte()
        });
        let mut streamed = case(&format!("{name}, streamed"), native, script).streamed().billed(tokens);
        slow = slow.streamed().billed(tokens);
        for case in [&mut slow, &mut streamed] {
            case.sees = Sees::Complete { usage: native == Native::Messages };
        }
        cases.extend([streamed, slow]);
    }
    let forgotten = move |exchange: &Exchange| native.answer(exchange, CUT, None);
    let whole = move |_: &Exchange| {
        let mut reply = native.whole(CUT, None);
        if let [Step::Write(_, tokens)] = &mut reply.steps[..] {
            *tokens = CUT as u64;
        }
        reply
    };
    cases.push(counted(case("no bill, streamed", native, forgotten).streamed(), native));
    cases.push(counted(case("no bill, whole", native, whole), native));
    cases
}

/// The provider stops in mid-stream.
fn broken(native: Native) -> Vec<Case> {
    let cut = |name: &str, last: Vec<Step>, outcome: &'static str| {
        let script = move |_: &Exchange| Reply::stream([native.opening(None), native.said(CUT), last.clone()].concat());
        counted(case(name, native, script).streamed(), native).cut(outcome, "estimated")
    };
    vec![
        cut("closed without the end of the body", vec![Step::HangUp], "upstream_truncated"),
        cut("clean end without its own", Vec::new(), "upstream_truncated"),
        cut("reset in mid-stream", vec![Step::Pause(Duration::from_millis(300)), Step::Reset], "upstream_truncated"),
        cut("error in mid-stream", vec![native.failure()], "upstream_error"),
    ]
}

/// The client leaves a provider that speaks slowly.
fn left(native: Native) -> Vec<Case> {
    const SLOW: Duration = Duration::from_millis(40);
    let mut cases = Vec::new();
    for (after, how) in [(5, How::Close), (40, How::Reset)] {
        let script = move |_: &Exchange| Reply::stream(paced([native.opening(None), native.said(CUT)].concat(), SLOW));
        let name = format!("client gone after {after}, {how:?}");
        let mut case = counted(case(&name, native, script).streamed(), native).left(Leaves::After(after, how));
        case.in_flight = 1;
        cases.push(case);
    }
    let silent = |_: &Exchange| Reply::stream(Vec::new()).after(Step::Stall);
    let before = counted(case("client gone before the first byte", native, silent).streamed(), native);
    cases.push(before.left(Leaves::BeforeFirst(How::Reset)));
    cases
}

/// Refused before anything was generated: nothing is booked.
fn refused(native: Native) -> Vec<Case> {
    let mut cases = Vec::new();
    for status in [400, 401, 429, 500] {
        let script = move |_: &Exchange| Reply::json(status, &json!({"error": {"message": "no", "type": "no"}}));
        let mut case = case(&format!("refused with {status}"), native, script).streamed().marked("upstream_error", "none");
        case.sees = Sees::Refused(status);
        cases.push(case);
    }
    cases
}

/// A count of tokens uses none.
fn counts() -> Vec<Case> {
    let answer = |_: &Exchange| Reply::json(200, &json!({"input_tokens": 131}));
    let mut case = case("counted only", Native::Messages, answer).marked("completed", "none");
    case.path = "/v1/messages/count_tokens";
    vec![case]
}
