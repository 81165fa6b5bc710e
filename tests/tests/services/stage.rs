//! A node with an agent, pods, and the Service `web` in a folder of manifests,
//! to be changed at will.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{AgentProcess, Exchange, Family, Lab, LabOptions, Protocol, Reply};
use serde_json::{Value, json};

use crate::site::{self, NODE_PORT, PORT, cluster_ip, slices};

/// The machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);
/// Less than the second after which TCP says its SYN again.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(900);

pub(crate) const LOAD_BALANCER: [&str; 2] = ["203.0.113.80", "2001:db8:203::80"];

/// Closed to what comes in, and to what conntrack cannot place.
const FIREWALL: &str = "table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        iifname lo accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        iifname \"veth-*\" accept
        oifname \"veth-*\" accept
    }
}";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// The pod `shell`, on node 1.
    Pod,
    /// A process of node 1.
    Node,
    Outside,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ClusterIp,
    /// On node 1.
    NodePort,
    Localhost,
    LoadBalancer,
}

/// An endpoint: the name of its pod, and whether it is ready, serving and
/// terminating.
pub(crate) type Endpoint = (&'static str, bool, bool, bool);

pub(crate) const fn ready(pod: &'static str) -> Endpoint {
    (pod, true, true, false)
}

/// Source ports, below those of nodePorts and those that the kernel draws.
const FIRST_PORT: u16 = 10_000;

/// Fields are dropped in order: the agent before its node.
pub(crate) struct Stage {
    pub(crate) agent: AgentProcess,
    pub(crate) manifests: PathBuf,
    next_port: AtomicU16,
    pub(crate) lab: Lab,
}

impl Stage {
    /// Without a Service yet.
    pub(crate) fn new(rp_filter: u8, firewall: bool, arguments: &[&str]) -> Self {
        let lab = site::lab(&LabOptions {
            rp_filter,
            firewall: firewall.then(|| FIREWALL.to_owned()),
            ..LabOptions::default()
        });
        for (address, bits) in LOAD_BALANCER.into_iter().zip([32, 128]) {
            lab.route_to_node(&format!("{address}/{bits}"), 1).unwrap();
        }
        let manifests = lab.folder().join("manifests");
        fs::create_dir_all(&manifests).unwrap();
        let folder = manifests.display().to_string();
        let all = [&["--manifests", &folder], arguments].concat();
        let mut agent = lab.start_agent(1, &all).unwrap();
        agent.wait_ready().unwrap();
        Self {
            agent,
            manifests,
            next_port: AtomicU16::new(FIRST_PORT),
            lab,
        }
    }

    /// Writes `web` with these changes to its spec, and its endpoints.
    pub(crate) fn publish(&self, spec: Value, endpoints: &[Endpoint]) {
        let mut service = site::service("web", 10, NODE_PORT);
        for (field, value) in spec.as_object().unwrap() {
            service["spec"][field] = value.clone();
        }
        let vips = LOAD_BALANCER.map(|ip| json!({"ip": ip}));
        service["status"] = json!({"loadBalancer": {"ingress": vips}});
        let names: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.0).collect();
        let [mut v4, mut v6] = slices(&self.lab, "web", &names);
        for slice in [&mut v4, &mut v6] {
            for (index, &(_, ready, serving, terminating)) in endpoints.iter().enumerate() {
                slice["endpoints"][index]["conditions"] = json!({
                    "ready": ready, "serving": serving, "terminating": terminating,
                });
            }
        }
        site::write(&self.manifests, "web", &[service, v4, v6]);
    }

    pub(crate) fn exchange(
        &self,
        path: (Client, Way),
        protocol: Protocol,
        family: Family,
    ) -> io::Result<Reply> {
        let any_port = 0;
        self.exchange_from(any_port, path, protocol, family)
    }

    /// From a port that no other exchange had: a flow keeps the backend that an
    /// earlier one of its port was given.
    pub(crate) fn exchange_anew(
        &self,
        path: (Client, Way),
        protocol: Protocol,
        family: Family,
    ) -> io::Result<Reply> {
        let port = self.next_port.fetch_add(1, Ordering::Relaxed);
        assert!(port < NODE_PORT, "ports are used up");
        self.exchange_from(port, path, protocol, family)
    }

    fn exchange_from(
        &self,
        port: u16,
        (client, way): (Client, Way),
        protocol: Protocol,
        family: Family,
    ) -> io::Result<Reply> {
        let host = match client {
            Client::Pod => &self.lab.pod("shell").unwrap(),
            Client::Node => self.lab.node(1),
            Client::Outside => self.lab.client(),
        };
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let exchange = Exchange::new(protocol, self.address(way, family)).timeout(AT_ONCE);
        let exchange = exchange.from(SocketAddr::new(any, port));
        exchange.run_in(&host.netns)
    }

    pub(crate) fn address(&self, way: Way, family: Family) -> SocketAddr {
        let index = usize::from(family == Family::V6);
        match way {
            Way::ClusterIp => cluster_ip(family, 10),
            Way::NodePort => SocketAddr::new(self.lab.node(1).address(family), NODE_PORT),
            Way::Localhost => SocketAddr::new(IpAddr::from([127, 0, 0, 1]), NODE_PORT),
            Way::LoadBalancer => SocketAddr::new(LOAD_BALANCER[index].parse().unwrap(), PORT),
        }
    }
}

/// Both families and protocols.
pub(crate) fn kinds() -> impl Iterator<Item = (Protocol, Family)> {
    let families = |protocol| Family::ALL.map(|family| (protocol, family));
    Protocol::ALL.into_iter().flat_map(families)
}

/// No answer came, neither a good nor a bad one.
pub(crate) fn is_in_vain<T>(result: &io::Result<T>) -> bool {
    let kinds = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock];
    let error = result.as_ref().err();
    error.is_some_and(|error| kinds.contains(&error.kind()))
}

/// Asks again and again until the answer is the right one.
pub(crate) fn eventually<T: std::fmt::Debug>(
    what: &str,
    ask: impl Fn() -> T,
    is_right: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask();
        if is_right(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: {answer:?}");
        thread::sleep(Duration::from_millis(5));
    }
}
