//! Puts the eBPF object where the agent can include it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use object::build::elf::{Builder, Section, SectionData};

const VARIABLE: &str = "LB_EBPF_OBJECT";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    match copy_object() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

fn copy_object() -> Result<(), String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let object = match env::var_os(VARIABLE) {
        Some(object) => PathBuf::from(object),
        None => built_object(&out)?,
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).map_err(|error| {
        format!(
            "no eBPF object: cannot read {}: {error}; run `cargo xtask build`",
            object.display()
        )
    })?;
    let bytes = without_debug_info(&bytes)
        .map_err(|error| format!("eBPF object {}: {error}", object.display()))?;
    let copy = out.join("lb-ebpf");
    fs::write(&copy, bytes).map_err(|error| format!("cannot write {}: {error}", copy.display()))
}

/// Without DWARF, which is more than half of it and of no use to the kernel: BTF
/// stays.
fn without_debug_info(object: &[u8]) -> object::build::Result<Vec<u8>> {
    let mut elf = Builder::read(object)?;
    for section in &mut elf.sections {
        let name = &*section.name;
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    elf.delete_orphans();
    let has_names = |section: &Section<'_>| matches!(section.data, SectionData::SectionString);
    if !elf.sections.iter().any(has_names) {
        // LLVM keeps names of sections and of symbols in one table.
        let names = elf.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}

/// Where `cargo xtask build` leaves the object: below cargo's target folder,
/// which is the one that holds `<profile>/build/<package>/out`.
fn built_object(out: &Path) -> Result<PathBuf, String> {
    let target = out
        .ancestors()
        .nth(4)
        .ok_or_else(|| format!("{} is not below a target folder", out.display()))?;
    let triple = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let below = Path::new("bpf").join(triple).join("bpf/lb-ebpf");
    let object = target.join(&below);
    if object.exists() {
        return Ok(object);
    }
    // An editor's cargo may have a target folder of its own.
    let of_workspace = Path::new(&variable("CARGO_MANIFEST_DIR")?)
        .join("../target")
        .join(&below);
    Ok(if of_workspace.exists() {
        of_workspace
    } else {
        object
    })
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
