//! Child processes.

use std::{
    error, fmt, io,
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use anyhow::Context as _;

/// A child process that ran and did not succeed.
#[derive(Debug)]
pub(crate) struct Failed {
    what: String,
    status: ExitStatus,
    output: String,
}

impl Failed {
    pub(crate) fn exit_code(&self) -> ExitCode {
        let code = self.status.code().and_then(|code| u8::try_from(code).ok());
        code.map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

impl error::Error for Failed {}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed ({})", self.what, self.status)?;
        if self.output.is_empty() {
            return Ok(());
        }
        write!(f, ":\n{}", self.output)
    }
}

/// Ctrl-C reaches the whole foreground process group: the child ends in its
/// own way, and this process waits for it. A handler, unlike `SIG_IGN`, is not
/// inherited.
pub(crate) fn outlive_interrupts() -> io::Result<()> {
    signal_hook::flag::register(
        signal_hook::consts::SIGINT,
        Arc::new(AtomicBool::new(false)),
    )
    .map(|_| ())
}

/// Runs a child on this process's terminal.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    check(command, status, String::new())
}

/// Runs a child in silence; its output is shown if it fails.
pub(crate) fn run_quietly(command: &mut Command) -> anyhow::Result<()> {
    output(command).map(|_| ())
}

/// Runs a child in silence and returns its standard output.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| cannot_start(command))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    check(command, output.status, format!("{stdout}{stderr}"))?;
    Ok(stdout)
}

/// Runs a child on this process's terminal, then prints one line with the time
/// it took.
pub(crate) fn step(name: &str, command: &mut Command) -> anyhow::Result<()> {
    let start = Instant::now();
    let result = run(command);
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    eprintln!(
        "xtask: {name}: {verdict} ({:.1} s)",
        start.elapsed().as_secs_f32()
    );
    result
}

fn check(command: &Command, status: ExitStatus, output: String) -> anyhow::Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(Failed {
        what: shown(command),
        status,
        output: output.trim_end().to_owned(),
    }
    .into())
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start {}", command.get_program().display())
}

fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().replace('\x1f', " "))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_shows_its_output() {
        let error = run_quietly(Command::new("sh").args(["-c", "echo why; exit 7"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sh -c echo why; exit 7 failed (exit status: 7):\nwhy"
        );
        let failed = error.downcast_ref::<Failed>().unwrap();
        assert_eq!(failed.exit_code(), ExitCode::from(7));
    }
}
