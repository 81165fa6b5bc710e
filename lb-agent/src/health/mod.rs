//! What the agent tells load balancers, orchestrators and Prometheus over HTTP.
//!
//! The agent's loop reports here what it is told and what it does; servers run
//! on tasks of their own and never hold up the loop. A server that cannot
//! listen is a problem in status and is tried again.

mod checks;
mod listen;
mod local;
pub mod metrics;
mod places;
mod programming;
mod proxy;
mod scrape;
mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::http::{HeaderName, HeaderValue, header};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use self::{
    checks::{Checks, Wanted},
    listen::Clients,
    local::LocalCounts,
    metrics::{Metrics, no_local_endpoints},
    places::Places,
    programming::Programming,
    server::Server,
};
pub use self::{
    listen::{BindAddress, BindAddressError},
    proxy::Progress,
    scrape::{MODE, Request},
};
use crate::{
    compile::{Port, PortId},
    model::{Change, Family, ObjectName},
    store::Store,
    watch::Event,
};

const NO_SNIFF: (HeaderName, HeaderValue) = (
    header::X_CONTENT_TYPE_OPTIONS,
    HeaderValue::from_static("nosniff"),
);

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `/livez` and `/healthz`.
    pub healthz: BindAddress,
    /// `/metrics` and its like.
    pub metrics: BindAddress,
}

/// The loop's side of all servers.
#[derive(Debug)]
pub struct Health {
    node_name: String,
    state: watch::Sender<proxy::State>,
    metrics: Arc<Metrics>,
    servers: [Server; 2],
    checks: Checks,
    programming: Programming,
    local: LocalCounts,
    /// Failures to program that were published and last.
    published: BTreeMap<ObjectName, String>,
    events: mpsc::Sender<Event>,
}

impl Health {
    /// Needs a tokio runtime. `configuration` is served at `/configz`.
    #[must_use]
    pub fn start(
        node_name: &str,
        options: Options,
        configuration: Value,
        packets: mpsc::Sender<Request>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (state, health) = watch::channel(proxy::State::new(Instant::now()));
        let metrics = Arc::new(Metrics::new());
        let healthz = proxy::router(&health, &metrics);
        let scrape = scrape::router(Arc::clone(&metrics), packets, configuration);
        let places = Places::default();
        let servers = [
            Server::start(
                "--healthz-bind-address",
                options.healthz,
                healthz,
                Clients::Probes,
                places.clone(),
            ),
            Server::start(
                "--metrics-bind-address",
                options.metrics,
                scrape,
                Clients::Scrapers,
                places.clone(),
            ),
        ];
        Self {
            node_name: node_name.to_owned(),
            state,
            metrics,
            servers,
            checks: Checks::new(health, places),
            programming: Programming::new(SystemTime::now()),
            local: LocalCounts::default(),
            published: BTreeMap::new(),
            events,
        }
    }

    /// Notes a change that `store` has not taken yet.
    pub fn told(&mut self, change: &Change, store: &Store) {
        self.metrics.told(change);
        match change {
            Change::Node(node) => {
                self.state
                    .send_modify(|state| state.node_eligible = node.eligible);
            }
            Change::Slice(name, Some(slice)) if store.slice(name) != Some(slice) => {
                self.programming.told(slice);
            }
            Change::Slice(..)
            | Change::Service(..)
            | Change::Synced
            | Change::Whole
            | Change::Problems(_) => {}
        }
    }

    /// Notes what the ports of touched Services have become, all of each.
    pub fn compiled(&mut self, changes: &[(PortId, Option<Port>)], store: &Store) {
        let mut checks = Vec::new();
        for of_service in changes.chunk_by(|(one, _), (other, _)| one.service == other.service) {
            let name = &of_service[0].0.service;
            let ports = || of_service.iter().filter_map(|(_, port)| port.as_ref());
            let service = store.service(name).filter(|_| ports().next().is_some());
            checks.push((
                name.clone(),
                service
                    .and_then(|service| Wanted::of(service, store.slices(name), &self.node_name)),
            ));
            let counts = service.map(|service| {
                Family::ALL.map(|family| {
                    let ports = ports().filter(|port| port.id.family == family);
                    no_local_endpoints(service, ports)
                })
            });
            self.local
                .update(name, counts.unwrap_or_default(), &self.metrics);
        }
        let failures = self.checks.update(checks);
        failures.into_iter().for_each(|event| self.publish(event));
    }

    /// Notes that the changes of [`Self::compiled`] were written, or failed.
    pub fn applied(&mut self, families: &BTreeSet<Family>, took: Duration) {
        self.metrics.applied(families, took);
        self.programming.applied(SystemTime::now());
    }

    /// To be called every second. `failures` are ports that could not be
    /// written, by Service.
    pub fn look(&mut self, progress: Progress, failures: BTreeMap<ObjectName, String>) {
        let (now, time) = (Instant::now(), Timestamp::now());
        self.state
            .send_modify(|state| state.look(progress, now, time));
        match progress {
            Progress::Starting => {}
            Progress::Waiting | Progress::Refused => self.programming.delay(),
            Progress::Applied => self.programming.settle(time.into(), &self.metrics),
        }
        self.servers.iter_mut().for_each(Server::retry);
        let events = self.checks.retry();
        events.into_iter().for_each(|event| self.publish(event));
        let before = mem::replace(&mut self.published, failures);
        for (service, message) in &self.published {
            if before.get(service) != Some(message) {
                self.publish(Event {
                    service: service.clone(),
                    reason: "FailedToProgram",
                    message: message.clone(),
                });
            }
        }
    }

    /// One line each.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        let servers = self.servers.iter().filter_map(Server::problem);
        servers.chain(self.checks.problems())
    }

    fn publish(&self, event: Event) {
        // Nobody waits for a Kubernetes API that does not answer.
        if let Err(error) = self.events.try_send(event) {
            tracing::warn!(event = ?error.into_inner(), "too many to publish");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_is_published_once_for_as_long_as_it_lasts() {
        let nowhere = Options {
            healthz: BindAddress(None),
            metrics: BindAddress(None),
        };
        let (packets, _scraped) = mpsc::channel(1);
        let (events, mut published) = mpsc::channel(8);
        let mut health = Health::start("n1", nowhere, Value::Null, packets, events);
        // Failures of each look by Service, and what is published.
        type Failures = &'static [(&'static str, &'static str)];
        let table: [(Failures, &[&str]); 7] = [
            (&[], &[]),
            (&[("a", "full")], &["a: full"]),
            (&[("a", "full")], &[]),
            (&[("a", "full"), ("b", "full")], &["b: full"]),
            (&[("a", "busy"), ("b", "full")], &["a: busy"]),
            (&[], &[]),
            (&[("b", "full")], &["b: full"]),
        ];
        for (row, (failures, expect)) in table.into_iter().enumerate() {
            let named = failures
                .iter()
                .map(|(service, error)| (ObjectName::new("ns", *service), (*error).to_owned()));
            health.look(Progress::Refused, named.collect());
            let mut found = Vec::new();
            while let Ok(event) = published.try_recv() {
                assert_eq!(event.reason, "FailedToProgram");
                found.push(format!("{}: {}", event.service.name, event.message));
            }
            assert_eq!(found, expect, "row {row}");
        }
        // Nobody takes them: the agent goes on.
        for round in 0..20 {
            let failure = (ObjectName::new("ns", "a"), round.to_string());
            health.look(Progress::Refused, [failure].into());
        }
    }
}
