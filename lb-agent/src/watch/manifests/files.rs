//! The files of the folders, and the objects that each gave last.
//!
//! Architecture Invariant: a file that cannot be read, or an object of it
//! that is not valid, keeps what was there before. Only a file that is gone,
//! or that reads well without the object, removes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use walkdir::{DirEntry, WalkDir};

use super::{
    objects::{Key, Located, Object},
    parse::{Parsed, duplicate, parse},
};
use crate::{
    model::{Origin, Problem},
    watch::problems::Reporter,
};

const MAX_BYTES: u64 = 8 << 20;
/// Nobody is writing a file that has not changed for this long, unless an
/// event says so.
const QUIET: Duration = Duration::from_secs(1);

pub(super) struct Files {
    dirs: Vec<PathBuf>,
    /// Never a manifest, wherever it lies.
    ledger: PathBuf,
    files: BTreeMap<PathBuf, FileState>,
    /// Of folders.
    problems: Vec<Problem>,
    /// Files that somebody may still be writing, and since when they have
    /// been as they are.
    fresh: BTreeMap<PathBuf, Instant>,
    /// Whether the last scan left out files, as they are being written or
    /// went while it ran.
    incomplete: bool,
}

struct FileState {
    stamp: Stamp,
    /// Whether it has documents that cannot be used.
    is_partial: bool,
    objects: BTreeMap<Key, Located<Object>>,
    problems: Vec<Problem>,
}

