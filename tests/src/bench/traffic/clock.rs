//! CPU time of the thread that sends, and of what the kernel does for it.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// The calling thread's. A veth's receive side runs in a softirq on the CPU of
/// the sender, mostly in the sender's time; what ksoftirqd takes over is added.
#[derive(Debug)]
pub(super) struct Clock {
    ksoftirqd: Option<String>,
    thread_start: Duration,
    ksoftirqd_start: Duration,
}

impl Clock {
    /// Ties the calling thread to one CPU and starts.
    pub(super) fn start() -> Result<Self> {
        let cpu = pin().context("tying the sender to a CPU")?;
        let mut clock = Self {
            ksoftirqd: ksoftirqd(cpu),
            thread_start: Duration::ZERO,
            ksoftirqd_start: Duration::ZERO,
        };
        clock.restart()?;
        Ok(clock)
    }

    pub(super) fn restart(&mut self) -> Result<()> {
        self.ksoftirqd_start = self.of_ksoftirqd();
        self.thread_start = thread_time()?;
        Ok(())
    }

    /// Of the thread alone: cheap enough to ask for often.
    pub(super) fn of_thread(&self) -> Result<Duration> {
        Ok(thread_time()? - self.thread_start)
    }

    pub(super) fn of_ksoftirqd_since(&self) -> Duration {
        self.of_ksoftirqd().saturating_sub(self.ksoftirqd_start)
    }

    pub(super) fn total(&self) -> Result<Duration> {
        Ok(self.of_thread()? + self.of_ksoftirqd_since())
    }

    fn of_ksoftirqd(&self) -> Duration {
        let time = || {
            let text = fs::read_to_string(self.ksoftirqd.as_ref()?).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        time().map_or(Duration::ZERO, Duration::from_nanos)
    }
}

pub(super) fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// The last CPU that this process may use: interrupts prefer the first.
fn pin() -> Result<usize> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let is_set = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let last = (0..CpuSet::count()).rev().find(is_set);
    let last = last.context("there is no CPU")?;
    let mut one = CpuSet::new();
    one.set(last)?;
    sched_setaffinity(this, &one)?;
    Ok(last)
}

/// Where the CPU time of ksoftirqd is told (proc_pid_schedstat); nowhere, if
/// this process is in a PID namespace of its own.
fn ksoftirqd(cpu: usize) -> Option<String> {
    let name = format!("ksoftirqd/{cpu}\n");
    let folders = fs::read_dir("/proc").ok()?.flatten();
    let mut paths = folders.map(|folder| folder.path());
    let is_it = |path: &std::path::PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm == name)
    };
    let folder = paths.find(is_it)?;
    Some(folder.join("schedstat").display().to_string())
}
