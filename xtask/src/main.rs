//! `cargo xtask`: sets up the toolchain, builds, tests and runs the project.

mod apt;
mod bench;
mod build;
mod conformance;
mod fuzz;
mod process;
mod run;
mod runtime;
mod test;
mod toolchain;
mod verifier;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Sets up the toolchain, builds, tests and runs the project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the eBPF object, then the agent with the object inside.
    Build(build::Options),
    /// Check formatting and lints, then run every test.
    Test(test::Options),
    /// Build, then run the demo: a small cluster in network namespaces.
    Run(run::Options),
    /// Build, then send the flows of scenario files through the programs.
    Conformance(conformance::Options),
    /// Build, then print how much work each program is for the verifier.
    Verifier(verifier::Options),
    /// Build, then send packets of every kind through the programs and compare
    /// what comes out with a model.
    Fuzz(fuzz::Options),
    /// Build, then measure the programs, whole nodes and the control path, next
    /// to what they replace.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            error
                .downcast_ref::<process::Failed>()
                .map_or(ExitCode::FAILURE, process::Failed::exit_code)
        }
    }
}

fn perform(task: Task) -> anyhow::Result<()> {
    process::outlive_interrupts()?;
    let workspace = Workspace::find()?;
    match task {
        Task::Build(options) => build::run(&workspace, &options).map(|_| ()),
        Task::Test(options) => test::run(&workspace, &options),
        Task::Run(options) => run::run(&workspace, &options),
        Task::Conformance(options) => conformance::run(&workspace, &options),
        Task::Verifier(options) => verifier::run(&workspace, &options),
        Task::Fuzz(options) => fuzz::run(&workspace, &options),
        Task::Bench(options) => bench::run(&workspace, &options),
    }
}
