//! Opens a usage record before an attempt, watches it, closes it: every attempt settles exactly once,
//! whatever happens, because the guard exists before the attempt is sent and its `Drop` settles.
//! It must not know wires, sockets, limits or why an attempt was made; it is told and it counts.

mod account;
mod call;
mod twin;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub use account::Account;
pub use call::{Call, Facts, OnEnd, OnSettled};

use providers::Usage;
use tokio::sync::watch;

use crate::metrics::{Memo, Metrics, RouteMetrics};
use crate::rarely::Rarely;
use crate::trace::Tracer;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The answer was complete.
    Completed,
    /// The client left.
    ClientDisconnect,
    /// The provider broke off.
    UpstreamTruncated,
    /// The provider refused or reported an error.
    UpstreamError,
    /// The provider was silent for too long.
    Timeout,
    /// The gateway stopped.
    GatewayShutdown,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 6] = [
        Self::Completed,
        Self::ClientDisconnect,
        Self::UpstreamTruncated,
        Self::UpstreamError,
        Self::Timeout,
        Self::GatewayShutdown,
    ];

    /// Where the usage of an attempt that ended so can come from.
    #[must_use]
    pub const fn sources(self) -> &'static [UsageSource] {
        match self {
            Self::Completed => &[UsageSource::Provider, UsageSource::Estimated, UsageSource::None],
            Self::ClientDisconnect | Self::Timeout | Self::GatewayShutdown | Self::UpstreamTruncated | Self::UpstreamError => {
                &UsageSource::ALL
            }
        }
    }

    /// The label in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientDisconnect => "client_disconnect",
            Self::UpstreamTruncated => "upstream_truncated",
            Self::UpstreamError => "upstream_error",
            Self::Timeout => "timeout",
            Self::GatewayShutdown => "gateway_shutdown",
        }
    }
}

/// Where the numbers of a usage record come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UsageSource {
    /// The provider's final count.
    Provider,
    /// A count the provider gave on the way; what came after it is estimated.
    Partial,
    /// Nothing was told; all is estimated.
    Estimated,
    /// Nothing was generated or billed.
    None,
}

impl UsageSource {
    /// Every source.
    pub const ALL: [Self; 4] = [Self::Provider, Self::Partial, Self::Estimated, Self::None];

    /// The label in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Partial => "partial",
            Self::Estimated => "estimated",
            Self::None => "none",
        }
    }
}

/// What one attempt used and cost. The one thing that metrics, logs and limits are told.
#[derive(Clone, Copy, Debug)]
pub struct UsageRecord {
    /// How the attempt ended.
    pub outcome: Outcome,
    /// Where `usage` comes from.
    pub source: UsageSource,
    /// The tokens.
    pub usage: Usage,
    /// The cost in 10⁻¹² USD; `None` when the model has no price.
    pub cost: Option<u64>,
}

/// Opens the record of every call. Clones are the same meter.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Ways>);

/// What is written down beside the counting.
#[derive(Clone, Debug)]
struct Ways {
    books: Arc<Books>,
    tracer: Option<Tracer>,
    /// The share of the calls that went well which has a log line.
    logged: f64,
}

/// What every record is part of.
#[derive(Debug)]
struct Books {
    metrics: Arc<Metrics>,
    /// By route.
    routes: Memo<&'static str, RouteMetrics>,
    /// Tells whoever waits for it; whoever only wants to know reads `is_stopping`.
    stopping: watch::Sender<bool>,
    is_stopping: AtomicBool,
    running: AtomicUsize,
}

impl Meter {
    /// A meter that counts in `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let books = Books {
            metrics,
            routes: Memo::default(),
            stopping: watch::Sender::new(false),
            is_stopping: AtomicBool::new(false),
            running: AtomicUsize::new(0),
        };
        Self(Arc::new(Ways { books: Arc::new(books), tracer: None, logged: 1.0 }))
    }

    /// The same meter, which also tells `tracer`, if there is one.
    #[must_use]
    pub fn traced(self, tracer: Option<Tracer>) -> Self {
        Self(Arc::new(Ways { tracer, ..Arc::unwrap_or_clone(self.0) }))
    }

    /// The same meter, which writes a log line for this share of the calls that went well. All others have theirs.
    #[must_use]
    pub fn logging(self, share: f64) -> Self {
        Self(Arc::new(Ways { logged: share, ..Arc::unwrap_or_clone(self.0) }))
    }

    /// From now on, what is dropped unfinished was ended by the gateway, not by its client.
    pub fn stop(&self) {
        self.0.books.is_stopping.store(true, Ordering::Release);
        self.0.books.stopping.send_replace(true);
    }

    /// Calls that are not over.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.books.running.load(Ordering::Acquire)
    }

    /// Ready when [`stop`](Self::stop) was said.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut stopping, books) = (self.0.books.stopping.subscribe(), Arc::clone(&self.0.books));
        let stopped = async move {
            // The sender lives in every call, so an error means that nobody is left to be stopped.
            let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
        };
        Rarely::new(Box::pin(stopped), move || books.is_stopping.load(Ordering::Acquire))
    }

    fn is_stopping(&self) -> bool {
        self.0.books.is_stopping.load(Ordering::Acquire)
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.0.books.metrics
    }

    fn begun(&self) {
        self.0.books.running.fetch_add(1, Ordering::AcqRel);
    }

    fn ended(&self) {
        self.0.books.running.fetch_sub(1, Ordering::AcqRel);
    }
}
