//! Pinned maps, opened once more.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use aya::maps::MapData;

/// The map of this name below the folder of pins.
///
/// # Errors
/// There is none, or the kernel does not open it.
pub fn pinned(pins: &Path, name: &str) -> Result<MapData> {
    let start = format!("{name}_");
    let mut files = fs::read_dir(pins.join("maps"))?.flatten();
    let ours = |file: &fs::DirEntry| file.file_name().to_string_lossy().starts_with(&start);
    let file = files
        .find(ours)
        .with_context(|| format!("no pinned map {name}"))?;
    let path = file.path();
    MapData::from_pin(&path).with_context(|| path.display().to_string())
}
