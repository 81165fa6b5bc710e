//! The Services of the node, as a specification would list them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use crate::{
    lab::{Family, Pair},
    packet::wiring::{
        CLIENT, FAR, FORBIDDEN, LOOPBACK, NODE, NODE1, POD, POD1, REMOTE, REMOTE1, inner,
    },
};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const PROTOCOLS: [u8; 3] = [TCP, UDP, SCTP];

/// A clusterIP, and one of a load balancer.
pub(crate) const VIP: Pair = inner(96, 10);
pub(crate) const BALANCER: Pair = inner(97, 10);
/// A clusterIP that nobody has.
pub(crate) const UNUSED: Pair = inner(96, 99);
/// Clients keep their backend for longer than any run takes.
pub(crate) const AFFINITY: u32 = 86_400;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Backend {
    pub(crate) at: SocketAddr,
    pub(crate) local: bool,
}

/// Who is served by which of a service's backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// All of them, for everyone.
    Cluster,
    /// All of them for pods and the node, those of this node for others.
    Local,
}

#[derive(Clone, Debug)]
pub(crate) struct Frontend {
    pub(crate) service: usize,
    pub(crate) policy: Policy,
    pub(crate) masquerade: bool,
    /// The only clients that are let in.
    pub(crate) sources: Option<IpNet>,
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) family: Family,
    pub(crate) protocol: u8,
    pub(crate) has_affinity: bool,
    pub(crate) backends: Vec<Backend>,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) services: Vec<Service>,
    pub(crate) frontends: BTreeMap<(SocketAddr, u8), Frontend>,
    /// Services that a backend belongs to.
    pub(crate) users: BTreeMap<(SocketAddr, u8), Vec<usize>>,
    /// Refuse what no frontend of theirs serves.
    pub(crate) cluster_ips: Vec<IpAddr>,
    /// Every clusterIP is in one of these.
    pub(crate) service_networks: Vec<IpNet>,
}

struct Row {
    name: &'static str,
    /// A number of the nodePort range; that of the clusterIP and the load
    /// balancer is 30,000 less.
    port: u16,
    at: &'static [Pair],
    backends: &'static [(Pair, bool)],
    target: u16,
    policy: Policy,
    masquerade: bool,
    has_affinity: bool,
    restricted: bool,
}

const ROW: Row = Row {
    name: "",
    port: 0,
    at: &[VIP, NODE],
    backends: &[],
    target: 8080,
    policy: Policy::Cluster,
    masquerade: false,
    has_affinity: false,
    restricted: false,
};

const EVERYWHERE: &[(Pair, bool)] = &[(POD, true), (POD1, true), (REMOTE, false), (REMOTE1, false)];

const ROWS: [Row; 18] = [
    Row {
        name: "near",
        port: 30_080,
        backends: &[(POD, true)],
        ..ROW
    },
    Row {
        name: "remote",
        port: 30_081,
        at: &[VIP, NODE, BALANCER],
        backends: &[(REMOTE, false)],
        ..ROW
    },
    Row {
        name: "everywhere",
        port: 30_082,
        backends: EVERYWHERE,
        ..ROW
    },
    Row {
        name: "far",
        port: 30_083,
        backends: &[(FAR, false)],
        ..ROW
    },
    Row {
        name: "forbidden",
        port: 30_084,
        backends: &[(FORBIDDEN, false)],
        ..ROW
    },
    Row {
        name: "empty",
        port: 30_085,
        ..ROW
    },
    Row {
        name: "elsewhere",
        port: 30_086,
        at: &[BALANCER, NODE],
        backends: &[(REMOTE, false)],
        policy: Policy::Local,
        ..ROW
    },
    Row {
        name: "kept-near",
        port: 30_087,
        at: &[BALANCER, NODE],
        backends: &[(POD, true), (REMOTE1, false)],
        policy: Policy::Local,
        ..ROW
    },
    Row {
        name: "restricted",
        port: 30_088,
        at: &[BALANCER],
        backends: &[(REMOTE, false), (POD1, true)],
        restricted: true,
        ..ROW
    },
    Row {
        name: "masqueraded",
        port: 30_089,
        backends: &[(POD, true), (REMOTE1, false)],
        masquerade: true,
        ..ROW
    },
    Row {
        name: "kept",
        port: 30_090,
        backends: EVERYWHERE,
        has_affinity: true,
        ..ROW
    },
    Row {
        name: "host",
        port: 30_091,
        backends: &[(NODE1, true)],
        ..ROW
    },
    Row {
        name: "chained",
        port: 30_096,
        backends: &[(NODE, true)],
        // Which is a nodePort.
        target: 30_091,
        ..ROW
    },
    Row {
        name: "itself",
        port: 30_097,
        backends: &[(NODE, true)],
        target: 30_097,
        ..ROW
    },
    Row {
        name: "loopback",
        port: 30_092,
        at: &[LOOPBACK],
        backends: &[(REMOTE1, false), (POD, true)],
        ..ROW
    },
    Row {
        name: "same-port",
        port: 30_093,
        at: &[VIP],
        backends: &[(REMOTE, false)],
        target: 93,
        ..ROW
    },
    Row {
        name: "other-uplink",
        port: 30_094,
        backends: &[(REMOTE1, false)],
        ..ROW
    },
    Row {
        name: "remote-again",
        port: 30_095,
        at: &[VIP, NODE],
        backends: &[(REMOTE, false)],
        ..ROW
    },
];

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self {
            services: Vec::new(),
            frontends: BTreeMap::new(),
            users: BTreeMap::new(),
            cluster_ips: Family::ALL.map(|family| VIP.get(family)).to_vec(),
            service_networks: Family::ALL.map(service_network).to_vec(),
        };
        for family in Family::ALL {
            for protocol in PROTOCOLS {
                for row in &ROWS {
                    world.add(row, family, protocol);
                }
            }
        }
        world
    }

    fn add(&mut self, row: &Row, family: Family, protocol: u8) {
        let service = self.services.len();
        let backends = row.backends.iter();
        let backends = backends.map(|&(at, local)| Backend {
            at: SocketAddr::new(at.get(family), row.target),
            local,
        });
        let backends: Vec<Backend> = backends.collect();
        for backend in &backends {
            let users = self.users.entry((backend.at, protocol)).or_default();
            users.push(service);
        }
        self.services.push(Service {
            name: row.name,
            family,
            protocol,
            has_affinity: row.has_affinity,
            backends,
        });
        for at in row.at {
            let port = match *at {
                NODE | LOOPBACK => row.port,
                _ => row.port - 30_000,
            };
            let frontend = Frontend {
                service,
                policy: row.policy,
                masquerade: row.masquerade,
                sources: row.restricted.then(|| network_of(CLIENT.get(family))),
            };
            let at = SocketAddr::new(at.get(family), port);
            self.frontends.insert((at, protocol), frontend);
        }
    }
}

/// What all clusterIPs of the family are in.
fn service_network(family: Family) -> IpNet {
    network_of(VIP.get(family))
}

/// The /24 or /64 that an address is in.
fn network_of(address: IpAddr) -> IpNet {
    let length = if address.is_ipv4() { 24 } else { 64 };
    IpNet::new_assert(address, length).trunc()
}
