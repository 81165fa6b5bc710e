//! The benchmark: programs by themselves, traffic on whole nodes, and the control
//! path, each next to what it replaces, in one run.

mod control;
mod floor;
mod group;
mod machine;
mod measurement;
mod plots;
mod profile;
mod program;
mod progress;
mod report;
mod table;
mod traffic;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use group::{Group, groups};
pub use machine::Machine;
pub use measurement::{Measurement, Part, Summary, Unit};
pub use plots::plots;
pub use profile::{Call, CallKind, Profile, Span, calls, summary};
pub use progress::Progress;
pub use report::Report;
pub use table::table;

/// What is measured, and how thoroughly.
#[derive(Clone, Debug)]
pub struct Options {
    /// All of it in three minutes.
    pub quick: bool,
    /// One part instead of all.
    pub only: Option<Part>,
    /// Another agent: a shell command, run in a node of its own.
    pub peer: Option<String>,
    /// The eBPF object of the benchmark.
    pub object: PathBuf,
}

type Run = fn(&Options, &mut Progress) -> Result<Vec<Measurement>>;

const PARTS: [(Part, Run); 3] = [
    (Part::Program, program::run),
    (Part::Traffic, traffic::run),
    (Part::Control, control::run),
];

/// Measures every part, one after the other.
///
/// # Errors
/// Those of a part; what was measured before is lost.
pub fn run(options: &Options, progress: &mut Progress) -> Result<Vec<Measurement>> {
    let mut all = Vec::new();
    for (part, run) in PARTS {
        if options.only.is_none_or(|only| only == part) {
            all.extend(run(options, progress)?);
        }
    }
    progress.finish();
    Ok(all)
}

/// Counts what programs execute and call for a packet of each way; nothing is
/// timed.
///
/// # Errors
/// The kernel does not show machine code, or a packet comes to another verdict
/// than its way has.
pub fn profile(object: &Path, progress: &mut Progress) -> Result<Vec<Profile>> {
    let profiles = program::profile(object, progress)?;
    progress.finish();
    Ok(profiles)
}
