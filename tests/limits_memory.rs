//! The limits of a single process, in paused time. It must not know Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use choreoai::limits::{Limits, Scope};

use crate::limits_storm::{self as story, Turn, rule};

/// `tokio`'s clock, paused.
struct Paused(tokio::time::Instant);

fn paused() -> Paused {
    Paused(tokio::time::Instant::now())
}

impl Turn for Paused {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).expect("a short time")
    }

    async fn turn(&self, by: Duration) {
        tokio::time::advance(by).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_storm_passes_more_than_the_limit_in_any_minute() {
    for seed in 0..40 {
        story::storm(&Limits::memory(), &paused(), seed, 2_000).await;
    }
}

#[tokio::test(start_paused = true)]
async fn constant_overload_passes_nearly_all_of_the_limit() {
    story::overload(&Limits::memory(), &paused(), Duration::from_millis(7), 10).await;
    story::overload(&Limits::memory(), &paused(), Duration::from_millis(73), 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_lone_burst_may_use_the_whole_limit() {
    story::lone_burst(&Limits::memory(), &paused()).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_smooths_what_a_minute_lets_pass() {
    story::smoothing(&Limits::memory(), &paused()).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_takes_nothing() {
    story::refusals_take_nothing(&Limits::memory()).await;
}

#[tokio::test(start_paused = true)]
async fn reserve_then_settle() {
    story::settlements(&Limits::memory()).await;
}

#[tokio::test(start_paused = true)]
async fn what_never_fits_is_told_so() {
    story::too_large(&Limits::memory()).await;
}

#[tokio::test]
async fn a_thousand_abandoned_calls_leave_nothing_behind() {
    story::aborts(&Limits::memory()).await;
}

#[tokio::test(start_paused = true)]
async fn the_reset_is_when_the_limit_is_whole_again() {
    let limits = Limits::memory();
    let ledger = [limits.ledger(rule(Scope::Key, "reset", Some(2), None, None))];
    let _ = limits.admit(&ledger, 0).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    let standing = limits.admit(&ledger, 0).await.expect("the second").standing();
    assert_eq!(standing.requests.expect("limited").reset, Duration::from_millis(60_500));
    tokio::time::advance(Duration::from_secs(20)).await;
    let denied = limits.admit(&ledger, 0).await.expect_err("the third");
    assert_eq!(denied.retry_after, Some(Duration::from_millis(30_500)), "when the first leaves");
    assert_eq!(denied.standing.requests.expect("limited").reset, Duration::from_millis(40_500), "when both have left");
}

/// The worked example of docs/rate-limits.md, line by line.
#[tokio::test(start_paused = true)]
async fn the_worked_example_is_true() {
    let limits = Limits::memory();
    let ledger = [limits.ledger(rule(Scope::Key, "team-a", Some(600), Some(1_000), Some(20)))];
    let began = tokio::time::Instant::now();
    let at = async |ms: u64| tokio::time::advance(Duration::from_millis(ms).saturating_sub(began.elapsed())).await;
    let left = |permit: &choreoai::limits::Permit| permit.standing().tokens.expect("limited").remaining;

    let mut first = limits.admit(&ledger, 400).await.expect("passes");
    assert_eq!(left(&first), 600);
    at(100).await;
    let mut second = limits.admit(&ledger, 400).await.expect("passes");
    assert_eq!(left(&second), 200);
    at(200).await;
    let denied = limits.admit(&ledger, 400).await.expect_err("200 are left");
    assert_eq!(denied.standing.requests.expect("limited").remaining, 598);
    at(2_000).await;
    first.settle(150);
    drop(first);
    at(2_100).await;
    let mut third = limits.admit(&ledger, 400).await.expect("250 came back");
    third.settle(400);
    assert_eq!(left(&third), 50);
    at(9_000).await;
    second.settle(700);
    drop(second);
    at(9_100).await;
    let denied = limits.admit(&ledger, 50).await.expect_err("1,250 of 1,000");
    assert_eq!(denied.retry_after, Some(Duration::from_millis(51_400)));
    at(60_499).await;
    limits.admit(&ledger, 50).await.expect_err("a moment too early");
    at(60_500).await;
    assert_eq!(left(&limits.admit(&ledger, 50).await.expect("passes")), 250);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_is_configured_again_goes_on_where_it_was() {
    let limits = Limits::memory();
    let before = [limits.ledger(rule(Scope::Key, "again", Some(2), None, None))];
    let after = [limits.ledger(rule(Scope::Key, "again", Some(3), None, None))];
    drop((limits.admit(&before, 0).await, limits.admit(&before, 0).await));
    assert!(limits.admit(&before, 0).await.is_err());
    assert!(limits.admit(&after, 0).await.is_ok());
    assert!(limits.admit(&after, 0).await.is_err());
    let twice = [before[0].clone(), after[0].clone()];
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(limits.admit(&twice, 0).await.is_ok(), "one count named twice is locked and taken once");
    assert_eq!(limits.admit(&after, 0).await.expect("the second").standing().requests.expect("limited").remaining, 1);
}

/// Calls that name the same rules in different orders, on several threads: no deadlock, and exact numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_share_rules_exactly() {
    let limits = Limits::memory();
    let ledgers: Vec<_> =
        (0..4).map(|n| limits.ledger(rule(Scope::Model, &format!("m{n}"), Some(1_000), None, Some(100_000)))).collect();
    let passed = Arc::new(AtomicU64::new(0));
    let calls: Vec<_> = (0..8)
        .map(|task| {
            let (limits, mut ledgers, passed) = (limits.clone(), ledgers.clone(), passed.clone());
            tokio::spawn(async move {
                let mut dice = fastrand::Rng::with_seed(task);
                for _ in 0..1_000 {
                    dice.shuffle(&mut ledgers);
                    if limits.admit(&ledgers, 1).await.is_ok() {
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for call in calls {
        tokio::time::timeout(Duration::from_secs(30), call).await.expect("no deadlock").expect("no panic");
    }
    assert_eq!(passed.load(Ordering::Relaxed), 1_000);
    assert!(ledgers.iter().all(|ledger| ledger.in_flight() == 0));
}

/// The budget of the fast path. A debug build says what it took, a release build is held to it.
#[tokio::test]
async fn three_rules_cost_less_than_a_microsecond() {
    let limits = Limits::memory();
    let ledgers = [Scope::Gateway, Scope::Key, Scope::Model]
        .map(|scope| limits.ledger(rule(scope, "cost", Some(u64::MAX), Some(u64::MAX), Some(1_000))));
    let mut best = f64::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        for _ in 0..10_000 {
            let Ok(mut permit) = limits.admit(&ledgers, 500).await else { panic!("endless room") };
            permit.settle(400);
        }
        best = best.min(start.elapsed().as_nanos() as f64 / 10_000.0);
    }
    println!("admit and settle over three rules: {best:.0} ns");
    assert!(cfg!(debug_assertions) || best <= 1_000.0, "{best:.0} ns");
}
