//! A node with an agent and two Services: `local` with the backend `a` on the
//! node itself, `remote` with `b` on another. Each has a UDP port that nobody
//! listens to, too.

use std::{fs, net::SocketAddr};

use lb_tests::lab::{AgentProcess, Family, Host, Lab, LabOptions, Protocol, pod_cidrs};
use serde_json::{Value, json};

const TARGET: u16 = 8080;
const CLOSED: u16 = 8081;

/// The number gives it its addresses and ports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    number: u16,
    pub(crate) backend: &'static str,
    port: u16,
}

pub(crate) const LOCAL: Service = service("local", 11, "a");
pub(crate) const REMOTE: Service = service("remote", 12, "b");

const fn service(name: &'static str, number: u16, backend: &'static str) -> Service {
    Service {
        name,
        number,
        backend,
        port: 80,
    }
}

/// Fields are dropped in order: the agent before its node.
pub(crate) struct Stage {
    agent: AgentProcess,
    pub(crate) lab: Lab,
}

impl Stage {
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        lab.add_pod(1, "shell").unwrap();
        for (node, name) in [(1, "a"), (2, "b")] {
            let pod = lab.add_pod(node, name).unwrap();
            let ports = Protocol::ALL.map(|protocol| (protocol, TARGET));
            lab.serve(&pod, &ports).unwrap();
        }
        let pods = lab.pods();
        let others = pods.iter().map(|pod| &pod.host);
        for host in others.chain(lab.nodes()).chain([lab.router()]) {
            let no_limit = [("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")];
            host.netns.sysctl(&no_limit).unwrap();
        }
        let manifests = lab.folder().join("manifests");
        fs::create_dir_all(&manifests).unwrap();
        let documents: Vec<String> = [LOCAL, REMOTE]
            .iter()
            .flat_map(|service| service.documents(&lab))
            .map(|document| document.to_string())
            .collect();
        fs::write(manifests.join("all.yaml"), documents.join("\n---\n")).unwrap();
        let folder = manifests.display().to_string();
        let all = [&["--manifests", &folder], arguments].concat();
        let mut agent = lab.start_agent(1, &all).unwrap();
        agent.wait_ready().unwrap();
        Self { agent, lab }
    }

    /// Packets of the node that left a hook with a verdict.
    pub(crate) fn count(&self, hook: &str, verdict: &str) -> u64 {
        let status = self.agent.status().unwrap();
        status["counters"][hook][verdict].as_u64().unwrap_or(0)
    }

    /// Errors about connections that were translated.
    pub(crate) fn related(&self) -> u64 {
        let hooks = ["xdp", "tc_ingress", "tc_egress"];
        hooks.iter().map(|hook| self.count(hook, "related")).sum()
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
        check(&shell.host, service.cluster_ip(family));
        check(&shell.host, node_port);
        check(node, service.cluster_ip(family));
        check(self.lab.client(), node_port);
    }

    /// Makes a pod's link smaller, at both ends.
    pub(crate) fn narrow_pod(&self, node: u8, name: &str, mtu: u32) {
        let pod = self.lab.pod(name).unwrap();
        let narrow = |interface: &str| format!("link set {interface} mtu {mtu}\n");
        let node = &self.lab.node(node).netns;
        node.ip(&narrow(&format!("veth-{name}"))).unwrap();
        pod.netns.ip(&narrow("eth0")).unwrap();
    }

    /// Makes the node's routes to the pods of the other one smaller. Programs
    /// are told of a route's MTU only if it is locked.
    pub(crate) fn narrow_route(&self, mtu: u32) {
        for (family, cidr) in Family::ALL.into_iter().zip(pod_cidrs(2)) {
            let via = self.lab.node(2).address(family);
            let route = format!("route replace {cidr} via {via} mtu lock {mtu}\n");
            self.lab.node(1).netns.ip(&route).unwrap();
        }
    }

    /// Leaves it to the node's uplink to cut TCP segments (GSO).
    pub(crate) fn cut_late(&self) {
        let mut command = self.lab.node(1).netns.command("ethtool").unwrap();
        let arguments = ["-K", "eth0", "tx", "on", "sg", "on", "tso", "on"];
        assert!(command.args(arguments).output().unwrap().status.success());
    }

    /// Makes the router's link to the client smaller; the client does not know.
    pub(crate) fn narrow_client(&self, mtu: u32) {
        for family in Family::ALL {
            let client = self.lab.client().address(family);
            let route = format!("route add {client} dev lan0 mtu {mtu}\n");
            self.lab.router().netns.ip(&route).unwrap();
        }
    }
}

impl Service {
    /// The port that nobody listens to.
    pub(crate) fn closed(self) -> Self {
        Self { port: 81, ..self }
    }

    pub(crate) fn cluster_ip(self, family: Family) -> SocketAddr {
        let number = self.number;
        let text = match family {
            Family::V4 => format!("10.96.0.{number}"),
            Family::V6 => format!("fd00:10:96::{number}"),
        };
        SocketAddr::new(text.parse().unwrap(), self.port)
    }

    pub(crate) fn node_port(self) -> u16 {
        30_000 + 20 * (self.port - 80) + self.number
    }

    fn documents(self, lab: &Lab) -> Vec<Value> {
        let addresses = Family::ALL.map(|family| self.cluster_ip(family).ip());
        let port = |name, protocol, service: Self, target| {
            json!({
                "name": name,
                "protocol": protocol,
                "port": service.port,
                "targetPort": target,
                "nodePort": service.node_port(),
            })
        };
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
                "ports": [
                    port("tcp", "TCP", self, TARGET),
                    port("udp", "UDP", self, TARGET),
                    port("closed", "UDP", self.closed(), CLOSED),
                ],
            },
        });
        let slices = Family::ALL.map(|family| self.slice(lab, family));
        [&[service], &slices[..]].concat()
    }

    fn slice(self, lab: &Lab, family: Family) -> Value {
        let pod = lab.pod(self.backend).unwrap();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{family}", self.name).to_lowercase(),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": family,
            "endpoints": [{
                "addresses": [pod.address(family)],
                "nodeName": pod.node,
                "conditions": {"ready": true},
            }],
            "ports": [
                {"name": "tcp", "protocol": "TCP", "port": TARGET},
                {"name": "udp", "protocol": "UDP", "port": TARGET},
                {"name": "closed", "protocol": "UDP", "port": CLOSED},
            ],
        })
    }
}
