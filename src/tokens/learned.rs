//! What the bills that come teach about the estimates that stand in for those that do not.
//! It must not know targets, text or clocks; its owner keeps one per target.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Estimate;

/// From this many tokens on, a bill teaches the ratio; below, the fixed costs drown it and are what it teaches.
const LARGE: u64 = 256;
/// How far the ratio may be from one, either way: no tokenizer differs more.
const RATIO: Bounds = Bounds { low: 0.25, high: 4.0 };
/// Hidden prompts reach several hundred tokens; on the low side only a frame can be missing.
const FIXED: Bounds = Bounds { low: -16.0, high: 1_024.0 };
/// How far a lone sample may be from what is known: half as much again, and this many tokens.
const LONE_STEP: f32 = 0.5;
const LONE_TOKENS: f32 = 32.0;
/// The weight of a sample that stands alone, and of one that agrees with the one before.
const LONE_WEIGHT: f32 = 0.125;
const AGREED_WEIGHT: f32 = 0.25;
/// Two samples agree when they differ by no more than this part of the larger one.
const AGREEMENT: f32 = 0.25;

/// The least and the most that can be learned.
#[derive(Clone, Copy)]
struct Bounds {
    low: f32,
    high: f32,
}

/// A moving average that one wild sample hardly moves and two that agree move quickly. Lock-free: the
/// average and the latest sample are the halves of one word.
#[derive(Debug)]
struct Average(AtomicU64);

impl Average {
    fn at(value: f32) -> Self {
        Self(AtomicU64::new(pack(value, value)))
    }

    fn get(&self) -> f32 {
        unpack(self.0.load(Ordering::Relaxed)).0
    }

