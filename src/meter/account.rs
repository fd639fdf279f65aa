//! What is counted for one target: its counters, its price, and what was learned about its tokens.
//! It must not know calls, or how an attempt ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use providers::{ChatRequest, Usage};

use super::{UsageRecord, UsageSource};
use crate::metrics::{AnswerMetrics, KeyMetrics, Memo, Metrics, TargetMetrics};
use crate::prices::{self, Pico, Price};
use crate::tokens::{self, Calibration};

/// After this many attempts the careful estimate is checked only now and then.
const CHECKED_AT_FIRST: u64 = 8;
/// How often it is checked then: once in this many attempts.
const CHECKED_EVERY: u64 = 256;
/// Longer prompts are not used to check the careful estimate, to keep checking cheap; in bytes.
const MAX_CHECKED_BYTES: usize = 8 * 1024;
/// The answer's length that is assumed before anything was learned, in tokens.
const FIRST_GUESS_OUTPUT: u64 = 256;

/// A bill that came, kept to learn from.
#[derive(Debug)]
struct Bill {
    request: Arc<ChatRequest>,
    sample: tokens::Sample,
    usage: Usage,
}

/// The account of one target.
#[derive(Debug)]
pub struct Account {
    /// The configured provider's name.
    pub provider: String,
    /// The `model` label.
    pub model: String,
    pub(super) metrics: TargetMetrics,
    /// By route, method and status.
    pub(super) answers: Memo<(&'static str, &'static str, u16), AnswerMetrics>,
    price: Option<Arc<Price>>,
    learned: Arc<Learned>,
}

/// What a target's attempts taught; it outlives a change of the price.
#[derive(Debug)]
struct Learned {
    estimates: Calibration,
    /// Bills that will be learned from once the vocabulary is there.
    unread: Mutex<Vec<Bill>>,
    settled: AtomicU64,
    typical_output: AtomicU64,
}

impl Account {
    /// The account of `provider`'s model, under its labels.
    #[must_use]
    pub fn new(metrics: &Metrics, provider: &str, model: &str, price: Option<Arc<Price>>) -> Self {
        Self {
            provider: provider.to_owned(),
            model: model.to_owned(),
            metrics: TargetMetrics::new(metrics, provider, model),
            answers: Memo::default(),
            price,
            learned: Arc::new(Learned {
                estimates: Calibration::default(),
                unread: Mutex::default(),
                settled: AtomicU64::new(0),
                typical_output: AtomicU64::new(FIRST_GUESS_OUTPUT),
            }),
        }
    }

    /// The same account at another price: what was learned goes on being learned in both.
    #[must_use]
    pub fn at_price_of(&self, other: &Self) -> Self {
        Self {
            provider: self.provider.clone(),
            model: self.model.clone(),
            metrics: self.metrics.clone(),
            answers: Memo::default(),
            price: other.price.clone(),
            learned: Arc::clone(&self.learned),
        }
    }

    /// Whether this account has the price of `other`.
    #[must_use]
    pub fn has_price_of(&self, other: &Self) -> bool {
        self.price == other.price
    }

    /// Whether this model has a price.
    #[must_use]
    pub fn is_priced(&self) -> bool {
        self.price.is_some()
    }

    /// What a call will probably use, for its reservation: cheap, from sizes alone.
    #[must_use]
    pub fn reservation(&self, request: &ChatRequest) -> u64 {
        if !request.endpoint.is_billed() {
            return 0;
        }
        let input = self.learned.estimates.cheap.correct(guess(request));
        let output = request.max_tokens.unwrap_or_else(|| self.learned.typical_output.load(Ordering::Relaxed));
        input.saturating_add(output.saturating_mul(request.choices))
    }

    /// The prompt's tokens, carefully: for a bill that did not come. The first count of the process loads the vocabulary
    /// and takes a tenth of a second, unless [`tokens::loaded`] was waited for.
    pub(super) fn estimate_input(&self, request: &ChatRequest) -> u64 {
        self.catch_up();
        self.learned.estimates.input.correct(tokens::input(request.raw()))
    }

