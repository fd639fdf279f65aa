//! The limits that replicas share, against a real redis-server whose clock the test turns.
//! It must not know what happens when Redis is gone: that is told in `limits_outage.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use choreoai::limits::{BackendState, Limits, Observer, RedisOptions, Scope};

use crate::limits_server::Server;
use crate::limits_storm::{self as story, Turn, in_time, rule};

/// Redis' clock, turned by the test beside running on.
struct Turned {
    shift: Arc<AtomicI64>,
    since: Instant,
}

impl Turn for Turned {
    async fn turn(&self, by: Duration) {
        self.shift.fetch_add(i64::try_from(by.as_millis()).expect("short"), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        let real = u64::try_from(self.since.elapsed().as_millis()).expect("short");
        real + u64::try_from(self.shift.load(Ordering::Relaxed)).expect("forward")
    }
}

/// The commands that an ACL user needs, as the documentation has them.
pub const ACCOUNT: &str = "+evalsha +eval +time +hmget +hget +hset +hdel +hincrby +del +pexpire +zadd +zrem +zcard \
                           +zremrangebyscore +set +get";

/// Patient options: what is tested here is the count, not the deadline.
fn patient(server: &Server) -> RedisOptions {
    RedisOptions { deadline: Duration::from_secs(5), connect: Duration::from_secs(5), ..RedisOptions::new(server.url()) }
}

fn connect(options: RedisOptions) -> (Limits, Turned) {
    let clock = Turned { shift: Arc::default(), since: Instant::now() };
    let limits = Limits::redis_with_clock(options, Arc::new(()), clock.shift.clone()).expect("a good URL");
    (limits, clock)
}

#[tokio::test]
async fn no_storm_passes_more_than_the_limit_in_any_minute() {
    let server = Server::start();
    let (limits, clock) = connect(patient(&server));
    for seed in 0..6 {
        story::storm(&limits, &clock, seed, 1_000).await;
    }
    assert_eq!(limits.state(), BackendState::Shared);
}

#[tokio::test]
async fn constant_overload_passes_nearly_all_of_the_limit() {
    let server = Server::start();
    let (limits, clock) = connect(patient(&server));
    story::overload(&limits, &clock, Duration::from_millis(73), 4).await;
    assert_eq!(limits.state(), BackendState::Shared);
}

#[tokio::test]
async fn a_lone_burst_may_use_the_whole_limit() {
    let server = Server::start();
    let (limits, clock) = connect(patient(&server));
    story::lone_burst(&limits, &clock).await;
}

#[tokio::test]
async fn a_second_smooths_what_a_minute_lets_pass() {
    let server = Server::start();
    let (limits, clock) = connect(patient(&server));
    story::smoothing(&limits, &clock).await;
}

#[tokio::test]
async fn a_refused_call_takes_nothing() {
    let server = Server::start();
    story::refusals_take_nothing(&connect(patient(&server)).0).await;
}

#[tokio::test]
async fn reserve_then_settle() {
    let server = Server::start();
    story::settlements(&connect(patient(&server)).0).await;
}

#[tokio::test]
async fn what_never_fits_is_told_so() {
    let server = Server::start();
    story::too_large(&connect(patient(&server)).0).await;
}

#[tokio::test]
async fn a_thousand_abandoned_calls_leave_nothing_behind() {
    let server = Server::start();
    let (limits, _) = connect(patient(&server));
    story::aborts(&limits).await;
    assert_eq!(limits.state(), BackendState::Shared);
}

#[tokio::test]
async fn one_call_is_one_round_trip() {
    let server = Server::start();
    let (limits, _) = connect(patient(&server));
    let ledgers = [Scope::Gateway, Scope::Key, Scope::Model]
        .map(|scope| limits.ledger(rule(scope, "trip", Some(100_000), Some(100_000_000), Some(100_000))));
    let mut permits = vec![limits.admit(&ledgers, 1).await];
    let (before, began) = (server.calls("evalsha"), Instant::now());
    for _ in 0..500 {
        permits.push(limits.admit(&ledgers, 1).await);
    }
    let beats = began.elapsed().as_secs() + 2;
    let calls = server.calls("evalsha") - before;
    assert!((500..=500 + beats).contains(&calls), "{calls} scripts for 500 calls and at most {beats} heartbeats");
    assert!(server.calls("eval") <= 4, "a script is sent whole only when Redis does not know it");
    assert!(permits.iter().all(Result::is_ok));
}

/// What is asked while a script is on its way goes together with the next, what ended rides along, and what nobody takes along
/// goes by itself.
#[tokio::test]
async fn what_comes_together_goes_together() {
    let server = Server::start();
    let (limits, _) = connect(patient(&server));
    let ledgers =
        [Scope::Gateway, Scope::Key].map(|scope| limits.ledger(rule(scope, "group", Some(300), Some(1_000_000), Some(10_000))));
    let _warm = limits.admit(&ledgers[..1], 0).await;
    let (before, began) = (server.calls("evalsha"), Instant::now());
    let asked = futures_util::future::join_all((0..400).map(|_| limits.admit(&ledgers, 100))).await;
    let passed: Vec<_> = asked.into_iter().flatten().collect();
    assert_eq!(passed.len(), 299, "in their order, until the gateway's 300 are gone");
    drop(passed);
    let leases = || -> u64 { server.ask("ZCARD {choreoai}:key:group:leases") };
    let tokens = || -> u64 { server.ask("HGET {choreoai}:key:group:window t") };
    assert!(in_time(async || leases() == 0 && tokens() == 0).await, "{} leases, {} tokens", leases(), tokens());
    let (scripts, beats) = (server.calls("evalsha") - before, began.elapsed().as_secs() + 2);
    assert!(scripts <= 40 + beats, "{scripts} scripts for 400 calls and what they gave back");
}

/// The same calls, one by one in memory and in batches in Redis: the same ones pass, and what ends makes room for the same.
#[tokio::test]
async fn a_batch_decides_as_its_questions_one_by_one() {
    let server = Server::start();
    let (shared, _) = connect(patient(&server));
    let alone = Limits::memory();
    for seed in 0..6 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let rules = [
            rule(Scope::Gateway, &format!("batch-{seed}"), Some(dice.u64(200..900)), Some(dice.u64(20_000..90_000)), None),
            rule(Scope::Key, &format!("batch-{seed}"), None, Some(dice.u64(10_000..50_000)), Some(dice.u64(5..40))),
            rule(Scope::Model, &format!("batch-{seed}"), Some(dice.u64(100..900)), None, Some(dice.u64(5..60))),
        ];
        let ledgers = [&alone, &shared].map(|limits| rules.clone().map(|rule| limits.ledger(rule)));
        let mut running = Vec::new();
        for round in 0..30 {
            for _ in 0..dice.usize(0..=running.len()) {
                let (used, permits): (u64, [choreoai::limits::Permit; 2]) = running.swap_remove(dice.usize(0..running.len()));
                permits.into_iter().for_each(|mut permit| permit.settle(used));
            }
            let calls: Vec<(Vec<usize>, u64, u64)> = (0..dice.usize(1..40))
                .map(|_| ((0..3).filter(|_| dice.u8(..) < 200).collect(), dice.u64(0..1_000), dice.u64(0..1_200)))
                .collect();
            let chosen = |of: usize, rules: &[usize]| rules.iter().map(|&rule| ledgers[of][rule].clone()).collect::<Vec<_>>();
            let together = futures_util::future::join_all(
                calls.iter().map(async |(rules, tokens, _)| shared.admit(&chosen(1, rules), *tokens).await),
            );
            for ((rules, tokens, used), there) in calls.iter().zip(together.await) {
                let here = alone.admit(&chosen(0, rules), *tokens).await;
                assert_eq!(here.is_ok(), there.is_ok(), "seed {seed}, round {round}: {tokens} of {rules:?}: {here:?}, {there:?}");
                if let (Ok(here), Ok(there)) = (here, there) {
                    running.push((*used, [here, there]));
                }
            }
        }
    }
    assert_eq!(shared.state(), BackendState::Shared);
}

