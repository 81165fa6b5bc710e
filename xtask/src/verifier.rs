//! `cargo xtask verifier`: how much work each program is for the verifier.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::Context as _;

use crate::{
    apt, build,
    toolchain::{self, Needs},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Write the table to docs/verifier.md, too.
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    apt::require_root("verifier", "it loads programs into the kernel")?;
    let toolchain = toolchain::ready(workspace, Needs { clippy: false })?;
    build::object(workspace, &toolchain)?;
    build::host(workspace, false)?;

    let runner = workspace.executable("verifier", false);
    let mut command = Command::new(&runner);
    command.args(options.json.then_some("--json"));
    if options.write {
        command
            .arg("--write")
            .arg(workspace.root.join("docs/verifier.md"));
    }
    Err(command.exec()).with_context(|| format!("cannot start {}", runner.display()))
}
