//! A storm of calls against limits, and what must be true of what passed. Both backends go through the same storms.
//! It must not know which backend it is, nor whose clock turns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use choreoai::limits::{Ledger, Limits, Permit, Reason, Rule, Scope, Span};

/// The clock that the limits go by.
pub trait Turn {
    async fn turn(&self, by: Duration);
    /// Milliseconds since whenever.
    fn now_ms(&self) -> u64;
}

/// Waits for what happens in the background; says whether it happened. Bounded by real time, which is not slept away.
pub async fn in_time(mut happened: impl AsyncFnMut() -> bool) -> bool {
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        if happened().await {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

pub fn rule(scope: Scope, name: &str, requests: Option<u64>, tokens: Option<u64>, concurrent: Option<u64>) -> Rule {
    Rule { scope, name: name.to_owned(), span: Span::Minute, requests, tokens, max_concurrent: concurrent }
}

/// What one rule let pass: not before, not after (in ms), how many tokens were used.
#[derive(Default)]
struct Passed(Vec<(u64, u64, u64)>);

impl Passed {
    /// The most that passed in any span of so many ms: (calls, tokens).
    fn worst(&self, span: u64) -> (u64, u64) {
        let mut worst = (0, 0);
        for (index, &(start, _, _)) in self.0.iter().enumerate() {
            let span = self.0[index..].iter().take_while(|(_, end, _)| *end < start + span);
            let (calls, tokens) = span.fold((0, 0), |(calls, tokens), (_, _, used)| (calls + 1, tokens + used));
            worst = (worst.0.max(calls), worst.1.max(tokens));
        }
        worst
    }
}

/// One random storm: rules, arrivals, costs, lengths and settlements all come from the seed.
/// Settlements stay within the reservation; charging more is a story of its own.
pub async fn storm(limits: &Limits, clock: &impl Turn, seed: u64, arrivals: usize) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let rules = [
        rule(Scope::Gateway, &format!("storm-{seed}"), Some(dice.u64(20..200)), Some(dice.u64(2_000..20_000)), None),
        rule(Scope::Key, &format!("storm-{seed}"), Some(dice.u64(5..100)), None, Some(dice.u64(1..20))),
        rule(Scope::Model, &format!("storm-{seed}"), None, Some(dice.u64(1_000..10_000)), Some(dice.u64(1..20))),
        Rule {
            span: Span::Second,
            ..rule(Scope::Key, &format!("storm-{seed}"), Some(dice.u64(1..6)), Some(dice.u64(1_000..3_000)), None)
        },
    ];
    let ledgers: Vec<Arc<Ledger>> = rules.iter().cloned().map(|rule| limits.ledger(rule)).collect();
    let mut passed: [Passed; 4] = Default::default();
    let mut running: BTreeMap<(u64, usize), (Permit, Vec<usize>)> = BTreeMap::new();
    let pause = dice.u64(10..600);
    for arrival in 0..arrivals {
        clock.turn(Duration::from_millis(dice.u64(0..=pause))).await;
        let now = clock.now_ms();
        while running.first_key_value().is_some_and(|((ends, _), _)| *ends <= now) {
            running.pop_first();
        }
        let asked: Vec<usize> = (0..4).filter(|_| dice.u8(..) < 200).collect();
        let chosen: Vec<Arc<Ledger>> = asked.iter().map(|&index| ledgers[index].clone()).collect();
        let tokens = dice.u64(1..1_000);
        let Ok(mut permit) = limits.admit(&chosen, tokens).await else { continue };
        let used = dice.u64(0..=tokens);
        permit.settle(used);
        for &index in &asked {
            passed[index].0.push((now, clock.now_ms(), used));
        }
        running.insert((now + dice.u64(0..20_000), arrival), (permit, asked));
        for (index, rule) in rules.iter().enumerate() {
            let together = running.values().filter(|(_, asked)| asked.contains(&index)).count() as u64;
            assert!(rule.max_concurrent.is_none_or(|cap| together <= cap), "seed {seed}: {together} at once under {rule:?}");
        }
    }
    for (rule, passed) in rules.iter().zip(&passed) {
        let (calls, tokens) = passed.worst(if rule.span == Span::Second { 1_000 } else { 60_000 });
        assert!(rule.requests.is_none_or(|cap| calls <= cap), "seed {seed}: {calls} calls in a span under {rule:?}");
        assert!(rule.tokens.is_none_or(|cap| tokens <= cap), "seed {seed}: {tokens} tokens in a span under {rule:?}");
    }
}

/// Constant overload: calls come faster than they may pass, for `minutes` after the first. Nearly all of the limit passes.
pub async fn overload(limits: &Limits, clock: &impl Turn, every: Duration, minutes: u64) {
    for (name, requests, tokens, cost) in [("calls", Some(600), None, 1), ("tokens", None, Some(60_000), 100)] {
        let ledger = limits.ledger(rule(Scope::Key, &format!("overload-{name}"), requests, tokens, None));
        let (began, mut calls) = (clock.now_ms(), 0_u64);
        let now = || clock.now_ms() - began;
        while now() < (minutes + 1) * 60_000 {
            if let Ok(mut permit) = limits.admit(std::slice::from_ref(&ledger), cost).await {
                permit.settle(cost);
                calls += u64::from(now() >= 60_000);
            }
            clock.turn(every).await;
        }
        let reached = calls as f64 / (600 * minutes) as f64;
        assert!((0.98..=1.0).contains(&reached), "{name}: {reached} of the limit passed");
    }
}

/// Smoothing: a second lets its own limit pass, the minute goes on counting, and a refusal names the second and a short wait.
/// What the second refuses takes nothing from the minute.
pub async fn smoothing(limits: &Limits, clock: &impl Turn) {
    let minute = limits.ledger(rule(Scope::Key, "smooth", Some(12), None, None));
    let second = limits.ledger(Rule { span: Span::Second, ..rule(Scope::Key, "smooth", Some(5), Some(500), None) });
    let both = [minute, second];
    for passes in [5, 5, 2] {
        for _ in 0..passes {
            limits.admit(&both, 100).await.expect("within the second").settle(100);
        }
        let denied = limits.admit(&both, 100).await.expect_err("neither fits more");
        let (limit, longest) = if passes == 5 { ("rps", 1_020) } else { ("rpm", 60_500) };
        assert_eq!((denied.scope.label(), denied.limit.label(), &*denied.rule), ("key", limit, "smooth"));
        assert!(denied.retry_after.is_some_and(|wait| wait <= Duration::from_millis(longest)), "{:?}", denied.retry_after);
        assert_eq!(denied.standing.requests.expect("of the minute").limit, 12);
        clock.turn(Duration::from_millis(1_020)).await;
    }
    let denied = limits.admit(&[both[1].clone()], 501).await.expect_err("more than a whole second");
    assert_eq!((denied.limit.label(), denied.reason), ("tps", Reason::TooLarge));
}

/// A lone burst may use the whole limit, not one call more, and all of it again a minute later.
pub async fn lone_burst(limits: &Limits, clock: &impl Turn) {
    let ledger = [limits.ledger(rule(Scope::Key, "burst", None, Some(1_000), None))];
    for _ in 0..3 {
        for _ in 0..10 {
            limits.admit(&ledger, 100).await.expect("ten calls of 100 tokens fit 1,000 at once").settle(100);
        }
        let denied = limits.admit(&ledger, 100).await.expect_err("the eleventh does not");
        let wait = denied.retry_after.expect("there will be room");
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_millis(60_500), "{wait:?}");
        clock.turn(wait - Duration::from_secs(5)).await;
        limits.admit(&ledger, 100).await.expect_err("before the wait is over there is no room");
        // The wait is for one call; the slots of a burst that a busy machine drew out leave one after the other.
        clock.turn(Duration::from_secs(15)).await;
    }
}

