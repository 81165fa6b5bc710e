//! How long changes take from their cause to their effect.

use std::time::{Duration, SystemTime};

use super::metrics::Metrics;
use crate::model::{Family, Slice};

/// What is waiting beyond this is not measured.
const WAITING: usize = 4096;

/// Changes of slices that are not known to have an effect yet.
#[derive(Debug)]
pub(super) struct Programming {
    started: SystemTime,
    waiting: Vec<Sample>,
    applied: Option<SystemTime>,
}

#[derive(Debug)]
struct Sample {
    family: Family,
    trigger: SystemTime,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Told,
    Applied(SystemTime),
    /// Something could not be written, perhaps this.
    Delayed,
}

impl Programming {
    /// Changes that began before `started` do not count.
    pub(super) fn new(started: SystemTime) -> Self {
        Self {
            started,
            waiting: Vec::new(),
            applied: None,
        }
    }

    pub(super) fn told(&mut self, slice: &Slice) {
        let trigger = slice.trigger_time.filter(|time| *time > self.started);
        let Some(trigger) = trigger.filter(|_| self.waiting.len() < WAITING) else {
            return;
        };
        self.waiting.push(Sample {
            family: slice.family,
            trigger,
            stage: Stage::Told,
        });
    }

    /// All that was told is written, but for failures.
    pub(super) fn applied(&mut self, now: SystemTime) {
        self.applied = Some(now);
        for sample in &mut self.waiting {
            if matches!(sample.stage, Stage::Told) {
                sample.stage = Stage::Applied(now);
            }
        }
    }

    /// There are failures.
    pub(super) fn delay(&mut self) {
        for sample in &mut self.waiting {
            if matches!(sample.stage, Stage::Applied(_)) {
                sample.stage = Stage::Delayed;
            }
        }
    }

    /// There are none.
    pub(super) fn settle(&mut self, now: SystemTime, metrics: &Metrics) {
        if let Some(applied) = self.applied.take() {
            metrics.synced(applied);
        }
        for (family, took) in self.finished(now) {
            metrics.programmed(family, took);
        }
    }

    fn finished(&mut self, now: SystemTime) -> Vec<(Family, Duration)> {
        let done = |sample: &mut Sample| !matches!(sample.stage, Stage::Told);
        let finished = self.waiting.extract_if(.., done).map(|sample| {
            let end = match sample.stage {
                Stage::Applied(time) => time,
                Stage::Told | Stage::Delayed => now,
            };
            // The control plane's clock may be ahead.
            let took = end.duration_since(sample.trigger).unwrap_or_default();
            (sample.family, took)
        });
        finished.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    #[test]
    fn latencies() {
        enum Step {
            Told(u64),
            Applied,
            Delay,
            Settle(&'static [u64]),
        }
        use Step::{Applied, Delay, Settle, Told};

        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        // Started at 100; each step is ten seconds after the one before.
        let table: [&[Step]; 6] = [
            &[Told(101), Applied, Settle(&[19]), Settle(&[])],
            &[Told(99), Told(100), Applied, Settle(&[])],
            &[Told(105), Told(109), Applied, Settle(&[25, 21])],
            &[Told(101), Settle(&[]), Applied, Settle(&[29])],
            &[Told(101), Applied, Delay, Delay, Settle(&[49])],
            &[Told(500), Applied, Settle(&[0])],
        ];
        for (row, steps) in table.iter().enumerate() {
            let mut programming = Programming::new(at(100));
            for (step, second) in steps.iter().zip((110_u64..).step_by(10)) {
                match step {
                    Told(trigger) => programming.told(&Slice {
                        name: ObjectName::new("ns", "web-1"),
                        service: ObjectName::new("ns", "web"),
                        family: Family::V6,
                        ports: Vec::new(),
                        endpoints: Vec::new(),
                        trigger_time: Some(at(*trigger)),
                    }),
                    Applied => programming.applied(at(second)),
                    Delay => programming.delay(),
                    Settle(expect) => {
                        let found = programming.finished(at(second));
                        let expect = expect.iter().map(|took| Duration::from_secs(*took));
                        let expect: Vec<_> = expect.map(|took| (Family::V6, took)).collect();
                        assert_eq!(found, expect, "row {row}");
                    }
                }
            }
        }
    }
}
