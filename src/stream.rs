//! The pump: upstream bytes → frames → events → client bytes. It keeps a stream whole: it times what
//! is silent, keeps idle clients alive with comments, ends what was cut with an error, and reads on
//! for a client that left when it is told to.
//! It must not know HTTP clients, metering or money: it is given a [`Source`] and tells a [`Watch`].

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use providers::frames::{BadFrame, Decoder, Frame, Framing};
use providers::{Event, Kind, StreamTranslator, UpstreamError};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::error::{self, Error, Surface};

/// How long a client may see nothing before it gets a comment line.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The comment line: clients skip it, proxies count it as life.
pub const COMMENT: &[u8] = b": keep-alive\n\n";
/// How long the connection is given to end by itself after the answer is complete, so that it can be used again.
const LINGER: Duration = Duration::from_millis(100);

/// What has already arrived when a client leaves is read, so that it is counted; this long a silence
/// means that nothing more has.
const ARRIVED: Duration = Duration::from_millis(25);
/// The longest that reading what has arrived may take, on a provider that never pauses; not counting the time in which this
/// thread itself was held up.
const ARRIVED_AT_MOST: Duration = Duration::from_secs(1);

/// Where a stream's bytes come from.
pub trait Source: Send + 'static {
    /// The next bytes, `None` at the clean end, `Err` when the connection broke.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ()>>;
}

/// Who is told what a stream does.
pub trait Watch: Send + 'static {
    /// Something happened.
    fn event(&mut self, kind: &Kind<'_>);
    /// The attempt is over; told once at most.
    fn end(&mut self, end: End);
    /// The client has left and the rest is read for the count alone.
    fn client_left(&mut self);
    /// What to wait for before the stream is ended short of its own end, so that telling it holds nobody up.
    fn before_a_short_end(&self) -> Option<Stop>;
}

/// How a stream ended.
#[derive(Clone, Debug)]
pub enum End {
    /// Complete.
    Complete,
    /// The provider ended or broke it before it was complete.
    Truncated,
    /// The provider reported an error.
    Failed(UpstreamError),
    /// What the provider sent cannot be read on; another try would meet the same.
    Unreadable(BadFrame),
    /// Nothing came in time.
    TimedOut,
    /// The client's own deadline came first.
    Overdue,
    /// The gateway stops.
    Stopped,
}

impl End {
    /// What the client is told, unless all is well.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        match self {
            Self::Complete => None,
            Self::Truncated => {
                Some(Error::new(error::Kind::UpstreamStream, "the provider ended the stream before it was complete"))
            }
            Self::TimedOut => Some(Error::new(error::Kind::UpstreamTimeout, "the provider sent nothing more in time")),
            Self::Overdue => Some(Error::new(error::Kind::DeadlineExceeded, error::TOO_LATE)),
            Self::Failed(error) => Some(Error::from(error.clone())),
            Self::Unreadable(fault) => {
                Some(Error::new(error::Kind::UpstreamStream, format!("the provider's stream cannot be read: {fault}")))
            }
            Self::Stopped => Some(Error::new(error::Kind::ShuttingDown, "the gateway is shutting down")),
        }
    }
}

/// An answer without words for it broke off.
#[derive(Clone, Copy, Debug)]
pub struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the answer broke off")
    }
}

impl std::error::Error for Cut {}

/// What a stream is given.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest silence of the provider.
    pub idle: Duration,
    /// When the attempt must be over.
    pub deadline: Instant,
    /// Whether that is the client's wish.
    pub is_clients: bool,
    /// How long to read on for a client that left; `None` is only what has already arrived.
    pub drain: Option<Duration>,
}

impl Limits {
    /// How a stream ends for which there is no more time.
    fn end(&self, now: Instant) -> End {
        if self.is_clients && now >= self.deadline { End::Overdue } else { End::TimedOut }
    }
}

/// One streamed answer on its way. Dropping it settles it: the client left, or the gateway does.
pub struct Pump<S: Source, W: Watch>(Option<Flow<S, W>>);

