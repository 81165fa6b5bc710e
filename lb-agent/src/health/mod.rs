//! What the agent tells load balancers, orchestrators and Prometheus over HTTP.
//!
//! The agent's loop reports here what it is told and what it does; servers run
//! on tasks of their own and never hold up the loop. A server that cannot
//! listen is a problem in status and is tried again.

mod checks;
mod figures;
mod listen;
mod local;
pub mod metrics;
mod places;
mod programming;
mod proxy;
mod publisher;
mod scrape;
mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
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
    publisher::Publisher,
    server::Server,
};
pub use self::{
    figures::{Figures, Service as ServiceFigures, Table as TableFigures},
    listen::{BindAddress, BindAddressError},
    proxy::Progress,
    scrape::{MODE, Request},
};
use crate::{
    compile::{Port, PortId},
    model::{Change, Family, ObjectName},
    store::Store,
    watch::{Event, Subject},
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
    publisher: Publisher,
}

impl Health {
    /// Needs a tokio runtime. `configuration` is served at `/configz`.
    #[must_use]
    pub fn start(
        node_name: &str,
        options: Options,
        configuration: Value,
        figures: mpsc::Sender<Request>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (state, health) = watch::channel(proxy::State::new(Instant::now()));
        let metrics = Arc::new(Metrics::new());
        let healthz = proxy::router(&health, &metrics);
        let scrape = scrape::router(Arc::clone(&metrics), figures, configuration);
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
            publisher: Publisher::new(events),
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
        self.checks.update(checks);
    }

    /// Notes that the changes of [`Self::compiled`] were written, or failed.
    pub fn applied(&mut self, families: &BTreeSet<Family>, took: Duration) {
        self.metrics.applied(families, took);
        self.programming.applied(SystemTime::now());
    }

    /// To be called every second. `failures` are ports that could not be
    /// written, by Service; `warnings` are all others that there are.
    pub fn look(
        &mut self,
        progress: Progress,
        failures: BTreeMap<ObjectName, String>,
        warnings: Vec<Event>,
    ) {
        let (now, time) = (Instant::now(), Timestamp::now());
        self.state
            .send_modify(|state| state.look(progress, now, time));
        match progress {
            Progress::Starting => {}
            Progress::Waiting | Progress::Refused => self.programming.delay(),
            Progress::Applied => self.programming.settle(time.into(), &self.metrics),
        }
        self.servers.iter_mut().for_each(Server::retry);
        self.checks.retry();
        let unwritten = failures.into_iter().map(|(service, message)| Event {
            about: Subject::Service(service),
            reason: "FailedToProgram",
            message,
        });
        let events = unwritten.chain(self.checks.failures()).chain(warnings);
        self.publisher.update(events);
    }

    /// One line each.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        let servers = self.servers.iter().filter_map(Server::problem);
        servers.chain(self.checks.problems())
    }
}
