//! What the loop says to those who watch over it.

use std::collections::BTreeMap;

use super::Agent;
use crate::{
    compile::PortName,
    health::{self, Progress},
    model::ObjectName,
};

/// Which parts of what was told are done.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// The first full list is in.
    synced: bool,
    programmed: bool,
    /// Some Service is still to be compiled.
    dirty: bool,
    writes: Writes,
    /// Settings or attachments failed.
    impeded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Done,
    /// Some failed. One Service does not make the node unfit for the others.
    Failing,
    /// No port at all is as it should be.
    AllFailing,
}

impl Standing {
    fn progress(self) -> Progress {
        if self.impeded || self.writes == Writes::AllFailing {
            return Progress::Waiting;
        }
        match (self.synced, self.programmed && !self.dirty, self.writes) {
            (false, _, _) => Progress::Starting,
            (true, false, _) => Progress::Waiting,
            (true, true, Writes::Done) => Progress::Applied,
            (true, true, Writes::Failing | Writes::AllFailing) => Progress::Refused,
        }
    }
}

impl Agent {
    /// Says how it stands with what is to be done.
    pub(super) fn report(&mut self) {
        let writes = self.writes();
        let failures = match writes {
            Writes::Done => BTreeMap::new(),
            Writes::Failing | Writes::AllFailing => self.failures(),
        };
        let standing = Standing {
            synced: self.store.synced,
            programmed: self.programmed,
            dirty: self.store.is_dirty(),
            writes,
            impeded: self.settings_error.is_some()
                || self.shortcut_told.is_err()
                || !self.attachment_errors.is_empty(),
        };
        let warnings = self.warnings();
        self.health.look(standing.progress(), failures, warnings);
    }

    fn writes(&self) -> Writes {
        if self.reconciler.failures() == 0 {
            return Writes::Done;
        }
        let mut ports = self.reconciler.ports();
        if ports.any(|port| port.error.is_none()) {
            Writes::Failing
        } else {
            Writes::AllFailing
        }
    }

    /// Ports that could not be written, by Service.
    fn failures(&self) -> BTreeMap<ObjectName, String> {
        let mut failures: BTreeMap<ObjectName, String> = BTreeMap::new();
        for state in self.reconciler.ports() {
            let Some(error) = state.error else {
                continue;
            };
            let PortName {
                service,
                port,
                protocol,
                family,
            } = &*state.port.id;
            let text = failures.entry(service.clone()).or_default();
            let separator = if text.is_empty() { "" } else { "; " };
            text.push_str(&format!(
                "{separator}port {port:?} {protocol} {family}: {error}"
            ));
        }
        failures
    }

    pub(super) fn count(&self, request: health::Request) {
        // The asker may have gone.
        let _ = request.send(self.figures());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_waits_until_it_is_applied() {
        let done = Standing {
            synced: true,
            programmed: true,
            dirty: false,
            writes: Writes::Done,
            impeded: false,
        };
        let start = Standing {
            synced: false,
            programmed: false,
            ..done
        };
        let writes = |writes| Standing { writes, ..done };
        for (standing, expect) in [
            (start, Progress::Starting),
            // Parts of the first list.
            (
                Standing {
                    dirty: true,
                    ..start
                },
                Progress::Starting,
            ),
            (
                Standing {
                    impeded: true,
                    ..start
                },
                Progress::Waiting,
            ),
            (
                Standing {
                    programmed: false,
                    ..done
                },
                Progress::Waiting,
            ),
            (
                Standing {
                    dirty: true,
                    ..done
                },
                Progress::Waiting,
            ),
            (
                Standing {
                    impeded: true,
                    ..done
                },
                Progress::Waiting,
            ),
            (writes(Writes::Failing), Progress::Refused),
            (
                Standing {
                    dirty: true,
                    ..writes(Writes::Failing)
                },
                Progress::Waiting,
            ),
            (
                Standing {
                    impeded: true,
                    ..writes(Writes::Failing)
                },
                Progress::Waiting,
            ),
            (writes(Writes::AllFailing), Progress::Waiting),
            (done, Progress::Applied),
        ] {
            assert_eq!(standing.progress(), expect, "{standing:?}");
        }
    }
}
