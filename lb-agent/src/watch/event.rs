//! What people are told of a Service, beside it.

use tokio::sync::mpsc::Receiver;

use crate::model::ObjectName;

/// A warning about a Service, shown with it where the source can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub service: ObjectName,
    /// One word, such as `FailedToProgram`.
    pub reason: &'static str,
    pub message: String,
}

impl Event {
    pub(super) fn log(&self) {
        let Self {
            service, reason, ..
        } = self;
        tracing::warn!(%service, reason, "{}", self.message);
    }
}

/// For a source that has nowhere else to show them, until the sender is gone.
pub async fn log_events(mut events: Receiver<Event>) {
    while let Some(event) = events.recv().await {
        event.log();
    }
}
