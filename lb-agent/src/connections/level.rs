//! How full a table is, and when it will be.

use std::{collections::VecDeque, time::Duration};

/// Growth is taken from this much time.
const WINDOW: Duration = Duration::from_secs(60);
/// From less, it is not foretold: traffic comes in bursts.
const SHORTEST: Duration = Duration::from_secs(30);

/// It is worth a warning if the table is full within this time.
const SOON: Duration = Duration::from_secs(300);
const NEARLY_FULL: u64 = 80;
/// It is over if it is neither this full, in per cent, nor full within this
/// time, and has not been for so long.
const LATER: Duration = Duration::from_secs(600);
const ROOMY: u64 = 70;
const CALM: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Level {
    limit: u64,
    /// When, and how many there were, by time.
    samples: VecDeque<(Duration, u64)>,
    warns: bool,
    /// Since when there is no reason to warn.
    calm: Option<Duration>,
}

impl Level {
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            limit: u64::from(limit).max(1),
            samples: VecDeque::new(),
            warns: false,
            calm: None,
        }
    }

    /// Notes how many there are, about once a second.
    pub fn note(&mut self, now: Duration, count: u64) {
        let old = |at: Duration| now.saturating_sub(at) > WINDOW;
        while self.samples.front().is_some_and(|&(at, _)| old(at)) {
            self.samples.pop_front();
        }
        self.samples.push_back((now, count));
        if self.is_within(NEARLY_FULL, SOON) {
            (self.warns, self.calm) = (true, None);
        } else if self.is_within(ROOMY, LATER) {
            self.calm = None;
        } else {
            let since = *self.calm.get_or_insert(now);
            self.warns &= now.saturating_sub(since) < CALM;
        }
    }

    /// Whether there is to be a warning. Once there is, it stays until there has
    /// been room for a while.
    #[must_use]
    pub fn warns(&self) -> bool {
        self.warns
    }

    /// Whether there is room again, but not for long.
    #[must_use]
    pub fn has_calmed(&self) -> bool {
        self.warns && self.calm.is_some()
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.samples.back().map_or(0, |&(_, count)| count)
    }

    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    #[must_use]
    pub fn percent(&self) -> u64 {
        self.count() * 100 / self.limit
    }

    /// When it is full if it grows as it did; `None` if it does not grow.
    #[must_use]
    pub fn full_in(&self) -> Option<Duration> {
        let &(first_at, first) = self.samples.front()?;
        let &(last_at, last) = self.samples.back()?;
        if last >= self.limit {
            return Some(Duration::ZERO);
        }
        let took = last_at.saturating_sub(first_at);
        let grown = last.checked_sub(first).filter(|grown| *grown > 0)?;
        if took < SHORTEST {
            return None;
        }
        let left = (self.limit - last) as f64;
        Some(took.mul_f64(left / grown as f64))
    }

    fn is_within(&self, percent: u64, time: Duration) -> bool {
        self.percent() >= percent || self.full_in().is_some_and(|left| left <= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 60_000;

    /// A level after a second each of so many connections.
    fn after(counts: impl Iterator<Item = u64>) -> Level {
        let mut level = Level::new(LIMIT);
        for (second, count) in (0..).zip(counts) {
            level.note(Duration::from_secs(second), count);
        }
        level
    }

    #[test]
    fn growth_tells_when_a_table_is_full() {
        let check = |start: u64, each: i64, seconds: u64, expect: Option<u64>| {
            let level = after((0..=seconds).map(|s| start.saturating_add_signed(each * s as i64)));
            let found = level
                .full_in()
                .map(|left| left.as_secs_f64().round() as u64);
            assert_eq!(found, expect, "{start} {each} {seconds}");
        };
        check(0, 0, 60, None);
        check(30_000, -10, 60, None);
        check(0, 100, 10, None);
        check(0, 100, 30, Some(570));
        check(0, 100, 60, Some(540));
        check(0, 100, 300, Some(300));
        check(54_000, 1, 60, Some(5940));
        check(60_000, 0, 0, Some(0));
        check(70_000, 0, 60, Some(0));
        // What was before the last minute does not count.
        let burst = (0..=10).map(|s| s * 2000);
        let level = after(burst.chain(std::iter::repeat_n(20_000, 70)));
        assert_eq!(level.full_in(), None);
    }

    #[test]
    fn a_warning_comes_once_and_goes_when_there_is_room_for_a_while() {
        let mut level = Level::new(LIMIT);
        let mut now = 0;
        let mut hold = |level: &mut Level, count: u64, seconds: u64| -> Vec<bool> {
            let mut found = Vec::new();
            for _ in 0..seconds {
                level.note(Duration::from_secs(now), count);
                now += 1;
                if found.last() != Some(&level.warns()) {
                    found.push(level.warns());
                }
            }
            found
        };
        assert_eq!(hold(&mut level, 40_000, 90), [false]);
        // Nearly full; then around the mark, where it would flap.
        assert_eq!(hold(&mut level, 48_000, 5), [true]);
        for _ in 0..20 {
            assert_eq!(hold(&mut level, 47_900, 10), [true]);
            assert_eq!(hold(&mut level, 48_100, 10), [true]);
        }
        assert_eq!(hold(&mut level, 45_000, 300), [true]);
        assert!(!level.has_calmed());
        assert_eq!(hold(&mut level, 40_000, 59), [true]);
        assert!(level.has_calmed());
        assert_eq!(hold(&mut level, 45_000, 30), [true]);
        assert_eq!(hold(&mut level, 40_000, 300), [true, false]);
        assert!(!level.has_calmed());
    }

    #[test]
    fn a_forecast_warns_in_time() {
        // 150 a second: full in 300 s at 15,000.
        for (seconds, expect) in [(40, false), (99, false), (100, true), (200, true)] {
            let level = after((0..=seconds).map(|second| second * 150));
            assert_eq!(level.warns(), expect, "{seconds}");
        }
        // A burst at the start is none.
        let level = after((0..=20).map(|second| second * 1000));
        assert!(!level.warns());
    }
}
