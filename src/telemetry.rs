//! Logs and traces: set-up only. Lines are gathered in memory and written by a thread of their own, so
//! that a slow terminal or disk never delays a call; what does not fit is dropped and counted. Spans are
//! sent by [`traces`].
//! It must not know what is logged.

mod line;
pub mod traces;

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::LogFormat;
use line::JsonLine;

/// Log text that may wait to be written, in bytes.
const MAX_WAITING: usize = 8 * 1024 * 1024;
/// How long a line waits at most before it is written.
const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// Sets up logging for the process, to standard output, on request with the place in the code that each line comes from. Keep what it returns until the end: dropping it writes the last lines.
///
/// # Errors
/// When logging was set up before, or `filter` is no `RUST_LOG` filter.
pub fn start(
    (format, with_source): (LogFormat, bool),
    filter: &str,
    on_drop: impl Fn() + Send + Sync + 'static,
) -> Result<Flusher, Box<dyn std::error::Error>> {
    let lines = Lines { desk: Arc::default(), on_drop: Arc::new(on_drop) };
    let registry = tracing_subscriber::registry().with(EnvFilter::try_new(filter)?);
    match format {
        LogFormat::Json => {
            registry.with(fmt::layer().event_format(JsonLine { with_source }).with_writer(lines.clone())).try_init()?
        }
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    .with_target(false)
                    .with_file(with_source)
                    .with_line_number(with_source)
                    .with_thread_names(with_source)
                    .with_writer(lines.clone()),
            )
            .try_init()?,
    }
    let writer = lines.clone();
    std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
        loop {
            writer.await_line();
            // The first line waits for others, so that they are written together.
            std::thread::sleep(FLUSH_EVERY);
            writer.write_out();
        }
    })?;
    Ok(Flusher(lines))
}

/// Writes the last lines when dropped.
#[derive(Debug)]
pub struct Flusher(Lines);

impl Drop for Flusher {
    fn drop(&mut self) {
        self.0.write_out();
    }
}

/// Lines that wait to be written.
#[derive(Clone)]
pub struct Lines {
    desk: Arc<Desk>,
    on_drop: Arc<dyn Fn() + Send + Sync>,
}

/// Where lines are put, and who writes them sleeps while there are none.
#[derive(Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    line_came: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Whether the next line has to wake the writer: only one in [`FLUSH_EVERY`] has to, however many come.
    is_writer_asleep: bool,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Lines")
    }
}

impl Lines {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.desk.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until there is a line.
    fn await_line(&self) {
        let mut waiting = self.waiting();
        while waiting.text.is_empty() {
            waiting.is_writer_asleep = true;
            waiting = self.desk.line_came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.is_writer_asleep = false;
    }

    fn write_out(&self) {
        let lines = std::mem::take(&mut self.waiting().text);
        if !lines.is_empty() {
            let mut out = io::stdout().lock();
            // A closed standard output is no reason to stop answering calls.
            if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
                (self.on_drop)();
            }
        }
    }
}

impl Write for &Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut waiting = self.waiting();
        if waiting.text.len() + text.len() > MAX_WAITING {
            drop(waiting);
            (self.on_drop)();
            return Ok(text.len());
        }
        waiting.text.extend_from_slice(text);
        let has_to_wake = std::mem::take(&mut waiting.is_writer_asleep);
        drop(waiting);
        if has_to_wake {
            self.desk.line_came.notify_one();
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}
