//! Redis gone, frozen, slow, full, read-only: no call waits longer than the deadline and a little, the policy acts, and
//! normal work comes back by itself, seen with a real redis-server. It must not know how the limits notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use choreoai::limits::{BackendState, Denied, Ledger, Limits, Observer, OnFailure, Permit, Reason, RedisOptions, Scope};

use crate::limits_server::{Server, SlowLine};
use crate::limits_storm::{in_time, rule};

/// What a call may take when Redis is in trouble: the deadline and 50 ms.
const LONGEST: Duration = Duration::from_millis(100);

/// How soon normal work must be back.
const BACK_WITHIN: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Degraded(AtomicU64);

impl Observer for Degraded {
    fn degraded(&self, _policy: OnFailure) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn options(url: String, on_failure: OnFailure) -> RedisOptions {
    RedisOptions { on_failure, ..RedisOptions::new(url) }
}

async fn connect(options: RedisOptions) -> (Limits, Arc<Degraded>) {
    let degraded = Arc::new(Degraded::default());
    let limits = Limits::redis(options, degraded.clone()).expect("a good URL");
    back(&limits).await;
    (limits, degraded)
}

/// As [`options`], but more patient: where the test is about what is counted, a busy machine must not count as an outage.
fn patient(url: String, on_failure: OnFailure) -> RedisOptions {
    RedisOptions { deadline: Duration::from_millis(500), ..options(url, on_failure) }
}

/// Waits until normal work is back, and says how long that took.
async fn back(limits: &Limits) -> Duration {
    let began = Instant::now();
    assert!(in_time(async || limits.state() == BackendState::Shared).await, "still {:?}", limits.state());
    began.elapsed()
}

/// How late the machine itself is at worst while something lasts: a busy one may hold up anybody.
async fn lateness(until: Instant) -> Duration {
    let mut worst = Duration::ZERO;
    while Instant::now() < until {
        let began = Instant::now();
        tokio::time::sleep(Duration::from_millis(5)).await;
        worst = worst.max(began.elapsed() - Duration::from_millis(5));
    }
    worst
}

/// Calls from 20 clients for a while: how long each took, in order of length; none of them longer than it may, the machine's
/// own lateness apart.
async fn traffic(limits: &Limits, ledger: &Arc<Ledger>, lasts: Duration) -> Vec<Duration> {
    let until = Instant::now() + lasts;
    let lateness = tokio::spawn(lateness(until));
    let clients = (0..20).map(|_| {
        let (limits, ledger) = (limits.clone(), [ledger.clone()]);
        tokio::spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < until {
                let began = Instant::now();
                let answer = limits.admit(&ledger, 1).await;
                took.push(began.elapsed());
                answer.expect("room for all").settle(1);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            took
        })
    });
    let mut took = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        took.extend(client.await.expect("no call is lost"));
    }
    took.sort_unstable();
    let (longest, lateness) = (took[took.len() - 1], lateness.await.expect("no panic"));
    assert!(longest <= LONGEST + lateness, "a call took {longest:?}, the machine was {lateness:?} late");
    took
}

fn p99(took: &[Duration]) -> Duration {
    took[took.len() * 99 / 100]
}

