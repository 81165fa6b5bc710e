//! `cargo xtask build`: the eBPF object, then the host's crates.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use object::{Object as _, ObjectSection as _};

use crate::{
    process,
    toolchain::{self, Needs, Toolchain},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build the host's crates with optimizations. The object always has them.
    #[arg(long)]
    release: bool,
}

/// Returns the path of the agent.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<PathBuf> {
    let toolchain = toolchain::ready(workspace, Needs { clippy: false })?;
    object(workspace, &toolchain)?;
    host(workspace, options.release)
}

/// Builds the eBPF object, which must carry BTF.
pub(crate) fn object(workspace: &Workspace, toolchain: &Toolchain) -> anyhow::Result<()> {
    object_named(workspace, toolchain, "lb-ebpf").map(|_| ())
}

/// Builds the object of the benchmark, and returns its path.
pub(crate) fn bench_object(
    workspace: &Workspace,
    toolchain: &Toolchain,
) -> anyhow::Result<PathBuf> {
    object_named(workspace, toolchain, "lb-bench")
}

fn object_named(
    workspace: &Workspace,
    toolchain: &Toolchain,
    name: &str,
) -> anyhow::Result<PathBuf> {
    let mut command = toolchain.cargo("build", workspace);
    process::run(command.args(["--bin", name, "--profile", "bpf"]))?;
    let object = workspace.object(name);
    let bytes = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    require_btf(&object, &bytes)?;
    Ok(object)
}

/// Builds the host's crates; `lb-agent`'s build script puts the object in.
pub(crate) fn host(workspace: &Workspace, release: bool) -> anyhow::Result<PathBuf> {
    process::run(&mut host_command(workspace, release))?;
    Ok(workspace.executable("lb-agent", release))
}

/// The command of [`host`].
pub(crate) fn host_command(workspace: &Workspace, release: bool) -> Command {
    let mut command = toolchain::cargo();
    command
        .args(["build", "--workspace", "--exclude", "lb-ebpf"])
        .args(release.then_some("--release"))
        .current_dir(&workspace.root);
    command
}

fn require_btf(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let object = object::File::parse(bytes)
        .with_context(|| format!("{} is no ELF object", path.display()))?;
    let has_btf = object
        .section_by_name(".BTF")
        .is_some_and(|section| section.size() > 0);
    if !has_btf {
        bail!("{} carries no BTF", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_must_be_elf_and_carry_btf() {
        let check = |bytes: &[u8], expect: &str| {
            let error = require_btf(Path::new("object"), bytes).unwrap_err();
            assert_eq!(error.to_string(), expect);
        };
        check(b"", "object is no ELF object");
        check(b"text", "object is no ELF object");
        let host = fs::read("/proc/self/exe").unwrap();
        check(&host, "object carries no BTF");
    }
}
