//! The closed loop: a fixed number of connections, each sends its next call when it has the answer
//! to the last. It finds what a contestant can do at most and what a call costs it then.
//! It says nothing about latency: who answers slowly is asked less. It must not know contestants.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Answer, READ_BYTES, Target};

/// How long one read may take before the call counts as failed.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// How long a connection rests after a failed call, so that a contestant that is down is not flooded.
const REST: Duration = Duration::from_millis(20);

/// What was done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Calls answered as asked.
    pub calls: u64,
    /// Content events received.
    pub events: u64,
    /// Calls that failed.
    pub failures: u64,
}

#[derive(Debug, Default)]
struct Shared {
    tally: Cell<Tally>,
    failure: RefCell<Option<String>>,
}

/// A load that runs; dropping it ends it.
#[derive(Debug)]
pub struct Closed {
    shared: Rc<Shared>,
    _connections: JoinSet<()>,
}

impl Closed {
    /// Starts `connections` connections, evenly over the time `stagger`. Must run in a `LocalSet`.
    #[must_use]
    pub fn start(target: &Rc<Target>, connections: u32, stagger: Duration) -> Self {
        let shared = Rc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let (target, shared) = (Rc::clone(target), Rc::clone(&shared));
            tasks.spawn_local(async move {
                sleep(stagger * number / connections).await;
                loop {
                    let Err(error) = connection(&target, &shared).await else { continue };
                    let mut tally = shared.tally.get();
                    tally.failures += 1;
                    shared.tally.set(tally);
                    shared.failure.borrow_mut().get_or_insert(error.to_string());
                    sleep(REST).await;
                }
            });
        }
        Self { shared, _connections: tasks }
    }

    /// What was done until now.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.shared.tally.get()
    }

    /// The first failure, in words.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.borrow().clone()
    }
}

/// Calls until the contestant closes the connection (that is no failure between two calls).
async fn connection(target: &Target, shared: &Shared) -> io::Result<()> {
    let mut socket = timeout(READ_LIMIT, TcpStream::connect(target.address)).await??;
    socket.set_nodelay(true)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut answer = Answer::new(target);
    loop {
        answer.reset();
        socket.write_all(&target.request).await?;
        one_answer(&mut socket, &mut buffer, &mut answer, shared).await?;
        answer.check().map_err(io::Error::other)?;
        let mut tally = shared.tally.get();
        tally.calls += 1;
        shared.tally.set(tally);
        if !answer.keeps_alive() {
            return Ok(());
        }
    }
}

async fn one_answer(socket: &mut TcpStream, buffer: &mut [u8], answer: &mut Answer, shared: &Shared) -> io::Result<()> {
    loop {
        let read = timeout(READ_LIMIT, socket.read(buffer)).await??;
        if read == 0 && answer.whole_at_close() {
            return Ok(());
        }
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut events = 0;
        let whole = answer.feed(&buffer[..read], &mut |_| events += 1)?;
        let mut tally = shared.tally.get();
        tally.events += events;
        shared.tally.set(tally);
        if whole {
            return Ok(());
        }
    }
}
