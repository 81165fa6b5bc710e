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

pub(super) struct Files {
    dirs: Vec<PathBuf>,
    /// Never a manifest, wherever it lies.
    ledger: PathBuf,
    files: BTreeMap<PathBuf, FileState>,
    /// Of folders.
    problems: Vec<Problem>,
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
        }
    }

    /// Reads what changed; `touched` are read whatever their stamps say, and
    /// `busy` ones, which are being written, are left as they are.
    pub(super) fn scan(&mut self, touched: &BTreeSet<PathBuf>, busy: &BTreeSet<PathBuf>) {
        self.problems.clear();
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
                        if !busy.contains(&path) {
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
        !self.problems.is_empty()
            || self.files.is_empty()
            || self.files.values().any(|file| file.is_partial)
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
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                return self.keep(
                    path,
                    Parsed::broken(path, "", error.to_string(), "a readable file"),
                    None,
                );
            }
        };
        let stamp = Stamp::of(&metadata);
        if !touched && before.is_some_and(|before| before.stamp == stamp) {
            return;
        }
        let parsed = match content(path) {
            Ok(bytes) if bytes.len() as u64 > MAX_BYTES => {
                let found = format!("a file of {} bytes", metadata.len());
                Parsed::broken(path, "", found, format!("at most {MAX_BYTES} bytes"))
            }
            Ok(bytes) => parse(path, &bytes),
            Err(error) => Parsed::broken(path, "", error.to_string(), "a readable file"),
        };
        self.keep(path, parsed, Some(stamp));
    }

    /// Takes what is good, and keeps the rest as it was. Without a stamp, the
    /// file is read again at the next scan.
    fn keep(&mut self, path: &Path, mut parsed: Parsed, stamp: Option<Stamp>) {
        let before = self.files.remove(path);
        let mut objects = before.map(|before| before.objects).unwrap_or_default();
        let emptied =
            parsed.objects.is_empty() && parsed.problems.is_empty() && !objects.is_empty();
        if emptied && is_blank(path) {
            let found = "an empty file, which gave objects before";
            parsed = Parsed::broken(
                path,
                "",
                found,
                "its objects, or no file at all to remove them",
            );
        }
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
    entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".")
}

/// One byte more than allowed, at most.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_blank(path: &Path) -> bool {
    content(path).is_ok_and(|bytes| bytes.iter().all(u8::is_ascii_whitespace))
}
