//! A node with many Services, and its programs, in a namespace of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf,
    maps::{Array, MapData, ProgramArray},
    programs::{Program, ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use bytemuck::{Pod, Zeroable};
use lb_agent::{
    compile::{
        Backend, Frontend, FrontendKind, Port, PortId, PortName, Set, endpoint_frontends,
        frontend_key,
    },
    connections::{self, Limits},
    dataplane::{Collector, Dataplane, Options, TcModeOption, XdpModeOption},
    model::{Family, ObjectName, Protocol},
    node,
    reconcile::{Reconciler, Snapshot},
    shortcut::ShortcutOption,
    sorted::SortedSet,
};
use lb_common::{Hook, Verdict};
use nix::net::if_::if_nameindex;

use crate::{
    lab::{self, Netns, Residue, forwarding, stay_on_this_cpu},
    packet::{
        Place, Table, at, context,
        wiring::{self, outer},
    },
};

/// The node's own traffic is not to be counted, nor what it says to answer.
const SILENCE: &str = "table inet silence {
    chain in { type filter hook prerouting priority raw; policy drop; }
    chain out { type filter hook output priority raw; policy drop; }
}";

pub(super) struct Node {
    dataplane: Dataplane,
    reconciler: Reconciler,
    replay: Ebpf,
    template: Array<MapData, Template>,
    unassured: Table,
    collector: Collector,
    indices: BTreeMap<String, u32>,
}

/// Network of many backends behind the second uplink.
pub(super) const ELSEWHERE: &str = "10.10.1";

/// As `lb-bench` has it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Template {
    pub(super) head: [u8; HEAD],
    pub(super) flows: u32,
    pub(super) end: u32,
}

pub(super) const HEAD: usize = 80;

// SAFETY: plain numbers without padding.
unsafe impl aya::Pod for Template {}

/// Works with a node on a thread inside its namespace that stays on one CPU.
pub(super) fn with<T: Send>(
    object: &Path,
    limits: Limits,
    work: impl FnOnce(&mut Node) -> Result<T> + Send,
) -> Result<T> {
    let residue = Residue::new()?;
    let netns = Netns::create(format!("{}-node", residue.id()))?;
    forwarding(&netns)?;
    netns.ip(&format!(
        "link set lo up\n{}route add {ELSEWHERE}.0/24 via {}\n",
        wiring::batch(),
        outer(1, 2).get(lab::Family::V4),
    ))?;
    netns.nft(SILENCE)?;
    let options = Options {
        bpffs: residue.id().pins(),
        xdp: XdpModeOption::Native,
        tc: TcModeOption::Auto,
        trace_packets: false,
        connections: connections::Settings {
            limits,
            ..connections::Settings::default()
        },
        shortcut: ShortcutOption::Always,
    };
    netns.run(|| {
        stay_on_this_cpu()?;
        work(&mut Node::open(&options, object)?)
    })
}