/// One trouble, from before it to after it.
async fn survives(name: &str, limits: &Limits, begin: impl AsyncFnOnce(), end: impl AsyncFnOnce()) {
    let ledger = limits.ledger(rule(Scope::Key, name, Some(10_000_000), Some(10_000_000), Some(10_000)));
    let before = traffic(limits, &ledger, Duration::from_millis(500)).await;
    let storm = tokio::spawn({
        let (limits, ledger) = (limits.clone(), ledger.clone());
        async move { traffic(&limits, &ledger, Duration::from_millis(2_500)).await }
    });
    begin().await;
    assert!(in_time(async || limits.state() == BackendState::Degraded).await, "{name}: nobody noticed");
    let during = storm.await.expect("no panic");
    end().await;
    let back = back(limits).await;
    let after = traffic(limits, &ledger, Duration::from_millis(500)).await;
    let longest = during[during.len() - 1];
    println!(
        "{name}: p99 before {:?}, during {:?} (longest {longest:?}), after {:?}; back in {back:?}",
        p99(&before),
        p99(&during),
        p99(&after)
    );
    assert!(back <= BACK_WITHIN, "{name}: back after {back:?}");
    assert!(in_time(async || ledger.in_flight() == 0).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen() {
    let server = Server::start();
    let (limits, degraded) = connect(options(server.url(), OnFailure::Local)).await;
    survives("frozen", &limits, async || server.freeze(), async || server.thaw()).await;
    assert!(degraded.0.load(Ordering::Relaxed) > 100, "decisions were taken without Redis, and counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_empty() {
    let server = std::sync::Mutex::new(Server::start());
    let url = server.lock().expect("whole").url();
    let (limits, _) = connect(options(url, OnFailure::Local)).await;
    let kill = async || server.lock().expect("whole").kill();
    let restart = async || server.lock().expect("whole").restart();
    survives("killed", &limits, kill, restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow() {
    let server = Server::start();
    let line = SlowLine::to(server.port).await;
    let (limits, _) = connect(options(format!("redis://127.0.0.1:{}", line.port), OnFailure::Local)).await;
    let delay = &line.delay_ms;
    survives("slow", &limits, async || delay.store(200, Ordering::Relaxed), async || delay.store(0, Ordering::Relaxed)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_memory() {
    let server = Server::start();
    let (limits, _) = connect(options(server.url(), OnFailure::Local)).await;
    let full = async || server.ask::<()>("CONFIG SET maxmemory 1");
    let free = async || server.ask::<()>("CONFIG SET maxmemory 0");
    survives("full", &limits, full, free).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_over_to_a_read_only_replica() {
    let (server, primary) = (Server::start(), Server::start());
    let (limits, _) = connect(options(server.url(), OnFailure::Local)).await;
    let demote = format!("REPLICAOF 127.0.0.1 {}", primary.port);
    survives("read-only", &limits, async || server.ask::<()>(&demote), async || server.ask::<()>("REPLICAOF NO ONE")).await;
}

/// The primary dies, the address leads to its replica, which is read-only until it is promoted. It has the data, so nothing is
/// counted twice and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_the_primarys_place() {
    let (primary, replica) = (std::sync::Mutex::new(Server::start()), Server::start());
    let port = primary.lock().expect("whole").port;
    let _: () = replica.ask(&format!("REPLICAOF 127.0.0.1 {port}"));
    let synced = || replica.ask::<String>("INFO replication").contains("master_link_status:up");
    assert!(in_time(async || synced()).await);
    let line = SlowLine::to(port).await;
    let (limits, _) = connect(options(format!("redis://127.0.0.1:{}", line.port), OnFailure::Local)).await;
    let fail = async || {
        line.target.store(replica.port, Ordering::Relaxed);
        primary.lock().expect("whole").kill();
    };
    survives("failover", &limits, fail, async || replica.ask::<()>("REPLICAOF NO ONE")).await;
    let count: u64 = replica.ask("HGET {choreoai}:key:failover:window r");
    let ledger = limits.ledger(rule(Scope::Key, "failover", Some(10_000_000), None, None));
    let left = limits.admit(&[ledger], 0).await.expect("room").standing().requests.expect("limited").remaining;
    assert!(count > 1_000 && left <= 10_000_000 - count, "{count} counted, {left} left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_there() {
    let server = Server::start();
    server.freeze();
    let limits = Limits::redis(RedisOptions::new(server.url()), Arc::new(())).expect("a good URL");
    assert_eq!(limits.state(), BackendState::Starting);
    let ledger = limits.ledger(rule(Scope::Key, "never", Some(10_000_000), None, None));
    let took = traffic(&limits, &ledger, Duration::from_millis(1_500)).await;
    println!("never there: p50 {:?}, longest {:?}", took[took.len() / 2], took[took.len() - 1]);
    let waited = took.iter().filter(|took| **took > Duration::from_millis(25)).count();
    assert!(waited <= 100, "{waited} calls waited; only the first of each client may");
    server.thaw();
    assert!(back(&limits).await <= BACK_WITHIN);
}

/// Passes as many calls as pass.
async fn pass(limits: &Limits, ledger: &Arc<Ledger>, tries: usize) -> (Vec<Permit>, Option<Denied>) {
    let (mut passed, mut denied) = (Vec::new(), None);
    for _ in 0..tries {
        match limits.admit(std::slice::from_ref(ledger), 1).await {
            Ok(mut permit) => {
                permit.settle(1);
                passed.push(permit);
            }
            Err(refusal) => denied = Some(refusal),
        }
    }
    (passed, denied)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_is_this_replicas_share_and_both_ways_hold_the_limit() {
    let server = std::sync::Mutex::new(Server::start());
    let url = server.lock().expect("whole").url();
    let (one, _) = connect(patient(url.clone(), OnFailure::Local)).await;
    let (two, _) = connect(patient(url, OnFailure::Local)).await;
    assert!(in_time(async || one.replicas() == 2 && two.replicas() == 2).await);
    let minute = rule(Scope::Key, "share", Some(60), Some(100_000), None);
    let (ours, theirs) = (one.ledger(minute.clone()), two.ledger(minute));
    // Ten and five of sixty by the shared count; then it is gone.
    let shared = pass(&one, &ours, 10).await.0.len() + pass(&two, &theirs, 5).await.0.len();
    assert_eq!(shared, 15);
    server.lock().expect("whole").kill();
    let (here, denied) = pass(&one, &ours, 100).await;
    let denied = denied.expect("a share is not the whole");
    assert_eq!((here.len(), denied.degraded, denied.reason), (20, true, Reason::Exhausted), "30 are its share, 10 were used");
    let (there, _) = pass(&two, &theirs, 15).await;
    assert_eq!(there.len(), 15);
    // It comes back with nothing, and is told by both what they passed: ten more make sixty.
    server.lock().expect("whole").restart();
    back(&one).await;
    back(&two).await;
    let (after, denied) = pass(&one, &ours, 100).await;
    assert_eq!(after.len(), 10, "15 before, 35 during, 10 after");
    assert!(!denied.expect("full").degraded);
    assert_eq!(pass(&two, &theirs, 10).await.0.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_passes_all_and_closed_none() {
    let server = Server::start();
    let (open, _) = connect(patient(server.url(), OnFailure::Open)).await;
    let (closed, _) = connect(patient(server.url(), OnFailure::Closed)).await;
    server.freeze();
    let full = rule(Scope::Key, "policy", Some(3), None, Some(1));
    assert_eq!(pass(&open, &open.ledger(full.clone()), 20).await.0.len(), 20);
    let (passed, denied) = pass(&closed, &closed.ledger(full.clone()), 20).await;
    let denied = denied.expect("closed");
    assert_eq!((passed.len(), denied.reason, denied.degraded), (0, Reason::Unavailable, true));
    assert!(denied.retry_after.is_some());
    server.thaw();
    back(&open).await;
    assert!(pass(&open, &open.ledger(full), 1).await.0.is_empty(), "what passed while it was gone counts");
}

/// Calls that passed while Redis was gone hold their places in it once it is found again. One that ends before it is asked again
/// leaves none behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_ends_while_redis_comes_back_leaves_no_place_taken() {
    let server = Server::start();
    let (limits, _) = connect(options(server.url(), OnFailure::Local)).await;
    let ledger = limits.ledger(rule(Scope::Key, "between", None, None, Some(10)));
    let places = || -> u64 { server.ask("ZCARD {choreoai}:key:between:leases") };
    server.freeze();
    assert!(in_time(async || pass(&limits, &ledger, 1).await.0.is_empty() || limits.state() == BackendState::Degraded).await);
    let (held, _) = pass(&limits, &ledger, 5).await;
    assert_eq!(held.len(), 5);
    // As long as it was gone, a replica stays with its own count.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    server.thaw();
    assert!(in_time(async || places() == 5).await, "{} places", places());
    drop(held);
    back(&limits).await;
    assert!(in_time(async || places() == 0).await, "{} places are left", places());
}

/// Redis runs what it was sent while it was frozen, when nobody waits for it any more. That takes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_comes_too_late_takes_nothing() {
    let server = Server::start();
    let (limits, _) = connect(patient(server.url(), OnFailure::Closed)).await;
    for (round, frozen_for) in [(1, Duration::ZERO), (2, Duration::from_millis(2_500))] {
        let ledger = limits.ledger(rule(Scope::Key, &format!("late{round}"), Some(1_000), Some(1_000), Some(1_000)));
        let key = format!("{{choreoai}}:key:late{round}");
        server.freeze();
        let asked = (0..20).map(|_| {
            let (limits, ledger) = (limits.clone(), ledger.clone());
            tokio::spawn(async move { pass(&limits, &ledger, 1).await.0.len() })
        });
        for asked in asked.collect::<Vec<_>>() {
            assert_eq!(asked.await.expect("no panic"), 0, "closed");
        }
        tokio::time::sleep(frozen_for).await;
        server.thaw();
        back(&limits).await;
        let counted = || -> (Option<u64>, Option<u64>, u64) {
            let window: Vec<Option<u64>> = server.ask(&format!("HMGET {key}:window r t"));
            (window[0].filter(|n| *n > 0), window[1].filter(|n| *n > 0), server.ask(&format!("ZCARD {key}:leases")))
        };
        assert!(in_time(async || counted() == (None, None, 0)).await, "round {round}: {:?}", counted());
        let (passed, _) = pass(&limits, &ledger, 10).await;
        assert_eq!(passed.len(), 10);
    }
}