/// Who leaves tells everything first, also what was waiting for company.
#[tokio::test]
async fn who_leaves_has_given_everything_back() {
    let server = Server::start();
    let (limits, _) = connect(patient(&server));
    let ledger = [limits.ledger(rule(Scope::Key, "leaving", None, Some(1_000_000), Some(10_000)))];
    let permits = futures_util::future::join_all((0..100).map(|_| limits.admit(&ledger, 100))).await;
    assert!(permits.iter().all(Result::is_ok));
    drop(permits);
    limits.close().await;
    assert_eq!(server.ask::<u64>("ZCARD {choreoai}:key:leaving:leases"), 0);
    assert_eq!(server.ask::<u64>("HGET {choreoai}:key:leaving:window t"), 0);
}

/// What a call needs of the only provider it can go to is asked in the same step; what is missing there alone is for the line
/// before the provider to wait for.
#[tokio::test]
async fn what_is_needed_in_a_moment_is_asked_ahead() {
    let server = Server::start();
    let (limits, _) = connect(patient(&server));
    let caller = [limits.ledger(rule(Scope::Key, "ahead", Some(3), None, Some(10)))];
    let provider = [limits.ledger(rule(Scope::Provider, "ahead", Some(1_000), Some(1_000), Some(1)))];
    let places =
        || -> [u64; 2] { ["key", "provider"].map(|scope| server.ask(&format!("ZCARD {{choreoai}}:{scope}:ahead:leases"))) };
    let wide = [Scope::Key, Scope::Provider].map(|scope| [limits.ledger(rule(scope, "wide", None, None, Some(1_000)))]);
    let _warm = limits.admit_ahead(&wide[0], &wide[1], 100).await;
    let (before, began) = (server.calls("evalsha"), Instant::now());
    for _ in 0..100 {
        let (_, ahead) = limits.admit_ahead(&wide[0], &wide[1], 100).await.expect("room");
        assert!(ahead.is_some());
    }
    let (scripts, beats) = (server.calls("evalsha") - before, began.elapsed().as_secs() + 2);
    assert!((100..=100 + beats).contains(&scripts), "{scripts} scripts for 100 calls and what they gave back");
    let (first, ahead) = limits.admit_ahead(&caller, &provider, 100).await.expect("room");
    let mut ahead = ahead.expect("the provider has room");
    assert_eq!(first.standing().requests.expect("limited").limit, 3, "a provider's limits are not the caller's");
    assert_eq!(places(), [1, 1]);
    let (_second, none) = limits.admit_ahead(&caller, &provider, 100).await.expect("the caller has room");
    assert!(none.is_none(), "the provider has not");
    ahead.settle(40);
    drop(ahead);
    assert!(in_time(async || places() == [2, 0]).await, "each is given back by itself: {:?}", places());
    assert_eq!(server.ask::<u64>("HGET {choreoai}:provider:ahead:window t"), 40);
    drop(first);
    assert!(in_time(async || places() == [1, 0]).await, "{:?}", places());
    let (_third, again) = limits.admit_ahead(&caller, &provider, 100).await.expect("room");
    let denied = limits.admit_ahead(&caller, &provider, 100).await.expect_err("the caller's three are gone");
    assert_eq!((denied.scope, denied.limit.label(), again.is_some()), (Scope::Key, "rpm", true));
}

