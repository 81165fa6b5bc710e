//! What people are told of an object, beside it.

use std::fmt;

use tokio::sync::mpsc::Receiver;

use crate::model::ObjectName;

/// A warning about an object, shown with it where the source can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub about: Subject,
    /// One word, such as `FailedToProgram`.
    pub reason: &'static str,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Service(ObjectName),
    Node(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
        }
    }
}

impl Event {
    pub(super) fn log(&self) {
        let Self { about, reason, .. } = self;
        tracing::warn!(%about, reason, "{}", self.message);
    }
}

/// For a source that has nowhere else to show them, until the sender is gone.
pub async fn log_events(mut events: Receiver<Event>) {
    while let Some(event) = events.recv().await {
        event.log();
    }
}
