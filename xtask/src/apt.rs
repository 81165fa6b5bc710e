//! Debian's package manager.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

use anyhow::bail;

use crate::process;

/// How packages can be installed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Apt {
    AsRoot,
    /// `sudo -n` works: no password is asked for.
    WithSudo,
}

impl Apt {
    /// None where this is no Debian or a relative of it, or where this user
    /// may not install packages.
    pub(crate) fn find() -> Option<Self> {
        if !is_debian_like() || which("apt-get").is_none() {
            return None;
        }
        if is_root() {
            return Some(Self::AsRoot);
        }
        let sudo = process::run_quietly(Command::new("sudo").args(["-n", "true"]));
        sudo.is_ok().then_some(Self::WithSudo)
    }

    /// Brings the package lists up to date, once per run: stale lists name
    /// versions that the mirror no longer has. A mirror that cannot be reached
    /// is no error yet, the packages may be at hand.
    pub(crate) fn update(self) {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            if let Err(error) = process::run_quietly(self.apt_get().args(["-qq", "update"])) {
                eprintln!("xtask: the package lists could not be brought up to date: {error:#}");
            }
        });
    }

    /// The version that would be installed, None if there is no such package.
    pub(crate) fn candidate(self, package: &str) -> anyhow::Result<Option<String>> {
        self.update();
        let policy = process::output(
            Command::new("apt-cache")
                .env("LC_ALL", "C")
                .args(["policy", package]),
        )?;
        Ok(candidate_of(&policy).map(str::to_owned))
    }

    /// Installs packages in one go and never removes any.
    pub(crate) fn install(self, packages: &[&str]) -> anyhow::Result<()> {
        self.update();
        eprintln!("xtask: installing {} with apt", packages.join(" "));
        process::run_quietly(
            self.apt_get()
                .args([
                    "-qq",
                    "install",
                    "--yes",
                    "--no-install-recommends",
                    "--no-remove",
                ])
                .args(packages),
        )
    }

    fn apt_get(self) -> Command {
        let mut command = match self {
            Self::AsRoot => Command::new("env"),
            Self::WithSudo => {
                let mut command = Command::new("sudo");
                command.args(["-n", "env"]);
                command
            }
        };
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        command
    }
}

pub(crate) fn is_debian_like() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|release| names_debian(&release))
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Where a program is. The sbin folders are looked at too: a plain user's
/// search path lacks them on Debian.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| is_executable(file))
}

/// Fails unless this process runs as root, naming what needs it.
pub(crate) fn require_root(task: &str, why: &str) -> anyhow::Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!("{task} needs root: {why}; type: sudo -E env \"PATH=$PATH\" cargo xtask {task}")
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|data| data.is_file() && data.mode() & 0o111 != 0)
}

/// Reads the form of os-release(5).
fn names_debian(release: &str) -> bool {
    release
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .flat_map(|(_, value)| value.trim_matches(['"', '\'']).split_whitespace())
        .any(|id| matches!(id, "debian" | "ubuntu"))
}

fn candidate_of(policy: &str) -> Option<&str> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relatives_of_debian() {
        let check = |release: &str, expect: bool| {
            assert_eq!(names_debian(release), expect, "{release}");
        };
        check("NAME=\"Debian GNU/Linux\"\nID=debian\n", true);
        check("ID=ubuntu\nID_LIKE=debian\n", true);
        check("ID=\"linuxmint\"\nID_LIKE=\"ubuntu debian\"\n", true);
        check("ID=fedora\n", false);
        check("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", false);
        check("ID=notdebian\nHOME_URL=https://debian\n", false);
        check("", false);
    }

    #[test]
    fn candidates() {
        let check = |policy: &str, expect: Option<&str>| {
            assert_eq!(candidate_of(policy), expect, "{policy}");
        };
        check(
            "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n",
            Some("1.96.0+dfsg1-1~deb12u2"),
        );
        check(
            "rustc-web:\n  Installed: (none)\n  Candidate: (none)\n",
            None,
        );
        check("", None);
    }

    #[test]
    fn programs_are_files_that_may_be_executed() {
        assert!(which("sh").is_some());
        assert_eq!(which("no-such-program-here"), None);
        assert!(!is_executable(Path::new("/etc/passwd")));
        assert!(!is_executable(Path::new("/etc")));
    }
}
