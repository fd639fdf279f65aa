//! Sends spans to an OTLP receiver from a thread of its own. Spans wait in a bounded line; what finds
//! no room in it, or cannot be delivered, is dropped and counted. No call ever waits for any of this.
//! It must not know what a span says.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SpanExporter as _};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{Protocol, Traces};
use crate::metrics::Counter;
use crate::trace::{Sink, Span, Tracer};

/// How long leaving may be held up by spans that are still to be sent.
const LAST_EXPORT: Duration = Duration::from_secs(1);

/// The sending end, to be kept until the end: [`close`](Self::close) sends what is left.
#[derive(Debug)]
pub struct Exporter {
    /// Dropped to tell the thread to finish.
    leave: oneshot::Sender<()>,
    left: oneshot::Receiver<()>,
}

/// Starts sending; `client` makes the HTTP requests. What is dropped is counted in `dropped`.
///
/// # Errors
/// When the receiver's address or headers cannot be used.
pub fn start(
    config: &Traces,
    client: impl HttpClient + 'static,
    dropped: Counter,
) -> Result<(Tracer, Exporter), Box<dyn std::error::Error>> {
    let (sender, spans) = mpsc::channel(config.queue);
    let (leave, leaving) = oneshot::channel();
    let (leaves, left) = oneshot::channel();
    let (says, told) = std::sync::mpsc::channel();
    let (on_thread, courier_drops) = (config.clone(), dropped.clone());
    std::thread::Builder::new().name("span-export".to_owned()).spawn(move || {
        let made = exporter(&on_thread, client);
        // Whoever started this waits for the word.
        let _ = says.send(made.as_ref().map(|_| ()).map_err(ToString::to_string));
        let Ok((runtime, exporter)) = made else { return };
        let courier = Courier { exporter, spans, dropped: courier_drops, config: on_thread, is_failing: false };
        runtime.block_on(courier.run(leaving));
        // Nobody listens when leaving took too long.
        let _ = leaves.send(());
    })?;
    told.recv()??;
    let sink = Line { sender, dropped };
    let tracer = Tracer::new(sampler(config.sampler), config.propagates, Box::new(sink));
    Ok((tracer, Exporter { leave, left }))
}

impl Exporter {
    /// Sends what is left, within a second; what cannot be sent by then is given up.
    pub async fn close(self) {
        drop(self.leave);
        if timeout(LAST_EXPORT, self.left).await.is_err() {
            tracing::warn!(target: "choreoai", "the last spans could not be delivered in time");
        }
    }
}

/// The exporter, and the runtime that it works on.
fn exporter(config: &Traces, client: impl HttpClient + 'static) -> Result<(Runtime, SpanExporter), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut exporter = {
        let _within = runtime.enter();
        let builder = SpanExporter::builder();
        match config.protocol {
            Protocol::Grpc => builder.with_tonic().build(),
            Protocol::HttpProtobuf => builder.with_http().with_http_client(client).build(),
        }?
    };
    exporter.set_resource(&resource(config));
    Ok((runtime, exporter))
}

fn sampler(told: crate::config::Sampler) -> Sampler {
    let root = match told.ratio {
        1.0.. => Sampler::AlwaysOn,
        ..=0.0 => Sampler::AlwaysOff,
        ratio => Sampler::TraceIdRatioBased(ratio),
    };
    if told.follows_parent { Sampler::ParentBased(Box::new(root)) } else { root }
}

/// Who sends: the service and its version, this process among its like, and what the operator says in `OTEL_RESOURCE_ATTRIBUTES`.
fn resource(config: &Traces) -> Resource {
    let own = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", format!("{:032x}", fastrand::u128(..))),
    ];
    let told = Resource::builder().build();
    let own = own.into_iter().filter(|attribute| told.get_ref(&attribute.key).is_none());
    Resource::builder().with_attributes(own).with_service_name(config.service.clone()).build()
}

/// Where spans wait.
#[derive(Debug)]
struct Line {
    sender: mpsc::Sender<Span>,
    dropped: Counter,
}

impl Sink for Line {
    fn take(&self, span: Span) {
        if self.sender.try_send(span).is_err() {
            self.dropped.inc();
        }
    }
}

struct Courier {
    exporter: SpanExporter,
    spans: mpsc::Receiver<Span>,
    dropped: Counter,
    config: Traces,
    is_failing: bool,
}

impl Courier {
    /// Sends a batch whenever it is full or its first span has waited long enough, until told to leave;
    /// then whatever is left.
    async fn run(mut self, mut leaving: oneshot::Receiver<()>) {
        let mut batch = Vec::new();
        let mut due = Instant::now();
        loop {
            let room = self.config.batch - batch.len();
            let received = tokio::select! {
                biased;
                _ = &mut leaving => break,
                received = timeout_at(if batch.is_empty() { far_off() } else { due }, self.spans.recv_many(&mut batch, room)) => received,
            };
            match received {
                Ok(0) => break,
                Ok(new) if batch.len() == new => due = Instant::now() + self.config.delay,
                Ok(_) | Err(_) => {}
            }
            if batch.len() >= self.config.batch || Instant::now() >= due {
                self.send(std::mem::take(&mut batch)).await;
            }
        }
        self.send_the_rest(batch).await;
    }

    async fn send_the_rest(&mut self, mut batch: Vec<Span>) {
        loop {
            match self.spans.try_recv() {
                Ok(span) if batch.len() < self.config.batch => batch.push(span),
                Ok(span) => self.send(std::mem::replace(&mut batch, vec![span])).await,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        if !batch.is_empty() {
            self.send(batch).await;
        }
    }

    async fn send(&mut self, batch: Vec<Span>) {
        let spans = batch.len();
        let sent = timeout(self.config.timeout, self.exporter.export(batch)).await;
        let trouble = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the receiver did not answer in time".to_owned()),
        };
        let Some(trouble) = trouble else {
            if std::mem::take(&mut self.is_failing) {
                tracing::info!(target: "choreoai", "spans are delivered again");
            }
            return;
        };
        self.dropped.inc_by(spans as u64);
        // Said once, not with every batch.
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(target: "choreoai", error = trouble, "spans cannot be delivered and are dropped");
        }
    }
}

/// A time that does not come.
fn far_off() -> Instant {
    Instant::now() + Duration::from_secs(24 * 60 * 60)
}
