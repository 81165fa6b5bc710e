//! `cargo xtask conformance`: scenario files.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::Context as _;

use crate::{
    apt, build, runtime,
    toolchain::{self, Needs},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Scenario files, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    apt::require_root(
        "conformance",
        "it makes a network namespace and loads programs into the kernel",
    )?;
    let toolchain = toolchain::ready(workspace, Needs { clippy: false })?;
    runtime::ready()?;
    build::object(workspace, &toolchain)?;
    build::host(workspace, false)?;

    let runner = workspace.executable("conformance", false);
    let error = Command::new(&runner).arg("--").args(&options.paths).exec();
    Err(error).with_context(|| format!("cannot start {}", runner.display()))
}
