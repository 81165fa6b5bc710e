//! A pinned nightly of rustup, which builds `core` from its sources.

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};

use super::{Compiler, Needs, Toolchain, exists, linker, linker::Recipe, version::Version};
use crate::{apt, process, workspace::Workspace};

/// Its LLVM is one that bpf-linker can borrow.
const NIGHTLY: &str = "nightly-2026-05-20";

pub(super) fn find(workspace: &Workspace, needs: Needs) -> anyhow::Result<Option<Toolchain>> {
    if !is_complete(needs) {
        return Ok(None);
    }
    let compiler = Compiler::Rustup;
    let version = Version::of(&mut compiler.rustc())?;
    let recipe = Recipe::with_compiler_llvm(version.llvm_major);
    let linker = linker::find(workspace, compiler, &version, recipe.as_ref())?;
    Ok(linker.map(|linker| Toolchain { compiler, linker }))
}

pub(super) fn install(workspace: &Workspace, needs: Needs) -> anyhow::Result<Toolchain> {
    if apt::which("rustup").is_none() {
        bail!("rustup is not here; install it from https://rustup.rs, then run this again");
    }
    if !is_complete(needs) {
        install_compiler()?;
    }
    if let Some(toolchain) = find(workspace, needs)? {
        return Ok(toolchain);
    }
    let version = Version::of(&mut Compiler::Rustup.rustc())?;
    let recipe = Recipe::with_compiler_llvm(version.llvm_major).with_context(|| {
        format!(
            "{NIGHTLY} comes with LLVM {}, which no known bpf-linker can borrow",
            version.llvm_major
        )
    })?;
    recipe.install(workspace)?;
    find(workspace, needs)?
        .with_context(|| format!("the bpf-linker built for {NIGHTLY} cannot link with it"))
}

/// A program of the pinned nightly.
pub(super) fn run(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", NIGHTLY, program]);
    command
}

fn is_complete(needs: Needs) -> bool {
    let Ok(sysroot) = process::output(run("rustc").args(["--print", "sysroot"])) else {
        return false;
    };
    let sysroot = Path::new(sysroot.trim());
    exists(sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml"))
        && (!needs.clippy || exists(sysroot.join("bin/cargo-clippy")))
}

fn install_compiler() -> anyhow::Result<()> {
    let mut command = Command::new("rustup");
    command.args([
        "toolchain",
        "install",
        NIGHTLY,
        "--profile",
        "minimal",
        "--component",
        "rust-src,clippy",
        "--no-self-update",
    ]);
    eprintln!("xtask: installing {NIGHTLY} with rust-src and clippy by rustup");
    process::run_quietly(&mut command)
}