impl Node {
    fn open(options: &Options, object: &Path) -> Result<Self> {
        let mut dataplane = Dataplane::open(options)?;
        let all = if_nameindex().context("listing interfaces")?;
        let index = |interface: &nix::net::if_::Interface| {
            let name = interface.name().to_string_lossy().into_owned();
            (name, interface.index())
        };
        let indices: BTreeMap<String, u32> = all.iter().map(index).collect();
        let errors = dataplane.sync_interfaces(&wiring::interfaces(&indices));
        if let Some(error) = errors.first() {
            bail!("{error}");
        }
        dataplane.forget_other_versions();
        let collector = dataplane.collector(&options.connections.timeouts)?;
        dataplane.configure(&node::Settings {
            pods_by_interface: true,
            pod_networks: BTreeSet::new(),
            service_networks: BTreeSet::new(),
        })?;
        let mut replay = aya::EbpfLoader::new()
            .load_file(object)
            .with_context(|| format!("loading {}", object.display()))?;
        for name in ["empty", "floor", "replay_xdp"] {
            let program: &mut Xdp = replay.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        let program: &mut SchedClassifier = replay
            .program_mut("replay_tc")
            .context("replay_tc")?
            .try_into()?;
        program.load()?;
        let template = replay.take_map("TEMPLATE").context("TEMPLATE")?;
        Ok(Self {
            dataplane,
            reconciler: Reconciler::new(Snapshot::default()),
            template: Array::try_from(template)?,
            collector,
            unassured: Table::unassured(&options.bpffs)?,
            replay,
            indices,
        })
    }

    /// Makes clusterIPs with three backends each, to fill the tables.
    pub(super) fn fill(&mut self, services: u32) -> Result<()> {
        let changes = (0..services).map(|number| {
            let address = |network: u8, number: u32| {
                IpAddr::from(Ipv4Addr::from(
                    (u32::from(network) << 24) + (1 << 20) + number,
                ))
            };
            let backends = (0..3).map(|i| (address(20, number * 4 + i), false));
            let frontend = SocketAddr::new(address(21, number), 80);
            let port = port(
                &format!("filler-{number}"),
                Protocol::Udp,
                frontend,
                backends,
            );
            (port.id.clone(), Some(port))
        });
        let changes = changes.collect();
        self.apply(changes)
    }

    /// Makes a service port.
    pub(super) fn serve(
        &mut self,
        name: &str,
        protocol: Protocol,
        frontend: SocketAddr,
        backends: &[IpAddr],
        local: bool,
    ) -> Result<()> {
        let backends = backends.iter().map(|&backend| (backend, local));
        let port = port(name, protocol, frontend, backends);
        self.apply(vec![(port.id.clone(), Some(port))])
    }

    fn apply(&mut self, changes: Vec<(PortId, Option<Port>)>) -> Result<()> {
        self.reconciler
            .apply(changes, Duration::ZERO, &mut self.dataplane);
        let failures = self.reconciler.failures();
        ensure!(failures == 0, "the kernel refused {failures} writes");
        Ok(())
    }

    /// The programs of the benchmark.
    pub(super) const fn own(&mut self) -> &mut Ebpf {
        &mut self.replay
    }

    /// Nanoseconds for each of the repetitions of a program of the benchmark.
    pub(super) fn run_own(&mut self, name: &str, repeat: u32) -> Result<f64> {
        self.run_replay(name, at_uplink(), repeat)
    }

    /// Runs a program of the benchmark on the template by way of the replay.
    pub(super) fn replay_own(
        &mut self,
        name: &str,
        template: &Template,
        repeat: u32,
    ) -> Result<f64> {
        let program: &Xdp = self.replay.program(name).context("program")?.try_into()?;
        let fd = program.fd()?.try_clone()?;
        self.replay_in_place_of_own(&fd, template, repeat)
    }

    /// As [`Self::replay_own`], for a program that is much the same.
    pub(super) fn replay_in_place_of_own(
        &mut self,
        program: &ProgramFd,
        template: &Template,
        repeat: u32,
    ) -> Result<f64> {
        self.aim("XDP_PROGRAM", program, template)?;
        self.run_replay("replay_xdp", at_uplink(), repeat)
    }

    /// The hook's program and its name.
    pub(super) fn program(&mut self, hook: Hook) -> Result<(&'static str, &Program)> {
        let name = match hook {
            Hook::Xdp => "lb_xdp",
            Hook::TcIngress => "lb_ingress",
            Hook::TcEgress => "lb_egress",
        };
        Ok((name, self.dataplane.ebpf_mut().program(name).context(name)?))
    }

    /// Nanoseconds for each packet in the hook's program, which must come to
    /// this verdict about every one.
    pub(super) fn replay(
        &mut self,
        place: Place,
        template: &Template,
        repeat: u32,
        verdict: Verdict,
    ) -> Result<f64> {
        let fd = match self.program(place.hook)? {
            (_, Program::Xdp(program)) => program.fd()?.try_clone()?,
            (_, Program::SchedClassifier(program)) => program.fd()?.try_clone()?,
            (name, _) => bail!("{name} is another kind of program"),
        };
        self.replay_in_place(&fd, place, template, repeat, verdict)
    }

    /// As [`Self::replay`], in a program that is much the same as the hook's.
    pub(super) fn replay_in_place(
        &mut self,
        program: &ProgramFd,
        place: Place,
        template: &Template,
        repeat: u32,
        verdict: Verdict,
    ) -> Result<f64> {
        let (by, map) = match place.hook {
            Hook::Xdp => ("replay_xdp", "XDP_PROGRAM"),
            Hook::TcIngress | Hook::TcEgress => ("replay_tc", "TC_PROGRAM"),
        };
        self.aim(map, program, template)?;
        let before = self.dataplane.counters()?;
        let took = self.run_replay(by, place, repeat)?;
        let counted = |all: &[(Hook, Verdict, u64)]| {
            let ours = all
                .iter()
                .find(|one| (one.0, one.1) == (place.hook, verdict));
            ours.map_or(0, |one| one.2)
        };
        let after = self.dataplane.counters()?;
        let times = counted(&after) - counted(&before);
        // Of many flows, some share a set with too many others.
        let forgotten = match template.flows {
            1 => 0,
            _ => u64::from(repeat) / 100,
        };
        ensure!(
            (u64::from(repeat) - forgotten..=u64::from(repeat)).contains(&times),
            "{place:?}: {} of {repeat} packets were {}: {after:?}",
            times,
            verdict.name()
        );
        Ok(took)
    }

    /// Empties the table of connections of which only one side was heard, and does
    /// what an agent does every second.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.unassured.clear()?;
        // The walk that has begun before goes to its end, and then another one.
        for _ in 0..2 {
            while self.collector.tick()?.unassured.is_none() {}
        }
        Ok(())
    }