/// A caller who hammers at a full window costs Redis nothing, and is told a wait that counts down.
#[tokio::test]
async fn a_full_window_is_not_asked_again() {
    let server = Server::start();
    let (limits, clock) = connect(patient(&server));
    let ledger = [limits.ledger(rule(Scope::Key, "hammer", Some(1), None, None))];
    let _first = limits.admit(&ledger, 1).await.expect("room");
    let first = limits.admit(&ledger, 1).await.expect_err("full").retry_after.expect("later");
    let (before, began) = (server.calls("evalsha"), Instant::now());
    clock.turn(Duration::from_secs(20)).await;
    for _ in 0..1_000 {
        let denied = limits.admit(&ledger, 1).await.expect_err("full");
        let wait = denied.retry_after.expect("later");
        // Redis' clock is known here to within half a round trip.
        assert!(wait <= first - Duration::from_secs(19) && wait > Duration::from_secs(30), "{wait:?} after {first:?}");
        assert_eq!(denied.standing.requests.expect("limited").remaining, 0);
    }
    let (asked, took) = (server.calls("evalsha") - before, began.elapsed());
    let looks = 3 + took.as_secs() + took.as_millis() as u64 / 200;
    assert!(asked <= looks, "{asked} scripts for 1,000 calls, where {looks} are heartbeats and a look now and then");
    clock.turn(first - Duration::from_secs(19)).await;
    let _second = limits.admit(&ledger, 1).await.expect("the first has left");
}

