//! Opens many streams and keeps them open, so that what an open stream costs in memory can be read.
//! It must not know contestants, nor how memory is read.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Answer, Target};

/// Streams that wait for their first event at the same time.
const OPENING_AT_ONCE: usize = 64;

/// Small, for there are thousands of them.
const READ_BYTES: usize = 2048;

/// Streams that are open; dropping it closes them.
#[derive(Debug)]
pub struct Held {
    open: Rc<Cell<u32>>,
    _streams: JoinSet<()>,
}

impl Held {
    /// Streams that had their first event and are still open.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.get()
    }
}

/// Opens `streams` streams and waits until each had an event, or for `limit`. Must run in a `LocalSet`.
pub async fn hold(target: &Rc<Target>, streams: u32, limit: Duration) -> Held {
    let open = Rc::new(Cell::new(0));
    let gate = Rc::new(Semaphore::new(OPENING_AT_ONCE));
    let mut tasks = JoinSet::new();
    for _ in 0..streams {
        let (target, open, gate) = (Rc::clone(target), Rc::clone(&open), Rc::clone(&gate));
        tasks.spawn_local(async move {
            // A stream that fails or ends is no longer open: the count says so.
            let _ = one_stream(&target, &open, &gate).await;
        });
    }
    let deadline = Instant::now() + limit;
    while open.get() < streams && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
    Held { open, _streams: tasks }
}

async fn one_stream(target: &Target, open: &Cell<u32>, gate: &Semaphore) -> io::Result<()> {
    let mut place = Some(gate.acquire().await.map_err(io::Error::other)?);
    let mut socket = TcpStream::connect(target.address).await?;
    socket.write_all(&target.request).await?;
    let mut buffer = vec![0; READ_BYTES];
    let mut answer = Answer::new(target);
    let mut seen = 0_u32;
    let ended = loop {
        let read = match socket.read(&mut buffer).await {
            Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) => break Err(error),
        };
        let before = seen;
        match answer.feed(&buffer[..read], &mut |_| seen += 1) {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) => break Err(error),
        }
        if before == 0 && seen > 0 {
            open.set(open.get() + 1);
            place = None;
        }
    };
    if place.is_none() {
        open.set(open.get() - 1);
    }
    ended
}
