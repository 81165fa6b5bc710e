//! Fuzzes the programs.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Parser;
use lb_tests::{fuzz, lab::clean_up_on_signal};

/// Sends packets of every kind through the loaded programs and compares what
/// comes out with a model. The exit code is 1 if there is a difference.
#[derive(Parser)]
#[command(name = "cargo xtask fuzz", bin_name = "cargo xtask fuzz")]
struct Options {
    /// Packets to send, at least.
    #[arg(long, default_value_t = 200_000)]
    packets: u64,
    /// What sequences are drawn from; random if it is not given.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    clean_up_on_signal()?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let started = Instant::now();
    let report = fuzz::run(fuzz::Options {
        packets: options.packets,
        seed,
    })?;
    if let Some(failure) = &report.failure {
        println!("{failure}");
    }
    for ((hook, verdict), count) in &report.verdicts {
        println!("{count:>10} {hook} {verdict}");
    }
    if report.stalled > 0 {
        println!(
            "{} sequences came out otherwise, but were held up or not to be repeated",
            report.stalled
        );
    }
    println!(
        "seed {seed}: {} packets in {} sequences, {:.1} s, {}",
        report.packets,
        report.sequences,
        started.elapsed().as_secs_f64(),
        if report.failure.is_some() {
            "1 difference"
        } else {
            "no difference"
        },
    );
    Ok(report.failure.is_none())
}
