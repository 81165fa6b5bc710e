//! When to look at the folders again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep_until, timeout_at},
};

/// A burst of events is over after this long without one.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A burst that does not end is cut.
const BURST: Duration = Duration::from_millis(500);
const RESCAN: Duration = Duration::from_secs(30);
/// A writer that does not close its file is waited for this long.
const WRITING: Duration = RESCAN;
/// Without inotify, and while a folder is missing.
const POLL: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Wakeup {
    /// Files with events.
    pub(super) touched: BTreeSet<PathBuf>,
    /// Files that somebody is writing.
    pub(super) busy: BTreeSet<PathBuf>,
}

pub(super) struct Follower {
    dirs: Vec<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    /// The folders that are watched, with device and inode.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    events: UnboundedReceiver<notify::Result<Event>>,
    touched: BTreeSet<PathBuf>,
    /// When each was last written to.
    writing: BTreeMap<PathBuf, Instant>,
}

impl Follower {
    /// Follows from now on: scan after this.
    pub(super) fn new(dirs: Vec<PathBuf>) -> Self {
        let (sender, events) = unbounded_channel();
        let watcher = notify::recommended_watcher(move |event| {
            // Fails only when the follower is gone, and the watcher with it.
            let _closed = sender.send(event);
        });
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "no inotify: the manifests are looked at every second");
        });
        let mut follower = Self {
            dirs,
            watcher: watcher.ok(),
            watched: BTreeMap::new(),
            events,
            touched: BTreeSet::new(),
            writing: BTreeMap::new(),
        };
        follower.watch();
        follower
    }

    /// Waits no longer than `limit`. Loses nothing when it is dropped halfway.
    pub(super) async fn next(&mut self, limit: Option<Duration>) -> Wakeup {
        let watched = self.watched.clone();
        let complete = self.watch();
        let now = Instant::now();
        let waiting = self.writing.values().min().map(|last| *last + WRITING);
        // What a folder held before it was watched has no event.
        let pause = match complete {
            _ if self.watched != watched => Duration::ZERO,
            true => RESCAN,
            false => POLL,
        };
        let end = now + limit.map_or(pause, |limit| limit.min(pause));
        let deadline = waiting.unwrap_or(end).min(end);
        let event = timeout_at(deadline, self.events.recv()).await;
        if matches!(event, Ok(None)) {
            // There is no watcher, and no event ever.
            sleep_until(deadline).await;
        }
        if let Ok(Some(event)) = event {
            let mut interesting = self.note(event);
            let end = Instant::now() + BURST;
            loop {
                let quiet = if interesting {
                    (Instant::now() + DEBOUNCE).min(end)
                } else {
                    deadline
                };
                match timeout_at(quiet, self.events.recv()).await {
                    Ok(Some(event)) => interesting |= self.note(event),
                    Ok(None) | Err(_) => break,
                }
            }
        }
        let now = Instant::now();
        self.writing
            .retain(|_, last| now.duration_since(*last) < WRITING);
        Wakeup {
            touched: std::mem::take(&mut self.touched),
            busy: self.writing.keys().cloned().collect(),
        }
    }

    /// Whether the event may have changed a manifest.
    fn note(&mut self, event: notify::Result<Event>) -> bool {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "inotify failed: looking at all manifests again");
                self.watched.clear();
                return true;
            }
        };
        let written = matches!(
            event.kind,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
        );
        if matches!(event.kind, EventKind::Access(_)) && !written {
            return false;
        }
        let created = event.kind == EventKind::Create(CreateKind::File);
        let writing = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
        let attributes = matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_)));
        for path in event.paths {
            // A write is told of only when it is done, however long it takes.
            if writing || created && !is_link(&path) {
                self.writing.insert(path.clone(), Instant::now());
            } else if !attributes {
                self.writing.remove(&path);
            }
            self.touched.insert(path);
        }
        true
    }

    /// Watches each folder that is there, anew if it was replaced. Whether all
    /// of them are watched.
    fn watch(&mut self) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        let mut complete = true;
        for dir in &self.dirs {
            let Ok(metadata) = fs::metadata(dir) else {
                self.watched.remove(dir);
                complete = false;
                continue;
            };
            let id = (metadata.dev(), metadata.ino());
            if self.watched.get(dir) == Some(&id) {
                continue;
            }
            // It fails where the watch went with the folder that was here.
            let _absent = watcher.unwatch(dir);
            match watcher.watch(dir, RecursiveMode::Recursive) {
                Ok(()) => {
                    self.watched.insert(dir.clone(), id);
                }
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "cannot follow this folder: looking at it every second");
                    self.watched.remove(dir);
                    complete = false;
                }
            }
        }
        complete
    }
}

/// Whether `path` may have been made without opening it.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}
