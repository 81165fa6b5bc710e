//! Named network namespaces, entered only by threads and processes made for it.

use std::{
    fs::{self, File},
    io,
    ops::Deref,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::process;

pub(crate) const FOLDER: &str = "/run/netns";

/// A network namespace bound at `/run/netns/NAME`, so that `ip netns` and
/// `nsenter --net=` find it. Removed on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
    entrance: Entrance,
}

/// The way into a namespace; keeps it alive, though not its name.
#[derive(Clone, Debug)]
pub struct Entrance(Arc<File>);

impl Netns {
    /// Makes the namespace; the caller stays where it is.
    ///
    /// # Errors
    /// The name is taken, or this process may not make namespaces.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let path = Path::new(FOLDER).join(&name);
        fs::create_dir_all(FOLDER)?;
        File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
        let made = thread::scope(|scope| scope.spawn(|| bind_new(&path)).join());
        let made = made.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if let Err(error) = made {
            remove(&path);
            return Err(error).with_context(|| format!("making the namespace {name}"));
        }
        let entrance = Entrance(Arc::new(File::open(&path)?));
        Ok(Self { name, entrance })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Runs an iproute2 batch, one `ip` command a line.
    ///
    /// # Errors
    /// A line that iproute2 refuses, with what it said.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.feed("ip", &["-batch", "-"], batch)
    }

    /// Loads an nftables ruleset.
    ///
    /// # Errors
    /// A ruleset that nft refuses, with what it said.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        self.feed("nft", &["-f", "-"], ruleset)
    }

    /// Writes `/proc/sys/net` entries, named below that folder.
    ///
    /// # Errors
    /// An entry that does not exist or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                fs::write(format!("/proc/sys/net/{name}"), value)
                    .with_context(|| format!("setting {name} to {value}"))?;
            }
            Ok(())
        })
    }

    /// Runs a program in the namespace and gives it its input.
    ///
    /// # Errors
    /// The program fails, with what it said.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<()> {
        let mut child = self
            .command(program)?
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let written = io::Write::write_all(&mut stdin, input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{program} in {}: {}{}\n{input}",
            self.name,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        Ok(written?)
    }
}

impl Entrance {
    /// Runs `work` on a thread of its own inside the namespace. Sockets opened
    /// there stay in the namespace wherever they are used later.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET)
                    .expect("a namespace whose file is open can be entered");
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run inside the namespace and be killed when the
    /// thread that starts it ends; [`super::Process`] starts those that live on.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let file = self.0.try_clone()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only setns runs, a plain system call on
        // a descriptor that the closure owns.
        unsafe {
            command.pre_exec(move || Ok(setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
        process::die_with_parent(&mut command);
        Ok(command)
    }
}

impl Deref for Netns {
    type Target = Entrance;

    fn deref(&self) -> &Entrance {
        &self.entrance
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.path());
    }
}

/// Unbinds and removes a namespace's file; the kernel frees the namespace with
/// its last process and socket.
pub(crate) fn remove(path: &Path) {
    // A file that was never bound, or is gone already, is as good as removed.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

fn bind_new(path: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let none = None::<&str>;
    mount(
        Some("/proc/thread-self/ns/net"),
        path,
        none,
        MsFlags::MS_BIND,
        none,
    )?;
    Ok(())
}
