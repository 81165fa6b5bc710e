//! Measures the control path.

use anyhow::Result;
use clap::Parser;
use lb_tests::{
    bench::control::{self, Scale},
    lab::clean_up_on_signal,
};

/// Prints how long the agent takes to bring objects into the maps.
#[derive(Parser)]
struct Options {
    /// Only these numbers of Services.
    #[arg(long, value_delimiter = ',')]
    services: Vec<u32>,
    #[arg(long, default_value_t = 1)]
    repetitions: usize,
}

fn main() -> Result<()> {
    clean_up_on_signal()?;
    let options = Options::parse();
    let wanted =
        |scale: &&Scale| options.services.is_empty() || options.services.contains(&scale.services);
    let scales: Vec<Scale> = Scale::ALL.iter().filter(wanted).copied().collect();
    let rows = control::run(&scales, options.repetitions, &mut |line| {
        eprintln!("{line}")
    })?;
    for row in rows {
        let summary = row.summary().map_or(f64::NAN, |summary| summary.median);
        let services = row.services.unwrap_or_default();
        println!(
            "{services:>6} {:<60} {summary:>10.3} {:?}",
            row.load, row.unit
        );
    }
    Ok(())
}
