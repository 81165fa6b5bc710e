//! `cargo xtask bench`: what it costs, next to what it replaces.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::Context as _;

use crate::{
    apt, build, runtime,
    toolchain::{self, Needs},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Options of the benchmark, such as --quick, --json FILE and --help.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    bench: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    apt::require_root(
        "bench",
        "it makes network namespaces and loads programs into the kernel",
    )?;
    let toolchain = toolchain::ready(workspace, Needs { clippy: false })?;
    runtime::ready()?;
    build::object(workspace, &toolchain)?;
    let object = build::bench_object(workspace, &toolchain)?;
    let agent = build::host(workspace, true)?;

    let bench = workspace.executable("bench", true);
    let error = Command::new(&bench)
        .args(&options.bench)
        .env("LB_AGENT", agent)
        .env("LB_BENCH_OBJECT", object)
        .exec();
    Err(error).with_context(|| format!("cannot start {}", bench.display()))
}
