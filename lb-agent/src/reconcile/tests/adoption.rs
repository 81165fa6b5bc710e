//! A new agent on maps that an earlier one left, or something else did.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use ipnet::IpNet;
use lb_common::{Backend, Frontend, FrontendKey, Slice, maps};
use proptest::prelude::*;

use super::{
    super::{Reconciler, Snapshot},
    Scene,
    memory::Memory,
    world::{World, changes, check, go, key, port, settle, wanted, world},
};
use crate::compile::Port;

fn full() -> Vec<Port> {
    vec![
        port("a", &[1, 2], &[1, 2, 3], &[3]),
        port("b", &[3], &[1], &[1]),
        port("c", &[4], &[], &[]),
        port("d", &[5, 6, 7], &[1, 2, 3, 4, 5, 6], &[]),
    ]
}

/// Replaces the agent, which then finds `new` as its first full list.
fn restart(scene: &mut Scene, new: World) {
    scene.reconciler = Reconciler::new(scene.memory.snapshot());
    scene.memory.now = Duration::ZERO;
    scene.memory.rules = None;
    let none = World::new();
    let applied = changes(&none, &new);
    scene
        .reconciler
        .apply(applied, Duration::ZERO, &mut scene.memory);
    scene.reconciler.sweep(Duration::ZERO, &mut scene.memory);
    settle(&mut scene.reconciler, &mut scene.memory);
    check(&scene.reconciler, &scene.memory, &new);
    scene.world = new;
}

#[test]
fn what_is_as_wanted_is_left_alone() {
    let mut scene = Scene::new(full());
    // Some history: ids out of order, retired ones, slots beyond the first.
    for cluster in [&[2, 3, 4][..], &[1, 4], &[1, 2, 3]] {
        let mut new = scene.world.clone();
        let changed = port("a", &[1, 2], cluster, &[3]);
        new.insert(changed.id.clone(), changed);
        scene.memory.now += Duration::from_secs(90);
        scene.become_(new);
    }
    scene.memory.writes.clear();
    let same = scene.world.clone();
    restart(&mut scene, same);
    assert_eq!(scene.memory.writes, [""; 0]);
}

#[test]
fn only_what_changed_meanwhile_is_written() {
    type Change = fn(&mut World);
    let table: [(&str, Change, &[&str]); 4] = [
        (
            "a service went",
            |world| drop(world.remove(&super::world::id("b"))),
            &["delete 10.96.0.3:80", "retire 3.2"],
        ),
        (
            "a service came",
            |world| drop(world.insert(super::world::id("e"), port("e", &[9], &[7], &[]))),
            &[
                "backend 10.1 10.0.0.7:8080",
                "slots 11: 10",
                "frontend 10.96.0.9:80 11+1 1+0",
            ],
        ),
        (
            "an endpoint went",
            |world| drop(world.insert(super::world::id("a"), port("a", &[1, 2], &[1, 3], &[3]))),
            &[
                "slots 11: 0 2",
                "frontend 10.96.0.1:80 11+2 3+1",
                "frontend 10.96.0.2:80 11+2 3+1",
                "retire 1.2",
            ],
        ),
        (
            "a frontend went",
            |world| drop(world.insert(super::world::id("a"), port("a", &[1], &[1, 2, 3], &[3]))),
            &["delete 10.96.0.2:80"],
        ),
    ];
    for (what, change, writes) in table {
        let mut scene = Scene::new(full());
        let mut new = scene.world.clone();
        change(&mut new);
        scene.memory.writes.clear();
        restart(&mut scene, new);
        assert_eq!(scene.memory.writes, writes, "{what}");
    }
}

/// Nothing goes before the sweep: until then the list may not be complete.
#[test]
fn services_that_nobody_named_yet_stay() {
    let mut scene = Scene::new(full());
    let before = scene.memory.shown();
    let mut reconciler = Reconciler::new(scene.memory.snapshot());
    scene.memory.writes.clear();
    let first = world([port("a", &[1, 2], &[1, 2, 3], &[3])]);
    reconciler.apply(
        changes(&World::new(), &first),
        Duration::ZERO,
        &mut scene.memory,
    );
    assert_eq!(scene.memory.shown(), before);
    assert_eq!(scene.memory.writes, [""; 0]);
}

