//! A node's interfaces in a namespace, and the programs to run on frames.
//!
//! ```text
//! up0 198.18.0.1 -- gateway .2 (known), .3 (unknown)    veth, so frames leave by redirect
//! up1 198.18.1.1 -- gateway .2 (known)                  says it is a NIC, so XDP_TX
//! pod0, pod1     -- 10.8.0.10, 10.8.0.11
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use lb_agent::{
    compile::{Backend, Frontend, FrontendKind, Port, PortId, Set, frontend_key},
    dataplane::{Dataplane, Options, TcModeOption, XdpModeOption},
    interfaces::{Device, Interface, Kind},
    model::{self, ObjectName},
    reconcile::{Reconciler, Snapshot},
};
use lb_common::{Hook, Verdict};
use lb_tests::lab::{Family, Lab, LabOptions, Pair, Protocol};

/// An address of each family, told apart by `network` and `host`:
/// 10.`network`.0.`host` and fd00:`network`::`host`.
pub(crate) const fn inner(network: u8, host: u8) -> Pair {
    Pair {
        v4: std::net::Ipv4Addr::new(10, network, 0, host),
        v6: std::net::Ipv6Addr::new(0xfd00, network as u16, 0, 0, 0, 0, 0, host as u16),
    }
}

/// 198.18.`network`.`host` and 2001:db8:`network`::`host`.
pub(crate) const fn outer(network: u8, host: u8) -> Pair {
    Pair {
        v4: std::net::Ipv4Addr::new(198, 18, network, host),
        v6: std::net::Ipv6Addr::new(0x2001, 0xdb8, network as u16, 0, 0, 0, 0, host as u16),
    }
}

pub(crate) const LOOPBACK: Pair = Pair {
    v4: std::net::Ipv4Addr::LOCALHOST,
    v6: std::net::Ipv6Addr::LOCALHOST,
};

/// The node, on its first and its second uplink.
pub(crate) const NODE: Pair = outer(0, 1);
pub(crate) const NODE1: Pair = outer(1, 1);
pub(crate) const CLIENT: Pair = inner(50, 7);
/// A client behind the second uplink.
pub(crate) const CLIENT1: Pair = inner(51, 7);
pub(crate) const POD: Pair = inner(8, 10);
pub(crate) const POD1: Pair = inner(8, 11);
pub(crate) const REMOTE: Pair = inner(9, 10);
/// By way of the second uplink.
pub(crate) const REMOTE1: Pair = inner(10, 10);
/// By way of a gateway whose link-layer address nobody knows.
pub(crate) const FAR: Pair = inner(11, 10);
/// Where the routing table says no.
pub(crate) const FORBIDDEN: Pair = inner(12, 10);

pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const GATEWAY1_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub(crate) const UP0_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const UP1_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

pub(crate) const TARGET_PORT: u16 = 8080;

/// What the programs return.
pub(crate) mod action {
    pub(crate) const XDP_DROP: i32 = 1;
    pub(crate) const XDP_PASS: i32 = 2;
    pub(crate) const XDP_TX: i32 = 3;
    pub(crate) const XDP_REDIRECT: i32 = 4;
    pub(crate) const TC_PASS: i32 = -1;
    pub(crate) const TC_DROP: i32 = 2;
    pub(crate) const TC_REDIRECT: i32 = 7;
}

/// Where a frame is put in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) hook: Hook,
    pub(crate) interface: &'static str,
    /// Where the packet came in before, at TC egress.
    pub(crate) origin: Option<&'static str>,
}

