//! A future that is seldom ready and often asked, because it is awaited beside one that is ready all the time: it
//! is asked only when it may have something to say.
//! It must not know what is awaited.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Asks `F` once for each task that awaits it, and again when `D` says that it is due. Whatever makes `D` say so
/// must do it before it wakes the future.
pub struct Rarely<F, D> {
    future: F,
    is_due: D,
    awaited_by: Option<Waker>,
}

impl<F, D> fmt::Debug for Rarely<F, D> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Rarely")
    }
}

impl<F, D> Rarely<F, D> {
    /// `is_due` has to be cheap, and may say yes too early or too often.
    pub const fn new(future: F, is_due: D) -> Self {
        Self { future, is_due, awaited_by: None }
    }
}

impl<F: Future + Unpin, D: Fn() -> bool + Unpin> Future for Rarely<F, D> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, is_due, awaited_by } = &mut *self;
        let knows_whom_to_wake = awaited_by.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if knows_whom_to_wake && !is_due() {
            return Poll::Pending;
        }
        *awaited_by = Some(context.waker().clone());
        Pin::new(future).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;

    use tokio::sync::watch;

    use super::*;

    #[test]
    fn it_is_asked_once_for_each_waker_and_again_when_it_is_due() {
        let (asked, is_due) = (Cell::new(0), Cell::new(false));
        let future = poll_fn(|_| {
            asked.set(asked.get() + 1);
            if is_due.get() { Poll::Ready("ready") } else { Poll::Pending }
        });
        let mut rarely = Rarely::new(future, || is_due.get());
        let mut poll = |waker: &Waker| Pin::new(&mut rarely).poll(&mut Context::from_waker(waker));
        let wakers = [futures_util::task::noop_waker(), std::sync::Arc::new(Nobody).into()];
        for (waker, times) in [(0, 1), (0, 1), (1, 2), (1, 2), (0, 3)] {
            assert!(poll(&wakers[waker]).is_pending());
            assert_eq!(asked.get(), times);
        }
        is_due.set(true);
        assert_eq!(poll(&wakers[0]), Poll::Ready("ready"));
    }

    struct Nobody;

    impl std::task::Wake for Nobody {
        fn wake(self: std::sync::Arc<Self>) {}
    }

    #[tokio::test]
    async fn whoever_awaits_it_is_woken() {
        let sender = watch::Sender::new(false);
        let (mut one, other) = (sender.subscribe(), sender.subscribe());
        let changed = Box::pin(async move { one.changed().await });
        let waiting = tokio::spawn(Rarely::new(changed, move || other.has_changed().unwrap_or(true)));
        tokio::task::yield_now().await;
        sender.send_replace(true);
        assert!(waiting.await.expect("no panic").is_ok());
    }
}
