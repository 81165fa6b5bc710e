//! `cargo xtask test`: formatting, lints, and every test.

use std::{ffi::OsString, process::Command};

use crate::{
    apt, build,
    process::{self, step},
    runtime,
    toolchain::{self, Needs, Toolchain},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out formatting and lints.
    #[arg(long)]
    no_lints: bool,
    /// Test this package only; may be given more than once.
    #[arg(long, short, value_name = "NAME")]
    package: Vec<String>,
    /// For the test runner: a filter of test names, --nocapture and the like.
    #[arg(last = true)]
    runner: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    apt::require_root(
        "test",
        "the tests make network namespaces and load programs into the kernel",
    )?;
    let lints = !options.no_lints;
    let toolchain = toolchain::ready(workspace, Needs { clippy: lints })?;
    runtime::ready()?;

    if lints {
        ready_components()?;
        step("formatting", &mut formatting(workspace))?;
    }
    build::object(workspace, &toolchain)?;
    let bench_object = build::bench_object(workspace, &toolchain)?;
    if lints {
        step("clippy for BPF", &mut clippy_for_bpf(workspace, &toolchain))?;
        step("clippy for the host", &mut clippy_for_host(workspace))?;
    }
    step("build", &mut build::host_command(workspace, false))?;
    // Last and without a line of its own: the runner's summary ends the output.
    process::run(tests(workspace, options).env("LB_BENCH_OBJECT", bench_object))
}

fn formatting(workspace: &Workspace) -> Command {
    let mut command = toolchain::cargo();
    command
        .args(["fmt", "--all", "--check"])
        .current_dir(&workspace.root);
    command
}

fn clippy_for_bpf(workspace: &Workspace, toolchain: &Toolchain) -> Command {
    let mut command = toolchain.cargo("clippy", workspace);
    command.args(["--profile", "bpf", "--", "--deny", "warnings"]);
    command
}

fn clippy_for_host(workspace: &Workspace) -> Command {
    let mut command = toolchain::cargo();
    command
        .args(["clippy", "--workspace", "--exclude", "lb-ebpf"])
        .args(["--all-targets", "--", "--deny", "warnings"])
        .current_dir(&workspace.root);
    command
}

fn tests(workspace: &Workspace, options: &Options) -> Command {
    let mut command = toolchain::cargo();
    command.args(["test", "--no-fail-fast"]);
    if options.package.is_empty() {
        command.args(["--workspace", "--exclude", "lb-ebpf"]);
    }
    for package in &options.package {
        command.args(["--package", package]);
    }
    command
        .arg("--")
        .args(&options.runner)
        .env("LB_AGENT", workspace.executable("lb-agent", false))
        .current_dir(&workspace.root);
    command
}

/// A minimal profile of rustup lacks rustfmt and clippy.
fn ready_components() -> anyhow::Result<()> {
    let is_here = |subcommand: &str| {
        process::run_quietly(toolchain::cargo().args([subcommand, "--version"])).is_ok()
    };
    if is_here("fmt") && is_here("clippy") {
        return Ok(());
    }
    eprintln!("xtask: installing rustfmt and clippy by rustup");
    process::run_quietly(Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]))
}
