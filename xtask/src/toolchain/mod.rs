//! The compiler and the linker of the eBPF object: finds them, and installs
//! what is missing.
//!
//! Two routes lead there. Debian has a compiler with a prebuilt `core` for BPF;
//! elsewhere a pinned nightly of rustup builds `core` from its sources. A
//! route that is complete is taken as it is; else the first one that can be
//! completed.

mod debian;
mod linker;
mod rustup;
mod version;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::bail;

use crate::workspace::{BPF_TARGET, Workspace};

/// What a task needs besides compiler and linker.
#[derive(Clone, Copy)]
pub(crate) struct Needs {
    /// Clippy of the very compiler that builds the object.
    pub(crate) clippy: bool,
}

/// A compiler with a linker that reads its bitcode.
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compiler {
    Debian,
    Rustup,
}

/// Finds a toolchain, or completes one and says so.
pub(crate) fn ready(workspace: &Workspace, needs: Needs) -> anyhow::Result<Toolchain> {
    // What keeps a route from being complete is told when it is completed.
    if let Ok(Some(toolchain)) = debian::find(workspace, needs) {
        return Ok(toolchain);
    }
    if let Ok(Some(toolchain)) = rustup::find(workspace, needs) {
        return Ok(toolchain);
    }

    let of_debian = match debian::install(workspace, needs) {
        Ok(toolchain) => return Ok(toolchain),
        Err(error) => error,
    };
    let of_rustup = match rustup::install(workspace, needs) {
        Ok(toolchain) => return Ok(toolchain),
        Err(error) => error,
    };
    bail!(
        "no compiler and linker for {BPF_TARGET}, and neither way to get them works:\n\
         - Debian's compiler: {of_debian:#}\n\
         - rustup's nightly: {of_rustup:#}"
    )
}

impl Toolchain {
    /// A cargo command for the eBPF crate, up to and including the target.
    /// The object carries BTF, which the linker makes from debug information.
    pub(crate) fn cargo(&self, subcommand: &str, workspace: &Workspace) -> Command {
        let mut linker = OsString::from("-Clinker=");
        linker.push(&self.linker);
        let flags = [
            linker,
            "-Clink-arg=--btf".into(),
            "-Cdebuginfo=2".into(),
            "-Ctarget-cpu=v3".into(),
        ];

        let mut command = self.compiler.cargo(subcommand);
        command
            .current_dir(&workspace.root)
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f".as_ref()))
            .args(["--package", "lb-ebpf", "--target", BPF_TARGET])
            .arg("--target-dir")
            .arg(workspace.bpf_target());
        command
    }
}

impl Compiler {
    fn rustc(self) -> Command {
        let mut command = match self {
            Self::Debian => Command::new(debian::RUSTC),
            Self::Rustup => rustup::run("rustc"),
        };
        command.env("RUSTC_BOOTSTRAP", "1");
        command
    }

    fn cargo(self, subcommand: &str) -> Command {
        match self {
            Self::Debian => {
                let mut command = cargo();
                if subcommand == "clippy" {
                    command = Command::new(debian::CARGO_CLIPPY);
                    forget_this_crate(&mut command);
                }
                command
                    .arg(subcommand)
                    .env("RUSTC", debian::RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1");
                command
            }
            Self::Rustup => {
                let mut command = rustup::run("cargo");
                forget_this_crate(&mut command);
                command
                    .args([subcommand, "-Zbuild-std=core"])
                    .env_remove("RUSTC")
                    .env_remove("CARGO");
                command
            }
        }
    }
}

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_this_crate(&mut command);
    command
}

/// Cargo describes xtask in the environment of xtask. Build scripts that look
/// at such variables would run again after each task.
fn forget_this_crate(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let of_crate = name.to_str().is_some_and(|name| {
            ["CARGO_MANIFEST_", "CARGO_PKG_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        });
        if of_crate {
            command.env_remove(name);
        }
    }
}

fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}
