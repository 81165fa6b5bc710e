//! What the loop says to those who watch over it.

use std::collections::BTreeMap;

use super::Agent;
use crate::{compile::PortId, health, model::ObjectName};

impl Agent {
    /// Says how it stands with what is to be done.
    pub(super) fn report(&mut self) {
        let failing = self.reconciler.failures() > 0;
        let failures = if failing {
            self.failures()
        } else {
            BTreeMap::new()
        };
        let unapplied = !self.programmed
            || failing
            || self.settings_error.is_some()
            || !self.attachment_errors.is_empty();
        self.health.look(unapplied, failures);
    }

    /// Ports that could not be written, by Service.
    fn failures(&self) -> BTreeMap<ObjectName, String> {
        let mut failures: BTreeMap<ObjectName, String> = BTreeMap::new();
        for state in self.reconciler.ports() {
            let Some(error) = state.error else {
                continue;
            };
            let PortId {
                service,
                port,
                protocol,
                family,
            } = &state.port.id;
            let text = failures.entry(service.clone()).or_default();
            let separator = if text.is_empty() { "" } else { "; " };
            text.push_str(&format!(
                "{separator}port {port:?} {protocol} {family}: {error}"
            ));
        }
        failures
    }

    pub(super) fn count_packets(&self, request: health::Request) {
        let packets = self.dataplane.counters();
        let packets = packets.inspect_err(|error| tracing::warn!(%error, "packets not counted"));
        // The asker may have gone.
        let _ = request.send(packets.unwrap_or_default());
    }
}
