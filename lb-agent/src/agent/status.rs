//! What the agent says of itself: `GET /status` on its socket, and
//! `lb-agent status`.

use std::{collections::BTreeMap, fs, io, net::IpAddr, os::unix::net::UnixStream, path::Path};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use ipnet::IpNet;
use lb_common::FrontendKey;
use serde::Serialize;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
};

use crate::{
    compile::FrontendKind,
    dataplane::{Attached, Census, DataplaneError},
    model::{Family, Protocol, ServiceType},
    shortcut::Shortcut,
};

/// State of one agent.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The first full state is in the maps and programs are attached.
    pub synced: bool,
    pub node: String,
    pub interfaces: Vec<Attached>,
    pub services: Vec<ServiceStatus>,
    pub shortcut: Shortcut,
    pub connections: TablesStatus,
    /// One line each.
    pub problems: Vec<String>,
    /// Packets by hook and verdict; zeros left out.
    pub counters: BTreeMap<String, BTreeMap<String, u64>>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ServiceStatus {
    pub namespace: String,
    pub name: String,
    #[serde(rename = "type")]
    pub service_type: Option<ServiceType>,
    pub ports: Vec<PortStatus>,
}

/// A service port in one family.
#[derive(Clone, Debug, Serialize)]
pub struct PortStatus {
    pub name: String,
    pub protocol: Protocol,
    pub family: Family,
    pub frontends: Vec<FrontendStatus>,
    /// Clients keep their backend for this long; 0 if they do not.
    pub affinity_seconds: u32,
    /// Who may come in by load balancer IPs; empty for everyone.
    pub source_ranges: Vec<IpNet>,
    pub backends: Vec<BackendStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct FrontendStatus {
    pub address: IpAddr,
    pub port: u16,
    pub kind: FrontendKind,
    /// Why it does not do what the Service says.
    pub error: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct BackendStatus {
    pub address: IpAddr,
    pub port: u16,
    /// On this node.
    pub local: bool,
    /// Open connections from this node's clients.
    pub connections: u64,
    /// Backend id and generation in the maps.
    #[serde(skip)]
    pub(super) id: Option<(u32, u32)>,
}

/// The tables of connections.
#[derive(Clone, Debug, Serialize)]
pub struct TablesStatus {
    /// Both sides were heard: nothing evicts them.
    pub assured: TableStatus,
    pub unassured: TableStatus,
    /// Assured connections that a service port may have.
    pub service_quota: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct TableStatus {
    pub connections: u64,
    pub limit: u64,
    /// If it grows as it did in the last minute.
    pub full_in_seconds: Option<u64>,
}

impl Status {
    /// Fills in the connections.
    pub(super) fn with_connections(mut self, census: Result<Census, DataplaneError>) -> Self {
        let census = census.unwrap_or_else(|error| {
            self.problems.push(error.to_string());
            Census::default()
        });
        self.connections.fill(&census);
        let ports = self
            .services
            .iter_mut()
            .flat_map(|service| &mut service.ports);
        for backend in ports.flat_map(|port| &mut port.backends) {
            backend.connections = backend
                .id
                .and_then(|id| census.by_backend.get(&id))
                .copied()
                .unwrap_or_default();
        }
        self
    }
}

/// Asks the agent's loop for its status.
pub(super) type Request = oneshot::Sender<Status>;

/// Serves `/status` on a Unix socket until the process ends.
pub(super) async fn serve(path: &Path, requests: mpsc::Sender<Request>) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if UnixStream::connect(path).is_err() && path.exists() {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    let router = Router::new()
        .route("/status", get(answer))
        .with_state(requests);
    axum::serve(listener, router).await
}

async fn answer(State(requests): State<mpsc::Sender<Request>>) -> Result<Json<Status>, StatusCode> {
    let (request, response) = oneshot::channel();
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    requests.send(request).await.map_err(|_| unavailable)?;
    response.await.map(Json).map_err(|_| unavailable)
}

/// Address and port of a map key, as people write them.
pub(super) fn readable(key: &FrontendKey) -> (IpAddr, u16) {
    (key.address.into(), u16::from_be(key.port))
}
