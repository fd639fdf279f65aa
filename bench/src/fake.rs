//! The fake provider: answers every call at once with bytes that were built at the start, as a whole
//! or as a stream, paced or not. One thread, so that it leaves the other processor to who is measured.
//! It must not know who calls it or what is measured.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep_until};

use crate::http1::Message;
use crate::wire::{Answers, Plan, Stream, Wire, stamp};

/// Bytes read from a socket at once.
const READ_BYTES: usize = 16 * 1024;

/// Bytes of a request that are looked into for its plan; the plan stands near the start.
const PLAN_BYTES: usize = 4096;

/// Serves until the process is ended.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let answers = Rc::new(Answers::new());
    loop {
        let (socket, _) = listener.accept().await?;
        let answers = Rc::clone(&answers);
        spawn_local(async move {
            // A caller that goes away ends its own connection only.
            let _ = connection(socket, &answers).await;
        });
    }
}

async fn connection(mut socket: TcpStream, answers: &Answers) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut message = Message::default();
    let mut start_of_body = Vec::new();
    loop {
        message.reset();
        start_of_body.clear();
        if !read_request(&mut socket, &mut buffer, &mut message, &mut start_of_body).await? {
            return Ok(());
        }
        let plan = Plan::find(&start_of_body);
        match (message.head().starts_with(b"POST "), plan.events) {
            (false, _) => socket.write_all(&answers.hello).await?,
            (true, 0) => socket.write_all(&answers.whole).await?,
            (true, _) => {
                let path = message.head().split(|&byte| byte == b' ').nth(1).unwrap_or_default();
                send_stream(&mut socket, answers.stream(Wire::of_path(path)), plan).await?;
            }
        }
    }
}

/// False when the caller closed between two requests.
async fn read_request(
    socket: &mut TcpStream,
    buffer: &mut [u8],
    message: &mut Message,
    start_of_body: &mut Vec<u8>,
) -> io::Result<bool> {
    loop {
        let read = socket.read(buffer).await?;
        if read == 0 {
            return Ok(false);
        }
        let whole = message.feed(&buffer[..read], &mut |body| {
            let room = PLAN_BYTES - start_of_body.len();
            start_of_body.extend_from_slice(&body[..body.len().min(room)]);
        })?;
        if whole {
            return Ok(true);
        }
    }
}

async fn send_stream(socket: &mut TcpStream, stream: &Stream, plan: Plan) -> io::Result<()> {
    socket.write_all(&stream.opening).await?;
    if plan.pace_us == 0 {
        for _ in 0..plan.events {
            socket.write_all(&stream.event).await?;
            // Streams take turns by the event: else one writes its whole answer before another's first
            // event, and what is measured is how well that coalesces.
            yield_now().await;
        }
        return socket.write_all(&stream.closing).await;
    }
    let pace = Duration::from_micros(plan.pace_us);
    let mut due = Instant::now();
    let mut event = stream.stamped.clone();
    for _ in 0..plan.events {
        sleep_until(due).await;
        due += pace;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        stamp(&mut event, stream.stamp_at, now.as_nanos());
        socket.write_all(&event).await?;
    }
    socket.write_all(&stream.closing).await
}
