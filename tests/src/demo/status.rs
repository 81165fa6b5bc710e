//! What an agent serves at `/status`, as far as the demo reads it.

use std::net::IpAddr;

use serde::Deserialize;

use crate::lab::{Family, Protocol};

#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub node: String,
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    #[serde(default)]
    pub services: Vec<Service>,
    #[serde(default)]
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Interface {
    pub name: String,
    /// `uplink`, `pod` or `local`.
    pub kind: String,
    /// `native` or `off`.
    #[serde(default)]
    pub xdp: Option<String>,
    /// `tcx` or `clsact`.
    #[serde(default)]
    pub tc: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ServicePort {
    #[serde(default)]
    pub name: String,
    pub protocol: Protocol,
    pub family: Family,
    pub frontends: Vec<Frontend>,
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Frontend {
    pub address: IpAddr,
    pub port: u16,
    /// `clusterIP`, `nodePort`, `externalIP` or `loadBalancerIP`.
    pub kind: String,
    #[serde(default)]
    pub error: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
    #[serde(default)]
    pub local: bool,
    #[serde(default)]
    pub node: Option<String>,
    #[serde(default)]
    pub connections: u64,
}
