//! The lab itself.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    address::{CLIENT, Family, NODES_GATEWAY, Pair, Protocol, node_address, pod_address},
    host::{Host, Pod},
    netns::Netns,
    process,
    residue::{LabId, Residue},
    server::Servers,
    wiring,
};

/// How a lab is made.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Number of nodes, 1 to 99.
    pub nodes: u8,
    /// `rp_filter` of the nodes, in `all` and on every interface: 0 off,
    /// 1 strict, 2 loose.
    pub rp_filter: u8,
    /// An nftables ruleset for every node.
    pub firewall: Option<String>,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            nodes: 2,
            rp_filter: 0,
            firewall: None,
        }
    }
}

/// A running lab; everything goes away on drop.
#[derive(Debug)]
pub struct Lab {
    servers: Servers,
    pods: Mutex<Pods>,
    nodes: Vec<Host>,
    router: Host,
    client: Host,
    // Dropped last: it removes whatever the other fields have left.
    residue: Residue,
}

impl Lab {
    /// # Errors
    /// The kernel or iproute2 refuses a step; needs root.
    pub fn new(options: &LabOptions) -> Result<Self> {
        ensure!((1..100).contains(&options.nodes), "1 to 99 nodes");
        process::raise_file_limit()?;
        let residue = Residue::new()?;
        let host = |name: &str, addresses| host(residue.id(), name, addresses);
        let client = host("client", CLIENT)?;
        let router = host("router", NODES_GATEWAY)?;
        wiring::client(&client, &router.netns)?;
        let mut nodes = Vec::new();
        for number in 1..=options.nodes {
            let node = host(&format!("node{number}"), node_address(number))?;
            wiring::node(
                number,
                options.nodes,
                &node,
                &router.netns,
                options.rp_filter,
            )?;
            if let Some(ruleset) = &options.firewall {
                node.netns.nft(ruleset)?;
            }
            nodes.push(node);
        }
        Ok(Self {
            servers: Servers::start()?,
            pods: Mutex::default(),
            nodes,
            router,
            client,
            residue,
        })
    }

    #[must_use]
    pub fn id(&self) -> LabId {
        self.residue.id()
    }

    /// The outside client; its interface is `eth0`.
    #[must_use]
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The router: `lan0` towards the client, one port `node<i>` of the bridge
    /// `nodes0` per node.
    #[must_use]
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// A node, counted from 1; its uplink is `eth0`.
    ///
    /// # Panics
    /// There is no such node.
    #[must_use]
    pub fn node(&self, number: u8) -> &Host {
        &self.nodes[usize::from(number) - 1]
    }

    #[must_use]
    pub fn nodes(&self) -> &[Host] {
        &self.nodes
    }

    /// Where the agent of a node pins its maps and links.
    #[must_use]
    pub fn pins(&self, node: u8) -> PathBuf {
        self.id().pins().join(&self.node(node).name)
    }

