//! The limits asked from workers, each with a connection of its own: what passes, what is left when one breaks, and what comes
//! back. It must not know how questions are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use choreoai::limits::{BackendState, Limits, RedisOptions, Scope};
use choreoai::worker;

use crate::limits_server::Server;
use crate::limits_storm::{in_time, rule};

const CALLS: usize = 2_000;

/// Names of the connections that Redis has, but for those of who asks.
fn connections(server: &Server) -> Vec<u64> {
    let list: String = server.ask("CLIENT LIST");
    let others = list.lines().filter(|line| !line.contains("cmd=client"));
    others.filter_map(|line| line.split_once("id=")?.1.split(' ').next()?.parse().ok()).collect()
}

/// Every worker makes so many calls, some at once; says how many passed in all.
fn calls(limits: &Limits, workers: std::ops::Range<usize>, limit: u64) -> usize {
    let (say, passed) = channel();
    for nth in workers {
        let (limits, say) = (limits.clone(), say.clone());
        let work = move || async move {
            let ledger = [limits.ledger(rule(Scope::Key, "workers", Some(limit), Some(1_000_000), Some(1_000)))];
            let mut passed = 0;
            for _ in 0..CALLS / 10 {
                let asked = futures_util::future::join_all((0..10).map(|_| limits.admit(&ledger, 10))).await;
                passed += asked.iter().flatten().count();
            }
            say.send(passed).unwrap();
        };
        worker::start(nth, work).unwrap();
    }
    drop(say);
    passed.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_ask_by_connections_of_their_own() {
    let server = Server::start();
    let options = RedisOptions { deadline: Duration::from_secs(5), ..RedisOptions::new(server.url()) };
    let limits = Limits::redis(options, Arc::new(())).unwrap();
    assert!(in_time(async || limits.state() == BackendState::Shared).await);
    let common = connections(&server);
    assert_eq!(common.len(), 1);

    let workers = 0..worker::count().min(2);
    let seen = std::thread::spawn({
        let (limits, workers) = (limits.clone(), workers.clone());
        move || calls(&limits, workers, 3_000)
    });
    let most = std::cell::Cell::new(0);
    assert!(
        in_time(async || {
            most.set(most.get().max(connections(&server).len()));
            seen.is_finished()
        })
        .await
    );
    assert_eq!(most.get(), 1 + workers.len(), "one for all, and one for each worker");
    assert_eq!(seen.join().unwrap(), 3_000.min(workers.len() * CALLS), "one limit for all of them");
    let leases = || -> u64 { server.ask("ZCARD {choreoai}:key:workers:leases") };
    assert!(in_time(async || leases() == 0).await, "{} places did not come back", leases());
    assert_eq!(limits.state(), BackendState::Shared);
}

/// A worker's connection breaks: that is its own trouble, and nobody else's. The call it had under way is decided here; the next
/// are asked by the common connection, until there is another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_of_one_worker_is_no_outage() {
    let server = Arc::new(Server::start());
    let options = RedisOptions { deadline: Duration::from_secs(5), ..RedisOptions::new(server.url()) };
    let limits = Limits::redis(options, Arc::new(())).unwrap();
    assert!(in_time(async || limits.state() == BackendState::Shared).await);
    let common = connections(&server);
    let (say, told) = tokio::sync::oneshot::channel();
    let (redis, asking) = (server.clone(), limits.clone());
    let work = move || async move {
        let ledger = [asking.ledger(rule(Scope::Key, "broken", Some(1_000_000), None, Some(1_000)))];
        let mut own = Vec::new();
        let connected = in_time(async || {
            drop(asking.admit(&ledger, 1).await.unwrap());
            own = connections(&redis);
            own.retain(|id| !common.contains(id));
            own.len() == 1
        });
        assert!(connected.await);
        redis.ask::<u64>(&format!("CLIENT KILL ID {}", own[0]));
        for _ in 0..100 {
            drop(asking.admit(&ledger, 1).await.unwrap());
            assert_eq!(asking.state(), BackendState::Shared);
        }
        say.send(()).unwrap();
        // Long enough to see a new one.
        assert!(in_time(async || asking.admit(&ledger, 1).await.is_ok() && connections(&redis).len() == 2).await);
    };
    worker::start(0, work).unwrap();
    told.await.unwrap();
    let leases = || -> u64 { server.ask("ZCARD {choreoai}:key:broken:leases") };
    assert!(in_time(async || leases() <= 1).await, "{} places did not come back", leases());
    assert_eq!(limits.state(), BackendState::Shared);
}

