//! A node's interfaces in a namespace, and the programs to run on frames.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use aya::maps::HashMap;
use lb_agent::{
    compile::{
        Backend, Frontend, FrontendKind, Port, PortId, PortName, Set, echo_key, endpoint_frontends,
        frontend_key,
    },
    connections::{Limits, Settings},
    dataplane::{Dataplane, Options, TcModeOption, XdpModeOption},
    interfaces::{Kind, Peer},
    model::{self, ObjectName},
    reconcile::{Reconciler, Snapshot},
    shortcut::ShortcutOption,
    sorted::SortedSet,
};
use lb_common::{Address, Fragment, FragmentKey, FrontendKey, Life, Tuple, Verdict};
pub(crate) use lb_tests::packet::{Place, action, at};
use lb_tests::{
    lab::{Lab, LabOptions, Netns, Protocol},
    packet::{Returned, test_run},
};

use crate::{
    tables::Tables,
    wiring::{batch, interfaces, known_pods},
};

pub(crate) const TARGET_PORT: u16 = 8080;

/// The node says nothing by itself, such as to greet its neighbours: the
/// programs would count it.
const SILENCE: &str = "table inet silence {
    chain output { type filter hook output priority filter; policy drop; }
}
table arp silence {
    chain output { type filter hook output priority filter; policy drop; }
}";

