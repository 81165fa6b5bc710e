//! From files to changes: scan, parse, allocate, endpoints, diff.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use tokio::{sync::mpsc::Sender, task::JoinError};

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

/// What makes it impossible to start, or is a defect of this program. All
/// else that goes wrong later is a [`Problem`], and changes nothing of what was
/// sent.
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
    #[error("looking at the manifests failed: {0}")]
    Scan(#[source] JoinError),
}

/// More problems than this of one file are only counted.
const PROBLEMS_OF_A_FILE: usize = 20;

/// Sends what the folders hold, then each change, until `changes` is closed.
///
/// # Errors
///
/// When it cannot start or go on; see [`FolderError`].
pub async fn folder(
    options: FolderOptions,
    changes: Sender<Vec<Change>>,
) -> Result<(), FolderError> {
    let dirs = options.dirs.clone();
    let mut source = Source::new(options)?;
    let mut follower = Follower::new(dirs);
    let mut wakeup = Wakeup::default();
    loop {
        let Wakeup { touched, busy } = wakeup;
        let result;
        (source, result) = blocking(move || {
            let result = source.refresh(&touched, &busy);
            (source, result)
        })
        .await?;
        let batch = result?;
        if !batch.is_empty() && changes.send(batch).await.is_err() {
            return Ok(());
        }
        let limit = source.files.settles().filter(|_| !source.whole);
        wakeup = tokio::select! {
            wakeup = follower.next(limit) => wakeup,
            () = changes.closed() => return Ok(()),
        };
    }
}

async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FolderError> {
    tokio::task::spawn_blocking(run)
        .await
        .map_err(FolderError::Scan)
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
        self.problems.set((), capped(problems));
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

/// At most so many of each file, and how many there are besides.
fn capped(problems: Vec<Problem>) -> Vec<Problem> {
    let problems: BTreeSet<Problem> = problems.into_iter().collect();
    let mut counts: BTreeMap<Option<PathBuf>, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for problem in problems {
        let path = match &problem.origin {
            Origin::File { path, .. } => Some(path.clone()),
            Origin::Api => None,
        };
        let count = counts.entry(path).or_default();
        *count += 1;
        if *count <= PROBLEMS_OF_A_FILE {
            kept.push(problem);
        }
    }
    for (path, count) in counts {
        let Some(path) = path.filter(|_| count > PROBLEMS_OF_A_FILE) else {
            continue;
        };
        let more = count - PROBLEMS_OF_A_FILE;
        let origin = Origin::File {
            path,
            document: None,
        };
        let found = format!("{PROBLEMS_OF_A_FILE} problems, which are listed, and {more} more");
        Reporter::new(&origin, "", &mut kept).report("", found, "documents without any");
    }
    kept
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
