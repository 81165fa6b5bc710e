//! Writes that the kernel refuses.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Scene,
    world::{World, check, go, port, settle, world},
};
use crate::compile::Port;

/// Every single write of the way, and all from each one on, refused.
fn check_refusals(what: &str, old: &[Port], new: &[Port]) {
    let all = {
        let mut scene = Scene::new(old.iter().cloned());
        let before = scene.memory.attempts;
        scene.become_(world(new.iter().cloned()));
        scene.memory.attempts - before
    };
    assert!(all > 0, "{what}: nothing to refuse");
    for first in 0..all {
        for (count, sticky) in [(1, false), (2, false), (1000, false), (1, true)] {
            let mut scene = Scene::new(old.iter().cloned());
            let start = scene.memory.attempts + first;
            scene.memory.refuse = (start..start + count).collect();
            scene.memory.sticky = sticky;
            let new: World = world(new.iter().cloned());
            go(&mut scene.reconciler, &mut scene.memory, &scene.world, &new);
            assert!(
                scene.reconciler.failures() > 0,
                "{what}: write {first} of {all}"
            );
            scene.world = new;
            // Others take every id and slot that is given up meanwhile.
            for turn in 0..20 {
                scene.memory.now += Duration::from_secs(10);
                let busy = port("z", &[200], &[200 + turn % 2, 210 + turn % 2], &[]);
                let mut new = scene.world.clone();
                new.insert(busy.id.clone(), busy);
                go(&mut scene.reconciler, &mut scene.memory, &scene.world, &new);
                scene.world = new;
                let now = scene.memory.now;
                scene.reconciler.retry(now, &mut scene.memory);
            }
            scene.memory.refuse.clear();
            scene.memory.stuck.clear();
            settle(&mut scene.reconciler, &mut scene.memory);
            check(&scene.reconciler, &scene.memory, &scene.world);
        }
    }
}

#[test]
fn a_refused_write_leaves_a_service_as_it_was_and_is_made_up_for() {
    let (none, one): (&[Port], &[Port]) = (&[], &[port("a", &[1, 2], &[1, 2], &[2])]);
    let table: [(&str, &[Port], &[Port]); 7] = [
        ("appears", none, one),
        ("goes", one, none),
        ("other backends", one, &[port("a", &[1, 2], &[3, 4], &[4])]),
        ("no backends", one, &[port("a", &[1, 2], &[], &[])]),
        ("other frontends", one, &[port("a", &[2, 3], &[1, 2], &[2])]),
        (
            "a frontend moves",
            &[port("a", &[1, 2], &[1], &[]), port("b", &[3], &[2], &[])],
            &[port("a", &[1], &[5], &[]), port("b", &[2, 3], &[6], &[])],
        ),
        (
            "a frontend is inherited",
            &[port("a", &[1], &[1], &[]), port("b", &[2], &[2], &[])],
            &[port("b", &[1, 2], &[3], &[])],
        ),
    ];
    for (what, old, new) in table {
        check_refusals(what, old, new);
    }
}

#[test]
fn what_fails_does_not_keep_others_waiting() {
    let mut scene = Scene::new([port("a", &[1], &[1], &[]), port("b", &[2], &[2], &[])]);
    let new = world([port("a", &[1], &[3], &[]), port("b", &[2], &[4], &[])]);
    scene.memory.refuse = BTreeSet::from([scene.memory.attempts]);
    go(&mut scene.reconciler, &mut scene.memory, &scene.world, &new);
    let shown = scene.memory.shown();
    let expected = super::world::wanted(&world([
        port("a", &[1], &[1], &[]),
        port("b", &[2], &[4], &[]),
    ]));
    assert_eq!(shown, expected);
    let failed: Vec<_> = scene
        .reconciler
        .ports()
        .filter(|status| status.error.is_some())
        .map(|status| status.port.id.service.name.clone())
        .collect();
    assert_eq!(failed, ["a"]);
}
