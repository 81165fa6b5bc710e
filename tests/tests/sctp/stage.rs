//! A node with an agent and three SCTP Services: `local` with the backend `a` on
//! the node itself, `remote` with `b` on another, and `empty` with none.

use std::{fs, net::SocketAddr};

use lb_tests::lab::{AgentProcess, Family, Host, Lab, LabOptions, SctpServer};
use serde_json::{Value, json};

pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET: u16 = 8080;

/// The number gives it its addresses and ports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    number: u16,
    pub(crate) backend: Option<&'static str>,
}

pub(crate) const LOCAL: Service = service("local", 11, Some("a"));
pub(crate) const REMOTE: Service = service("remote", 12, Some("b"));
pub(crate) const EMPTY: Service = service("empty", 13, None);

const fn service(name: &'static str, number: u16, backend: Option<&'static str>) -> Service {
    Service {
        name,
        number,
        backend,
    }
}

/// Fields are dropped in order: the agent before its node.
pub(crate) struct Stage {
    agent: AgentProcess,
    servers: Vec<SctpServer>,
    pub(crate) lab: Lab,
}

impl Stage {
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        lab.add_pod(1, "shell").unwrap();
        let pods = [(1, "a"), (2, "b")].map(|(node, name)| lab.add_pod(node, name).unwrap());
        let servers = pods.map(|pod| SctpServer::start(&pod, TARGET).unwrap());
        let manifests = lab.folder().join("manifests");
        fs::create_dir_all(&manifests).unwrap();
        let documents: Vec<String> = [LOCAL, REMOTE, EMPTY]
            .iter()
            .flat_map(|service| service.documents(&lab))
            .map(|document| document.to_string())
            .collect();
        fs::write(manifests.join("all.yaml"), documents.join("\n---\n")).unwrap();
        let folder = manifests.display().to_string();
        let all = [&["--manifests", &folder], arguments].concat();
        let mut agent = lab.start_agent(1, &all).unwrap();
        agent.wait_ready().unwrap();
        Self {
            agent,
            servers: servers.into(),
            lab,
        }
    }

    /// Packets of the node that left a hook with a verdict.
    pub(crate) fn count(&self, hook: &str, verdict: &str) -> u64 {
        let status = self.agent.status().unwrap();
        status["counters"][hook][verdict].as_u64().unwrap_or(0)
    }

    /// Calls `check` with who asks, and where, for each way to a Service.
    pub(crate) fn for_each_path(
        &self,
        service: Service,
        family: Family,
        check: impl Fn(&Host, SocketAddr),
    ) {
        let shell = self.lab.pod("shell").unwrap();
        let node = self.lab.node(1);
        let node_port = node.socket(family, service.node_port());
        for host in [&shell.host, node] {
            check(host, service.cluster_ip(family));
            check(host, node_port);
        }
        check(self.lab.client(), node_port);
    }

    /// What was wrong with packets that reached a server.
    pub(crate) fn flaws(&self) -> Vec<String> {
        self.servers.iter().flat_map(SctpServer::flaws).collect()
    }
}

impl Service {
    pub(crate) fn cluster_ip(self, family: Family) -> SocketAddr {
        let number = self.number;
        let text = match family {
            Family::V4 => format!("10.96.0.{number}"),
            Family::V6 => format!("fd00:10:96::{number}"),
        };
        SocketAddr::new(text.parse().unwrap(), PORT)
    }

    pub(crate) fn node_port(self) -> u16 {
        30_000 + self.number
    }

    fn documents(self, lab: &Lab) -> Vec<Value> {
        let addresses = Family::ALL.map(|family| self.cluster_ip(family).ip());
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                "type": "NodePort",
                "clusterIP": addresses[0],
                "clusterIPs": addresses,
                "ipFamilies": Family::ALL,
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [{
                    "protocol": "SCTP",
                    "port": PORT,
                    "targetPort": TARGET,
                    "nodePort": self.node_port(),
                }],
            },
        });
        let slices = Family::ALL.map(|family| self.slice(lab, family));
        [&[service], &slices[..]].concat()
    }

    fn slice(self, lab: &Lab, family: Family) -> Value {
        let pod = self.backend.map(|name| lab.pod(name).unwrap());
        let endpoint = pod.map(|pod| {
            json!({
                "addresses": [pod.address(family)],
                "nodeName": pod.node,
                "conditions": {"ready": true},
            })
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{family}", self.name).to_lowercase(),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": family,
            "endpoints": Vec::from_iter(endpoint),
            "ports": [{"protocol": "SCTP", "port": TARGET}],
        })
    }
}