/// Four replicas, a thousand clients at once, one limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_replicas_pass_one_limit_and_not_four() {
    let server = Server::start();
    for (name, requests, tokens, cost, expected) in
        [("60", Some(60), None, 1, 60), ("600", Some(600), None, 1, 600), ("tpm", None, Some(100_000), 250, 400)]
    {
        let passed = Arc::new(AtomicU64::new(0));
        let replicas: Vec<Limits> = (0..4).map(|_| connect(patient(&server)).0).collect();
        let mut clients = Vec::new();
        for client in 0..1_000 {
            let limits = replicas[client % 4].clone();
            let ledger = [limits.ledger(rule(Scope::Key, name, requests, tokens, None))];
            let passed = passed.clone();
            clients.push(tokio::spawn(async move {
                if let Ok(mut permit) = limits.admit(&ledger, cost).await {
                    permit.settle(cost);
                    passed.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        for client in clients {
            client.await.expect("no panic");
        }
        assert_eq!(passed.load(Ordering::Relaxed), expected, "{name}");
        assert!(in_time(async || replicas[0].replicas() == 4).await, "{} replicas seen", replicas[0].replicas());
        for replica in &replicas {
            replica.close().await;
        }
    }
}

/// Places that two replicas share, each with a line: no more calls at once than places, nobody is left in line, and who waited
/// in vain is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_lines_share_the_places() {
    let server = Server::start();
    let replicas = [connect(patient(&server)).0, connect(patient(&server)).0];
    let places = rule(Scope::Provider, "places", None, None, Some(4));
    let (running, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let in_turn = async |limits: &Limits, wait: u64| {
        let until = tokio::time::Instant::now() + Duration::from_secs(wait);
        limits.admit_in_turn(&[limits.ledger(places.clone())], 0, until).await
    };
    let calls: Vec<_> = (0..60)
        .map(|call| {
            let (limits, places, running, most) = (replicas[call % 2].clone(), places.clone(), running.clone(), most.clone());
            tokio::spawn(async move {
                let until = tokio::time::Instant::now() + Duration::from_secs(20);
                let permit = limits.admit_in_turn(&[limits.ledger(places)], 0, until).await.expect("its turn comes");
                most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
                running.fetch_sub(1, Ordering::Relaxed);
                drop(permit);
            })
        })
        .collect();
    calls[7].abort();
    for (index, call) in calls.into_iter().enumerate() {
        assert!(call.await.is_ok() || index == 7);
    }
    assert_eq!(most.load(Ordering::Relaxed), 4, "all places were used, and no more");
    let all = futures_util::future::join_all((0..4).map(|_| in_turn(&replicas[0], 5))).await;
    let began = Instant::now();
    let denied = in_turn(&replicas[1], 1).await.expect_err("all places are taken");
    assert_eq!((denied.scope.label(), denied.limit.label()), ("provider", "concurrency"));
    assert!(began.elapsed() >= Duration::from_secs(1));
    drop(all);
    assert!(in_turn(&replicas[1], 5).await.is_ok(), "and now they are free");
}

/// A crash: nothing is given back. The places return when their leases end, and not before.
#[test]
fn a_crash_frees_its_places_when_the_leases_end() {
    let server = Server::start();
    let place = rule(Scope::Key, "crash", None, None, Some(3));
    let crashing = tokio::runtime::Runtime::new().expect("a runtime");
    crashing.block_on(async {
        let (limits, _) = connect(patient(&server));
        let ledger = [limits.ledger(place.clone())];
        for _ in 0..3 {
            std::mem::forget(limits.admit(&ledger, 0).await.expect("a place"));
        }
    });
    crashing.shutdown_background();
    let surviving = tokio::runtime::Runtime::new().expect("a runtime");
    surviving.block_on(async {
        let (limits, clock) = connect(patient(&server));
        let ledger = [limits.ledger(place)];
        let denied = limits.admit(&ledger, 0).await.expect_err("all places are taken");
        assert_eq!((denied.limit.label(), denied.retry_after), ("concurrency", Some(Duration::from_secs(1))));
        clock.turn(Duration::from_secs(25)).await;
        limits.admit(&ledger, 0).await.expect_err("the leases have not ended");
        clock.turn(Duration::from_secs(6)).await;
        limits.admit(&ledger, 0).await.expect("the leases have ended").settle(0);
    });
}

#[tokio::test]
async fn a_long_call_keeps_its_place() {
    let server = Server::start();
    let options = RedisOptions { lease: Duration::from_secs(3), ..patient(&server) };
    let (limits, _) = connect(options);
    let ledger = [limits.ledger(rule(Scope::Key, "long", None, None, Some(1)))];
    let permit = limits.admit(&ledger, 0).await.expect("a place");
    let ends = || {
        let lease: Vec<(String, f64)> = server.ask("ZRANGE {choreoai}:key:long:leases 0 -1 WITHSCORES");
        lease.first().map(|(_, ends)| *ends)
    };
    let first = ends().expect("a lease");
    assert!(in_time(async || ends().is_some_and(|ends| ends > first)).await, "the lease is renewed");
    drop(permit);
    assert!(in_time(async || ends().is_none()).await, "and given back, and not renewed after that");
}

#[tokio::test]
async fn every_key_expires_and_carries_the_hash_tag() {
    let server = Server::start();
    let (limits, _) = connect(RedisOptions { prefix: "team{1}".to_owned(), ..patient(&server) });
    let ledgers = [
        limits.ledger(rule(Scope::Gateway, "all", Some(10), Some(10), Some(10))),
        limits.ledger(rule(Scope::KeyModel, "a/b", Some(10), None, None)),
    ];
    let _permit = limits.admit(&ledgers, 1).await.expect("room");
    let keys: Vec<String> = server.ask("KEYS *");
    assert_eq!(keys.len(), 5, "{keys:?}");
    for key in keys {
        let ttl: i64 = server.ask(&format!("PTTL {key}"));
        assert!(ttl > 0 && ttl <= 600_000, "{key} lives for {ttl} ms");
        assert!(key.starts_with("{team-1-}:"), "{key}");
    }
}

#[tokio::test]
async fn an_account_that_may_only_do_this_is_enough() {
    let server = Server::start();
    let _: () = server.ask(&format!("ACL SETUSER gate on >s3cret ~{{choreoai}}:* {ACCOUNT}"));
    let url = format!("redis://gate:s3cret@127.0.0.1:{}", server.port);
    let options = RedisOptions { url, ..patient(&server) };
    assert!(!format!("{options:?}").contains("s3cret"));
    let (limits, clock) = connect(options);
    assert!(!format!("{limits:?}").contains("s3cret"));
    story::settlements(&limits).await;
    story::storm(&limits, &clock, 99, 300).await;
    assert_eq!(limits.state(), BackendState::Shared);
    let bad = Limits::redis(RedisOptions::new("redis//user:s3cret@nowhere"), Arc::new(())).expect_err("no URL");
    assert!(!bad.to_string().contains("s3cret"), "{bad}");
}

/// The configured node of a cluster is not the one that has our keys: it says who has, and that one is asked.
#[tokio::test]
async fn a_cluster_sends_us_to_the_node_that_has_our_keys() {
    let cluster = |file: &str| {
        let file = format!("choreoai-test-{}-{file}.conf", std::process::id());
        let _ = std::fs::remove_file(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(&file));
        Server::start_with(&["--cluster-enabled", "yes", "--cluster-config-file", &file, "--cluster-require-full-coverage", "no"])
    };
    let (asked, owner) = (cluster("asked"), cluster("owner"));
    let _: () = owner.ask("CLUSTER ADDSLOTSRANGE 0 16383");
    let _: () = owner.ask(&format!("CLUSTER MEET 127.0.0.1 {}", asked.port));
    let (limits, _) = connect(patient(&asked));
    let ledger = [limits.ledger(rule(Scope::Key, "cluster", Some(5), None, None))];
    assert!(in_time(async || limits.state() == BackendState::Shared).await, "{:?}", limits.state());
    limits.admit(&ledger, 0).await.expect("room").settle(0);
    let count: u64 = owner.ask("HGET {choreoai}:key:cluster:window r");
    assert_eq!(count, 1);
}

#[tokio::test]
async fn what_was_learned_about_time_and_cost_is_told() {
    #[derive(Default)]
    struct Told(AtomicU64);
    impl Observer for Told {
        fn script(&self, took: Duration) {
            assert!(took > Duration::ZERO);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (server, told) = (Server::start(), Arc::new(Told::default()));
    let limits = Limits::redis(patient(&server), told.clone()).expect("a good URL");
    let ledger = [limits.ledger(rule(Scope::Key, "told", Some(1), None, None))];
    let passed = limits.admit(&ledger, 0).await.expect("room").standing().requests.expect("limited");
    assert_eq!((passed.limit, passed.remaining), (1, 0));
    assert!(passed.reset > Duration::from_secs(59) && passed.reset <= Duration::from_millis(60_500));
    let denied = limits.admit(&ledger, 0).await.expect_err("full");
    assert_eq!(denied.standing.requests.expect("limited").remaining, 0);
    assert_eq!(told.0.load(Ordering::Relaxed), 2);
}

/// What a thousand concurrent calls wait for Redis. Said, not judged: the machine decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_costs_a_call() {
    let server = Server::start();
    let (limits, _) = connect(patient(&server));
    let ledgers = [Scope::Gateway, Scope::Key, Scope::Model]
        .map(|scope| limits.ledger(rule(scope, "cost", Some(1_000_000), Some(1_000_000_000), Some(1_000_000))));
    let _warm = limits.admit(&ledgers, 1).await;
    for clients in [1, 50, 1_000] {
        let began = Instant::now();
        let calls = (0..clients).map(|_| {
            let (limits, ledgers) = (limits.clone(), ledgers.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                for _ in 0..5_000_usize.div_ceil(clients) {
                    let asked = Instant::now();
                    limits.admit(&ledgers, 1).await.expect("room").settle(1);
                    took.push(asked.elapsed());
                }
                took
            })
        });
        let mut took: Vec<Duration> = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            took.extend(call.await.expect("no panic"));
        }
        took.sort_unstable();
        let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        let rate = took.len() as f64 / began.elapsed().as_secs_f64();
        println!("{clients} clients: {rate:.0} calls/s, p50 {p50:?}, p99 {p99:?}");
    }
    let usec: HashMap<String, String> = server
        .ask::<String>("INFO commandstats")
        .lines()
        .filter_map(|line| line.split_once(':').map(|(name, figures)| (name.to_owned(), figures.to_owned())))
        .collect();
    println!("evalsha: {}", usec.get("cmdstat_evalsha").map_or("", String::as_str));
}
