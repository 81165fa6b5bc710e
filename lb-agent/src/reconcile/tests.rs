mod adoption;
mod failures;
mod memory;
mod properties;
mod sources;
mod world;

use std::{collections::BTreeSet, time::Duration};

use ipnet::IpNet;

use self::{
    memory::Memory,
    world::{World, changes, check, go, key, port, settle, world},
};
use super::{Reconciler, Snapshot};
use crate::compile::{Port, Set};

/// A state that is in the maps.
struct Scene {
    reconciler: Reconciler,
    memory: Memory,
    world: World,
}

impl Scene {
    fn new(ports: impl IntoIterator<Item = Port>) -> Self {
        let mut scene = Self {
            reconciler: Reconciler::new(Snapshot::default()),
            memory: Memory::default(),
            world: World::new(),
        };
        scene.become_(world(ports));
        scene
    }

    fn become_(&mut self, new: World) {
        go(&mut self.reconciler, &mut self.memory, &self.world, &new);
        self.world = new;
        settle(&mut self.reconciler, &mut self.memory);
        check(&self.reconciler, &self.memory, &self.world);
    }
}

#[test]
fn writes_come_in_a_fixed_order() {
    type Ports = Vec<Port>;
    let one = || port("a", &[1], &[1, 2], &[2]);
    let table: [(&str, Ports, Ports, &[&str]); 10] = [
        ("nothing", vec![], vec![], &[]),
        ("the same", vec![one()], vec![one()], &[]),
        (
            "appears",
            vec![],
            vec![one()],
            &[
                "backend 0.1 10.0.0.1:8080",
                "backend 1.1 10.0.0.2:8080 local",
                "slots 0: 0 1",
                "slots 2: 1",
                "frontend 10.96.0.1:80 0+2 2+1",
            ],
        ),
        (
            "goes",
            vec![one()],
            vec![],
            &["delete 10.96.0.1:80", "retire 0.2", "retire 1.2"],
        ),
        (
            "loses all backends",
            vec![one()],
            vec![port("a", &[1], &[], &[])],
            &["frontend 10.96.0.1:80 0+0 0+0", "retire 0.2", "retire 1.2"],
        ),
        (
            "one backend for another",
            vec![one()],
            vec![port("a", &[1], &[2, 3], &[2])],
            &[
                "backend 2.1 10.0.0.3:8080",
                "slots 3: 1 2",
                "frontend 10.96.0.1:80 3+2 2+1",
                "retire 0.2",
            ],
        ),
        (
            "both sets alike share their slots",
            vec![],
            vec![port("a", &[1, 2], &[5], &[5])],
            &[
                "backend 0.1 10.0.0.5:8080 local",
                "slots 0: 0",
                "frontend 10.96.0.1:80 0+1 0+1",
                "frontend 10.96.0.2:80 0+1 0+1",
            ],
        ),
        (
            "another frontend",
            vec![one()],
            vec![port("a", &[2], &[1, 2], &[2])],
            &["delete 10.96.0.1:80", "frontend 10.96.0.2:80 0+2 2+1"],
        ),
        (
            "a frontend goes to another port",
            vec![port("a", &[1], &[1], &[]), port("b", &[2], &[2], &[])],
            vec![port("a", &[3], &[1], &[]), port("b", &[1, 2], &[2], &[])],
            &[
                "frontend 10.96.0.1:80 1+1 1+0",
                "frontend 10.96.0.3:80 0+1 1+0",
            ],
        ),
        (
            "the first by name has a frontend that two want",
            vec![port("b", &[1], &[1], &[])],
            vec![port("a", &[1], &[2], &[]), port("b", &[1], &[1], &[])],
            &[
                "backend 1.1 10.0.0.2:8080",
                "slots 1: 1",
                "frontend 10.96.0.1:80 1+1 1+0",
            ],
        ),
    ];
    for (what, old, new, writes) in table {
        let mut scene = Scene::new(old);
        scene.memory.writes.clear();
        scene.become_(world(new));
        assert_eq!(scene.memory.writes, writes, "{what}");
    }
}

