//! Servers on `spec.healthCheckNodePort`, which tell load balancers how many
//! endpoints of a Service this node has.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    time::Instant,
};

use axum::{
    Json, Router,
    http::{HeaderName, StatusCode},
    response::IntoResponse,
};
use serde::Serialize;
use tokio::sync::watch;

use super::{
    NO_SNIFF,
    listen::{Clients, Listening},
    places::Places,
    proxy,
};
use crate::{
    model::{Family, ObjectName, Service, Slice},
    watch::{Event, Subject},
};

const REASON: &str = "FailedToStartServiceHealthcheck";
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// A Service's own port and the endpoints that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    port: NonZeroU16,
    endpoints: usize,
}

impl Wanted {
    /// `None` if the Service has no such port.
    pub(super) fn of<'a>(
        service: &Service,
        slices: impl Iterator<Item = &'a Slice>,
        node: &str,
    ) -> Option<Self> {
        let port = service.health_check_node_port?;
        let has = |family| {
            let mut families = service.cluster_ips.iter().map(|ip| Family::of(*ip));
            families.any(|other| other == family)
        };
        // An endpoint without a port is none.
        let slices = slices.filter(|slice| has(slice.family) && !slice.ports.is_empty());
        let endpoints = slices.flat_map(|slice| &slice.endpoints);
        let local = endpoints
            .filter(|endpoint| endpoint.ready && endpoint.node.as_deref() == Some(node))
            .map(|endpoint| endpoint.address);
        Some(Self {
            port,
            endpoints: local.collect::<BTreeSet<IpAddr>>().len(),
        })
    }
}

/// All servers of this kind.
#[derive(Debug)]
pub(super) struct Checks {
    by_service: BTreeMap<ObjectName, Check>,
    /// Who listens.
    holders: BTreeMap<NonZeroU16, ObjectName>,
    /// Who does not, and why.
    failed: BTreeMap<ObjectName, String>,
    health: watch::Receiver<proxy::State>,
    places: Places,
}

#[derive(Debug)]
struct Check {
    port: NonZeroU16,
    endpoints: watch::Sender<usize>,
    server: Option<Listening>,
}

impl Checks {
    pub(super) fn new(health: watch::Receiver<proxy::State>, places: Places) -> Self {
        Self {
            by_service: BTreeMap::new(),
            holders: BTreeMap::new(),
            failed: BTreeMap::new(),
            health,
            places,
        }
    }

    /// Brings the named Services to what is wanted, and tries again what
    /// failed.
    pub(super) fn update(&mut self, changes: Vec<(ObjectName, Option<Wanted>)>) {
        // A port that one Service leaves is free for another one.
        for (name, wanted) in &changes {
            let held = self.by_service.get(name).map(|check| check.port);
            if held.is_some() && held != wanted.map(|wanted| wanted.port) {
                self.close(name);
            }
        }
        for (name, wanted) in changes {
            let Some(Wanted { port, endpoints }) = wanted else {
                continue;
            };
            if let Some(check) = self.by_service.get(&name) {
                check.endpoints.send_replace(endpoints);
                continue;
            }
            let check = Check {
                port,
                endpoints: watch::Sender::new(endpoints),
                server: None,
            };
            self.failed.insert(name.clone(), String::new());
            self.by_service.insert(name, check);
        }
        self.retry();
    }

    /// Listens where that failed.
    pub(super) fn retry(&mut self) {
        for (name, _) in mem::take(&mut self.failed) {
            if let Err(message) = self.listen(&name) {
                self.failed.insert(name, message);
            }
        }
    }

    /// What to say to the people of each Service.
    pub(super) fn failures(&self) -> impl Iterator<Item = Event> {
        self.failed.iter().map(|(service, message)| Event {
            about: Subject::Service(service.clone()),
            reason: REASON,
            message: message.clone(),
        })
    }

    /// One line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.failed.values()
    }

    fn close(&mut self, name: &ObjectName) {
        self.failed.remove(name);
        let check = self.by_service.remove(name);
        if let Some(check) = check.filter(|check| check.server.is_some()) {
            self.holders.remove(&check.port);
        }
    }

    fn listen(&mut self, name: &ObjectName) -> Result<(), String> {
        let Some(check) = self.by_service.get_mut(name) else {
            return Ok(());
        };
        let port = check.port;
        let server = match self.holders.get(&port) {
            Some(holder) => Err(format!("Service {holder} has it")),
            None => {
                let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port.get());
                let router = router(name, check.endpoints.subscribe(), self.health.clone());
                Listening::start(address, router, Clients::Probes, &self.places)
                    .map_err(|error| error.to_string())
            }
        };
        check.server = Some(server.map_err(|why| {
            format!(
                "Service {name}: spec.healthCheckNodePort: found {port}, cannot listen on it: {why}, accepted: a port that nothing else uses on any node"
            )
        })?);
        self.holders.insert(port, name.clone());
        Ok(())
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    service: Name<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Debug, Serialize)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// Every path answers.
fn router(
    service: &ObjectName,
    endpoints: watch::Receiver<usize>,
    health: watch::Receiver<proxy::State>,
) -> Router {
    let service = service.clone();
    Router::new().fallback(move || async move {
        let local_endpoints = *endpoints.borrow();
        let healthy = health.borrow().is_healthy(Instant::now());
        let code = if local_endpoints > 0 && healthy {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let report = Report {
            service: Name {
                namespace: &service.namespace,
                name: &service.name,
            },
            local_endpoints,
            service_proxy_healthy: healthy,
        };
        let weight = [(WEIGHT, local_endpoints.to_string())];
        (code, [NO_SNIFF], weight, Json(report)).into_response()
    })
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
