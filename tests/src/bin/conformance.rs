//! Runs scenario files.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::Parser;
use lb_tests::{
    conformance::{self, Summary},
    lab::clean_up_on_signal,
};

/// Sends each flow of scenario files through the loaded programs, and prints a
/// line for each that is not as expected. The exit code is 1 if there is one, 2
/// if the files cannot be run.
#[derive(Parser)]
#[command(name = "cargo xtask conformance", bin_name = "cargo xtask conformance")]
struct Options {
    /// Scenario files, or folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(summary) if summary.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<Summary> {
    clean_up_on_signal()?;
    let summary = conformance::run(&options.paths, |failure| println!("{failure}"))?;
    println!("{} passed, {} failed", summary.passed, summary.failed);
    // What is misspelt is not checked, and must not pass for all right.
    ensure!(
        summary.passed + summary.failed > 0,
        "found no flow to check in any scenario, accepted: files with `flows`"
    );
    Ok(summary)
}
