//! The benchmark.

use std::{env, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;
use lb_tests::{
    bench::{
        self, Machine, Measurement, Part, Progress, Report, calls, groups, plots, summary, table,
    },
    demo,
    lab::clean_up_on_signal,
};
use serde_json::json;

/// Measures programs, whole nodes and the control path, next to what they
/// replace: plain forwarding, nftables and iptables as kube-proxy has them.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Options {
    /// Less of everything, in three minutes.
    #[arg(long)]
    quick: bool,
    /// One part instead of all.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Count instead what each way through the programs executes and calls for a
    /// packet: machine instructions, map operations and other helpers. Nothing is
    /// timed, and only x86_64 is understood.
    #[arg(long, conflicts_with_all = ["quick", "only", "plots", "peer"])]
    profile: bool,
    /// Write every sample as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report in Markdown.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write plots against the number of Services into this folder, as SVG.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Measure another agent, too: a shell command that is run in a node's
    /// network namespace, and killed at the end. LB_BENCH_NODE is the node's
    /// name, LB_BENCH_MANIFESTS a folder of manifests that it is to serve.
    #[arg(long, value_name = "CMD")]
    peer: Option<String>,
    /// The eBPF object of the benchmark.
    #[arg(long, env = "LB_BENCH_OBJECT", hide = true)]
    object: PathBuf,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    clean_up_on_signal()?;
    let machine = Machine::describe();
    let mut progress = Progress::new();
    let (mut measurements, mut profiles) = (Vec::new(), Vec::new());
    if options.profile {
        profiles = bench::profile(&options.object, &mut progress)?;
        for lines in [summary(&profiles), calls(&profiles)] {
            println!("{}", demo::table(&lines));
        }
    } else {
        measurements = bench::run(
            &bench::Options {
                quick: options.quick,
                only: options.only,
                peer: options.peer.clone(),
                object: options.object.clone(),
            },
            &mut progress,
        )?;
        print(&measurements);
    }
    println!("{machine}; {:.0} s", progress.seconds());
    if let Some(file) = &options.json {
        let all = json!({
            "machine": machine,
            "measurements": measurements,
            "profiles": profiles,
        });
        fs::write(file, serde_json::to_string_pretty(&all)?)
            .with_context(|| file.display().to_string())?;
    }
    let mut report = Report {
        machine: &machine,
        measurements: &measurements,
        profiles: &profiles,
        command: command(),
        seconds: progress.seconds(),
        plots: Vec::new(),
    };
    if let Some(folder) = &options.plots {
        let seen_from = options.report.as_deref().and_then(std::path::Path::parent);
        let shown = seen_from.and_then(|from| folder.strip_prefix(from).ok());
        let shown = shown.unwrap_or(folder).to_owned();
        let files = plots(&measurements, folder)?.into_iter();
        report.plots = files
            .map(|(file, title)| (shown.join(file).display().to_string(), title))
            .collect();
    }
    if let Some(file) = &options.report {
        fs::write(file, report.to_string()).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn print(measurements: &[Measurement]) {
    let mut part = None;
    for group in groups(measurements) {
        if part != Some(group.part) {
            part = Some(group.part);
            println!("{}\n", group.part.title().to_uppercase());
        }
        let mut lines = table(&group);
        if let Some(corner) = lines.first_mut().and_then(|head| head.first_mut()) {
            group.unit.label().clone_into(corner);
        }
        println!("{}\n{}", group.load, demo::table(&lines));
    }
}

/// What a reader types to have the same.
fn command() -> String {
    let arguments = env::args().skip(1);
    let words = ["cargo".to_owned(), "xtask".to_owned(), "bench".to_owned()];
    words
        .into_iter()
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood() {
        let parse = |line: &str| Options::try_parse_from(line.split(' '));
        let options = parse("bench --quick --only traffic --json f --object o").unwrap();
        assert!(options.quick && options.peer.is_none());
        assert_eq!(options.only, Some(Part::Traffic));
        assert!(
            parse("bench --profile --report f --object o")
                .unwrap()
                .profile
        );
        for wrong in [
            "bench --only else --object o",
            "bench --profile --quick --object o",
            "bench --json",
            "bench x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