    fn aim(&mut self, map: &str, program: &ProgramFd, template: &Template) -> Result<()> {
        let map = self.replay.map_mut(map).context("no such map")?;
        ProgramArray::try_from(map)?.set(0, program, 0)?;
        self.template.set(0, template, 0)?;
        Ok(())
    }

    fn run_replay(&mut self, name: &str, place: Place, repeat: u32) -> Result<f64> {
        let context = context(place, |name| self.indices[name], HEAD as u32);
        let frame = [0_u8; HEAD];
        let mut out = [0_u8; HEAD + 256];
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let result = match self.replay.program(name).context("program")? {
            Program::Xdp(program) => program.test_run(options),
            Program::SchedClassifier(program) => program.test_run(options),
            _ => bail!("{name} is another kind of program"),
        };
        Ok(result.with_context(|| name.to_owned())?.duration.as_nanos() as f64)
    }
}

fn at_uplink() -> Place {
    at(Hook::Xdp, "up1")
}

fn port(
    name: &str,
    protocol: Protocol,
    frontend: SocketAddr,
    backends: impl Iterator<Item = (IpAddr, bool)>,
) -> Port {
    let backends: SortedSet<Backend> = backends
        .map(|(address, local)| Backend {
            address,
            port: 8080,
            local,
        })
        .collect();
    let open = Frontend {
        kind: FrontendKind::ClusterIp,
        inside: Set::Cluster,
        outside: Set::Cluster,
        restricted: false,
        masquerade: false,
    };
    let key = frontend_key(frontend.ip(), frontend.port(), protocol);
    Port {
        id: PortId::from(PortName {
            service: ObjectName::new("default", name),
            port: String::new(),
            protocol,
            family: Family::of(frontend.ip()),
        }),
        frontends: endpoint_frontends([&backends], protocol)
            .chain([(key, open)])
            .collect(),
        cluster: backends.clone(),
        local: SortedSet::default(),
        serving: backends,
        affinity_seconds: 0,
        sources: BTreeSet::new(),
    }
}