struct Flow<S, W> {
    source: S,
    decoder: Decoder,
    translator: Box<dyn StreamTranslator>,
    surface: Surface,
    watch: W,
    limits: Limits,
    state: State,
    timer: Pin<Box<Sleep>>,
    /// Whom the timer wakes.
    timed: Option<Waker>,
    stop: Stop,
    ending: Option<Ending>,
    is_lingering: bool,
}

/// An end that is told when something else is ready.
struct Ending {
    ready: Stop,
    last: Last,
}

/// What is still to be done before the end.
enum Last {
    /// The source has ended: what it left unfinished is heard.
    Hear,
    Tell(End),
}

/// What the events said so far.
struct State {
    out: BytesMut,
    /// The provider's own words for its error went to the client.
    error_is_told: bool,
    has_content: bool,
    end: Option<End>,
    heard_at: Instant,
    told_at: Instant,
}

impl<S, W> fmt::Debug for Parts<S, W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Parts")
    }
}

impl<S: Source, W: Watch> fmt::Debug for Pump<S, W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pump")
    }
}

/// What a stream is made of.
pub struct Parts<S, W> {
    /// Where its bytes come from.
    pub source: S,
    /// How they are divided into frames.
    pub framing: Framing,
    /// What the frames mean.
    pub translator: Box<dyn StreamTranslator>,
    /// In whose shape the client is told of an error.
    pub surface: Surface,
    /// Who is told.
    pub watch: W,
    /// What it is given.
    pub limits: Limits,
    /// Ready when the gateway stops and no stream may go on.
    pub stop: Stop,
}

/// Something to wait for, such as the gateway's stop.
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<S: Source, W: Watch> Pump<S, W> {
    /// Reads until something was generated or the stream is over; nothing is given out yet. A stream
    /// that failed without content gives its watcher back, so that another target may be tried.
    ///
    /// # Errors
    /// The watcher, and how the stream ended, when it did so without content and not complete.
    pub async fn begin(parts: Parts<S, W>) -> Result<Self, (W, End)> {
        let mut flow = Flow::new(parts);
        while !flow.state.has_content && flow.state.end.is_none() {
            poll_fn(|context| flow.poll_read(context)).await;
        }
        match flow.state.end.clone() {
            Some(end) if !flow.state.has_content && !matches!(end, End::Complete) => Err((flow.watch, end)),
            _ => Ok(Self(Some(flow))),
        }
    }

    /// Tells the watcher something, while there is one.
    pub fn watch_mut(&mut self, tell: impl FnOnce(&mut W)) {
        if let Some(flow) = &mut self.0 {
            tell(&mut flow.watch);
        }
    }

    /// The next bytes for the client; `None` when all was said, and an error where no words can say that it was not.
    pub async fn next(&mut self) -> Option<Result<Bytes, Cut>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`next`](Self::next), for whoever awaits it in a way of their own.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        let Some(flow) = self.0.as_mut() else { return Poll::Ready(None) };
        loop {
            if !flow.state.out.is_empty() {
                flow.state.told_at = flow.state.heard_at;
                return Poll::Ready(Some(Ok(flow.state.out.split().freeze())));
            }
            if let Some(end) = &flow.state.end {
                let is_cut = flow.surface == Surface::Bytes && !matches!(end, End::Complete);
                ready!(flow.poll_linger(context));
                self.0 = None;
                return Poll::Ready(is_cut.then_some(Err(Cut)));
            }
            ready!(flow.poll_read(context));
        }
    }
}

impl<S: Source, W: Watch> Drop for Pump<S, W> {
    fn drop(&mut self) {
        let Some(mut flow) = self.0.take() else { return };
        if flow.state.end.is_some() {
            return;
        }
        flow.watch.client_left();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        match flow.limits.drain {
            Some(patience) => drop(runtime.spawn(flow.drain(patience))),
            None => drop(runtime.spawn(flow.take_in_what_arrived())),
        }
    }
}