#[test]
fn a_refused_write_after_a_restart_leaves_services_as_they_were() {
    let new = || {
        world([
            // Two frontends change hands, and all backends change.
            port("a", &[2, 3], &[4, 5], &[5]),
            port("b", &[1, 4], &[2], &[2]),
            port("d", &[5, 6, 7], &[1, 2, 3, 4, 5, 6], &[]),
        ])
    };
    for first in 0..40 {
        let mut scene = Scene::new(full());
        scene.reconciler = Reconciler::new(scene.memory.snapshot());
        scene.memory.refuse = [scene.memory.attempts + first].into();
        scene.memory.sticky = true;
        scene.world = World::new();
        go(
            &mut scene.reconciler,
            &mut scene.memory,
            &World::new(),
            &new(),
        );
        let now = scene.memory.now;
        scene.reconciler.sweep(now, &mut scene.memory);
        scene.world = new();
        for turn in 0..20 {
            scene.memory.now += Duration::from_secs(10);
            let busy = port("z", &[200], &[200 + turn % 2, 210 + turn % 2], &[]);
            let mut next = scene.world.clone();
            next.insert(busy.id.clone(), busy);
            go(
                &mut scene.reconciler,
                &mut scene.memory,
                &scene.world,
                &next,
            );
            scene.world = next;
            let now = scene.memory.now;
            scene.reconciler.retry(now, &mut scene.memory);
        }
        scene.memory.stuck.clear();
        settle(&mut scene.reconciler, &mut scene.memory);
        check(&scene.reconciler, &scene.memory, &scene.world);
    }
}

/// Numbers near the edges, and such as the maps really hold.
fn number() -> impl Strategy<Value = u32> {
    let slots = maps::SLOTS as u32;
    prop_oneof![
        0..12_u32,
        slots - 3..slots + 3,
        u32::MAX - 2..=u32::MAX,
        any::<u32>()
    ]
}

fn slice() -> impl Strategy<Value = u64> {
    (number(), prop_oneof![0..6_u32, number()])
        .prop_map(|(base, count)| Slice { base, count }.pack())
}

fn frontend() -> impl Strategy<Value = (FrontendKey, Frontend)> {
    let service = prop_oneof![0..5_u32, number()];
    let numbers = (0..3_u32, prop_oneof![Just(0), 15..20_u32, number()]);
    (1..10_u8, service, slice(), slice(), any::<bool>(), numbers).prop_map(
        |(at, service, inside, outside, checked, (affinity_seconds, sources))| {
            let check = if checked { key(at).check() } else { at.into() };
            let frontend = Frontend {
                check,
                service,
                inside,
                outside,
                affinity_seconds,
                sources,
                flags: 0,
                reserved: 0,
            };
            (key(at), frontend)
        },
    )
}

