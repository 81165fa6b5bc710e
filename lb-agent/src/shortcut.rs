//! Whether new connections take the shortcut past the node's stack. Pure.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use crate::filters::Filters;

/// `--shortcut`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShortcutOption {
    /// Where nothing else filters forwarded traffic: no chain of nftables or
    /// iptables and no policy of IPsec that the shortcut would pass by, and on
    /// a pod's interface neither a qdisc nor a TC program of somebody else.
    #[default]
    Auto,
    /// Whatever filters forwarded traffic: it has no say in connections of
    /// Services.
    Always,
    Never,
}

impl fmt::Display for ShortcutOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

/// What was decided for new connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shortcut {
    pub mode: ShortcutOption,
    pub taken: bool,
    pub reason: String,
}

impl Shortcut {
    /// `filters` are `None` before the first reading.
    #[must_use]
    pub fn decide(mode: ShortcutOption, filters: Option<&Filters>) -> Self {
        let (taken, reason) = match mode {
            ShortcutOption::Auto => auto(filters),
            ShortcutOption::Always => (true, always(filters)),
            ShortcutOption::Never => (false, "as told".to_owned()),
        };
        Self {
            mode,
            taken,
            reason,
        }
    }
}

impl fmt::Display for Shortcut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = if self.taken { "taken" } else { "not taken" };
        write!(f, "{taken}, {} (--shortcut {})", self.reason, self.mode)
    }
}

fn auto(filters: Option<&Filters>) -> (bool, String) {
    let Some(filters) = filters else {
        let reason = "it is not known yet what filters forwarded traffic";
        return (false, reason.to_owned());
    };
    match (names(filters), &filters.error) {
        (Some(names), _) => (false, format!("{names} filters forwarded traffic")),
        (None, Some(error)) => {
            let reason = format!("it is not known what filters forwarded traffic: {error}");
            (false, reason)
        }
        (None, None) => (true, "nothing else filters forwarded traffic".to_owned()),
    }
}

fn always(filters: Option<&Filters>) -> String {
    match filters.and_then(names) {
        Some(names) => format!("past {names}"),
        None => "as told".to_owned(),
    }
}

/// The first filter, and how many more there are.
fn names(filters: &Filters) -> Option<String> {
    let first = filters.found.first()?;
    Some(match filters.found.len() - 1 {
        0 => first.to_string(),
        more => format!("{first} (and {more} more)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::Filter;

    fn chain(chain: &str) -> Filter {
        Filter::Nftables {
            family: "ip",
            table: "filter".to_owned(),
            chain: chain.to_owned(),
            hook: "forward",
        }
    }

    #[test]
    fn decisions() {
        use ShortcutOption::{Always, Auto, Never};

        let filters = |found: &[&str], error: Option<&str>| Filters {
            found: found.iter().map(|name| chain(name)).collect(),
            error: error.map(ToOwned::to_owned),
        };
        let none = filters(&[], None);
        let one = filters(&["A"], None);
        let more = filters(&["A", "B", "C"], Some("iptables-legacy: no"));
        let unknown = filters(&[], Some("nftables: no"));
        for (mode, filters, taken, reason) in [
            (
                Auto,
                None,
                false,
                "it is not known yet what filters forwarded traffic",
            ),
            (
                Auto,
                Some(&none),
                true,
                "nothing else filters forwarded traffic",
            ),
            (
                Auto,
                Some(&one),
                false,
                "nftables ip filter A at forward filters forwarded traffic",
            ),
            (
                Auto,
                Some(&more),
                false,
                "nftables ip filter A at forward (and 2 more) filters forwarded traffic",
            ),
            (
                Auto,
                Some(&unknown),
                false,
                "it is not known what filters forwarded traffic: nftables: no",
            ),
            (Always, None, true, "as told"),
            (Always, Some(&none), true, "as told"),
            (Always, Some(&unknown), true, "as told"),
            (
                Always,
                Some(&one),
                true,
                "past nftables ip filter A at forward",
            ),
            (Never, Some(&none), false, "as told"),
            (Never, Some(&one), false, "as told"),
        ] {
            let expect = Shortcut {
                mode,
                taken,
                reason: reason.to_owned(),
            };
            assert_eq!(Shortcut::decide(mode, filters), expect, "{filters:?}");
        }
    }
}
