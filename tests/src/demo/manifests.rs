//! What the demo needs of a folder of manifests: Deployments, and endpoints
//! outside the cluster. Everything else is the agent's business.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::lab::Protocol;

/// A Deployment, as far as pods are made from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    pub namespace: String,
    pub name: String,
    pub replicas: u16,
    /// Labels of its pods.
    pub labels: BTreeMap<String, String>,
    pub ports: Vec<Port>,
}

/// A container's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: Option<String>,
    pub protocol: Protocol,
    pub number: u16,
}

/// An address and port of a hand-written EndpointSlice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutsideEndpoint {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// All that a folder asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workloads {
    pub deployments: Vec<Deployment>,
    pub endpoints: BTreeSet<OutsideEndpoint>,
}

/// A folder of manifests; a file that cannot be read keeps its last good form.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, Workloads>,
}

impl Folder {
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            files: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the folder again; also gives one line for each file that cannot
    /// be read.
    ///
    /// # Errors
    /// The folder itself cannot be listed.
    pub fn read(&mut self) -> Result<(Workloads, Vec<String>)> {
        let mut files = BTreeMap::new();
        let mut problems = Vec::new();
        for path in manifest_files(&self.path)? {
            let workloads = match read_file(&path) {
                Ok(workloads) => workloads,
                Err(error) => {
                    problems.push(format!("{error:#}"));
                    self.files.remove(&path).unwrap_or_default()
                }
            };
            files.insert(path, workloads);
        }
        self.files = files;
        let mut all = Workloads::default();
        for one in self.files.values().cloned() {
            all.deployments.extend(one.deployments);
            all.endpoints.extend(one.endpoints);
        }
        Ok((all, problems))
    }
}

fn manifest_files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let is_manifest = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("yaml" | "yml" | "json"))
    };
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_manifest)
        .collect())
}

fn read_file(path: &Path) -> Result<Workloads> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let read = || -> Result<Workloads> {
        let mut workloads = Workloads::default();
        for document in serde_saphyr::from_multiple::<Value>(&text)? {
            add(document, &mut workloads)?;
        }
        Ok(workloads)
    };
    read().with_context(|| path.display().to_string())
}

fn add(document: Value, workloads: &mut Workloads) -> Result<()> {
    match document["kind"].as_str() {
        Some("Deployment") => {
            let raw: raw::Deployment = serde_json::from_value(document)?;
            workloads.deployments.push(deployment(raw));
        }
        Some("EndpointSlice") => {
            let raw: raw::EndpointSlice = serde_json::from_value(document)?;
            workloads.endpoints.extend(outside_endpoints(&raw));
        }
        _ => {}
    }
    Ok(())
}

fn deployment(raw: raw::Deployment) -> Deployment {
    let containers = raw.spec.template.spec.containers;
    let ports = containers.into_iter().flat_map(|container| container.ports);
    Deployment {
        namespace: raw.metadata.namespace.unwrap_or_else(|| "default".into()),
        name: raw.metadata.name,
        replicas: raw.spec.replicas.unwrap_or(1),
        labels: raw.spec.template.metadata.labels,
        ports: ports
            .map(|port| Port {
                name: port.name,
                protocol: port.protocol.into(),
                number: port.container_port,
            })
            .collect(),
    }
}

fn outside_endpoints(slice: &raw::EndpointSlice) -> Vec<OutsideEndpoint> {
    let addresses = slice
        .endpoints
        .iter()
        .filter_map(|endpoint| endpoint.addresses.first());
    let addresses = addresses.filter_map(|address| address.parse().ok());
    addresses
        .flat_map(|address| {
            slice.ports.iter().map(move |port| OutsideEndpoint {
                address,
                protocol: port.protocol.into(),
                port: port.port,
            })
        })
        .collect()
}

impl From<raw::Protocol> for Protocol {
    fn from(raw: raw::Protocol) -> Self {
        match raw {
            raw::Protocol::Tcp => Self::Tcp,
            raw::Protocol::Udp => Self::Udp,
        }
    }
}

/// The objects as they are written.
mod raw {
    use super::{BTreeMap, Deserialize};

    #[derive(Deserialize)]
    pub(super) struct Deployment {
        pub(super) metadata: Metadata,
        pub(super) spec: DeploymentSpec,
    }

    #[derive(Deserialize)]
    pub(super) struct Metadata {
        #[serde(default)]
        pub(super) name: String,
        pub(super) namespace: Option<String>,
        #[serde(default)]
        pub(super) labels: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    pub(super) struct DeploymentSpec {
        pub(super) replicas: Option<u16>,
        pub(super) template: PodTemplate,
    }

    #[derive(Deserialize)]
    pub(super) struct PodTemplate {
        pub(super) metadata: Metadata,
        pub(super) spec: PodSpec,
    }

    #[derive(Deserialize)]
    pub(super) struct PodSpec {
        pub(super) containers: Vec<Container>,
    }

    #[derive(Deserialize)]
    pub(super) struct Container {
        #[serde(default)]
        pub(super) ports: Vec<ContainerPort>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct ContainerPort {
        pub(super) name: Option<String>,
        #[serde(default)]
        pub(super) protocol: Protocol,
        pub(super) container_port: u16,
    }

    #[derive(Clone, Copy, Default, Deserialize)]
    #[serde(rename_all = "UPPERCASE")]
    pub(super) enum Protocol {
        #[default]
        Tcp,
        Udp,
    }

    #[derive(Deserialize)]
    pub(super) struct EndpointSlice {
        #[serde(default)]
        pub(super) endpoints: Vec<Endpoint>,
        #[serde(default)]
        pub(super) ports: Vec<SlicePort>,
    }

    #[derive(Deserialize)]
    pub(super) struct Endpoint {
        pub(super) addresses: Vec<String>,
    }

    #[derive(Deserialize)]
    pub(super) struct SlicePort {
        #[serde(default)]
        pub(super) protocol: Protocol,
        pub(super) port: u16,
    }
}