/// What the programs counted, by the names of hooks and verdicts.
pub(crate) type Counts = BTreeMap<(&'static str, &'static str), u64>;

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
        Self::open(xdp, ShortcutOption::Never, Limits::default())
    }

    /// One that takes so many unassured connections.
    pub(crate) fn with_room(unassured: u32) -> Self {
        let limits = Limits {
            unassured,
            ..Limits::default()
        };
        Self::open(XdpModeOption::Native, ShortcutOption::Never, limits)
    }

    /// One that takes shortcuts, and knows the link-layer addresses of its pods.
    pub(crate) fn with_shortcuts(xdp: XdpModeOption) -> Self {
        let mut rig = Self::open(xdp, ShortcutOption::Always, Limits::default());
        rig.netns().ip(&known_pods()).unwrap();
        rig.take_shortcuts(true);
        rig
    }

    pub(crate) fn take_shortcuts(&mut self, taken: bool) {
        self.dataplane.set_shortcut(taken).unwrap();
    }

    fn open(xdp: XdpModeOption, shortcut: ShortcutOption, limits: Limits) -> Self {
        let lab = Lab::new(&LabOptions {
            nodes: 1,
            firewall: Some(SILENCE.to_owned()),
            ..LabOptions::default()
        })
        .unwrap();
        let netns = &lab.node(1).netns;
        netns.ip(&batch()).unwrap();
        let options = Options {
            bpffs: lab.pins(1),
            xdp,
            tc: TcModeOption::Auto,
            connections: Settings {
                limits,
                ..Settings::default()
            },
            shortcut,
            trace_packets: false,
        };
        let mut dataplane = netns.run(|| Dataplane::open(&options)).unwrap();
        let indices: BTreeMap<String, u32> = netns.run(|| {
            let all = nix::net::if_::if_nameindex().unwrap();
            all.iter()
                .map(|i| (i.name().to_str().unwrap().to_owned(), i.index()))
                .collect()
        });
        let mut interfaces = interfaces(&indices);
        if shortcut == ShortcutOption::Always {
            let pods = interfaces.iter_mut().filter(|one| one.kind == Kind::Pod);
            pods.for_each(|pod| pod.peer = Peer::Free);
        }
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
        self.serve_any(name, protocol, TARGET_PORT, frontends, backends);
    }

    /// As [`Self::serve`], by any protocol and with backends at any port.
    pub(crate) fn serve_any(
        &mut self,
        name: &str,
        protocol: model::Protocol,
        target_port: u16,
        frontends: &[SocketAddr],
        backends: &[(IpAddr, bool)],
    ) {
        let backends: SortedSet<Backend> = backends
            .iter()
            .map(|&(address, local)| Backend {
                address,
                port: target_port,
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
            id: PortId::from(PortName {
                service: ObjectName::new("default", name),
                port: String::new(),
                protocol,
                family: model::Family::of(frontends[0].ip()),
            }),
            frontends: endpoint_frontends([&backends], protocol)
                .chain(
                    frontends
                        .iter()
                        .map(|at| (frontend_key(at.ip(), at.port(), protocol), frontend)),
                )
                .collect(),
            cluster: backends.clone(),
            local: SortedSet::default(),
            serving: backends,
            affinity_seconds: 0,
            sources: BTreeSet::new(),
        };
        self.apply(port);
    }

    /// Makes the address a clusterIP, whatever ports it has.
    pub(crate) fn serve_address(&mut self, address: IpAddr) {
        let key = FrontendKey::any_port(Address::from(address));
        self.enter(address, key, FrontendKind::AnyPort);
    }

    /// Makes the address answer echo requests.
    pub(crate) fn answer_echo(&mut self, address: IpAddr) {
        self.enter(address, echo_key(address), FrontendKind::Echo);
    }

    /// Enters a frontend without backends.
    fn enter(&mut self, address: IpAddr, key: FrontendKey, kind: FrontendKind) {
        let frontend = Frontend {
            kind,
            inside: Set::Nobody,
            outside: Set::Nobody,
            restricted: false,
            masquerade: false,
        };
        self.apply(Port {
            id: PortId::from(PortName {
                service: ObjectName::new("default", address.to_string()),
                port: String::new(),
                protocol: model::Protocol::Tcp,
                family: model::Family::of(address),
            }),
            frontends: [(key, frontend)].into(),
            cluster: SortedSet::default(),
            local: SortedSet::default(),
            serving: SortedSet::default(),
            affinity_seconds: 0,
            sources: BTreeSet::new(),
        });
    }

    fn apply(&mut self, port: Port) {
        let changes = vec![(port.id.clone(), Some(port))];
        self.reconciler
            .apply(changes, Duration::ZERO, &mut self.dataplane);
        assert_eq!(self.reconciler.failures(), 0);
    }

    /// What the hook's program returns for a frame, without a look at counters:
    /// faster.
    pub(crate) fn act(&mut self, place: Place, frame: &[u8]) -> i32 {
        let (dataplane, indices) = (&mut self.dataplane, &self.indices);
        let netns = &self.lab.node(1).netns;
        let run = || test_run(dataplane, place, |name| indices[name], frame);
        netns.run(run).unwrap().action
    }

    /// Runs the hook's program on a frame.
    pub(crate) fn run(&mut self, place: Place, frame: &[u8]) -> Outcome {
        let (Returned { action, bytes }, counts) = self.observe(place, frame, 1);
        let counted: Vec<_> = counts.into_iter().collect();
        let [((hook, verdict), 1)] = counted[..] else {
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

    /// As [`Self::run`], for a frame that has the programs run `times` times: it
    /// is put into a hook again. With all that is counted.
    pub(crate) fn observe(&mut self, place: Place, frame: &[u8], times: u64) -> (Returned, Counts) {
        let before = self.counters();
        let (dataplane, indices) = (&mut self.dataplane, &self.indices);
        let netns = &self.lab.node(1).netns;
        let run = || test_run(dataplane, place, |name| indices[name], frame);
        let returned = netns.run(run).unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let counts = self.counted_since(&before);
            if counts.values().sum::<u64>() >= times || Instant::now() > deadline {
                return (returned, counts);
            }
            thread::yield_now();
        }
    }

    fn counted_since(&self, before: &Counts) -> Counts {
        let mut counts = self.counters();
        for (counter, value) in &mut counts {
            *value -= before.get(counter).unwrap_or(&0);
        }
        counts.retain(|_, value| *value > 0);
        counts
    }

    /// Has all that is known of fragments be from `seconds` ago.
    pub(crate) fn age_fragments(&mut self, seconds: u32) {
        let map = self.dataplane.ebpf_mut().map_mut("FRAGMENTS").unwrap();
        let mut map: HashMap<_, FragmentKey, Fragment> = map.try_into().unwrap();
        let all: Vec<_> = map.iter().map(Result::unwrap).collect();
        assert!(!all.is_empty());
        for (key, mut fragment) in all {
            // HZ is 1000 at most.
            fragment.seen = fragment.seen.wrapping_sub(seconds * 1000);
            map.insert(key, fragment, 0).unwrap();
        }
    }

    /// Other programs that work on the same maps, and the interfaces by name.
    pub(crate) fn beside(&self) -> (Dataplane, BTreeMap<String, u32>) {
        let options = Options {
            bpffs: self.pins(),
            xdp: XdpModeOption::Off,
            tc: TcModeOption::Auto,
            connections: Settings::default(),
            shortcut: ShortcutOption::Never,
            trace_packets: false,
        };
        let opened = self.netns().run(|| Dataplane::open(&options));
        (opened.unwrap(), self.indices.clone())
    }

    /// Has an interface go.
    pub(crate) fn lose(&mut self, name: &str) {
        let mut left = interfaces(&self.indices);
        left.retain(|interface| interface.name != name);
        let (netns, dataplane) = (&self.lab.node(1).netns, &mut self.dataplane);
        let errors = netns.run(|| dataplane.sync_interfaces(&left));
        assert_eq!(errors, []);
    }

    /// The node's namespace.
    pub(crate) fn netns(&self) -> &Netns {
        &self.lab.node(1).netns
    }

    /// Connections and their lives, seen from their clients' side.
    pub(crate) fn lives(&self) -> BTreeMap<Tuple, Life> {
        let table = self.dataplane.connection_table().unwrap();
        let lives = table.iter();
        lives
            .map(|open| (open.original, Life::unpack(open.connection.life)))
            .collect()
    }

    /// Connections, seen from their clients' side.
    pub(crate) fn connections(&self) -> usize {
        self.dataplane.connection_table().unwrap().iter().count()
    }

    /// Runs frames through the programs of another one.
    pub(crate) fn replace_dataplane(&mut self, dataplane: Dataplane) {
        self.dataplane = dataplane;
        self.tables = Tables::open(&self.pins());
    }

    pub(crate) fn dataplane(&mut self) -> &mut Dataplane {
        &mut self.dataplane
    }

    /// Takes a map away from agents to come.
    pub(crate) fn unpin(&self, map: &str) {
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(&format!("{map}_"))
        };
        let maps = fs::read_dir(self.pins().join("maps")).unwrap();
        let mut paths = maps.map(|file| file.unwrap().path());
        fs::remove_file(paths.find(is_it).unwrap()).unwrap();
    }

    /// The folder of its pins.
    pub(crate) fn pins(&self) -> PathBuf {
        self.lab.pins(1)
    }

    fn counters(&self) -> Counts {
        let counters = self.dataplane.counters().unwrap().into_iter();
        counters
            .map(|(hook, verdict, value)| ((hook.name(), verdict.name()), value))
            .collect()
    }
}