/// A refusal by one rule takes nothing from any other, and names the rule that refused.
pub async fn refusals_take_nothing(limits: &Limits) {
    let wide = limits.ledger(rule(Scope::Gateway, "wide", Some(10), Some(1_000), Some(3)));
    let narrow = limits.ledger(rule(Scope::Key, "narrow", Some(1), None, None));
    let both = [wide.clone(), narrow];
    limits.admit(&both, 10).await.expect("the first call").settle(10);
    for _ in 0..50 {
        let denied = limits.admit(&both, 10).await.expect_err("the narrow rule is full");
        assert_eq!((denied.scope.label(), denied.limit.label(), &*denied.rule), ("key", "rpm", "narrow"));
        assert_eq!(denied.reason, Reason::Exhausted);
    }
    let permit = limits.admit(&[wide], 90).await.expect("refused calls took nothing");
    let standing = permit.standing();
    assert_eq!(standing.requests.expect("limited").remaining, 8);
    assert_eq!(standing.tokens.expect("limited").remaining, 900);
}

/// Reservations come back when a call used less, stay when it used all, and grow when it used more.
pub async fn settlements(limits: &Limits) {
    let ledger = [limits.ledger(rule(Scope::Key, "settle", None, Some(1_000), Some(1_000_000)))];
    let remaining = async || Some(limits.admit(&ledger, 0).await.ok()?.standing().tokens?.remaining);

    let mut permit = limits.admit(&ledger, 800).await.expect("fits");
    let denied = limits.admit(&ledger, 300).await.expect_err("800 are reserved");
    assert_eq!(denied.limit.label(), "tpm");
    permit.settle(700);
    permit.settle(200);
    drop(permit);
    let last_word = in_time(async || remaining().await == Some(800)).await;
    assert!(last_word, "the last word of a settlement counts, and counts once: {:?}", remaining().await);

    let mut permit = limits.admit(&ledger, 800).await.expect("fits");
    assert_eq!(remaining().await, Some(0));
    permit.settle(0);
    drop(permit);
    assert!(in_time(async || remaining().await == Some(800)).await, "{:?}", remaining().await);

    drop(limits.admit(&ledger, 800).await.expect("fits"));
    assert!(in_time(async || remaining().await == Some(800)).await, "a call that never settled used nothing");

    limits.admit(&ledger, 100).await.expect("fits").settle(900);
    assert!(in_time(async || remaining().await.is_none()).await, "1,100 of 1,000 were used: there is no room even for nothing");
    let denied = limits.admit(&ledger, 1).await.expect_err("1,100 of 1,000 were used");
    assert!(denied.retry_after.is_some_and(|wait| wait > Duration::from_secs(50)));
    assert_eq!(denied.standing.tokens.expect("limited").remaining, 0);
}