    /// Takes a sample in, with `step` as far as a lone one may be from the average.
    fn learn(&self, sample: f32, step: impl Fn(f32) -> f32, bounds: Bounds) {
        let sample = sample.clamp(bounds.low, bounds.high);
        let next = |packed| {
            let (average, latest) = unpack(packed);
            let agrees = (sample - latest).abs() <= AGREEMENT * sample.abs().max(latest.abs());
            let moved = if agrees {
                AGREED_WEIGHT * (sample - average)
            } else {
                let step = step(average);
                LONE_WEIGHT * (sample - average).clamp(-step, step)
            };
            Some(pack(average + moved, sample))
        };
        // `next` always has a value, so the update always succeeds.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

fn pack(average: f32, latest: f32) -> u64 {
    u64::from(average.to_bits()) << 32 | u64::from(latest.to_bits())
}

fn unpack(packed: u64) -> (f32, f32) {
    (f32::from_bits((packed >> 32) as u32), f32::from_bits(packed as u32))
}

/// How reported tokens follow from estimated ones: a ratio (another tokenizer), what every call costs
/// besides (a hidden prompt), and what each extra does (tools declared, or calls made).
#[derive(Debug)]
pub struct Correction {
    ratio: Average,
    base: Average,
    extra: Average,
}

impl Default for Correction {
    fn default() -> Self {
        Self { ratio: Average::at(1.0), base: Average::at(0.0), extra: Average::at(0.0) }
    }
}

impl Correction {
    /// Learns from a bill that came: the estimate as it was made, uncorrected, and the reported tokens.
    /// Nothing estimated or nothing reported teaches nothing.
    pub fn observe(&self, estimate: Estimate, reported: u64) {
        if estimate.tokens == 0 || reported == 0 {
            return;
        }
        let (tokens, extras, reported) = (estimate.tokens as f32, estimate.extras as f32, reported as f32);
        let fixed = self.extra.get().mul_add(extras, self.base.get());
        let few = |_| LONE_TOKENS;
        if estimate.tokens >= LARGE {
            self.ratio.learn((reported - fixed) / tokens, |average| average * LONE_STEP, RATIO);
        } else if estimate.extras == 0 {
            self.base.learn(reported - self.ratio.get() * tokens, few, FIXED);
        } else {
            let rest = reported - self.ratio.get().mul_add(tokens, self.base.get());
            self.extra.learn(rest / extras, few, FIXED);
        }
    }

    /// The estimate in tokens, corrected by what was learned; nothing stays nothing.
    #[must_use]
    pub fn correct(&self, estimate: Estimate) -> u64 {
        if estimate == Estimate::default() {
            return 0;
        }
        let fixed = self.extra.get().mul_add(estimate.extras as f32, self.base.get());
        let corrected = f64::from(self.ratio.get()).mul_add(estimate.tokens as f64, f64::from(fixed));
        (corrected.round() as u64).max(1)
    }
}

/// What is learned about one target, apart for each kind of estimate: nine words.
#[derive(Debug, Default)]
pub struct Calibration {
    /// For [`super::cheap`], compared with reported input.
    pub cheap: Correction,
    /// For [`super::input`], compared with reported input.
    pub input: Correction,
    /// For [`super::Sample::estimate`], compared with reported output without reasoning that was not shown.
    pub output: Correction,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tokens: u64, extras: u64) -> Estimate {
        Estimate { tokens, extras }
    }

    #[track_caller]
    fn within(part: f64, found: u64, expected: u64) {
        let off = found.abs_diff(expected) as f64 / expected as f64;
        assert!(off <= part, "{found} is {off} off {expected}");
    }

    #[track_caller]
    fn near(found: u64, expected: u64) {
        within(0.05, found, expected);
    }

    #[test]
    fn nothing_learned_changes_nothing() {
        let fresh = Correction::default();
        for tokens in [0, 1, 17, 100_000, 1 << 40] {
            assert_eq!(fresh.correct(of(tokens, 3)), tokens.max(u64::from(tokens == 0)));
        }
        assert_eq!(fresh.correct(of(0, 0)), 0);
    }

    #[test]
    fn another_tokenizer_is_learned() {
        let learned = Correction::default();
        for round in 0..30_u64 {
            let tokens = 1_000 + round * 37;
            learned.observe(of(tokens, 0), tokens * 14 / 10);
        }
        near(learned.correct(of(5_000, 0)), 7_000);
    }

    #[test]
    fn a_hidden_prompt_is_learned_apart_from_that_of_tools() {
        let learned = Correction::default();
        for round in 0..40 {
            learned.observe(of(20 + round, 0), 170 + round);
            learned.observe(of(60 + round, 1), 560 + round);
        }
        near(learned.correct(of(30, 0)), 180);
        near(learned.correct(of(100, 1)), 600);
        // large prompts hardly notice
        near(learned.correct(of(20_000, 0)), 20_000);
    }

    #[test]
    fn calls_in_an_answer_cost_each_what_was_learned() {
        let learned = Correction::default();
        for calls in (1..=4).cycle().take(40) {
            learned.observe(of(20 * calls, calls), 29 * calls);
        }
        near(learned.correct(of(60, 3)), 87);
    }

    #[test]
    fn one_wild_bill_is_forgiven_first_or_later() {
        for wild in [1, 100_000_000] {
            for large in [100, 1_000] {
                let learned = Correction::default();
                learned.observe(of(large, 0), wild);
                within(0.1, learned.correct(of(1_000, 0)), 1_000);
                for _ in 0..3 {
                    learned.observe(of(large, 0), large);
                }
                learned.observe(of(large, 0), wild);
                within(0.1, learned.correct(of(1_000, 0)), 1_000);
            }
        }
    }

    #[test]
    fn even_steady_nonsense_stays_within_bounds() {
        let learned = Correction::default();
        for _ in 0..1_000 {
            learned.observe(of(1_000, 0), u64::MAX);
            learned.observe(of(10, 1), u64::MAX);
            learned.observe(of(10, 0), u64::MAX);
        }
        assert!(learned.correct(of(1_000, 0)) <= 4 * 1_000 + 1_024);
        assert!(learned.correct(of(1_000, 1)) <= 4 * 1_000 + 2 * 1_024);
        for _ in 0..1_000 {
            learned.observe(of(10, 0), 1);
            learned.observe(of(1_000, 0), 1);
        }
        assert!(learned.correct(of(1_000, 0)) >= 250 - 16);
        assert!(learned.correct(of(1, 0)) >= 1);
    }

    #[test]
    fn explicit_zeros_teach_nothing() {
        let learned = Correction::default();
        for _ in 0..100 {
            learned.observe(of(0, 0), 50);
            learned.observe(of(500, 0), 0);
        }
        assert_eq!(learned.correct(of(500, 0)), 500);
    }

    #[test]
    fn threads_may_share_it() {
        let learned = Correction::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| learned.observe(of(1_000, 0), 2_000)));
            }
        });
        near(learned.correct(of(1_000, 0)), 2_000);
    }
}
