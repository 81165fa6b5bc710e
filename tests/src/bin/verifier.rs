//! Measures the programs.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use lb_tests::verifier::{Table, kernel, measure};
use serde_json::json;

/// Prints how much work each program is for the kernel's verifier.
#[derive(Parser)]
struct Options {
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Write the table to this file, too.
    #[arg(long)]
    write: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let table = Table {
        kernel: kernel()?,
        programs: measure()?,
    };
    if options.json {
        let figures = json!({"kernel": table.kernel, "programs": table.programs});
        println!("{figures:#}");
    } else {
        print!("{table}");
    }
    let Some(path) = options.write else {
        return Ok(());
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&path, table.to_string()).with_context(|| format!("writing {}", path.display()))
}
