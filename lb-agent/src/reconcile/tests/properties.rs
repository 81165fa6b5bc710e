//! Any state to any other, with refusals, pauses and restarts on the way.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ipnet::IpNet;
use proptest::prelude::*;

use super::{
    super::Reconciler,
    memory::Memory,
    world::{World, check, go, id, key, settle, wanted},
};
use crate::{
    compile::{Backend, Frontend, FrontendKind, Port, Set},
    sorted::SortedSet,
};

fn set() -> impl Strategy<Value = Set> {
    prop_oneof![
        4 => Just(Set::Cluster),
        4 => Just(Set::Local),
        1 => Just(Set::Nobody)
    ]
}

fn frontend() -> impl Strategy<Value = Frontend> {
    let flags = (any::<bool>(), any::<bool>());
    (set(), set(), flags).prop_map(|(inside, outside, (restricted, masquerade))| Frontend {
        kind: FrontendKind::ClusterIp,
        inside,
        outside,
        restricted,
        masquerade,
    })
}

/// A port on frontends that other ports want too. Which endpoints are local
/// changes, as when a pod's address is given to another node.
fn any_port(name: &'static str) -> impl Strategy<Value = Option<Port>> {
    let frontends = prop::collection::btree_map((1..7_u8).prop_map(key), frontend(), 0..4);
    let subset = || prop::collection::btree_set(1..7_u8, 0..6);
    let sets = (subset(), subset(), subset(), subset());
    let sources = prop::collection::btree_set(1..4_u8, 0..3);
    let port = (frontends, sets, sources, 0..3_u32);
    let port = port.prop_map(move |(frontends, sets, sources, affinity_seconds)| {
        let (locals, cluster, local, serving) = sets;
        let members = |numbers: BTreeSet<u8>| -> SortedSet<Backend> {
            let member = |n: u8| super::world::backend(n, locals.contains(&n));
            numbers.into_iter().map(member).collect()
        };
        Port {
            id: id(name),
            frontends: frontends.into_iter().collect(),
            cluster: members(cluster),
            local: members(local.intersection(&locals).copied().collect()),
            serving: members(serving),
            affinity_seconds,
            sources: sources
                .into_iter()
                .map(|n| IpNet::from(IpAddr::from([198, 51, 100, n])))
                .collect(),
        }
    });
    prop::option::weighted(0.8, port)
}

fn any_world() -> impl Strategy<Value = World> {
    let ports = (any_port("a"), any_port("b"), any_port("c"), any_port("d"));
    ports.prop_map(|(a, b, c, d)| {
        let ports = [a, b, c, d].into_iter().flatten();
        ports.map(|port| (port.id.clone(), port)).collect()
    })
}

#[derive(Clone, Debug)]
struct Turn {
    world: World,
    refused: BTreeSet<usize>,
    sticky: bool,
    /// Before it.
    pause: Duration,
    /// A new agent takes over before it.
    restart: bool,
}

fn turn() -> impl Strategy<Value = Turn> {
    let pause = prop_oneof![Just(0), 1..8_u64, 50..100_u64];
    let refused = prop_oneof![
        3 => Just(BTreeSet::new()),
        2 => prop::collection::btree_set(0..30_usize, 0..6),
    ];
    (
        any_world(),
        refused,
        any::<bool>(),
        pause,
        prop::bool::weighted(0.2),
    )
        .prop_map(|(world, refused, sticky, pause, restart)| Turn {
            world,
            refused,
            sticky,
            pause: Duration::from_secs(pause),
            restart,
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(512)
    })]

    #[test]
    fn every_write_on_the_way_keeps_the_rules(turns in prop::collection::vec(turn(), 1..7)) {
        let mut memory = Memory::default();
        let mut reconciler = Reconciler::new(memory.snapshot());
        let mut world = World::new();
        for turn in turns {
            memory.now += turn.pause;
            let start = memory.attempts;
            memory.refuse = turn.refused.iter().map(|n| start + n).collect();
            memory.sticky = turn.sticky;
            if turn.restart {
                // It takes longer than a program may still read old slots.
                memory.now += Duration::from_secs(5);
                reconciler = Reconciler::new(memory.snapshot());
                world = World::new();
            }
            go(&mut reconciler, &mut memory, &world, &turn.world);
            if turn.restart {
                reconciler.sweep(memory.now, &mut memory);
            }
            world = turn.world;
            for _ in 0..3 {
                memory.now += Duration::from_secs(1);
                reconciler.retry(memory.now, &mut memory);
            }
            if memory.stuck.is_empty() && reconciler.failures() == 0 {
                check(&reconciler, &memory, &world);
            }
        }
        memory.refuse.clear();
        memory.stuck.clear();
        settle(&mut reconciler, &mut memory);
        prop_assert_eq!(memory.shown(), wanted(&world));
        check(&reconciler, &memory, &world);
        memory.now += Duration::from_secs(10);
        reconciler.retry(memory.now, &mut memory);
        prop_assert_eq!(reconciler.stock.sources.resting(), 0);
        check(&reconciler, &memory, &world);
    }
}
