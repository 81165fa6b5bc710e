//! A folder of manifests as a source, followed with inotify.

mod allocate;
mod defaults;
mod desired;
mod documents;
mod endpoints;
mod files;
mod folder;
mod follow;
mod ledger;
mod names;
mod objects;
mod parse;
mod pool;
mod validate;

pub use folder::{FolderError, FolderOptions, folder};
pub use ledger::LedgerError;
pub(super) use parse::typed;
