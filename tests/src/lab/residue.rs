//! What a lab leaves on the machine, and how it is removed whatever happens.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::netns;

const BPFFS: &str = "/sys/fs/bpf";

static LIVE: Mutex<BTreeSet<LabId>> = Mutex::new(BTreeSet::new());

/// Name of a lab, unique on the machine: `lb<pid>-<counter>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabId {
    pid: u32,
    counter: u32,
}

/// What this process leaves under one id, removed on drop.
#[derive(Debug)]
pub(crate) struct Residue(LabId);

impl Residue {
    pub(crate) fn new() -> Result<Self> {
        let residue = Self(LabId::take());
        residue.0.make_folders()?;
        Ok(residue)
    }

    pub(crate) fn id(&self) -> LabId {
        self.0
    }
}

impl Drop for Residue {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl LabId {
    /// Takes the next id of this process and removes what dead labs left.
    fn take() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = Self {
            pid: std::process::id(),
            counter: NEXT.fetch_add(1, Ordering::Relaxed),
        };
        live().insert(id);
        sweep();
        id
    }

    /// Where the agents of this lab pin their maps and links.
    #[must_use]
    pub fn pins(self) -> PathBuf {
        Path::new(BPFFS).join(self.to_string())
    }

    /// Folder for sockets, logs and manifests.
    #[must_use]
    pub fn folder(self) -> PathBuf {
        folders().join(self.to_string())
    }

    fn make_folders(self) -> Result<()> {
        if statfs(BPFFS)
            .context("statfs of /sys/fs/bpf")?
            .filesystem_type()
            != BPF_FS_MAGIC
        {
            mount(
                Some("bpf"),
                BPFFS,
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            )
            .context("mounting /sys/fs/bpf")?;
        }
        fs::create_dir_all(self.pins()).context("making the pin folder")?;
        fs::create_dir_all(self.folder()).context("making the lab's folder")
    }

    /// Removes namespaces, pins and files, and forgets the id.
    fn release(self) {
        remove_all(self);
        live().remove(&self);
    }

    fn is_alive(self) -> bool {
        if self.pid == std::process::id() {
            return live().contains(&self);
        }
        Path::new("/proc").join(self.pid.to_string()).exists()
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lb{}-{}", self.pid, self.counter)
    }
}

impl FromStr for LabId {
    type Err = ();

    /// Reads the id at the start of a name such as `lb12-0-client`.
    fn from_str(name: &str) -> Result<Self, ()> {
        let mut parts = name.strip_prefix("lb").ok_or(())?.splitn(3, '-');
        let mut number = || parts.next()?.parse().ok();
        Ok(Self {
            pid: number().ok_or(())?,
            counter: number().ok_or(())?,
        })
    }
}

/// From now on SIGINT and SIGTERM remove every lab of this process and end it.
/// For binaries; call it once, before the first lab.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn clean_up_on_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    thread::spawn(move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        // The guard is kept: no lab may start or end while the process goes.
        let live = live();
        for id in live.iter() {
            remove_all(*id);
        }
        std::process::exit(code);
    });
    Ok(())
}

fn live() -> MutexGuard<'static, BTreeSet<LabId>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what labs of dead processes left. Two sweeps at once are harmless:
/// both only remove, and what is gone already is no error.
fn sweep() {
    let folders = folders();
    let places = [Path::new(netns::FOLDER), Path::new(BPFFS), &folders];
    let dead: BTreeSet<LabId> = places
        .iter()
        .flat_map(|folder| entries(folder))
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .filter(|id: &LabId| !id.is_alive())
        .collect();
    for id in dead {
        remove_all(id);
    }
}

fn remove_all(id: LabId) {
    for path in entries(Path::new(netns::FOLDER)) {
        let owner = path.file_name().and_then(|name| name.to_str());
        if owner.and_then(|name| name.parse().ok()) == Some(id) {
            netns::remove(&path);
        }
    }
    // Absent folders are what is wanted.
    let _ = fs::remove_dir_all(id.pins());
    let _ = fs::remove_dir_all(id.folder());
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn folders() -> PathBuf {
    std::env::temp_dir().join("lb-lab")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_names() {
        let id = |pid, counter| Ok(LabId { pid, counter });
        let table = [
            ("lb12-0", id(12, 0)),
            ("lb12-3-client", id(12, 3)),
            ("lb12-3-kiada-0", id(12, 3)),
            ("lb", Err(())),
            ("lb-1-x", Err(())),
            ("lbx-1", Err(())),
            ("other", Err(())),
        ];
        for (name, expect) in table {
            assert_eq!(name.parse(), expect, "{name}");
        }
    }

    #[test]
    fn a_dead_process_is_swept_and_a_live_one_is_not() {
        // No process has this id: it is above the kernel's PID_MAX_LIMIT.
        let dead = LabId {
            pid: 4_200_000_000,
            counter: 0,
        };
        let live = LabId {
            pid: std::os::unix::process::parent_id(),
            counter: 4_200_000_000,
        };
        for id in [dead, live] {
            fs::create_dir_all(id.folder()).unwrap();
        }
        sweep();
        assert!(!dead.folder().exists());
        assert!(live.folder().exists());
        fs::remove_dir(live.folder()).unwrap();
    }
}
