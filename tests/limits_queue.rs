//! The line in front of a provider, in paused time. It must not know Redis, nor rules.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use choreoai::limits::{Observer, Queue, QueueOptions, QueueReason};
use tokio::time::advance;

fn queue(max_concurrent: usize, size: usize) -> Queue {
    observed(max_concurrent, size, Arc::new(()))
}

fn observed(max_concurrent: usize, size: usize, observer: Arc<dyn Observer>) -> Queue {
    let options = QueueOptions { provider: "openai".to_owned(), max_concurrent, size, wait: Duration::from_secs(10) };
    Queue::new(options, observer)
}

/// Lets every task that can go on go on.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_line_is_bounded_and_so_is_the_wait() {
    let queue = queue(1, 2);
    let running = queue.enter("a").await.expect("the first runs at once");
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.enter("a").await.map(drop) })
        })
        .collect();
    settle().await;
    assert_eq!((queue.in_flight(), queue.waiting()), (1, 2));
    let refused = queue.enter("b").await.err().expect("the line is full");
    assert_eq!(refused.reason, QueueReason::Full);
    assert!(refused.retry_after >= Duration::from_secs(1) && refused.retry_after <= Duration::from_secs(60));
    advance(Duration::from_millis(10_001)).await;
    for call in waiting {
        assert_eq!(call.await.expect("no panic").expect_err("ten seconds are over").reason, QueueReason::TooLong);
    }
    assert_eq!((queue.in_flight(), queue.waiting()), (1, 0));
    drop(running);
    assert_eq!(queue.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn places_go_round_by_key() {
    let queue = queue(1, 100);
    let running = queue.enter("greedy").await.expect("runs");
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut calls = Vec::new();
    for key in ["greedy", "greedy", "greedy", "modest", "other"] {
        let (queue, served) = (queue.clone(), served.clone());
        calls.push(tokio::spawn(async move {
            let _slot = queue.enter(key).await.map_err(|refused| refused.reason).expect("served");
            served.lock().expect("whole").push(key);
        }));
        settle().await;
    }
    drop(running);
    for call in calls {
        call.await.expect("served");
    }
    assert_eq!(*served.lock().expect("whole"), ["greedy", "modest", "other", "greedy", "greedy"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_frees_the_place_at_once() {
    let queue = queue(1, 1);
    let running = queue.enter("a").await.expect("runs");
    let leaver = tokio::spawn({
        let queue = queue.clone();
        async move { queue.enter("a").await.map(drop) }
    });
    settle().await;
    assert_eq!(queue.waiting(), 1);
    leaver.abort();
    settle().await;
    assert_eq!(queue.waiting(), 0);
    let next = tokio::spawn({
        let queue = queue.clone();
        async move { queue.enter("b").await.is_ok() }
    });
    settle().await;
    drop(running);
    assert!(next.await.expect("no panic"), "the place that the leaver had in line was free");
}

/// A place that is handed to somebody who leaves at the same moment is not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_leavers_leave_nothing_behind() {
    #[derive(Default)]
    struct Most(AtomicUsize);
    impl Observer for Most {
        fn queue(&self, provider: &str, waiting: usize, in_flight: usize) {
            assert_eq!(provider, "openai");
            assert!(waiting <= 400, "{waiting} wait");
            self.0.fetch_max(in_flight, Ordering::Relaxed);
        }
    }
    let most = Arc::new(Most::default());
    let queue = observed(8, 400, most.clone());
    let mut dice = fastrand::Rng::with_seed(3);
    let mut calls = Vec::new();
    for call in 0..1_000 {
        let (queue, hold) = (queue.clone(), Duration::from_micros(dice.u64(0..300)));
        calls.push(tokio::spawn(async move {
            let slot = queue.enter(["a", "b", "c"][call % 3]).await;
            tokio::time::sleep(hold).await;
            drop(slot);
        }));
        if dice.bool() {
            let victim = dice.usize(0..calls.len());
            calls[victim].abort();
            tokio::task::yield_now().await;
        }
    }
    for call in calls {
        let _ = tokio::time::timeout(Duration::from_secs(20), call).await.expect("everybody is served or refused");
    }
    assert_eq!((queue.in_flight(), queue.waiting()), (0, 0));
    assert_eq!(most.0.load(Ordering::Relaxed), 8, "all places were used, and no more");
}

#[tokio::test(start_paused = true)]
async fn the_line_can_be_made_longer_and_shorter_while_calls_run() {
    let queue = queue(1, 10);
    let first = queue.enter("a").await.unwrap();
    let others: Vec<_> = (0..3)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.enter("a").await })
        })
        .collect();
    settle().await;
    assert_eq!((queue.in_flight(), queue.waiting()), (1, 3));
    let options = |max_concurrent| QueueOptions { provider: "p".into(), max_concurrent, size: 10, wait: Duration::from_secs(10) };
    queue.change(options(3));
    settle().await;
    assert_eq!((queue.in_flight(), queue.waiting()), (3, 1), "who waited is let in at once");
    queue.change(options(1));
    drop(first);
    settle().await;
    assert_eq!((queue.in_flight(), queue.waiting()), (2, 1), "nobody is let in while more run than may");
    let mut places = Vec::new();
    for other in others {
        if other.is_finished() {
            places.push(other.await.unwrap().unwrap());
        }
    }
    assert_eq!(places.len(), 2);
    drop(places);
    settle().await;
    assert_eq!((queue.in_flight(), queue.waiting()), (0, 0), "the last one was let in; nobody holds its place");
}
