//! What passed lately: a sliding window of slots.
//! It must not know what is counted in it, nor read a clock.

use std::collections::VecDeque;

/// How a span is cut into slots. A slot counts until all of it is older than the span, so what falls into one leaves the
/// window up to a slot's width later than it must: that is the price in throughput, and it buys a bound on what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    /// The width of a slot in milliseconds.
    pub(super) slot_ms: u64,
    /// How many slots back still count: something at the end of a slot is a span old only when this many have followed.
    pub(super) reach: u64,
}

impl Grid {
    /// 60 s in half seconds: at least 99.2 % of the limit passes under constant overload.
    pub(super) const MINUTE: Self = Self { slot_ms: 500, reach: 120 };
    /// 1 s in fiftieths: at least 98 %.
    pub(super) const SECOND: Self = Self { slot_ms: 20, reach: 50 };

    /// The span in milliseconds.
    pub(super) const fn span_ms(self) -> u64 {
        self.slot_ms * self.reach
    }

    /// The slot of a moment.
    pub(super) const fn slot_of(self, ms: u64) -> u64 {
        ms / self.slot_ms
    }

    /// The first moment at which a slot no longer counts.
    pub(super) const fn leaves_at(self, slot: u64) -> u64 {
        (slot + self.reach + 1) * self.slot_ms
    }
}

/// One window: at most [`Grid::reach`] + 1 slots, none of them kept once it left.
#[derive(Debug)]
pub(super) struct Slots {
    grid: Grid,
    kept: VecDeque<(u64, u64)>,
    sum: u64,
}

impl Slots {
    /// An empty window.
    pub(super) const fn over(grid: Grid) -> Self {
        Self { grid, kept: VecDeque::new(), sum: 0 }
    }

    /// What passed in the span that ends in slot `now`.
    pub(super) fn sum(&mut self, now: u64) -> u64 {
        while let Some(&(slot, amount)) = self.kept.front() {
            if slot + self.grid.reach >= now {
                break;
            }
            self.sum = self.sum.saturating_sub(amount);
            self.kept.pop_front();
        }
        self.sum
    }

    /// Counts `amount` in slot `now`. A slot older than the newest is taken for the newest: later is never too much.
    pub(super) fn add(&mut self, now: u64, amount: u64) {
        self.sum(now);
        if amount == 0 {
            return;
        }
        self.sum = self.sum.saturating_add(amount);
        match self.kept.back_mut() {
            Some((slot, counted)) if *slot >= now => *counted = counted.saturating_add(amount),
            _ => self.kept.push_back((now, amount)),
        }
    }

    /// Takes back what was counted in `slot`. Nothing happens when that slot has left the window.
    pub(super) fn take_back(&mut self, slot: u64, amount: u64, now: u64) {
        self.sum(now);
        if slot + self.grid.reach < now {
            return;
        }
        let index = self.kept.partition_point(|&(at, _)| at < slot);
        if let Some((_, counted)) = self.kept.get_mut(index) {
            let taken = amount.min(*counted);
            *counted -= taken;
            self.sum -= taken;
        }
    }

    /// The moment at which at least `amount` has left, or `None` when less than that is counted.
    pub(super) fn freed_at(&self, amount: u64) -> Option<u64> {
        let mut freed = 0_u64;
        for &(slot, counted) in &self.kept {
            freed = freed.saturating_add(counted);
            if freed >= amount {
                return Some(self.grid.leaves_at(slot));
            }
        }
        None
    }

    /// The moment at which the window is empty if nothing is added; `None` when it is empty now.
    pub(super) fn empty_at(&self) -> Option<u64> {
        self.kept.iter().rev().find(|(_, amount)| *amount > 0).map(|&(slot, _)| self.grid.leaves_at(slot))
    }

    /// The slots that are counted, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.kept.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_counts_for_a_minute_and_no_more_than_a_slot_longer() {
        let mut slots = Slots::over(Grid::MINUTE);
        slots.add(Grid::MINUTE.slot_of(0), 5);
        assert_eq!(slots.sum(Grid::MINUTE.slot_of(59_999)), 5);
        assert_eq!(slots.sum(Grid::MINUTE.slot_of(60_499)), 5, "it may have come at the end of its slot");
        assert_eq!(slots.empty_at(), Some(60_500));
        assert_eq!(slots.sum(Grid::MINUTE.slot_of(60_500)), 0);
        assert_eq!(slots.empty_at(), None);
    }

    #[test]
    fn the_wait_is_for_the_oldest_slots_that_suffice() {
        let mut slots = Slots::over(Grid::MINUTE);
        slots.add(0, 5);
        slots.add(2, 5);
        assert_eq!(slots.freed_at(5), Some(Grid::MINUTE.leaves_at(0)));
        assert_eq!(slots.freed_at(6), Some(Grid::MINUTE.leaves_at(2)));
        assert_eq!(slots.freed_at(11), None);
    }

    #[test]
    fn a_refund_never_reaches_what_others_counted() {
        let mut slots = Slots::over(Grid::MINUTE);
        slots.add(0, 5);
        slots.add(Grid::MINUTE.reach + 1, 7);
        slots.take_back(0, 5, Grid::MINUTE.reach + 1);
        assert_eq!(slots.sum(Grid::MINUTE.reach + 1), 7, "slot 0 has left the window; its refund goes nowhere");
        slots.take_back(Grid::MINUTE.reach + 1, 3, Grid::MINUTE.reach + 1);
        assert_eq!(slots.sum(Grid::MINUTE.reach + 1), 4);
        slots.take_back(Grid::MINUTE.reach + 1, 100, Grid::MINUTE.reach + 1);
        assert_eq!(slots.sum(Grid::MINUTE.reach + 1), 0);
    }

    #[test]
    fn a_window_stays_bounded() {
        let mut slots = Slots::over(Grid::MINUTE);
        for slot in 0..100_000 {
            slots.add(slot, 1);
        }
        assert_eq!(slots.kept.len() as u64, Grid::MINUTE.reach + 1);
        assert_eq!(slots.sum(99_999), Grid::MINUTE.reach + 1);
    }
}
