//! What a compiler says of itself.

use std::process::Command;

use anyhow::Context as _;

use crate::process;

/// The parts of `rustc -vV` that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) release: String,
    /// Absent in builds from a source tarball without one.
    pub(super) commit: String,
    pub(super) llvm_major: u32,
}

impl Version {
    pub(super) fn of(rustc: &mut Command) -> anyhow::Result<Self> {
        let text = process::output(rustc.arg("-vV"))?;
        Self::parse(&text).with_context(|| format!("cannot make sense of `rustc -vV`:\n{text}"))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.trim())
        };
        let llvm_major = field("LLVM version")?.split('.').next()?.parse().ok()?;
        Some(Self {
            release: field("release")?.to_owned(),
            commit: field("commit-hash").unwrap_or_default().to_owned(),
            llvm_major,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |text: &str, expect: Option<(&str, &str, u32)>| {
            let expect = expect.map(|(release, commit, llvm_major)| Version {
                release: release.to_owned(),
                commit: commit.to_owned(),
                llvm_major,
            });
            assert_eq!(Version::parse(text), expect, "{text}");
        };
        check(
            "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
             commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96\ncommit-date: 2026-05-25\n\
             host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n",
            Some(("1.96.0", "ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96", 22)),
        );
        check(
            "rustc 1.97.0-nightly\nrelease: 1.97.0-nightly\ncommit-hash: unknown\nLLVM version: 23.0\n",
            Some(("1.97.0-nightly", "unknown", 23)),
        );
        check(
            "release: 1.85.0\nLLVM version: 19\n",
            Some(("1.85.0", "", 19)),
        );
        check("rustc 1.96.0\nrelease: 1.96.0\n", None);
        check("release: 1.96.0\nLLVM version: unknown\n", None);
        check("", None);
    }
}