/// What calls gave back in the last moment of a worker is not forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_ends_leaves_nothing_behind() {
    let server = Server::start();
    let options = RedisOptions { deadline: Duration::from_secs(5), ..RedisOptions::new(server.url()) };
    let limits = Limits::redis(options, Arc::new(())).unwrap();
    assert!(in_time(async || limits.state() == BackendState::Shared).await);
    let ledger = limits.ledger(rule(Scope::Key, "ending", None, Some(1_000_000), Some(1_000)));
    let (say, ended) = tokio::sync::oneshot::channel();
    let asking = (limits.clone(), [ledger.clone()]);
    let work = move || async move {
        let (limits, ledger) = asking;
        let permits = futures_util::future::join_all((0..50).map(|_| limits.admit(&ledger, 10))).await;
        assert!(permits.iter().all(Result::is_ok));
        drop(permits);
        say.send(()).unwrap();
    };
    worker::start(1, work).unwrap();
    ended.await.unwrap();
    let counted = || -> (u64, Option<u64>) {
        (server.ask("ZCARD {choreoai}:key:ending:leases"), server.ask("HGET {choreoai}:key:ending:window t"))
    };
    assert!(in_time(async || ledger.in_flight() == 0 && counted() == (0, Some(0))).await, "{:?}", counted());
    assert!(limits.admit(&[ledger], 10).await.is_ok());
}

/// All connections are cut ten times, in the midst of it: nobody knows what Redis heard last. No place stays taken until its
/// lease ends, which is half a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_take_no_places_with_them() {
    let server = Server::start();
    let options = RedisOptions { deadline: Duration::from_secs(5), ..RedisOptions::new(server.url()) };
    let limits = Limits::redis(options, Arc::new(())).unwrap();
    let is_back = async || limits.state() == BackendState::Shared;
    assert!(in_time(is_back).await);
    let cutting = Arc::new(AtomicBool::new(true));
    let workers = (0..worker::count().min(2)).map(|nth| {
        let (say, ended) = tokio::sync::oneshot::channel();
        let (limits, cutting) = (limits.clone(), cutting.clone());
        let work = move || async move {
            let ledger = [limits.ledger(rule(Scope::Key, "cut", None, None, Some(10_000)))];
            while cutting.load(Ordering::Relaxed) {
                let asked = (0..50).map(|_| async {
                    let permit = limits.admit(&ledger, 0).await.expect("room for all");
                    tokio::task::yield_now().await;
                    drop(permit);
                });
                futures_util::future::join_all(asked).await;
            }
            say.send(()).unwrap();
            // The lines of a worker end with it; what they still have to say is said first.
            assert!(in_time(async || ledger[0].in_flight() == 0 && limits.state() == BackendState::Shared).await);
        };
        worker::start(nth, work).unwrap();
        ended
    });
    let workers: Vec<_> = workers.collect();
    for _ in 0..10 {
        let before = server.calls("evalsha");
        assert!(in_time(async || limits.state() == BackendState::Shared && server.calls("evalsha") > before + 50).await);
        server.ask::<u64>("CLIENT KILL TYPE normal SKIPME yes");
    }
    cutting.store(false, Ordering::Relaxed);
    for ended in workers {
        ended.await.unwrap();
    }
    let leases = || -> u64 { server.ask("ZCARD {choreoai}:key:cut:leases") };
    assert!(in_time(async || leases() == 0).await, "{} places did not come back", leases());
}