pub(crate) const fn at(hook: Hook, interface: &'static str) -> Place {
    Place {
        hook,
        interface,
        origin: None,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) action: i32,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Rig {
    dataplane: Dataplane,
    reconciler: Reconciler,
    indices: BTreeMap<String, u32>,
    // Dropped last: it removes namespace and pins.
    lab: Lab,
}

impl Rig {
    pub(crate) fn new(xdp: XdpModeOption) -> Self {
        let lab = Lab::new(&LabOptions {
            nodes: 1,
            ..LabOptions::default()
        })
        .unwrap();
        let netns = &lab.node(1).netns;
        netns.ip(&wiring()).unwrap();
        let options = Options {
            bpffs: lab.pins(1),
            xdp,
            tc: TcModeOption::Auto,
            trace_packets: false,
        };
        let mut dataplane = netns.run(|| Dataplane::open(&options)).unwrap();
        let indices: BTreeMap<String, u32> = netns.run(|| {
            let all = nix::net::if_::if_nameindex().unwrap();
            all.iter()
                .map(|i| (i.name().to_str().unwrap().to_owned(), i.index()))
                .collect()
        });
        let interfaces = interfaces(&indices);
        let errors = netns.run(|| dataplane.sync_interfaces(&interfaces));
        assert_eq!(errors, []);
        Self {
            dataplane,
            reconciler: Reconciler::new(Snapshot::default()),
            indices,
            lab,
        }
    }

    /// Makes, or changes, a service port.
    pub(crate) fn serve(
        &mut self,
        name: &str,
        protocol: Protocol,
        frontends: &[SocketAddr],
        backends: &[(IpAddr, bool)],
    ) {
        let protocol = match protocol {
            Protocol::Tcp => model::Protocol::Tcp,
            Protocol::Udp => model::Protocol::Udp,
        };
        let backends: BTreeSet<Backend> = backends
            .iter()
            .map(|&(address, local)| Backend {
                address,
                port: TARGET_PORT,
                local,
            })
            .collect();
        let frontend = Frontend {
            kind: FrontendKind::ClusterIp,
            inside: Set::Cluster,
            outside: Set::Cluster,
        };
        let port = Port {
            id: PortId {
                service: ObjectName::new("default", name),
                port: String::new(),
                protocol,
                family: model::Family::of(frontends[0].ip()),
            },
            frontends: frontends
                .iter()
                .map(|at| (frontend_key(at.ip(), at.port(), protocol), frontend))
                .collect(),
            cluster: backends.clone(),
            local: BTreeSet::new(),
            serving: backends,
        };
        let changes = vec![(port.id.clone(), Some(port))];
        self.reconciler
            .apply(changes, Duration::ZERO, &mut self.dataplane);
        assert_eq!(self.reconciler.failures(), 0);
    }

    /// Runs the hook's program on a frame.
    pub(crate) fn run(&mut self, place: Place, frame: &[u8]) -> Outcome {
        let before = self.counters();
        let (action, bytes) = self.test_run(place, frame);
        let mut counted: BTreeMap<_, u64> = self.counters();
        for (counter, value) in before {
            if counted.get(&counter) == Some(&value) {
                counted.remove(&counter);
            }
        }
        // The kernel greets neighbours on the real interfaces when it pleases.
        let noise = [Verdict::NotIp, Verdict::OtherProtocol].map(Verdict::name);
        let heard = |(_, verdict): &(_, &str)| !noise.contains(verdict);
        let verdict = match counted.keys().filter(|key| heard(key)).count() {
            0 => counted.keys().find(|(hook, _)| *hook == place.hook.name()),
            1 => counted.keys().find(|key| heard(key)),
            _ => None,
        };
        let Some(&(hook, verdict)) = verdict else {
            panic!("{place:?}: a packet is counted once: {counted:?}");
        };
        assert_eq!(hook, place.hook.name(), "{place:?}: {counted:?}");
        let named = |candidate: &&Verdict| candidate.name() == verdict;
        Outcome {
            verdict: *Verdict::ALL.iter().find(named).unwrap(),
            action,
            bytes,
        }
    }

    /// Connections, seen from their clients' side.
    pub(crate) fn connections(&self) -> usize {
        self.dataplane.connections().count()
    }

    fn counters(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let counters = self.dataplane.counters().unwrap().into_iter();
        counters
            .map(|(hook, verdict, value)| ((hook.name(), verdict.name()), value))
            .collect()
    }

    fn test_run(&mut self, place: Place, frame: &[u8]) -> (i32, Vec<u8>) {
        let index = self.indices[place.interface];
        let origin = place.origin.map_or(0, |name| self.indices[name]);
        let length = frame.len() as u32;
        // The head of struct xdp_md, or of struct __sk_buff (linux/bpf.h).
        let context: Vec<u32> = match place.hook {
            Hook::Xdp => vec![0, length, 0, index, 0, 0],
            Hook::TcIngress => vec![0, 0, 0, 0, 0, 0, 0, 0, 0, index, index, 0],
            Hook::TcEgress => vec![0, 0, 0, 0, 0, 0, 0, 0, 0, origin, index, 0],
        };
        let context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut bytes = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut bytes),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let (name, is_xdp) = match place.hook {
            Hook::Xdp => ("lb_xdp", true),
            Hook::TcIngress => ("lb_ingress", false),
            Hook::TcEgress => ("lb_egress", false),
        };
        let program = self.dataplane.ebpf_mut().program_mut(name).unwrap();
        let result = self.lab.node(1).netns.run(|| {
            if is_xdp {
                let program: &mut Xdp = program.try_into().unwrap();
                program.test_run(options)
            } else {
                let program: &mut SchedClassifier = program.try_into().unwrap();
                program.test_run(options)
            }
        });
        let result = result.unwrap_or_else(|error| panic!("{place:?} {frame:02x?}: {error:?}"));
        bytes.truncate(result.data_size_out as usize);
        (result.return_value.cast_signed(), bytes)
    }
}

