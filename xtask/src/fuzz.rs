//! `cargo xtask fuzz`: packets of every kind, against a model.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::Context as _;

use crate::{
    apt, build, runtime,
    toolchain::{self, Needs},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Packets to send, at least.
    #[arg(long, default_value_t = 200_000)]
    packets: u64,
    /// What sequences are drawn from; random if it is not given.
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    apt::require_root(
        "fuzz",
        "it makes a network namespace and loads programs into the kernel",
    )?;
    let toolchain = toolchain::ready(workspace, Needs { clippy: false })?;
    runtime::ready()?;
    build::object(workspace, &toolchain)?;
    build::host(workspace, false)?;

    let fuzzer = workspace.executable("fuzz", false);
    let mut command = Command::new(&fuzzer);
    command.args(["--packets", &options.packets.to_string()]);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", fuzzer.display()))
}
