//! Debian's compiler: `core` for BPF comes as a package.

use std::process::Command;

use anyhow::{Context as _, bail};

use super::{Compiler, Needs, Toolchain, exists, linker, linker::Recipe, version::Version};
use crate::{
    apt::{self, Apt},
    process,
    workspace::{BPF_TARGET, Workspace},
};

pub(super) const RUSTC: &str = "/usr/bin/rustc";
pub(super) const CARGO_CLIPPY: &str = "/usr/bin/cargo-clippy";
const CLIPPY_DRIVER: &str = "/usr/bin/clippy-driver";

const COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
const CLIPPY: &str = "rust-web-clippy";

/// What is still missing of this route.
enum Missing {
    Packages(Vec<String>),
    Linker(Recipe),
}

pub(super) fn find(workspace: &Workspace, needs: Needs) -> anyhow::Result<Option<Toolchain>> {
    Ok(inspect(workspace, needs)?.ok())
}

pub(super) fn install(workspace: &Workspace, needs: Needs) -> anyhow::Result<Toolchain> {
    if !apt::is_debian_like() {
        bail!("this is neither Debian nor a relative of it");
    }
    // Packages of the compiler, packages of its LLVM, the linker.
    for _ in 0..3 {
        match inspect(workspace, needs)? {
            Ok(toolchain) => return Ok(toolchain),
            Err(Missing::Packages(packages)) => install_packages(&packages)?,
            Err(Missing::Linker(recipe)) => recipe.install(workspace)?,
        }
    }
    match inspect(workspace, needs)? {
        Ok(toolchain) => Ok(toolchain),
        Err(Missing::Packages(packages)) => bail!("{} do not do", packages.join(" ")),
        Err(Missing::Linker(_)) => bail!("the bpf-linker built for {RUSTC} cannot link with it"),
    }
}

fn install_packages(packages: &[String]) -> anyhow::Result<()> {
    let packages: Vec<_> = packages.iter().map(String::as_str).collect();
    let Some(apt) = Apt::find() else {
        bail!(
            "packages are missing, and only root may install them; type: \
             sudo apt-get update && sudo apt-get install {}",
            packages.join(" ")
        );
    };
    for package in &packages {
        if apt.candidate(package)?.is_none() {
            bail!("this release of Debian has no package {package}");
        }
    }
    apt.install(&packages)
}

fn inspect(workspace: &Workspace, needs: Needs) -> anyhow::Result<Result<Toolchain, Missing>> {
    let compiler = Compiler::Debian;
    if !has_core(compiler) || (needs.clippy && !has_clippy(compiler)) {
        return Ok(Err(Missing::Packages(compiler_packages(needs))));
    }
    let version = Version::of(&mut compiler.rustc())?;
    let recipe = Recipe::with_system_llvm(version.llvm_major);
    if let Some(linker) = linker::find(workspace, compiler, &version, recipe.as_ref())? {
        return Ok(Ok(Toolchain { compiler, linker }));
    }
    let recipe = recipe.with_context(|| {
        format!(
            "{RUSTC} {} comes with LLVM {}, and no known release of bpf-linker builds with that; \
             put one that reads its bitcode on the search path: https://github.com/aya-rs/bpf-linker",
            version.release, version.llvm_major
        )
    })?;
    let packages: Vec<_> = llvm_packages(version.llvm_major)
        .into_iter()
        .filter(|package| !is_installed(package))
        .collect();
    if packages.is_empty() {
        return Ok(Err(Missing::Linker(recipe)));
    }
    Ok(Err(Missing::Packages(packages)))
}

/// All of one source package: their versions have to be equal, so that they
/// are installed or upgraded together.
fn compiler_packages(needs: Needs) -> Vec<String> {
    COMPILER
        .into_iter()
        .chain(needs.clippy.then_some(CLIPPY))
        .map(str::to_owned)
        .collect()
}

/// What bpf-linker links.
fn llvm_packages(major: u32) -> Vec<String> {
    vec![
        format!("llvm-{major}-dev"),
        "libzstd-dev".to_owned(),
        "zlib1g-dev".to_owned(),
        "g++".to_owned(),
    ]
}

fn has_core(compiler: Compiler) -> bool {
    if !exists(RUSTC) {
        return false;
    }
    let folder = process::output(compiler.rustc().args([
        "--print",
        "target-libdir",
        "--target",
        BPF_TARGET,
    ]));
    folder.is_ok_and(|folder| {
        std::fs::read_dir(folder.trim()).is_ok_and(|files| {
            files
                .flatten()
                .any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
        })
    })
}

/// Whether clippy was built from the compiler's very sources.
fn has_clippy(compiler: Compiler) -> bool {
    if !exists(CLIPPY_DRIVER) || !exists(CARGO_CLIPPY) {
        return false;
    }
    let of_driver = Version::of(Command::new(CLIPPY_DRIVER).arg("--rustc"));
    let of_compiler = Version::of(&mut compiler.rustc());
    matches!((of_driver, of_compiler), (Ok(driver), Ok(compiler)) if driver == compiler)
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status}", package]);
    process::output(&mut query).is_ok_and(|status| status == "installed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_the_compiler() {
        let check = |clippy: bool, expect: &[&str]| {
            assert_eq!(compiler_packages(Needs { clippy }), expect);
        };
        check(false, &["rustc-web", "libstd-rust-web-dev-bpf"]);
        check(
            true,
            &["rustc-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"],
        );
    }

    #[test]
    fn packages_follow_the_llvm_of_the_compiler() {
        let check = |major: u32, expect: &str| assert_eq!(llvm_packages(major)[0], expect);
        check(21, "llvm-21-dev");
        check(22, "llvm-22-dev");
    }
}
