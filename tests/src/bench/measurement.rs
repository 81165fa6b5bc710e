//! What is measured, in a form that table, report, plots and JSON all read.

use serde::Serialize;

/// Samples of one quantity, of one variant under one load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    pub part: Part,
    /// What is done, such as `udp from a pod`.
    pub load: String,
    /// Who does it, such as `nftables`.
    pub variant: String,
    /// How many Services there are; `None` where it makes no difference.
    pub services: Option<u32>,
    pub unit: Unit,
    /// One for each repetition, in the order they were taken.
    pub samples: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Program,
    Traffic,
    Control,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    /// Of CPU time.
    CpuSeconds,
    /// Per second of CPU time of the sending process.
    PerCpuSecond,
    GigabitsPerSecond,
    GigabitsPerCpuSecond,
    Mebibytes,
    Count,
}

impl Part {
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Program => "One packet through one program",
            Self::Traffic => "Traffic on a whole node",
            Self::Control => "From a change to the kernel",
        }
    }
}

impl Unit {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::CpuSeconds => "CPU-seconds",
            Self::PerCpuSecond => "per CPU-second",
            Self::GigabitsPerSecond => "Gbit/s",
            Self::GigabitsPerCpuSecond => "Gbit per CPU-second",
            Self::Mebibytes => "MiB",
            Self::Count => "count",
        }
    }

    /// Whether the higher figure is the better one.
    #[must_use]
    pub fn is_rate(self) -> bool {
        matches!(
            self,
            Self::PerCpuSecond | Self::GigabitsPerSecond | Self::GigabitsPerCpuSecond
        )
    }
}

/// Median of the samples, and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Measurement {
    /// `None` without samples.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.samples)
    }

    /// Of this to the other's, sample by sample: both were taken in one
    /// repetition, so what slowed the machine then slowed both.
    #[must_use]
    pub fn ratio(&self, other: &Self) -> Option<Summary> {
        let pairs = self.samples.iter().zip(&other.samples);
        let ratios: Vec<f64> = pairs.map(|(own, others)| own / others).collect();
        Summary::of(&ratios)
    }
}

impl Summary {
    /// `None` without samples.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&least, &most) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Some(Self {
            median,
            least,
            most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let check = |samples: &[f64], expect: Option<(f64, f64, f64)>| {
            let found = Summary::of(samples);
            let found = found.map(|found| (found.least, found.median, found.most));
            assert_eq!(found, expect, "{samples:?}");
        };
        check(&[], None);
        check(&[2.0], Some((2.0, 2.0, 2.0)));
        check(&[3.0, 1.0, 2.0], Some((1.0, 2.0, 3.0)));
        check(&[4.0, 1.0, 2.0, 3.0], Some((1.0, 2.5, 4.0)));

        let measured = |samples: &[f64]| Measurement {
            part: Part::Traffic,
            load: "udp from a pod".into(),
            variant: "plain".into(),
            services: Some(10),
            unit: Unit::PerCpuSecond,
            samples: samples.into(),
        };
        // The second repetition was slow for both.
        let ratio = measured(&[10.0, 5.0, 10.0]).ratio(&measured(&[20.0, 10.0, 16.0]));
        let ratio = ratio.unwrap();
        assert_eq!((ratio.least, ratio.median, ratio.most), (0.5, 0.5, 0.625));
    }
}
