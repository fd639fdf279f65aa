//! The threads that calls run on: one runtime each, so that a call, its connection to the client and
//! its connection to the provider stay on one thread and wake one another without asking the kernel.
//! It must not know what runs on them.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};

/// Threads for what must not hold up a worker (name look-ups, counts of long texts), per worker. More
/// of it waits its turn.
const HELPERS: usize = 4;
/// How long a worker's runtime may take to drop what is left.
const LAST_TASKS: Duration = Duration::from_secs(1);

thread_local! {
    /// Which worker this thread is; 0 is every other thread.
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// How many workers there are: one for each processor that this process may use.
#[must_use]
pub fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| thread::available_parallelism().map_or(1, NonZeroUsize::get))
}

/// Starts worker `nth` (from 0) with what it has to do. The thread ends when that is done.
///
/// # Errors
/// When there can be no thread, or no runtime on it.
pub fn start<F: Future<Output = ()>>(nth: usize, work: impl FnOnce() -> F + Send + 'static) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(HELPERS).build()?;
    thread::Builder::new().name(format!("worker-{nth}")).spawn(move || {
        PLACE.set(nth + 1);
        runtime.block_on(work());
        runtime.shutdown_timeout(LAST_TASKS);
    })?;
    Ok(())
}

/// This worker's runtime; `None` on every other thread.
#[must_use]
pub fn runtime() -> Option<Handle> {
    if PLACE.get() == 0 { None } else { Handle::try_current().ok() }
}

/// One of a thing for each worker, and one for all other threads; made when it is first wanted.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[OnceLock<T>]>);

impl<T> PerWorker<T> {
    /// None is made yet.
    #[must_use]
    pub fn new() -> Self {
        Self((0..=count()).map(|_| OnceLock::new()).collect())
    }

    /// This thread's own.
    pub fn here(&self, make: impl FnOnce() -> T) -> &T {
        // Workers are started for places below the count; any other thread has place 0.
        self.0[PLACE.get()].get_or_init(make)
    }
}

impl<T> Default for PerWorker<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn each_worker_has_its_own() {
        static NAMES: OnceLock<PerWorker<String>> = OnceLock::new();
        let name = |text: &str| NAMES.get_or_init(PerWorker::new).here(|| text.to_owned()).clone();
        let (say, said) = channel();
        start(0, move || async move {
            for text in ["worker", "again"] {
                say.send(name(text)).unwrap();
            }
        })
        .unwrap();
        assert_eq!(said.iter().collect::<Vec<_>>(), ["worker", "worker"]);
        assert_eq!(name("elsewhere"), "elsewhere");
    }
}
