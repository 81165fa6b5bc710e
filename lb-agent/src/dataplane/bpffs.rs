//! Folders on the BPF filesystem.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::DataplaneError;

const DEFAULT_MOUNT: &str = "/sys/fs/bpf";

pub(super) fn maps(pins: &Path) -> PathBuf {
    pins.join("maps")
}

pub(super) fn links(pins: &Path) -> PathBuf {
    pins.join("links")
}

/// Files directly in a folder; none if there is no such folder.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// Creates the pin folders, mounting the BPF filesystem at its usual place if
/// nothing is mounted there.
pub(super) fn prepare(pins: &Path) -> Result<(), DataplaneError> {
    let is_bpffs = |path: &Path| statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    let default = Path::new(DEFAULT_MOUNT);
    if pins.starts_with(default) && !is_bpffs(default) {
        let none: Option<&str> = None;
        mount(Some("bpf"), default, Some("bpf"), MsFlags::empty(), none).map_err(|errno| {
            DataplaneError::Io {
                path: default.to_owned(),
                source: io::Error::from(errno),
            }
        })?;
        tracing::info!("mounted the BPF filesystem at {DEFAULT_MOUNT}");
    }
    for folder in [maps(pins), links(pins)] {
        fs::create_dir_all(&folder).map_err(|source| DataplaneError::Io {
            path: folder,
            source,
        })?;
    }
    if is_bpffs(pins) {
        return Ok(());
    }
    Err(DataplaneError::NotBpffs {
        path: pins.to_owned(),
    })
}
