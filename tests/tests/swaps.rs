//! A frontend whose backend set is swapped sends to the old or the new one,
//! and never anywhere else.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "swaps/reader.rs"]
mod reader;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    slice,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_agent::{
    compile::{self, Frontend, FrontendKind, Port, PortId, PortName, Set, frontend_key},
    dataplane::{Dataplane, Options, TcModeOption, XdpModeOption},
    interfaces::{Device, Interface, Kind, Peer},
    model::{self, ObjectName},
    reconcile::Reconciler,
    shortcut::ShortcutOption,
    sorted::SortedSet,
};
use lb_tests::lab::{Family, Lab, LabOptions, Protocol};
use nix::net::if_::if_nametoindex;

use self::reader::{Answers, connect, run_program};

const SWAPS: u32 = 10_000;
const PACE: Duration = Duration::from_millis(1);
/// The clock of the reconciler goes this much faster: what it lets rest after
/// use comes back many times, yet far later than any program may need it.
const HASTE: u32 = 10;
const TARGET: u16 = 8080;

/// The sets of the Service under test; they share no member.
const OLD: [&str; 2] = ["old-1", "old-2"];
const NEW: [&str; 3] = ["new-1", "new-2", "new-3"];
/// The sets of another one that comes, changes and goes right next to it.
const OTHER: [&[&str]; 3] = [&["other-1"], &["other-1", "other-2"], &[]];

fn frontend(family: Family, number: u16) -> SocketAddr {
    let text = match family {
        Family::V4 => format!("10.96.0.{number}:80"),
        Family::V6 => format!("[fd00:10:96::{number:x}]:80"),
    };
    text.parse().unwrap()
}

/// The state of one port of the Service; gone without pods.
fn port(
    lab: &Lab,
    number: u16,
    protocol: Protocol,
    family: Family,
    pods: &[&str],
) -> (PortId, Option<Port>) {
    let protocol = match protocol {
        Protocol::Tcp => model::Protocol::Tcp,
        Protocol::Udp => model::Protocol::Udp,
    };
    let to = frontend(family, number);
    let id = PortId::from(PortName {
        service: ObjectName::new("default", format!("s{number}")),
        port: String::new(),
        protocol,
        family: model::Family::of(to.ip()),
    });
    if pods.is_empty() {
        return (id, None);
    }
    let backends: SortedSet<_> = pods
        .iter()
        .map(|name| {
            let pod = lab.pod(name).unwrap();
            compile::Backend {
                address: pod.address(family),
                port: TARGET,
                local: pod.node == "node1",
            }
        })
        .collect();
    let frontend = Frontend {
        kind: FrontendKind::ClusterIp,
        inside: Set::Cluster,
        outside: Set::Cluster,
        restricted: false,
        masquerade: false,
    };
    let key = frontend_key(to.ip(), to.port(), protocol);
    let port = Port {
        id: id.clone(),
        frontends: [(key, frontend)].into(),
        cluster: backends.clone(),
        local: SortedSet::default(),
        serving: backends,
        affinity_seconds: 0,
        sources: BTreeSet::new(),
    };
    (id, Some(port))
}

fn ports(lab: &Lab, number: u16, pods: &[&str]) -> Vec<(PortId, Option<Port>)> {
    let protocols = Protocol::ALL.into_iter();
    protocols
        .flat_map(|protocol| Family::ALL.map(|family| port(lab, number, protocol, family, pods)))
        .collect()
}

/// Swaps both Services' sets until it is done, then says so.
fn swap(lab: &Lab, options: &Options, client: &Interface, ready: &AtomicBool, stop: &AtomicBool) {
    let mut dataplane = Dataplane::open(options).unwrap();
    assert_eq!(dataplane.sync_interfaces(slice::from_ref(client)), []);
    let mut reconciler = Reconciler::new(dataplane.snapshot().unwrap());
    let sets: [Vec<_>; 2] = [ports(lab, 1, &OLD), ports(lab, 1, &NEW)];
    let others: [Vec<_>; 3] = OTHER.map(|pods| ports(lab, 2, pods));
    let start = Instant::now();
    for swap in 0..=SWAPS {
        let now = start.elapsed() * HASTE;
        let mut changes = sets[swap as usize % sets.len()].clone();
        changes.extend(others[swap as usize % others.len()].iter().cloned());
        reconciler.apply(changes, now, &mut dataplane);
        assert_eq!(reconciler.failures(), 0);
        ready.store(true, Ordering::Relaxed);
        thread::sleep((PACE * swap).saturating_sub(start.elapsed()));
    }
    stop.store(true, Ordering::Relaxed);
}