fn wiring() -> String {
    let mut batch = String::new();
    let mut add = |line: String| batch += &(line + "\n");
    for (name, mac) in [
        ("up0", UP0_MAC),
        ("up1", UP1_MAC),
        ("pod0", [2, 0, 0, 8, 0, 1]),
        ("pod1", [2, 0, 0, 8, 1, 1]),
    ] {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        add(format!(
            "link add {name} address {mac} type veth peer name {name}x"
        ));
        for end in [name, &format!("{name}x")] {
            add(format!("link set {end} addrgenmode none up"));
        }
    }
    for (name, network, mac) in [("up0", 0, GATEWAY_MAC), ("up1", 1, GATEWAY1_MAC)] {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        for family in Family::ALL {
            let length = if family == Family::V4 { 24 } else { 64 };
            let node = outer(network, 1).get(family);
            let gateway = outer(network, 2).get(family);
            add(format!("addr add {node}/{length} dev {name}"));
            add(format!(
                "neigh add {gateway} lladdr {mac} dev {name} nud permanent"
            ));
        }
    }
    for family in Family::ALL {
        let host = if family == Family::V4 { 32 } else { 128 };
        for (to, via) in [
            (CLIENT, outer(0, 2)),
            (CLIENT1, outer(1, 2)),
            (REMOTE, outer(0, 2)),
            (REMOTE1, outer(1, 2)),
            (FAR, outer(0, 3)),
        ] {
            let (to, via) = (to.get(family), via.get(family));
            add(format!("route add {to}/{host} via {via}"));
        }
        let forbidden = FORBIDDEN.get(family);
        add(format!("route add blackhole {forbidden}/{host}"));
        for (pod, name) in [(POD, "pod0"), (POD1, "pod1")] {
            add(format!("route add {}/{host} dev {name}", pod.get(family)));
        }
    }
    batch
}

fn interfaces(indices: &BTreeMap<String, u32>) -> Vec<Interface> {
    let veth = Device::Veth {
        peer_elsewhere: true,
    };
    let interface = |name: &str, kind, device, address: Option<Pair>| Interface {
        index: indices[name],
        name: name.to_owned(),
        kind,
        device,
        mac: None,
        addresses: address
            .map(|pair| Family::ALL.map(|family| pair.get(family)))
            .into_iter()
            .flatten()
            .collect(),
        up: true,
    };
    vec![
        interface("lo", Kind::Local, Device::Loopback, Some(LOOPBACK)),
        interface("up0", Kind::Uplink, veth, Some(NODE)),
        interface("up1", Kind::Uplink, Device::Ethernet, Some(NODE1)),
        interface("pod0", Kind::Pod, veth, None),
        interface("pod1", Kind::Pod, veth, None),
    ]
}