fn record() -> impl Strategy<Value = Backend> {
    let service = prop_oneof![0..5_u32, number()];
    (0..8_u8, any::<bool>(), 0..4_u8, service, number()).prop_map(
        |(at, local, flags, service, generation)| Backend {
            flags,
            generation,
            service,
            address: super::world::backend(at, local).address.into(),
            port: 8080_u16.to_be(),
            ..Backend::default()
        },
    )
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let id = prop_oneof![
        99 => 0..12_u32,
        1 => maps::BACKENDS as u32 - 3..maps::BACKENDS as u32,
    ];
    let frontends = prop::collection::btree_map(
        (1..10_u8).prop_map(key),
        frontend().prop_map(|(_, frontend)| frontend),
        0..8,
    );
    let backends = prop::collection::btree_map(id.clone(), record(), 0..10);
    let slots = prop::collection::vec(prop::collection::vec(number(), 0..6), 8);
    let networks = (1..4_u8).prop_map(|n| IpNet::from(IpAddr::from([198, 51, 100, n])));
    let networks = prop::collection::btree_set(networks, 1..3);
    let sources = prop::collection::btree_map(16..20_u32, networks, 0..3);
    let maps = (frontends, backends, slots, sources);
    maps.prop_map(|(frontends, backends, slots, sources)| {
        let slices = frontends.values().flat_map(|f| [f.inside, f.outside]);
        Snapshot {
            slots: slices
                .map(Slice::unpack)
                .zip(slots)
                .collect::<HashMap<_, _>>(),
            frontends: frontends.into_iter().collect(),
            backends: backends.into_iter().collect(),
            sources,
            first_generation: 0,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(512)
    })]

    #[test]
    fn corrupt_maps_end_as_wanted(snapshot in snapshot()) {
        let mut memory = Memory::holding(&snapshot);
        let mut reconciler = Reconciler::new(snapshot);
        let wish = world(full());
        reconciler.apply(changes(&World::new(), &wish), Duration::ZERO, &mut memory);
        reconciler.sweep(Duration::ZERO, &mut memory);
        settle(&mut reconciler, &mut memory);
        prop_assert_eq!(memory.shown(), wanted(&wish));
        check(&reconciler, &memory, &wish);
    }
}

/// An agent that starts on manifests it cannot all read keeps what the kernel
/// has; once it can, the truth counts.
#[test]
fn members_are_inherited_until_all_is_read() {
    for (seen, until_read) in [
        (&[][..], &[1, 2, 3][..]),
        (&[2], &[1, 2, 3]),
        (&[2, 4], &[1, 2, 3, 4]),
    ] {
        let mut scene = Scene::new(vec![port("a", &[1], &[1, 2, 3], &[3])]);
        let said = world([port("a", &[1], seen, &[])]);
        scene.reconciler = Reconciler::new(scene.memory.snapshot());
        scene.memory.now = Duration::ZERO;
        scene.memory.rules = None;
        scene.reconciler.inherit_until_sweep();
        let applied = changes(&World::new(), &said);
        let now = Duration::ZERO;
        scene.reconciler.apply(applied, now, &mut scene.memory);
        let shown = scene.memory.shown();
        let expect = wanted(&world([port("a", &[1], until_read, &[3])]));
        assert_eq!(shown, expect, "{seen:?}");

        scene.reconciler.sweep(now, &mut scene.memory);
        assert_eq!(scene.memory.shown(), wanted(&said), "{seen:?}");
    }
}

/// A second backend of the same endpoint is left over when it could not be
/// retired before it came back; either may be the one that is shown.
#[test]
fn a_spare_backend_is_not_retired_while_it_is_shown() {
    for shown in [0, 1] {
        let wish = world([port("c", &[4], &[4], &[])]);
        let mut scene = Scene::new(wish.into_values());
        let mut second = scene.memory.backends[&0];
        second.generation += 1;
        scene.memory.backends.insert(1, second);
        let slot = scene.memory.slots.values_mut().next().unwrap();
        *slot = shown;
        scene.memory.rules = None;
        scene.reconciler = Reconciler::new(scene.memory.snapshot());

        let said = world([port("c", &[4], &[1], &[])]);
        scene.memory.refuse = [scene.memory.attempts].into();
        let now = Duration::from_secs(60);
        scene.memory.now = now;
        go(
            &mut scene.reconciler,
            &mut scene.memory,
            &World::new(),
            &said,
        );
        scene.reconciler.sweep(now, &mut scene.memory);
        let before = world([port("c", &[4], &[4], &[])]);
        assert_eq!(scene.memory.shown(), wanted(&before), "{shown}");

        settle(&mut scene.reconciler, &mut scene.memory);
        scene.reconciler.retry(scene.memory.now, &mut scene.memory);
        check(&scene.reconciler, &scene.memory, &said);
    }
}
