//! Where things are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// The triple of the eBPF object: the byte order is the host's.
pub(crate) const BPF_TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Cargo's target folder, wherever the environment or the configuration
    /// put it.
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> anyhow::Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .context("the xtask crate has no parent folder")?
            .to_owned();
        let executable = env::current_exe().context("cannot find the xtask executable")?;
        Ok(Self {
            root,
            target: target_of(&executable)?.to_owned(),
        })
    }

    /// Target folder of the eBPF build, apart from the host's so that neither
    /// build evicts the other's artifacts.
    pub(crate) fn bpf_target(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// An eBPF object, by the name of its binary target.
    pub(crate) fn object(&self, name: &str) -> PathBuf {
        self.bpf_target().join(BPF_TARGET).join("bpf").join(name)
    }

    /// An executable that the host build makes.
    pub(crate) fn executable(&self, name: &str, release: bool) -> PathBuf {
        let profile = if release { "release" } else { "debug" };
        self.target.join(profile).join(name)
    }

    /// Tools that xtask builds for itself.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }
}

fn target_of(executable: &Path) -> anyhow::Result<&Path> {
    executable.ancestors().nth(2).with_context(|| {
        format!(
            "{} is not below a cargo target folder",
            executable.display()
        )
    })
}