    /// The generated text's tokens, carefully.
    pub(super) fn estimate_output(&self, sample: &tokens::Sample) -> u64 {
        self.catch_up();
        self.learned.estimates.output.correct(sample.estimate())
    }

    /// Learns from an attempt whose usage the provider told.
    pub(super) fn learn(&self, request: &Arc<ChatRequest>, sample: &tokens::Sample, usage: &Usage) {
        if !request.is_whole() {
            return;
        }
        self.learned.estimates.cheap.observe(guess(request), usage.input);
        let typical = self.learned.typical_output.load(Ordering::Relaxed);
        self.learned.typical_output.store((typical * 7 + usage.output).div_ceil(8), Ordering::Relaxed);
        let nth = self.learned.settled.fetch_add(1, Ordering::Relaxed);
        let is_due = nth.is_multiple_of(CHECKED_EVERY) && tokens::is_loaded();
        let is_checked = nth < CHECKED_AT_FIRST || is_due;
        if is_checked && request.raw().len() <= MAX_CHECKED_BYTES {
            let bill = Bill { request: Arc::clone(request), sample: sample.clone(), usage: *usage };
            if tokens::is_loaded() {
                self.read(&bill);
            } else {
                self.learned.unread.lock().unwrap_or_else(PoisonError::into_inner).push(bill);
            }
        }
    }

    fn read(&self, bill: &Bill) {
        self.learned.estimates.input.observe(tokens::input(bill.request.raw()), bill.usage.input);
        // Reasoning that was not shown would teach that a little text is many tokens.
        if bill.sample.bytes() > 0 && bill.usage.reasoning == 0 {
            self.learned.estimates.output.observe(bill.sample.estimate(), bill.usage.output);
        }
    }

    /// Learns from what was put aside. The vocabulary takes much memory and a while to load, so it is
    /// loaded when the first bill is missing, and not before.
    fn catch_up(&self) {
        let unread = std::mem::take(&mut *self.learned.unread.lock().unwrap_or_else(PoisonError::into_inner));
        unread.iter().for_each(|bill| self.read(bill));
    }

    /// The cost in 10⁻¹² USD.
    pub(super) fn cost(&self, usage: &Usage) -> Option<u64> {
        prices::bill(self.price.as_deref(), usage).map(|Pico(pico)| pico)
    }

    /// Counts a settled attempt.
    pub(super) fn count(&self, metrics: &Metrics, record: &UsageRecord, key: Option<&KeyMetrics>) {
        let UsageRecord { outcome, source, usage, cost } = record;
        if (*outcome, *source) == (super::Outcome::Completed, UsageSource::Provider) {
            self.metrics.completed.inc();
            self.metrics.upstream_completed.inc();
        } else {
            let labels = [self.provider.as_str(), &self.model, outcome.label(), source.label()];
            metrics.settlements.with_label_values(&labels).inc();
            metrics.upstream_requests.with_label_values(&[self.provider.as_str(), outcome.label()]).inc();
        }
        if *source == UsageSource::Estimated {
            self.metrics.usage_missing.inc();
        }
        self.count_tokens(usage, *cost);
        if let Some(key) = key {
            key.input.inc_by(usage.input);
            key.output.inc_by(usage.output);
            key.cost.inc_by(cost.unwrap_or(0));
        }
    }

    fn count_tokens(&self, usage: &Usage, cost: Option<u64>) {
        let target = &self.metrics;
        let parts = [
            (&target.input, usage.input),
            (&target.output, usage.output),
            (&target.cache_read, usage.cache_read),
            (&target.cache_write, usage.cache_write + usage.cache_write_1h),
            (&target.reasoning, usage.reasoning),
            (&target.audio, usage.audio_in + usage.audio_out),
        ];
        for (counter, tokens) in parts.into_iter().filter(|(_, tokens)| *tokens > 0) {
            counter.inc_by(tokens);
        }
        match cost {
            Some(cost) => target.cost.inc_by(cost),
            None => target.unpriced.inc_by(usage.input + usage.output),
        }
    }
}

/// The cheap estimate of a prompt. How many messages it has is not counted: what was learned makes up for it.
fn guess(request: &ChatRequest) -> tokens::Estimate {
    tokens::cheap(request.text_bytes, 1, request.field("tools").is_some())
}
