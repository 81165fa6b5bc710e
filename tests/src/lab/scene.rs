//! A lab whose agents follow a folder of Services with one port each, for TCP
//! and UDP alike.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    address::{Family, Pair, Protocol},
    agent::AgentProcess,
    host::Pod,
    topology::{Lab, LabOptions},
};

/// A Service of type NodePort; the number gives it its addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service(pub u8);

impl Service {
    pub const PORT: u16 = 80;
    pub const TARGET_PORT: u16 = 8080;

    /// 10.96.0.N and `fd00:10:96::N`, the latter hexadecimal.
    #[must_use]
    pub fn cluster_ips(self) -> Pair {
        Pair {
            v4: Ipv4Addr::new(10, 96, 0, self.0),
            v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, self.0.into()),
        }
    }

    #[must_use]
    pub fn cluster_ip(self, family: Family) -> SocketAddr {
        SocketAddr::new(self.cluster_ips().get(family), Self::PORT)
    }

    /// 30000 + N.
    #[must_use]
    pub fn node_port(self) -> u16 {
        30_000 + u16::from(self.0)
    }

    fn name(self) -> String {
        format!("service-{}", self.0)
    }

    fn manifest(self) -> Value {
        let Pair { v4, v6 } = self.cluster_ips();
        let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
            json!({
                "name": protocol.to_string().to_lowercase(),
                "protocol": protocol,
                "port": Self::PORT,
                "targetPort": Self::TARGET_PORT,
                "nodePort": self.node_port(),
            })
        });
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name(), "namespace": "default"},
            "spec": {
                "type": "NodePort",
                "ipFamilyPolicy": "RequireDualStack",
                "ipFamilies": ["IPv4", "IPv6"],
                "clusterIP": v4,
                "clusterIPs": [v4, v6],
                "ports": ports,
            },
        })
    }

    fn slice(self, family: Family, backends: &[&Pod]) -> Value {
        let name = self.name();
        let endpoints: Vec<_> = backends
            .iter()
            .map(|pod| {
                json!({
                    "addresses": [pod.address(family)],
                    "nodeName": pod.node,
                    "conditions": {"ready": true},
                })
            })
            .collect();
        let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
            json!({
                "name": protocol.to_string().to_lowercase(),
                "protocol": protocol,
                "port": Self::TARGET_PORT,
            })
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-{}", family.to_string().to_lowercase()),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": family,
            "endpoints": endpoints,
            "ports": ports,
        })
    }
}

/// A lab, its folder of manifests, and an agent on each node once they are
/// started. Fields are dropped in order: agents before their nodes.
#[derive(Debug)]
pub struct Scene {
    agents: Vec<AgentProcess>,
    manifests: PathBuf,
    pub lab: Lab,
}

impl Scene {
    /// # Errors
    /// As [`Lab::new`].
    pub fn new(options: &LabOptions) -> Result<Self> {
        let lab = Lab::new(options)?;
        let manifests = lab.folder().join("manifests");
        fs::create_dir_all(&manifests)?;
        Ok(Self {
            agents: Vec::new(),
            manifests,
            lab,
        })
    }

    /// A pod that serves [`Service::TARGET_PORT`].
    ///
    /// # Errors
    /// As [`Lab::add_pod`].
    pub fn add_backend(&self, node: u8, name: &str) -> Result<Arc<Pod>> {
        let pod = self.lab.add_pod(node, name)?;
        let ports = Protocol::ALL.map(|protocol| (protocol, Service::TARGET_PORT));
        self.lab.serve(&pod, &ports)?;
        Ok(pod)
    }

    /// Writes a Service and its backends into the folder, in one step.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn publish(&self, service: Service, backends: &[&Pod]) -> Result<()> {
        let documents = [
            service.manifest(),
            service.slice(Family::V4, backends),
            service.slice(Family::V6, backends),
        ];
        let text = documents
            .map(|document| document.to_string())
            .join("\n---\n");
        let new = self.lab.folder().join(service.name());
        fs::write(&new, text)?;
        let path = self.manifests.join(format!("{}.yaml", service.name()));
        fs::rename(&new, path).context("publishing a Service")
    }

    /// Starts an agent on each node and waits until all are ready and serve
    /// `services` Services without a problem.
    ///
    /// # Errors
    /// As [`AgentProcess::wait_ready`].
    pub fn start_agents(&mut self, services: usize, arguments: &[&str]) -> Result<()> {
        for node in (1..).take(self.lab.nodes().len()) {
            let path = |file: &str| self.lab.folder().join(file).display().to_string();
            let (manifests, allocations) = (path("manifests"), path(&format!("allocations{node}")));
            let own = ["--manifests", &manifests, "--allocations", &allocations];
            let agent = self.lab.start_agent(node, &[&own, arguments].concat())?;
            self.agents.push(agent);
        }
        for agent in &mut self.agents {
            let length = |value: &Value| value.as_array().map_or(0, Vec::len);
            agent.wait_for("ready", |status| {
                status["synced"] == true
                    && length(&status["services"]) == services
                    && length(&status["problems"]) == 0
            })?;
        }
        Ok(())
    }

    /// The agent of a node, counted from 1.
    ///
    /// # Panics
    /// It was not started.
    #[must_use]
    pub fn agent(&self, node: u8) -> &AgentProcess {
        &self.agents[usize::from(node) - 1]
    }

    /// Packets of a node that left a hook with a verdict.
    ///
    /// # Errors
    /// As [`AgentProcess::status`].
    pub fn count(&self, node: u8, hook: &str, verdict: &str) -> Result<u64> {
        let status = self.agent(node).status()?;
        Ok(status["counters"][hook][verdict].as_u64().unwrap_or(0))
    }
}
