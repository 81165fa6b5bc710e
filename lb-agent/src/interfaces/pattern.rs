//! Patterns of interface names, as given on the command line.

use std::{fmt, str::FromStr};

/// A shell-like pattern of interface names: `eth*`, `veth?`, `en[op]*`. With a
/// leading `!` it excludes what it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    excludes: bool,
    names: glob::Pattern,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interface pattern {pattern:?}: {reason}")]
pub struct BadPattern {
    pub pattern: String,
    pub reason: String,
}

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(pattern: &str) -> Result<Self, BadPattern> {
        let bad = |reason: String| BadPattern {
            pattern: pattern.to_owned(),
            reason,
        };
        let (excludes, names) = match pattern.strip_prefix('!') {
            Some(names) => (true, names),
            None => (false, pattern),
        };
        if names.is_empty() {
            return Err(bad("it is empty; try eth*, veth? or !eth1".to_owned()));
        }
        if let Some(forbidden) = names.chars().find(|c| *c == '/' || c.is_whitespace()) {
            return Err(bad(format!(
                "no interface name has the character {forbidden:?}; give the option once per pattern"
            )));
        }
        let names = glob::Pattern::new(names)
            .map_err(|error| bad(format!("{} (at character {})", error.msg, error.pos + 1)))?;
        Ok(Self { excludes, names })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.excludes { "!" } else { "" };
        write!(f, "{mark}{}", self.names)
    }
}

/// Overrides of what is found by itself, for uplinks and for pod interfaces.
///
/// As soon as one pattern includes, exactly the included interfaces have that
/// kind; with exclusions only, those are left out of what is found by itself.
/// An exclusion wins over an inclusion, whatever their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    pub uplink: Vec<Pattern>,
    pub pod: Vec<Pattern>,
}

/// What patterns say of a name; None if they leave it to the rules.
pub(super) fn verdict(patterns: &[Pattern], name: &str) -> Option<bool> {
    let matched = |excludes: bool| {
        patterns
            .iter()
            .any(|pattern| pattern.excludes == excludes && pattern.names.matches(name))
    };
    if matched(true) {
        return Some(false);
    }
    if matched(false) {
        return Some(true);
    }
    let only_exclusions = patterns.iter().all(|pattern| pattern.excludes);
    (!only_exclusions).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let check = |patterns: &[&str], name: &str, expect: Option<bool>| {
            let parsed: Vec<Pattern> = patterns.iter().map(|p| p.parse().unwrap()).collect();
            assert_eq!(verdict(&parsed, name), expect, "{patterns:?} {name}");
        };
        check(&[], "eth0", None);
        check(&["eth*"], "eth0", Some(true));
        check(&["eth*"], "ens3", Some(false));
        check(&["veth?"], "veth1", Some(true));
        check(&["veth?"], "veth12", Some(false));
        check(&["en[op]*"], "enp1s0", Some(true));
        check(&["en[op]*"], "ens1", Some(false));
        check(&["eth0", "ens3"], "ens3", Some(true));
        check(&["!eth1"], "eth1", Some(false));
        check(&["!eth1"], "eth0", None);
        check(&["eth*", "!eth1"], "eth1", Some(false));
        check(&["!eth1", "eth*"], "eth1", Some(false));
        check(&["!eth1", "eth*"], "eth2", Some(true));
        check(&["Eth*"], "eth0", Some(false));
    }

    #[test]
    fn bad_patterns() {
        let check = |pattern: &str, expect: &str| {
            let error = pattern.parse::<Pattern>().unwrap_err().to_string();
            assert_eq!(error, format!("interface pattern {pattern:?}: {expect}"));
        };
        check("", "it is empty; try eth*, veth? or !eth1");
        check("!", "it is empty; try eth*, veth? or !eth1");
        check(
            "eth0 eth1",
            "no interface name has the character ' '; give the option once per pattern",
        );
        check(
            "a/b",
            "no interface name has the character '/'; give the option once per pattern",
        );
        check("eth[0", "invalid range pattern (at character 4)");
    }
}