impl<S: Source, W: Watch> Flow<S, W> {
    fn new(parts: Parts<S, W>) -> Self {
        let Parts { source, framing, translator, surface, watch, limits, stop } = parts;
        let now = Instant::now();
        let state =
            State { out: BytesMut::new(), error_is_told: false, has_content: false, end: None, heard_at: now, told_at: now };
        let timer = Box::pin(sleep_until((now + KEEP_ALIVE.min(limits.idle)).min(limits.deadline)));
        let (decoder, timed, ending, is_lingering) = (Decoder::new(framing), None, None, false);
        Self { source, decoder, translator, surface, watch, limits, state, timer, timed, stop, ending, is_lingering }
    }

    /// Takes in the next bytes, or what the timer means when it rings. What is pending is asked again as it is,
    /// nothing is lost when nobody asks.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(mut ending) = self.ending.take() {
            if ending.ready.as_mut().poll(context).is_pending() {
                self.ending = Some(ending);
                return Poll::Pending;
            }
            self.conclude(ending.last);
            return Poll::Ready(());
        }
        match self.source.poll_chunk(context) {
            Poll::Ready(Ok(Some(chunk))) => self.take_in(chunk),
            Poll::Ready(Ok(None)) => self.prepare(Last::Hear),
            Poll::Ready(Err(())) => self.prepare(Last::Tell(End::Truncated)),
            Poll::Pending => return self.poll_silence(context),
        }
        Poll::Ready(())
    }

    /// While nothing comes: the timer, and the gateway's stop. Most of the time the timer knows already whom to wake.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let is_timed = self.timed.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if !is_timed || self.timer.is_elapsed() {
            self.timed = Some(context.waker().clone());
            if self.timer.as_mut().poll(context).is_ready() {
                if let Some(end) = self.silence() {
                    self.prepare(Last::Tell(end));
                }
                return Poll::Ready(());
            }
        }
        self.stop.as_mut().poll(context).map(|()| self.finish(End::Stopped))
    }

    /// Ends as `last` says, as soon as the end may be told.
    fn prepare(&mut self, last: Last) {
        match self.watch.before_a_short_end() {
            Some(ready) => self.ending = Some(Ending { ready, last }),
            None => self.conclude(last),
        }
    }

    fn conclude(&mut self, last: Last) {
        match last {
            Last::Hear => self.source_ended(),
            Last::Tell(end) => self.finish(end),
        }
    }

    fn take_in(&mut self, chunk: Bytes) {
        self.state.heard_at = Instant::now();
        self.state.out.reserve(chunk.len() + 64);
        // A provider that never pauses does not let the timer ring.
        if self.state.heard_at >= self.limits.deadline {
            return self.finish(self.limits.end(self.state.heard_at));
        }
        self.decoder.push(chunk);
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => self.frame(&frame),
                Ok(None) => return,
                Err(fault) => return self.finish(End::Unreadable(fault)),
            }
            if self.state.end.is_some() {
                return;
            }
        }
    }

    fn frame(&mut self, frame: &Frame) {
        let (state, watch) = (&mut self.state, &mut self.watch);
        self.translator.frame(frame, &mut |event| state.hear(watch, event));
        self.tell_error();
    }

    fn source_ended(&mut self) {
        while self.state.end.is_none()
            && let Ok(Some(frame)) = self.decoder.finish()
        {
            self.frame(&frame);
        }
        if self.state.end.is_none() {
            let (state, watch) = (&mut self.state, &mut self.watch);
            self.translator.end(&mut |event| state.hear(watch, event));
            self.tell_error();
        }
        if self.state.end.is_none() {
            self.finish(End::Truncated);
        }
    }

    /// An error that the provider reported stands in the state; the client is told in our words, unless it was
    /// in the provider's.
    fn tell_error(&mut self) {
        if let Some(error) = self.state.end.as_ref().and_then(End::error).filter(|_| !self.state.error_is_told) {
            self.write_error(&error);
        }
    }

    fn write_error(&mut self, error: &Error) {
        self.state.out.extend_from_slice(&error.event(self.surface, self.translator.told()));
    }

    fn finish(&mut self, end: End) {
        self.watch.end(end.clone());
        if let Some(error) = end.error() {
            self.write_error(&error);
        }
        self.state.end = Some(end);
    }

    /// The timer rang: the provider is silent for too long, the client heard nothing for a while, or
    /// neither, because there was news since it was set. The end, when it was too long.
    fn silence(&mut self) -> Option<End> {
        let now = Instant::now();
        let silent_until = self.state.heard_at + self.limits.idle;
        if now >= silent_until || now >= self.limits.deadline {
            return Some(self.limits.end(now));
        }
        if self.surface != Surface::Bytes && self.state.has_content && now >= self.state.told_at + KEEP_ALIVE {
            self.state.out.extend_from_slice(COMMENT);
            self.state.told_at = now;
        }
        let due = self.state.told_at + KEEP_ALIVE;
        let comment_at = if due > now { due } else { now + KEEP_ALIVE };
        self.set_timer(silent_until.min(self.limits.deadline).min(comment_at));
        None
    }

    fn set_timer(&mut self, at: Instant) {
        self.timer.as_mut().reset(at);
        self.timed = None;
    }

    /// Lets the connection of a complete answer end by itself.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.state.end, Some(End::Complete)) {
            return Poll::Ready(());
        }
        while let Poll::Ready(chunk) = self.source.poll_chunk(context) {
            if !matches!(chunk, Ok(Some(_))) {
                return Poll::Ready(());
            }
        }
        if !std::mem::replace(&mut self.is_lingering, true) {
            self.set_timer(Instant::now() + LINGER);
        }
        self.timer.as_mut().poll(context)
    }

    /// Reads what has already arrived for a client that left, then breaks off.
    async fn take_in_what_arrived(mut self) {
        let mut until = Instant::now() + ARRIVED_AT_MOST;
        while self.state.end.is_none() && self.ending.is_none() && Instant::now() < until {
            self.state.out.clear();
            let asked = Instant::now();
            match self.arrived().await {
                Some(Ok(Some(chunk))) => self.take_in(chunk),
                Some(Ok(None)) => self.source_ended(),
                Some(Err(())) | None => break,
            }
            until += asked.elapsed().saturating_sub(ARRIVED);
        }
        // Before anything else takes time: what the provider writes from now on is nobody's.
        drop(self.source);
        if let Some(ready) = self.watch.before_a_short_end() {
            ready.await;
        }
    }

    /// The next bytes, if they have arrived. Where this thread was held up while it waited, its time is over and there may
    /// yet be some: the connection is given a turn to say so.
    async fn arrived(&mut self) -> Option<Result<Option<Bytes>, ()>> {
        let mut next = poll_fn(|context| self.source.poll_chunk(context));
        if let Ok(chunk) = timeout(ARRIVED, &mut next).await {
            return Some(chunk);
        }
        yield_now().await;
        next.now_or_never()
    }

    /// Reads on for a client that left.
    async fn drain(mut self, patience: Duration) {
        self.limits.deadline = self.limits.deadline.min(Instant::now() + patience);
        self.set_timer(self.limits.deadline);
        while self.state.end.is_none() {
            self.state.out.clear();
            poll_fn(|context| self.poll_read(context)).await;
        }
    }
}

impl State {
    fn hear(&mut self, watch: &mut impl Watch, event: Event<'_>) {
        if self.end.is_some() {
            return;
        }
        self.out.extend_from_slice(event.bytes);
        watch.event(&event.kind);
        match event.kind {
            Kind::Delta(_) | Kind::Finish { .. } => self.has_content = true,
            Kind::Done => {
                self.end = Some(End::Complete);
                watch.end(End::Complete);
            }
            Kind::Error(error) => {
                self.error_is_told = !event.bytes.is_empty();
                self.end = Some(End::Failed(error.clone()));
                watch.end(End::Failed(error));
            }
            Kind::Open | Kind::Usage(_) | Kind::Malformed => {}
        }
    }
}
