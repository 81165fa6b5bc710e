//! bpf-linker: finds one that reads the compiler's bitcode, or builds it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{Compiler, cargo, exists, version::Version};
use crate::{
    apt, process,
    workspace::{BPF_TARGET, Workspace},
};

/// How to build a bpf-linker for one compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    version: &'static str,
    llvm: Llvm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Llvm {
    /// Links the distribution's LLVM of this major version.
    System(u32),
    /// Loads the LLVM that rustup's compiler brings along.
    OfCompiler(u32),
}

impl Recipe {
    /// For a compiler that shares the distribution's LLVM; None where no
    /// release of bpf-linker knows that LLVM.
    pub(super) fn with_system_llvm(major: u32) -> Option<Self> {
        let version = match major {
            20 => "0.10.3",
            21..=23 => "0.13.0",
            _ => return None,
        };
        Some(Self {
            version,
            llvm: Llvm::System(major),
        })
    }

    /// For a compiler of rustup. 0.10.3 is the last release that can borrow
    /// the compiler's own LLVM.
    pub(super) fn with_compiler_llvm(major: u32) -> Option<Self> {
        matches!(major, 20..=22).then_some(Self {
            version: "0.10.3",
            llvm: Llvm::OfCompiler(major),
        })
    }

    /// Builds the linker into this workspace's tools.
    pub(super) fn install(&self, workspace: &Workspace) -> anyhow::Result<()> {
        let [feature, folder] = self.names();
        eprintln!(
            "xtask: building bpf-linker {} ({feature}) into {}; this takes a minute",
            self.version,
            workspace.tools().join(&folder).display()
        );
        let mut command = cargo();
        command
            .args(["install", "bpf-linker", "--quiet", "--locked", "--force"])
            .args(["--version", self.version])
            .args(["--no-default-features", "--features", &feature])
            .arg("--root")
            .arg(workspace.tools().join(folder))
            .current_dir(&workspace.root)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("CARGO_BUILD_TARGET");
        if let Llvm::System(major) = self.llvm {
            command.env("LLVM_PREFIX", format!("/usr/lib/llvm-{major}"));
        }
        process::run_quietly(&mut command)
    }

    fn executable(&self, workspace: &Workspace) -> PathBuf {
        let [_, folder] = self.names();
        workspace.tools().join(folder).join("bin/bpf-linker")
    }

    /// Feature and folder.
    fn names(&self) -> [String; 2] {
        let feature = match self.llvm {
            Llvm::System(major) => format!("llvm-{major}"),
            Llvm::OfCompiler(major) => format!("rust-llvm-{major}"),
        };
        let folder = format!("bpf-linker-{}-{feature}", self.version);
        [feature, folder]
    }
}

/// The first linker that works with this compiler: the user's own, then the
/// one built here.
pub(super) fn find(
    workspace: &Workspace,
    compiler: Compiler,
    version: &Version,
    recipe: Option<&Recipe>,
) -> anyhow::Result<Option<PathBuf>> {
    let own = recipe.map(|recipe| recipe.executable(workspace));
    for linker in apt::which("bpf-linker").into_iter().chain(own) {
        if exists(&linker) && works(workspace, compiler, version, &linker)? {
            return Ok(Some(linker));
        }
    }
    Ok(None)
}

/// Links an empty crate, which shows that the linker starts and reads this
/// compiler's bitcode. The verdict is remembered as long as both stay the same.
fn works(
    workspace: &Workspace,
    compiler: Compiler,
    version: &Version,
    linker: &Path,
) -> anyhow::Result<bool> {
    let identity = identity(compiler, version, linker)?;
    let folder = workspace.tools().join("probe");
    let remembered = folder.join("works");
    if fs::read_to_string(&remembered).is_ok_and(|text| text == identity) {
        return Ok(true);
    }

    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let source = folder.join("empty.rs");
    fs::write(&source, "#![feature(no_core)]\n#![no_core]\n#![no_main]\n")?;
    let mut rustc = compiler.rustc();
    rustc
        .args(["--edition=2024", "--crate-type=bin", "-Cpanic=abort"])
        .args(["--target", BPF_TARGET])
        .arg(format!("-Clinker={}", linker.display()))
        .arg("-o")
        .arg(folder.join("empty"))
        .arg(&source);
    if process::run_quietly(&mut rustc).is_err() {
        return Ok(false);
    }
    fs::write(&remembered, identity)?;
    Ok(true)
}

fn identity(compiler: Compiler, version: &Version, linker: &Path) -> anyhow::Result<String> {
    let data =
        fs::metadata(linker).with_context(|| format!("cannot look at {}", linker.display()))?;
    Ok(format!(
        "{compiler:?} {version:?}\n{} {} bytes of {}.{}\n",
        linker.display(),
        data.len(),
        data.mtime(),
        data.mtime_nsec()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes() {
        let check = |recipe: Option<Recipe>, expect: Option<&str>| {
            let folder = recipe.map(|recipe| recipe.names()[1].clone());
            assert_eq!(folder.as_deref(), expect);
        };
        let system = Recipe::with_system_llvm;
        check(system(19), None);
        check(system(20), Some("bpf-linker-0.10.3-llvm-20"));
        check(system(22), Some("bpf-linker-0.13.0-llvm-22"));
        check(system(24), None);
        let compiler = Recipe::with_compiler_llvm;
        check(compiler(19), None);
        check(compiler(22), Some("bpf-linker-0.10.3-rust-llvm-22"));
        check(compiler(23), None);
    }
}