    /// A folder for sockets, logs and manifests that goes away with the lab.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.id().folder()
    }

    /// Makes a pod on a node. Names are unique in the lab, its hosts included.
    ///
    /// # Errors
    /// The name is taken, or the node has 253 pods.
    pub fn add_pod(&self, node: u8, name: &str) -> Result<Arc<Pod>> {
        let mut pods = self.pods_mut();
        ensure!(!pods.by_name.contains_key(name), "there is a pod {name}");
        let number = pods.take_number(node)?;
        let at = self.node(node);
        let pod = Pod {
            host: host(self.id(), name, pod_address(node, number))?,
            node: at.name.clone(),
            interface: interface_name(name, number),
            node_number: node,
            number,
        };
        wiring::pod(&pod, &at.netns, &pod.interface).with_context(|| format!("pod {name}"))?;
        let pod = Arc::new(pod);
        pods.by_name.insert(name.to_owned(), Arc::clone(&pod));
        Ok(pod)
    }

    /// Ends a pod's servers and connections and removes its interfaces. Its
    /// name can be used again once nobody holds the pod any more.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn remove_pod(&self, name: &str) -> Result<()> {
        let pod = self
            .pods_mut()
            .by_name
            .remove(name)
            .context("no such pod")?;
        self.servers.stop(name);
        // The namespace may live on in open sockets; the veth must not.
        self.node(pod.node_number)
            .netns
            .ip(&format!("link del {}\n", pod.interface))
    }

    #[must_use]
    pub fn pod(&self, name: &str) -> Option<Arc<Pod>> {
        self.pods_mut().by_name.get(name).cloned()
    }

    /// All pods, by name.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods_mut().by_name.values().cloned().collect()
    }

    /// Name of the pod, node or client that has an address.
    #[must_use]
    pub fn host_at(&self, address: IpAddr) -> Option<String> {
        let pods = self.pods();
        let pods = pods.iter().map(|pod| &pod.host);
        pods.chain(&self.nodes)
            .chain([&self.client])
            .find(|host| host.addresses.contains(address))
            .map(|host| host.name.clone())
    }

    /// Serves ports of a host, in both families, until the pod or the lab goes;
    /// see [`super::Exchange`] for what is answered.
    ///
    /// # Errors
    /// A port is taken.
    pub fn serve(&self, host: &Host, ports: &[(Protocol, u16)]) -> Result<()> {
        self.servers
            .serve(host, ports)
            .with_context(|| format!("serving {ports:?} in {}", host.name))
    }

    /// Makes the router send a prefix, such as a load balancer's addresses, to
    /// a node.
    ///
    /// # Errors
    /// No address with a prefix length.
    pub fn route_to_node(&self, prefix: &str, node: u8) -> Result<()> {
        let address: IpAddr = prefix.split('/').next().unwrap_or_default().parse()?;
        let via = self.node(node).address(Family::of(address));
        self.router
            .netns
            .ip(&format!("route replace {prefix} via {via}\n"))
    }

    /// Forgets the link-layer addresses of a node's pods and next hops.
    ///
    /// # Errors
    /// An entry is still known after a second of trying.
    pub fn flush_neighbours(&self, node: u8) -> Result<()> {
        let netns = &self.node(node).netns;
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            for family in ["-4", "-6"] {
                neighbours(netns, &[family, "neigh", "flush", "nud", "all"])?;
            }
            let left = known_neighbours(netns)?;
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "neighbours stay known: {left}");
        }
    }

    fn pods_mut(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Pods {
    by_name: BTreeMap<String, Arc<Pod>>,
    /// Number of the newest pod of each node.
    newest: BTreeMap<u8, u8>,
}

impl Pods {
    /// Goes round, so that the address of a removed pod comes back late.
    fn take_number(&mut self, node: u8) -> Result<u8> {
        let newest = self.newest.entry(node).or_insert(1);
        let is_free = |number: &u8| {
            let mut pods = self.by_name.values();
            pods.all(|pod| (pod.node_number, pod.number) != (node, *number))
        };
        *newest = (newest.saturating_add(1)..=254)
            .chain(2..=*newest)
            .find(is_free)
            .context("the node is full")?;
        Ok(*newest)
    }
}

fn host(id: LabId, name: &str, addresses: Pair) -> Result<Host> {
    Ok(Host {
        name: name.to_owned(),
        addresses,
        netns: Netns::create(format!("{id}-{name}"))?,
    })
}

/// `veth-<pod>` where that fits, else with the pod's number in place of its end.
fn interface_name(pod: &str, number: u8) -> String {
    let name = format!("veth-{pod}");
    if name.len() < libc::IFNAMSIZ {
        return name;
    }
    let end = format!("~{number}");
    let start: String = name.chars().take(libc::IFNAMSIZ - 1 - end.len()).collect();
    start + &end
}

fn known_neighbours(netns: &Netns) -> Result<String> {
    let known = "neigh show nud reachable nud stale nud delay nud probe";
    neighbours(netns, &known.split(' ').collect::<Vec<_>>())
}

fn neighbours(netns: &Netns, arguments: &[&str]) -> Result<String> {
    let output = netns.command("ip")?.args(arguments).output()?;
    ensure!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_the_kernel() {
        let table = [
            ("kiada-1", 2, "veth-kiada-1"),
            ("orchestrat", 2, "veth-orchestrat"),
            ("orchestrator-7", 3, "veth-orchestr~3"),
            ("orchestrator-7", 254, "veth-orches~254"),
        ];
        for (pod, number, expect) in table {
            assert_eq!(interface_name(pod, number), expect);
        }
    }
}
