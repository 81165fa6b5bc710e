//! From files to changes: scan, parse, allocate, endpoints, diff.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use tokio::sync::mpsc::Sender;

use super::{
    allocate::{Services, allocate},
    defaults::ServiceCidrs,
    desired::{Desired, Sorted},
    files::Files,
    follow::{Follower, Wakeup},
    ledger::{LedgerError, LedgerFile},
};
use crate::{
    model::{Change, Node, Origin, Problem},
    watch::problems::{Problems, Reporter},
};

#[derive(Clone, Debug)]
pub struct FolderOptions {
    /// Folders with manifests; subfolders count too, hidden names do not.
    pub dirs: Vec<PathBuf>,
    /// Where allocated cluster IPs and node ports are kept. Without it:
    /// `.lb-allocations.json` in the first folder.
    pub allocations: Option<PathBuf>,
    /// One for each family at most, the default family first. Empty means
    /// 10.96.0.0/16 and fd00:10:96::/112.
    pub service_cidrs: Vec<IpNet>,
    /// This node, unless the folder has a Node of its name.
    pub node: Node,
}

/// What makes it impossible to start. Whatever goes wrong later is a
/// [`Problem`], and changes nothing of what was sent.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("no folder of manifests is named")]
    NoFolder,
    #[error("cannot read the manifests in {path}: {source}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("there are two service CIDRs of one IP family; one of each is accepted")]
    ServiceCidrs,
    #[error(transparent)]
    Allocations(#[from] LedgerError),
}

/// Sends what the folders hold, then each change, until `changes` is closed.
///
/// # Errors
///
/// When it cannot start; see [`FolderError`].
pub async fn folder(options: FolderOptions, changes: Sender<Change>) -> Result<(), FolderError> {
    let dirs = options.dirs.clone();
    let mut source = Source::new(options)?;
    let mut follower = Follower::new(dirs);
    let mut wakeup = Wakeup::default();
    loop {
        let Wakeup { touched, busy } = wakeup;
        let scan = tokio::task::spawn_blocking(move || {
            let result = source.refresh(&touched, &busy);
            (source, result)
        });
        let Ok((returned, result)) = scan.await else {
            return Ok(());
        };
        source = returned;
        for change in result? {
            if changes.send(change).await.is_err() {
                return Ok(());
            }
        }
        wakeup = tokio::select! {
            wakeup = follower.next() => wakeup,
            () = changes.closed() => return Ok(()),
        };
    }
}

struct Source {
    cidrs: ServiceCidrs,
    ledger: LedgerFile,
    node: Node,
    files: Files,
    /// The Services of the last allocation, as they are and filled in.
    allocated: Option<(Services, Services, Vec<Problem>)>,
    sent: Desired,
    problems: Problems<()>,
    synced: bool,
    whole: bool,
}

impl Source {
    fn new(options: FolderOptions) -> Result<Self, FolderError> {
        let first = options.dirs.first().ok_or(FolderError::NoFolder)?;
        for dir in &options.dirs {
            fs::read_dir(dir).map_err(|source| FolderError::Folder {
                path: dir.clone(),
                source,
            })?;
        }
        let ledger = options
            .allocations
            .unwrap_or_else(|| first.join(".lb-allocations.json"));
        let cidrs = ServiceCidrs::new(&options.service_cidrs).ok_or(FolderError::ServiceCidrs)?;
        let file = LedgerFile::new(ledger.clone());
        file.read()?;
        Ok(Self {
            cidrs,
            ledger: file,
            node: options.node,
            files: Files::new(options.dirs, ledger),
            allocated: None,
            sent: Desired::default(),
            problems: Problems::new(),
            synced: false,
            whole: false,
        })
    }

    fn refresh(
        &mut self,
        touched: &BTreeSet<PathBuf>,
        busy: &BTreeSet<PathBuf>,
    ) -> Result<Vec<Change>, FolderError> {
        self.files.scan(touched, busy);
        let (objects, mut problems) = self.files.objects();
        let sorted = Sorted::new(objects);
        if let Err(error) = self.allocate(&sorted.services) {
            if !self.synced {
                return Err(error.into());
            }
            problems.push(allocation_problem(self.ledger.path(), &error));
        }
        let empty = (Services::new(), Services::new(), Vec::new());
        let (_, services, found) = self.allocated.as_ref().unwrap_or(&empty);
        problems.extend(found.iter().cloned());

        let desired = Desired::new(&sorted, services, &self.node, &mut problems);
        let mut changes = desired.changes(&self.sent);
        self.sent = desired;
        self.problems.set((), problems);
        changes.extend(self.problems.change());
        if !self.synced {
            self.synced = true;
            changes.push(Change::Synced);
        }
        if !self.whole && !self.files.is_partial() {
            self.whole = true;
            changes.push(Change::Whole);
        }
        Ok(changes)
    }

    fn allocate(&mut self, services: &Services) -> Result<(), LedgerError> {
        if self
            .allocated
            .as_ref()
            .is_some_and(|(before, ..)| before == services)
        {
            return Ok(());
        }
        let cidrs = &self.cidrs;
        let (filled, problems) = self
            .ledger
            .update(|ledger| allocate(services, cidrs, ledger))?;
        self.allocated = Some((services.clone(), filled, problems));
        Ok(())
    }
}

fn allocation_problem(path: &Path, error: &LedgerError) -> Problem {
    let origin = Origin::File {
        path: path.to_owned(),
        document: None,
    };
    let mut problems = Vec::new();
    Reporter::new(&origin, "", &mut problems).report("", error.to_string(), "a usable file");
    problems.remove(0)
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
