//! How long connections last without a packet.

use std::{fmt, str::FromStr};

use jiff::{SignedDuration, Span, SpanRelativeTo};
use lb_common::lifecycle::{DEFAULT_TIMEOUTS, TIMEOUTS};

/// One timeout: what is written has a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(u32);

impl Timeout {
    /// A connection's time is noted once a second.
    const MIN: u32 = 2;
    /// The kernel's jiffies take 24.8 days to half of 32 bits, at the most of
    /// them a second.
    const MAX: u32 = 24 * 24 * 3600;

    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.0
    }
}

/// No duration, or one that is too short or too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {0:?}, accepted: a duration from 2s to 24d in whole seconds, such as 90s, 5m or 5d")]
pub struct BadTimeout(String);

impl FromStr for Timeout {
    type Err = BadTimeout;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadTimeout(text.to_owned());
        let span: Span = text.parse().map_err(|_| bad())?;
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours());
        let duration = duration.map_err(|_| bad())?;
        let seconds = u32::try_from(duration.as_secs()).map_err(|_| bad())?;
        if duration.subsec_nanos() != 0 || !(Self::MIN..=Self::MAX).contains(&seconds) {
            return Err(bad());
        }
        Ok(Self(seconds))
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", SignedDuration::from_secs(self.0.into()))
    }
}

/// In seconds, by [`lb_common::lifecycle::timeout_index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts(pub [u32; TIMEOUTS]);

impl Default for Timeouts {
    fn default() -> Self {
        Self(DEFAULT_TIMEOUTS)
    }
}

impl Timeouts {
    #[must_use]
    pub fn shortest(&self) -> u32 {
        self.0.into_iter().min().unwrap_or(1).max(1)
    }

    /// In jiffies, of which a second has so many.
    #[must_use]
    pub fn jiffies(&self, second: u32) -> [u32; TIMEOUTS] {
        self.0.map(|seconds| seconds.saturating_mul(second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_durations_with_a_unit() {
        for (text, expect) in [
            ("2s", Some(2)),
            ("90s", Some(90)),
            ("2m", Some(120)),
            ("1h30m", Some(5400)),
            ("24h0m0s", Some(86_400)),
            ("5d", Some(432_000)),
            ("5 days", Some(432_000)),
            ("24d", Some(2_073_600)),
            ("1s", None),
            ("0s", None),
            ("0", None),
            ("120", None),
            ("24d1s", None),
            ("5w", None),
            ("1500ms", None),
            ("-5m", None),
            ("1 month", None),
            ("soon", None),
            ("", None),
        ] {
            let found = text.parse::<Timeout>();
            let told = format!("found {text:?}, accepted: a duration from 2s to 24d");
            match (found, expect) {
                (Ok(found), expect) => assert_eq!(Some(found.seconds()), expect, "{text}"),
                (Err(error), None) => assert!(error.to_string().starts_with(&told), "{error}"),
                (Err(error), Some(_)) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn timeouts_are_written_as_they_are_read() {
        for text in ["2s", "5m", "1h 30m", "120h"] {
            let timeout: Timeout = text.parse().unwrap();
            assert_eq!(timeout.to_string(), text);
            assert_eq!(timeout.to_string().parse(), Ok(timeout));
        }
    }
}