/// Every answer is one of `allowed`, and each of these was given.
fn check(what: &str, answers: &Answers, allowed: &BTreeSet<String>) {
    println!("{what}: {answers:?}");
    let found: BTreeSet<String> = answers.keys().cloned().collect();
    assert_eq!(found, *allowed, "{what}: {answers:?}");
}

#[test]
fn ten_thousand_swaps_lead_nobody_astray() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let shell = lab.add_pod(1, "shell").unwrap();
    let pods = || OLD.into_iter().chain(NEW).chain(["other-1", "other-2"]);
    for (node, name) in [1, 2].into_iter().cycle().zip(pods()) {
        let pod = lab.add_pod(node, name).unwrap();
        lab.serve(&pod, &Protocol::ALL.map(|protocol| (protocol, TARGET)))
            .unwrap();
    }
    let options = Options {
        bpffs: lab.pins(1),
        xdp: XdpModeOption::Off,
        tc: TcModeOption::Auto,
        connections: lb_agent::connections::Settings::default(),
        shortcut: ShortcutOption::Never,
        trace_packets: false,
    };
    let node = &lab.node(1).netns;
    let name = shell.interface.as_str();
    let index = node.run(|| if_nametoindex(name)).unwrap();
    let client = Interface {
        index,
        name: name.to_owned(),
        kind: Kind::Pod,
        device: Device::Veth {
            peer_elsewhere: true,
        },
        mac: None,
        addresses: Vec::new(),
        up: true,
        is_port: false,
        peer: Peer::Unreachable,
    };

    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let swapper = scope.spawn(|| node.run(|| swap(&lab, &options, &client, &ready, &stop)));
        while !ready.load(Ordering::Relaxed) {
            assert!(!swapper.is_finished(), "the swapper has failed");
            thread::sleep(Duration::from_millis(10));
        }
        let programs = Family::ALL.map(|family| {
            let client = shell.address(family);
            let (options, stop) = (&options, &stop);
            let run = move |number| {
                node.run(|| run_program(options, index, client, frontend(family, number), stop))
            };
            [1, 2].map(|number| scope.spawn(move || run(number)))
        });
        let clients = Protocol::ALL.map(|protocol| {
            let (shell, stop) = (&shell, &stop);
            Family::ALL.map(|family| {
                let to = frontend(family, 1);
                scope.spawn(move || shell.netns.run(|| connect(protocol, to, stop)))
            })
        });
        let swapped = swapper.join();
        // Also when the swapper has panicked.
        stop.store(true, Ordering::Relaxed);
        let names = OLD.into_iter().chain(NEW).map(str::to_owned).collect();
        for (protocol, clients) in Protocol::ALL.into_iter().zip(clients) {
            for (family, client) in Family::ALL.into_iter().zip(clients) {
                let answers = client.join().unwrap();
                check(&format!("{protocol} {family}"), &answers, &names);
            }
        }
        for (family, programs) in Family::ALL.into_iter().zip(programs) {
            let address = |name: &str| lab.pod(name).unwrap().address(family).to_string();
            let own = OLD.into_iter().chain(NEW).map(address).collect();
            // Gone at times, it leaves packets as they are.
            let others = [address("other-1"), address("other-2")];
            let others = others.into_iter();
            let others = others.chain([frontend(family, 2).ip().to_string()]);
            let allowed = [own, others.collect()];
            for (allowed, program) in allowed.into_iter().zip(programs) {
                let answers = program.join().unwrap();
                check(&format!("program {family}"), &answers, &allowed);
            }
        }
        swapped.unwrap();
    });
}
