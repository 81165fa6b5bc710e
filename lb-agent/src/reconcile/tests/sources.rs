//! Sets of sources: shared, and no burden to others.

use std::{collections::BTreeSet, time::Duration};

use ipnet::IpNet;

use super::{
    super::{Reconciler, Snapshot},
    memory::Memory,
    world::{World, changes, check, go, key, port, settle, wanted, world},
};
use crate::compile::{FrontendKind, Port};

/// A port whose only frontend is a load balancer IP that lets in as many
/// networks.
fn restricted(name: &str, frontend: u8, networks: u8) -> Port {
    let mut port = port(name, &[frontend], &[1], &[]);
    for frontend in port.frontends.values_mut() {
        frontend.kind = FrontendKind::LoadBalancerIp;
        frontend.restricted = true;
    }
    port.sources = (0..networks)
        .map(|n| IpNet::from(std::net::IpAddr::from([10, 0, n, 1])))
        .collect();
    port
}

#[test]
fn ports_that_let_in_the_same_share_a_set() {
    let mut memory = Memory::default();
    let mut reconciler = Reconciler::new(Snapshot::default());
    let mut held = World::new();
    // Ports with the number of networks they let in, and the sets then written
    // and, after their rest, still there.
    type Ports = &'static [(&'static str, u8)];
    let table: [(Ports, usize, usize); 6] = [
        (&[("a", 2), ("b", 2), ("c", 3)], 2, 2),
        (&[("a", 2), ("b", 2)], 0, 1),
        (&[("b", 2)], 0, 1),
        (&[("a", 2), ("b", 3)], 1, 2),
        (&[("a", 0), ("b", 3)], 0, 1),
        (&[], 0, 0),
    ];
    for (restart, (ports, writes, left)) in [false, true]
        .into_iter()
        .flat_map(|restart| table.map(|row| (restart, row)))
    {
        if restart {
            memory.rules = None;
            reconciler = Reconciler::new(memory.snapshot());
            held = World::new();
        }
        let wish = world(
            (1..)
                .zip(ports)
                .map(|(n, (name, networks))| restricted(name, n, *networks)),
        );
        let before = memory.writes.len();
        go(&mut reconciler, &mut memory, &held, &wish);
        if restart {
            reconciler.sweep(memory.now, &mut memory);
        }
        let written = memory.writes[before..].iter();
        let written = written.filter(|line| line.starts_with("sources")).count();
        assert_eq!(written, writes, "{ports:?}, restart {restart}");
        memory.now += Duration::from_secs(10);
        reconciler.retry(memory.now, &mut memory);
        assert_eq!(memory.sources.len(), left, "{ports:?}, restart {restart}");
        check(&reconciler, &memory, &wish);
        held = wish;
    }
}

/// What does not fit leaves its room to what does, and its number too.
#[test]
fn a_set_that_is_refused_leaves_nothing_behind() {
    let (big, small) = (restricted("big", 1, 5), restricted("small", 2, 1));
    let mut memory = Memory::default();
    memory.room = Some(4);
    let mut reconciler = Reconciler::new(Snapshot::default());
    let wish = world([big, small.clone()]);
    reconciler.apply(changes(&World::new(), &wish), Duration::ZERO, &mut memory);
    for second in 1..5 {
        memory.now = Duration::from_secs(second);
        reconciler.retry(memory.now, &mut memory);
        assert_eq!(reconciler.failures(), 1);
        assert_eq!(memory.shown(), wanted(&world([small.clone()])));
        assert_eq!(memory.networks_held(), 1);
    }
    memory.room = None;
    settle(&mut reconciler, &mut memory);
    check(&reconciler, &memory, &wish);
}

#[test]
fn a_garbage_number_is_no_place_to_count_on_from() {
    let found: BTreeSet<IpNet> = ["10.0.0.0/8".parse().unwrap()].into();
    let snapshot = Snapshot {
        sources: [(u32::MAX, found)].into(),
        ..Snapshot::default()
    };
    let mut memory = Memory::holding(&snapshot);
    let mut reconciler = Reconciler::new(snapshot);
    let wish = world([restricted("a", 1, 2)]);
    reconciler.apply(changes(&World::new(), &wish), Duration::ZERO, &mut memory);
    reconciler.sweep(Duration::ZERO, &mut memory);
    memory.now = Duration::from_secs(10);
    reconciler.retry(memory.now, &mut memory);
    check(&reconciler, &memory, &wish);
    assert_eq!(memory.sources.keys().copied().collect::<Vec<_>>(), [16]);
}

/// A controller gives load balancer IPs, anyone writes external ones.
#[test]
fn an_external_ip_does_not_take_a_load_balancer_ip() {
    let bank = restricted("bank", 1, 1);
    let mut thief = port("a-thief", &[1], &[66], &[]);
    for frontend in thief.frontends.values_mut() {
        frontend.kind = FrontendKind::ExternalIp;
    }
    let mut memory = Memory::default();
    let mut reconciler = Reconciler::new(Snapshot::default());
    let wish = world([bank, thief]);
    reconciler.apply(changes(&World::new(), &wish), Duration::ZERO, &mut memory);
    let owner = reconciler.owner(&key(1)).unwrap();
    assert_eq!(owner.service.name, "bank");
}
