//! Turns Deployments into pods of the lab, and tells the agents about them by
//! Pod manifests, as kubelet and the Deployment controller would.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::manifests::{Deployment, OutsideEndpoint, Workloads};
use crate::lab::{Host, Lab, Pod, Protocol};

/// Time for the agents to take a removed pod out before it stops answering.
const GRACE: Duration = Duration::from_millis(500);

/// Follows the Deployments of a folder.
#[derive(Debug)]
pub struct Controller {
    lab: Arc<Lab>,
    manifests: PathBuf,
    /// Manifest of each pod, by the pod's name in the lab.
    pods: BTreeMap<String, PathBuf>,
    served: BTreeSet<OutsideEndpoint>,
}

impl Controller {
    /// Pod manifests will be written to `manifests`.
    #[must_use]
    pub fn new(lab: Arc<Lab>, manifests: impl Into<PathBuf>) -> Self {
        Self {
            lab,
            manifests: manifests.into(),
            pods: BTreeMap::new(),
            served: BTreeSet::new(),
        }
    }

    /// Makes and removes pods until they are as wanted; true when there was
    /// something to do. A pod answers before it is announced, and for a while
    /// after it is withdrawn.
    ///
    /// # Errors
    /// A pod cannot be made, or a manifest not be written.
    pub fn reconcile(&mut self, wanted: &Workloads) -> Result<bool> {
        let served = self.serve_outside(wanted)?;
        let mut names = BTreeSet::new();
        let mut added = false;
        for (place, deployment) in wanted.deployments.iter().enumerate() {
            for replica in 0..deployment.replicas {
                let name = pod_name(deployment, replica);
                if !self.pods.contains_key(&name) {
                    let node = (place + usize::from(replica)) % self.lab.nodes().len() + 1;
                    self.add(deployment, &name, u8::try_from(node)?)?;
                    added = true;
                }
                names.insert(name);
            }
        }
        let removed = self.remove_others(&names)?;
        Ok(served || added || removed)
    }

    fn add(&mut self, deployment: &Deployment, name: &str, node: u8) -> Result<()> {
        let pod = self.lab.add_pod(node, name)?;
        let ports: BTreeSet<(Protocol, u16)> = deployment
            .ports
            .iter()
            .map(|port| (port.protocol, port.number))
            .collect();
        self.lab
            .serve(&pod, &ports.into_iter().collect::<Vec<_>>())?;
        let path = self.manifests.join(format!("{name}.json"));
        write_whole(&path, &manifest(deployment, &pod))?;
        self.pods.insert(name.to_owned(), path);
        Ok(())
    }

    fn remove_others(&mut self, names: &BTreeSet<String>) -> Result<bool> {
        let is_surplus = |name: &String| !names.contains(name);
        let surplus: Vec<_> = self
            .pods
            .keys()
            .filter(|name| is_surplus(name))
            .cloned()
            .collect();
        if surplus.is_empty() {
            return Ok(false);
        }
        for name in &surplus {
            if let Some(path) = self.pods.remove(name) {
                fs::remove_file(&path).with_context(|| path.display().to_string())?;
            }
        }
        thread::sleep(GRACE);
        for name in &surplus {
            self.lab.remove_pod(name)?;
        }
        Ok(true)
    }

    /// Serves the hand-written endpoints that are addresses of the client or of
    /// a node.
    fn serve_outside(&mut self, wanted: &Workloads) -> Result<bool> {
        let mut changed = false;
        let lab = Arc::clone(&self.lab);
        let hosts = || std::iter::once(lab.client()).chain(lab.nodes());
        for endpoint in &wanted.endpoints {
            let is_there = |host: &&Host| host.addresses.contains(endpoint.address);
            let Some(host) = hosts().find(is_there) else {
                continue;
            };
            // A port is served in both families at once.
            let is_same = |other: &OutsideEndpoint| {
                (other.protocol, other.port) == (endpoint.protocol, endpoint.port)
                    && host.addresses.contains(other.address)
            };
            if !self.served.iter().any(is_same) {
                self.lab
                    .serve(host, &[(endpoint.protocol, endpoint.port)])?;
                changed = true;
            }
            self.served.insert(*endpoint);
        }
        Ok(changed)
    }
}

fn pod_name(deployment: &Deployment, replica: u16) -> String {
    let name = &deployment.name;
    match deployment.namespace.as_str() {
        "default" => format!("{name}-{replica}"),
        namespace => format!("{namespace}.{name}-{replica}"),
    }
}

fn manifest(deployment: &Deployment, pod: &Pod) -> Value {
    let ports: Vec<Value> = deployment
        .ports
        .iter()
        .map(|port| {
            let mut json = json!({"containerPort": port.number, "protocol": port.protocol});
            if let Some(name) = &port.name {
                json["name"] = name.as_str().into();
            }
            json
        })
        .collect();
    let addresses = pod.addresses;
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": deployment.namespace,
            "labels": deployment.labels,
        },
        "spec": {
            "nodeName": pod.node,
            "containers": [{"name": deployment.name, "image": "lab", "ports": ports}],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "podIP": addresses.v4,
            "podIPs": [{"ip": addresses.v4}, {"ip": addresses.v6}],
        },
    })
}

/// Writes a file so that no reader sees half of it.
fn write_whole(path: &Path, json: &Value) -> Result<()> {
    let draft = path.with_extension("draft");
    let write = || fs::write(&draft, json.to_string()).and_then(|()| fs::rename(&draft, path));
    write().with_context(|| path.display().to_string())
}