/// What can never fit is refused for good, and said to be.
pub async fn too_large(limits: &Limits) {
    let ledger = [limits.ledger(rule(Scope::KeyModel, "small", None, Some(100), None))];
    let denied = limits.admit(&ledger, 101).await.expect_err("larger than a whole minute");
    assert_eq!((denied.reason, denied.retry_after), (Reason::TooLarge, None));
    assert_eq!(denied.standing.tokens.expect("limited").remaining, 100);
    limits.admit(&ledger, 100).await.expect("it took nothing").settle(100);
}

/// A thousand calls, each abandoned at a random moment of its life: nothing stays behind.
pub async fn aborts(limits: &Limits) {
    let ledger = limits.ledger(rule(Scope::Key, "aborts", None, Some(10_000_000), Some(50)));
    let mut dice = fastrand::Rng::with_seed(7);
    let mut calls = Vec::new();
    for _ in 0..1_000 {
        let (limits, ledgers) = (limits.clone(), [ledger.clone()]);
        let (before, hold) = (dice.u64(0..3_000), dice.u64(0..5_000));
        calls.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(before)).await;
            let permit = limits.admit(&ledgers, 1_000).await;
            tokio::time::sleep(Duration::from_micros(hold)).await;
            drop(permit);
        }));
    }
    for call in &calls {
        tokio::time::sleep(Duration::from_micros(dice.u64(0..20))).await;
        call.abort();
    }
    for call in calls {
        let _ = call.await;
    }
    assert_eq!(ledger.in_flight(), 0);
    let ledger = [ledger];
    let mut all: Vec<Permit> = Vec::new();
    let whole = in_time(async || {
        all.clear();
        let asked = futures_util::future::join_all((0..50).map(|_| limits.admit(&ledger, 200_000))).await;
        all.extend(asked.into_iter().flatten());
        all.len() == 50
    });
    assert!(whole.await, "only {} of 50 places with 200,000 tokens each came back", all.len());
    assert_eq!(limits.admit(&ledger, 0).await.expect_err("the 51st").limit.label(), "concurrency");
}
