//! What kube-proxy's helpers take for the same Services.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::lab::Entrance;

/// Who loads rulesets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loader {
    Nft,
    IptablesRestore,
}

/// From the start of the program until the kernel has the whole ruleset.
pub(super) fn load_ruleset(netns: &Entrance, loader: Loader, ruleset: &str) -> Result<Duration> {
    let mut input: File = tempfile::tempfile()?;
    input.write_all(ruleset.as_bytes())?;
    input.rewind()?;
    let (program, arguments): (_, &[&str]) = match loader {
        Loader::Nft => ("nft", &["-f", "-"]),
        Loader::IptablesRestore => ("iptables-legacy-restore", &[]),
    };
    let started = Instant::now();
    let status = netns
        .command(program)?
        .args(arguments)
        .stdin(input)
        .status()?;
    let took = started.elapsed();
    ensure!(status.success(), "{program}: {status}");
    Ok(took)
}