#[test]
fn what_no_frontend_refers_to_takes_no_slots_and_no_sources() {
    let sources: BTreeSet<IpNet> = ["198.51.100.0/24".parse().unwrap()].into();
    let lead = |inside, outside, restricted| {
        let mut port = port("a", &[1], &[1, 2], &[2]);
        port.sources.clone_from(&sources);
        for frontend in port.frontends.values_mut() {
            (frontend.inside, frontend.outside) = (inside, outside);
            frontend.restricted = restricted;
        }
        port
    };
    let table: [(Port, &[&str]); 4] = [
        (
            lead(Set::Cluster, Set::Cluster, false),
            &["slots 0: 0 1", "frontend 10.96.0.1:80 0+2 0+2"],
        ),
        (
            lead(Set::Local, Set::Local, false),
            &["slots 0: 1", "frontend 10.96.0.1:80 0+1 0+1"],
        ),
        (
            lead(Set::Nobody, Set::Nobody, false),
            &["frontend 10.96.0.1:80 0+0 0+0"],
        ),
        (
            lead(Set::Cluster, Set::Local, true),
            &[
                "slots 0: 0 1",
                "slots 2: 1",
                "sources 16: 198.51.100.0/24",
                "frontend 10.96.0.1:80 0+2 2+1",
            ],
        ),
    ];
    for (port, writes) in table {
        let scene = Scene::new([port]);
        let mut found = scene.memory.writes;
        found.retain(|line| !line.starts_with("backend"));
        assert_eq!(found, writes);
    }
}

#[test]
fn an_endpoint_that_drains_keeps_its_id() {
    let serving = port("a", &[1], &[1, 2], &[]).serving;
    let mut scene = Scene::new([port("a", &[1], &[1, 2], &[])]);
    let mut draining = port("a", &[1], &[1], &[]);
    draining.serving = serving;
    scene.memory.writes.clear();
    scene.become_(world([draining]));
    let swapped = ["slots 2: 0", "frontend 10.96.0.1:80 2+1 1+0"];
    assert_eq!(scene.memory.writes, swapped);
    scene.become_(world([port("a", &[1], &[1, 2], &[])]));
    assert!(
        !scene
            .memory
            .writes
            .iter()
            .any(|line| line.starts_with("backend"))
    );
    scene.become_(world([port("a", &[1], &[1], &[])]));
    assert_eq!(
        scene.memory.writes.last().map(String::as_str),
        Some("retire 1.2")
    );
}

#[test]
fn slots_and_ids_rest_before_they_are_used_again() {
    let states = [[1], [2]].map(|backend| world([port("a", &[1], &backend, &[])]));
    // Seconds between two changes, and how many slots and ids a hundred take.
    for (seconds, slots, ids) in [(0, 101, 101), (1, 6, 61), (5, 2, 13), (60, 2, 2)] {
        let mut scene = Scene::new([port("a", &[1], &[3], &[])]);
        for new in states.iter().cycle().take(100) {
            scene.memory.now += Duration::from_secs(seconds);
            scene.become_(new.clone());
        }
        let used = (scene.memory.slots.len(), scene.memory.backends.len());
        assert_eq!(used, (slots, ids), "every {seconds} s");
    }
}

#[test]
fn one_endpoint_of_a_thousand_services_is_one_services_work() {
    let of = |number: u16| Port {
        id: world::id(&format!("service-{number:04}")),
        frontends: {
            let template = *port("a", &[1], &[], &[]).frontends.get(&key(1)).unwrap();
            let [high, low] = number.to_be_bytes();
            let address = std::net::IpAddr::from([10, 97, high, low]);
            let protocol = crate::model::Protocol::Tcp;
            let keys = [80, 443].map(|port| crate::compile::frontend_key(address, port, protocol));
            keys.map(|at| (at, template)).into_iter().collect()
        },
        ..port("a", &[1], &[1, 2, 3], &[1])
    };
    let all: World = world((0..1000).map(of));
    let mut scene = Scene::new([]);
    scene.memory.rules = None;
    let everything = changes(&World::new(), &all);
    scene
        .reconciler
        .apply(everything, Duration::ZERO, &mut scene.memory);
    scene.world = all.clone();
    let mut new = all.clone();
    let changed = Port {
        frontends: of(500).frontends,
        id: of(500).id,
        ..port("a", &[1], &[1, 2, 4], &[1])
    };
    new.insert(changed.id.clone(), changed);
    assert_eq!(changes(&all, &new).len(), 1);
    scene.memory.writes.clear();
    scene.become_(new);
    let writes = [
        "backend 3000.1 10.0.0.4:8080",
        "slots 4000: 1500 1501 3000",
        "frontend 10.97.1.244:80 4000+3 2003+1",
        "frontend 10.97.1.244:443 4000+3 2003+1",
        "retire 1502.2",
    ];
    assert_eq!(scene.memory.writes, writes);
}
