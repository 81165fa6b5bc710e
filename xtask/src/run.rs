//! `cargo xtask run`: the demo.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::Context as _;

use crate::{
    apt, build, runtime,
    toolchain::{self, Needs},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Options of the demo, such as --once, --json and --help.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    demo: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    apt::require_root(
        "run",
        "it makes network namespaces and loads programs into the kernel",
    )?;
    let toolchain = toolchain::ready(workspace, Needs { clippy: false })?;
    runtime::ready()?;
    build::object(workspace, &toolchain)?;
    let agent = build::host(workspace, false)?;

    let demo = workspace.executable("demo", false);
    let error = Command::new(&demo)
        .args(&options.demo)
        .env("LB_AGENT", agent)
        .exec();
    Err(error).with_context(|| format!("cannot start {}", demo.display()))
}
