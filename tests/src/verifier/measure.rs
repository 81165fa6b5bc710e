//! Loads each program and reads what the verifier says.

use std::io;

use anyhow::{Context, Result, bail};
use aya::programs::{Program as Loadable, ProgramError};
use lb_agent::dataplane::Dataplane;
use nix::{
    libc::EMFILE,
    sys::resource::{Resource, getrlimit, setrlimit},
};

use super::{Program, Statistics};

/// Every program of the object, as the agent loads it, and traced. While one is
/// loaded, the whole process can open no file.
///
/// # Errors
/// The kernel refuses a program.
pub fn measure() -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for traced in [false, true] {
        let mut ebpf = Dataplane::unloaded(traced)?;
        let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            let program = ebpf.program_mut(&name).context("a program that went")?;
            let measured = measure_one(&name, traced, program);
            programs.push(measured.with_context(|| format!("program {name}"))?);
        }
    }
    programs.sort_by(|a, b| (a.traced, &a.name).cmp(&(b.traced, &b.name)));
    Ok(programs)
}

fn measure_one(name: &str, traced: bool, program: &mut Loadable) -> Result<Program> {
    let statistics = without_descriptors(|| statistics(program))??;
    load(program)?;
    let info = program.info()?;
    Ok(Program {
        name: name.to_owned(),
        traced,
        statistics,
        loaded: info.size_translated().unwrap_or_default(),
        jited: info.size_jitted(),
    })
}

/// aya hands the verifier's log out with an error only. Without a descriptor
/// for the program the load fails, right after the verifier has passed it.
fn statistics(program: &mut Loadable) -> Result<Statistics> {
    match load(program) {
        Err(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) if io_error.raw_os_error() == Some(EMFILE) => verifier_log.to_string().parse(),
        Err(error) => Err(error.into()),
        Ok(()) => bail!("it was loaded without a file descriptor"),
    }
}

fn load(program: &mut Loadable) -> Result<(), ProgramError> {
    match program {
        Loadable::Xdp(program) => program.load(),
        Loadable::SchedClassifier(program) => program.load(),
        other => {
            let kind = format!("no way to load a program of type {:?}", other.prog_type());
            Err(ProgramError::IOError(io::Error::other(kind)))
        }
    }
}

fn without_descriptors<T>(work: impl FnOnce() -> T) -> Result<T> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard)?;
    let result = work();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    Ok(result)
}
