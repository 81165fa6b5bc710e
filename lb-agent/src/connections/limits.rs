//! How many connections there may be.

use std::{fmt, str::FromStr};

use lb_common::maps;

/// Connections, each of which has two elements in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub assured: u32,
    pub unassured: u32,
    pub quota: Quota,
}

/// As the programs' object has it.
impl Default for Limits {
    fn default() -> Self {
        Self {
            assured: maps::ASSURED as u32 / 2,
            unassured: maps::UNASSURED as u32 / 2,
            quota: Quota::default(),
        }
    }
}

impl Limits {
    pub(super) const LEAST: u32 = 1 << 10;
    pub(super) const MOST: u32 = 1 << 24;

    /// In proportion to a machine's memory, in bytes. The tables are allocated
    /// whole, some 700 bytes an assured connection and its share of the others: to find memory for an element when a
    /// packet needs it makes one packet in a hundred late.
    #[must_use]
    pub fn for_memory(bytes: u64) -> Self {
        const PER_CONNECTION: u64 = 128 << 10;
        const RANGE: (u64, u64) = (1 << 16, 1 << 22);
        let assured = (bytes / PER_CONNECTION).clamp(RANGE.0, RANGE.1) as u32;
        Self {
            assured,
            unassured: assured / 2,
            quota: Quota::default(),
        }
    }

    /// Assured connections that one Service may have.
    #[must_use]
    pub fn of_service(&self) -> u32 {
        match self.quota {
            Quota::Connections(number) => number,
            Quota::Percent(percent) => {
                let part = u64::from(self.assured) * u64::from(percent) / 100;
                (part as u32).max(1)
            }
        }
    }
}

/// What one Service may have of all assured connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    Percent(u8),
    Connections(u32),
}

impl Default for Quota {
    fn default() -> Self {
        Self::Percent(50)
    }
}

/// Neither a share nor a number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {0:?}, accepted: 1% to 100%, or a number of connections from 1 on")]
pub struct BadQuota(String);

impl FromStr for Quota {
    type Err = BadQuota;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let quota = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().map(Self::Percent),
            None => text.parse().ok().map(Self::Connections),
        };
        match quota {
            Some(Self::Percent(1..=100) | Self::Connections(1..)) => quota,
            _ => None,
        }
        .ok_or_else(|| BadQuota(text.to_owned()))
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Connections(number) => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_grow_with_the_machine() {
        const GIB: u64 = 1 << 30;
        for (memory, assured) in [
            (0, 65_536),
            (8 * GIB, 65_536),
            (8 * GIB + (128 << 10), 65_537),
            (32 * GIB, 262_144),
            (512 * GIB, 4_194_304),
            (6144 * GIB, 4_194_304),
        ] {
            let limits = Limits::for_memory(memory);
            let found = (limits.assured, limits.unassured, limits.of_service());
            assert_eq!(found, (assured, assured / 2, assured / 2), "{memory}");
        }
    }

    #[test]
    fn a_quota_is_a_share_or_a_number() {
        for (text, expect) in [
            ("50%", Some(32_768)),
            ("1%", Some(655)),
            ("100%", Some(65_536)),
            ("1", Some(1)),
            ("100000", Some(100_000)),
            ("0%", None),
            ("101%", None),
            ("0", None),
            ("-1", None),
            ("half", None),
            ("50 %", None),
            ("%", None),
            ("", None),
        ] {
            let found = text.parse::<Quota>();
            let limits = |quota| Limits {
                quota,
                ..Limits::for_memory(0)
            };
            match (found, expect) {
                (Ok(quota), _) => {
                    assert_eq!(Some(limits(quota).of_service()), expect, "{text}");
                    assert_eq!(quota.to_string(), text);
                }
                (Err(error), None) => {
                    let told = format!("found {text:?}, accepted: 1% to 100%, or");
                    assert!(error.to_string().starts_with(&told), "{error}");
                }
                (Err(error), Some(_)) => panic!("{error}"),
            }
        }
    }
}
