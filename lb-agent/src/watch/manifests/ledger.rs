//! What was allocated, in a file that outlives the agent and that several
//! agents on one folder share.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// Values by the name of what they belong to, such as `default/kiada IPv4`.
pub(super) type Table<V> = BTreeMap<String, Entry<V>>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry<V> {
    pub(super) value: V,
    /// When its owner went, in [`Ledger::sequence`]; `None` while it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) released: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Ledger {
    version: u32,
    /// Grows with each release.
    pub(super) sequence: u64,
    pub(super) cluster_ips: Table<IpAddr>,
    pub(super) node_ports: Table<u16>,
    pub(super) health_check_node_ports: Table<u16>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            version: VERSION,
            sequence: 0,
            cluster_ips: Table::new(),
            node_ports: Table::new(),
            health_check_node_ports: Table::new(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot read the allocations in {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the allocations in {path} are corrupt ({source}); restore the file, or remove it to allocate anew"
    )]
    Corrupt {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("the allocations in {path} have version {found}; this agent reads version {VERSION}")]
    Version { path: PathBuf, found: u32 },
    #[error(
        "cannot write the allocations to {path}: {source}; name another file with --allocations"
    )]
    Write { path: PathBuf, source: io::Error },
}

/// The file of a [`Ledger`].
#[derive(Clone, Debug)]
pub(super) struct LedgerFile {
    path: PathBuf,
}

impl LedgerFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An absent file is an empty ledger.
    pub(super) fn read(&self) -> Result<Ledger, LedgerError> {
        let path = || self.path.clone();
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
            Err(source) => {
                return Err(LedgerError::Read {
                    path: path(),
                    source,
                });
            }
        };
        let ledger: Ledger =
            serde_json::from_slice(&text).map_err(|source| LedgerError::Corrupt {
                path: path(),
                source,
            })?;
        if ledger.version != VERSION {
            let found = ledger.version;
            return Err(LedgerError::Version {
                path: path(),
                found,
            });
        }
        Ok(ledger)
    }

    /// Runs `allocate` on the ledger and keeps what it changed. Others that
    /// share the file see all of it or nothing, and wait where both change it.
    pub(super) fn update<T>(&self, allocate: impl Fn(&mut Ledger) -> T) -> Result<T, LedgerError> {
        let before = self.read()?;
        let mut ledger = before.clone();
        let result = allocate(&mut ledger);
        if ledger == before {
            return Ok(result);
        }

        let write_error = |source| LedgerError::Write {
            path: self.path.clone(),
            source,
        };
        let lock = File::create(self.sibling(".lock")).map_err(write_error)?;
        lock.lock().map_err(write_error)?;
        let before = self.read()?;
        let mut ledger = before.clone();
        let result = allocate(&mut ledger);
        if ledger != before {
            self.write(&ledger).map_err(write_error)?;
        }
        Ok(result)
    }

    fn write(&self, ledger: &Ledger) -> io::Result<()> {
        let folder = self.folder();
        let mut file = tempfile::Builder::new()
            .prefix(".lb-allocations-")
            .tempfile_in(folder)?;
        serde_json::to_writer_pretty(&mut file, ledger)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        File::open(folder)?.sync_all()
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        }
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        path.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_and_shared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("allocations.json");
        let add = |key: String| {
            let file = LedgerFile::new(path.clone());
            file.update(|ledger| {
                let value = 30_000 + u16::try_from(ledger.node_ports.len()).unwrap();
                let entry = Entry {
                    value,
                    released: None,
                };
                ledger.node_ports.insert(key.clone(), entry);
            })
            .unwrap();
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let add = &add;
                scope.spawn(move || (0..10).for_each(|item| add(format!("{thread} {item}"))));
            }
        });
        let ledger = LedgerFile::new(path.clone()).read().unwrap();
        let mut values: Vec<u16> = ledger
            .node_ports
            .values()
            .map(|entry| entry.value)
            .collect();
        values.sort_unstable();
        assert_eq!(values, (30_000..30_040).collect::<Vec<u16>>());
    }

    #[test]
    fn unusable_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("allocations.json");
        let name = path.display();
        for (text, expect) in [
            ("", format!("the allocations in {name} are corrupt (")),
            (
                "{\"version\": 1}",
                format!("the allocations in {name} are corrupt ("),
            ),
            (
                r#"{"version": 2, "sequence": 0, "clusterIps": {}, "nodePorts": {}, "healthCheckNodePorts": {}}"#,
                format!("the allocations in {name} have version 2"),
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = LedgerFile::new(path.clone()).update(|ledger| ledger.sequence += 1);
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with(&expect), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let nowhere = LedgerFile::new(folder.path().join("absent/allocations.json"));
        nowhere.update(|_| ()).unwrap();
        let error = nowhere
            .update(|ledger| ledger.sequence += 1)
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("name another file with --allocations"),
            "{error}"
        );
    }
}
