//! Sources of [`Change`](crate::model::Change)s: the Kubernetes API, or a
//! folder of manifests.
//!
//! Architecture Invariant: Kubernetes types stop here. Both sources go through
//! [`convert`], so that an object means the same wherever it comes from.

mod address;
mod convert;
mod event;
mod kubernetes;
mod manifests;
mod object;
mod problems;

pub use event::{Event, Subject, log_events};
pub use kubernetes::{KubernetesError, KubernetesOptions, kubernetes};
pub use manifests::{FolderError, FolderOptions, LedgerError, folder};
pub use object::object;
