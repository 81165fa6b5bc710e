//! A node's interfaces in a namespace, and the programs to run on frames.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use lb_agent::{
    compile::{
        Backend, Frontend, FrontendKind, Port, PortId, Set, endpoint_frontends, frontend_key,
    },
    dataplane::{Dataplane, Options, TcModeOption, XdpModeOption},
    model::{self, ObjectName},
    reconcile::{Reconciler, Snapshot},
};
use lb_common::Verdict;
pub(crate) use lb_tests::packet::{Place, action, at};
use lb_tests::{
    lab::{Lab, LabOptions, Netns, Protocol},
    packet::{Returned, test_run},
};

use crate::{
    tables::Tables,
    wiring::{batch, interfaces},
};

pub(crate) const TARGET_PORT: u16 = 8080;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) action: i32,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Rig {
    pub(crate) tables: Tables,
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
        netns.ip(&batch()).unwrap();
        let options = Options {
            bpffs: lab.pins(1),
            xdp,
            tc: TcModeOption::Auto,
            connections: lb_agent::connections::Settings::default(),
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
            tables: Tables::open(&lab.pins(1)),
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
            restricted: false,
            masquerade: false,
        };
        let port = Port {
            id: PortId {
                service: ObjectName::new("default", name),
                port: String::new(),
                protocol,
                family: model::Family::of(frontends[0].ip()),
            },
            frontends: endpoint_frontends([&backends], protocol)
                .chain(
                    frontends
                        .iter()
                        .map(|at| (frontend_key(at.ip(), at.port(), protocol), frontend)),
                )
                .collect(),
            cluster: backends.clone(),
            local: BTreeSet::new(),
            serving: backends,
            affinity_seconds: 0,
            sources: BTreeSet::new(),
        };
        let changes = vec![(port.id.clone(), Some(port))];
        self.reconciler
            .apply(changes, Duration::ZERO, &mut self.dataplane);
        assert_eq!(self.reconciler.failures(), 0);
    }

    /// Runs the hook's program on a frame.
    pub(crate) fn run(&mut self, place: Place, frame: &[u8]) -> Outcome {
        let before = self.counters();
        let (dataplane, indices) = (&mut self.dataplane, &self.indices);
        let netns = &self.lab.node(1).netns;
        let run = || test_run(dataplane, place, |name| indices[name], frame);
        let Returned { action, bytes } = netns.run(run).unwrap();
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

    /// The node's namespace.
    pub(crate) fn netns(&self) -> &Netns {
        &self.lab.node(1).netns
    }

    /// Connections, seen from their clients' side.
    pub(crate) fn connections(&self) -> usize {
        self.dataplane.connection_table().unwrap().iter().count()
    }

    pub(crate) fn dataplane(&mut self) -> &mut Dataplane {
        &mut self.dataplane
    }

    /// The folder of its pins.
    pub(crate) fn pins(&self) -> PathBuf {
        self.lab.pins(1)
    }

    fn counters(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let counters = self.dataplane.counters().unwrap().into_iter();
        counters
            .map(|(hook, verdict, value)| ((hook.name(), verdict.name()), value))
            .collect()
    }
}