/// Differs for different contents, as far as a file system can tell.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Files {
    pub(super) fn new(dirs: Vec<PathBuf>, ledger: PathBuf) -> Self {
        Self {
            dirs,
            ledger,
            files: BTreeMap::new(),
            problems: Vec::new(),
            fresh: BTreeMap::new(),
            incomplete: false,
        }
    }

    /// Reads what changed; `touched` are read whatever their stamps say, and
    /// `busy` ones, which are being written, are left as they are.
    pub(super) fn scan(&mut self, touched: &BTreeSet<PathBuf>, busy: &BTreeSet<PathBuf>) {
        self.problems.clear();
        self.incomplete = false;
        let mut seen = BTreeSet::new();
        let mut unknown = Vec::new();
        for dir in self.dirs.clone() {
            for entry in WalkDir::new(&dir)
                .follow_links(true)
                .into_iter()
                .filter_entry(is_visible)
            {
                match entry {
                    Ok(entry) if self.is_manifest(&entry) => {
                        let path = entry.into_path();
                        if busy.contains(&path) {
                            self.incomplete = true;
                        } else {
                            self.read(&path, touched.contains(&path));
                        }
                        seen.insert(path);
                    }
                    Ok(_) => {}
                    Err(error) => unknown.extend(self.unreadable(&dir, &error)),
                }
            }
        }
        self.files.retain(|path, _| {
            seen.contains(path) || unknown.iter().any(|folder| path.starts_with(folder))
        });
        self.fresh
            .retain(|path, since| seen.contains(path) && since.elapsed() < QUIET);
    }

    /// All objects. Of several documents for one, the first counts.
    pub(super) fn objects(&self) -> (BTreeMap<Key, Located<Object>>, Vec<Problem>) {
        let mut objects: BTreeMap<Key, Located<Object>> = BTreeMap::new();
        let mut problems = self.problems.clone();
        for file in self.files.values() {
            problems.extend(file.problems.iter().cloned());
            for (key, located) in &file.objects {
                match objects.get(key) {
                    Some(first) => problems.push(duplicate(&located.origin, key, &first.origin)),
                    None => {
                        objects.insert(key.clone(), located.clone());
                    }
                }
            }
        }
        (objects, problems)
    }

    /// Whether there may be objects that [`Self::objects`] has never given. A
    /// folder without files may be one that is still to be filled or mounted.
    pub(super) fn is_partial(&self) -> bool {
        self.settles().is_some()
            || !self.problems.is_empty()
            || self.files.is_empty()
            || self.files.values().any(|file| file.is_partial)
    }

    /// When to scan again for want of events, if what the last scan found may
    /// not be all there is.
    pub(super) fn settles(&self) -> Option<Duration> {
        let fresh = self.fresh.values().max();
        fresh
            .map(|since| QUIET.saturating_sub(since.elapsed()))
            .or(self.incomplete.then_some(QUIET))
    }

    fn is_manifest(&self, entry: &DirEntry) -> bool {
        let extension = entry
            .path()
            .extension()
            .and_then(|extension| extension.to_str());
        entry.file_type().is_file()
            && matches!(extension, Some("yaml" | "yml" | "json"))
            && entry.path() != self.ledger
    }

    fn read(&mut self, path: &Path, touched: bool) {
        let before = self.files.get(path);
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            // It was replaced or removed since: there is another scan to come.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.incomplete = true;
                return;
            }
            Err(error) => {
                return self.keep(
                    path,
                    Parsed::broken(path, "", error.to_string(), "a readable file"),
                    None,
                );
            }
        };
        if touched {
            // A busy one was not to be read.
            self.fresh.remove(path);
        }
        let stamp = Stamp::of(&metadata);
        if !touched && before.is_some_and(|before| before.stamp == stamp) {
            return;
        }
        if !touched && is_fresh(&metadata) {
            self.fresh.insert(path.to_owned(), Instant::now());
        }
        let gave_objects = before.is_some_and(|before| !before.objects.is_empty());
        let parsed = match content(path) {
            Ok(bytes) if bytes.len() as u64 > MAX_BYTES => {
                let found = format!("a file of {} bytes", metadata.len());
                Parsed::broken(path, "", found, format!("at most {MAX_BYTES} bytes"))
            }
            // As whoever rewrites a file leaves it for a moment.
            Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => {
                let found = if gave_objects {
                    "an empty file, which gave objects before"
                } else {
                    "an empty file"
                };
                let accepted = "its objects, or no file at all to remove them";
                Parsed::broken(path, "", found, accepted)
            }
            Ok(bytes) => parse(path, &bytes),
            Err(error) => Parsed::broken(path, "", error.to_string(), "a readable file"),
        };
        self.keep(path, parsed, Some(stamp));
    }

    /// Takes what is good, and keeps the rest as it was. Without a stamp, the
    /// file is read again at the next scan.
    fn keep(&mut self, path: &Path, parsed: Parsed, stamp: Option<Stamp>) {
        let before = self.files.remove(path);
        let mut objects = before.map(|before| before.objects).unwrap_or_default();
        let Parsed {
            objects: valid,
            invalid,
            unknown,
            problems,
        } = parsed;
        let is_partial = unknown || !invalid.is_empty();
        objects.retain(|key, _| unknown || invalid.contains(key));
        objects.extend(valid);
        let none = Stamp {
            file: (0, 0),
            size: 0,
            modified: (0, 0),
            changed: (0, 0),
        };
        let state = FileState {
            stamp: stamp.unwrap_or(none),
            is_partial,
            objects,
            problems,
        };
        self.files.insert(path.to_owned(), state);
    }

    /// Returns the path below which nothing is known.
    fn unreadable(&mut self, dir: &Path, error: &walkdir::Error) -> Option<PathBuf> {
        let path = error.path().unwrap_or(dir).to_owned();
        let missing = error
            .io_error()
            .is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
        if missing && path != *dir {
            // A link to nothing is nothing; what is gone may be on its way.
            self.incomplete |= !is_hidden(&path) && fs::symlink_metadata(&path).is_err();
            return None;
        }
        let origin = Origin::File {
            path: path.clone(),
            document: None,
        };
        let cause = error
            .io_error()
            .map_or_else(|| error.to_string(), ToString::to_string);
        Reporter::new(&origin, "", &mut self.problems).report("", cause, "a readable folder");
        Some(path)
    }
}

fn is_visible(entry: &DirEntry) -> bool {
    entry.depth() == 0 || !is_hidden(entry.path())
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".")
}

/// Clocks that differ make a file fresh for [`QUIET`] at most.
fn is_fresh(metadata: &Metadata) -> bool {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    modified.elapsed().is_ok_and(|age| age < QUIET) || modified > SystemTime::now()
}

/// One byte more than allowed, at most.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_during_a_scan_may_come_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, "# nothing").unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        let file = fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(old).unwrap();
        let mut files = Files::new(vec![dir.path().to_owned()], dir.path().join("ledger"));
        let none = BTreeSet::new();
        files.scan(&none, &none);
        assert!(!files.is_partial());
        files.read(&dir.path().join("gone.yaml"), false);
        assert!(files.is_partial() && files.settles().is_some());
        files.scan(&none, &none);
        assert!(!files.is_partial());
    }
}
