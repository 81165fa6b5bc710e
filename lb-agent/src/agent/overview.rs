//! What the agent answers to those who ask how it stands.

use std::collections::BTreeMap;

use super::{
    Agent,
    status::{
        BackendStatus, FrontendStatus, PortStatus, Request, ServiceStatus, Status, TablesStatus,
        readable,
    },
};
use crate::{node::PodDetection, reconcile};

impl Agent {
    /// Answers from here but for the connections, which are counted elsewhere.
    pub(super) fn answer(&self, request: Request) {
        let status = self.status();
        let connections = self.connections.clone();
        tokio::task::spawn_blocking(move || {
            // The asker may have gone.
            let _ = request.send(status.with_connections(connections.count()));
        });
    }

    fn status(&self) -> Status {
        let mut problems: Vec<String> = self
            .store
            .problems
            .iter()
            .map(ToString::to_string)
            .collect();
        problems.extend(self.attachment_errors.iter().map(ToString::to_string));
        let blind = self.settings.as_ref().is_some_and(|settings| {
            self.node_options.pods == PodDetection::NodeNetworks && settings.pod_networks.is_empty()
        });
        if blind {
            problems.push(format!(
                "Node {}: spec.podCIDRs: found none, accepted: the networks of its pods, which --detect-pods=node-cidr goes by",
                self.node_name
            ));
        }
        problems.extend(self.settings_error.clone());
        problems.extend(self.shortcut_told.clone().err());
        problems.extend(self.health.problems().cloned());
        problems.extend(self.room_problems());
        let mut counters: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        match self.dataplane.counters() {
            Ok(values) => {
                for (hook, verdict, value) in values {
                    let hook = counters.entry(hook.name().to_owned()).or_default();
                    hook.insert(verdict.name().to_owned(), value);
                }
            }
            Err(error) => problems.push(error.to_string()),
        }
        Status {
            synced: self.programmed && self.attached,
            node: self.node_name.clone(),
            interfaces: self.dataplane.attached(),
            services: self.services(&mut problems),
            shortcut: self.shortcut.clone(),
            connections: TablesStatus::new(&self.room),
            problems,
            counters,
        }
    }

    fn services(&self, problems: &mut Vec<String>) -> Vec<ServiceStatus> {
        let mut services: Vec<ServiceStatus> = Vec::new();
        for state in self.reconciler.ports() {
            let id = &state.port.id;
            if let Some(error) = state.error {
                problems.push(format!(
                    "Service {} port {:?} {}: {error}",
                    id.service, id.port, id.protocol
                ));
            }
            let port = self.port(&state);
            let (namespace, name) = (&id.service.namespace, &id.service.name);
            match services.last_mut() {
                Some(last) if last.namespace == *namespace && last.name == *name => {
                    last.ports.push(port);
                }
                _ => services.push(ServiceStatus {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    service_type: self.store.service(&id.service).map(|s| s.service_type),
                    ports: vec![port],
                }),
            }
        }
        services
    }

    fn port(&self, state: &reconcile::PortStatus<'_>) -> PortStatus {
        let (id, port) = (&state.port.id, state.port);
        let own = port.frontends.iter();
        let own = own.filter(|(_, frontend)| frontend.kind.is_own());
        let mut frontends: Vec<FrontendStatus> = own
            .map(|(key, frontend)| {
                let (address, number) = readable(key);
                let error = match self.reconciler.owner(key) {
                    Some(owner) if owner != id => Some(format!("held by {}", owner.service)),
                    _ => state.error.map(ToString::to_string),
                };
                FrontendStatus {
                    address,
                    port: number,
                    kind: frontend.kind,
                    error,
                }
            })
            .collect();
        frontends.sort_by_key(|frontend| (frontend.kind, frontend.address));
        let backends = port.cluster.union(&port.local).map(|backend| {
            let endpoint = (backend.address, backend.port);
            BackendStatus {
                address: backend.address,
                port: backend.port,
                local: backend.local,
                connections: 0,
                id: state.backend_ids.get(&endpoint).copied(),
            }
        });
        PortStatus {
            name: id.port.clone(),
            protocol: id.protocol,
            family: id.family,
            frontends,
            affinity_seconds: port.affinity_seconds,
            source_ranges: port.sources.iter().copied().collect(),
            backends: backends.collect(),
        }
    }
}
