//! Small worlds of service ports, and what the maps should make of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_common::{FrontendKey, Slice};

use super::{
    super::Reconciler,
    memory::{Members, Memory, Offer, Shown},
};
use crate::{
    compile::{Backend, Frontend, FrontendKind, Port, PortId, PortName, Set, frontend_key},
    model::{Family, ObjectName, Protocol},
    sorted::SortedSet,
};

pub(super) type World = BTreeMap<PortId, Port>;

pub(super) fn id(name: &str) -> PortId {
    PortId::from(PortName {
        service: ObjectName::new("default", name),
        port: String::new(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    })
}

/// 10.96.0.`number`:80.
pub(super) fn key(number: u8) -> FrontendKey {
    frontend_key(IpAddr::from([10, 96, 0, number]), 80, Protocol::Tcp)
}

/// 10.0.0.`number`:8080.
pub(super) fn backend(number: u8, local: bool) -> Backend {
    Backend {
        address: IpAddr::from([10, 0, 0, number]),
        port: 8080,
        local,
    }
}

/// A port whose frontends lead inside to `cluster`, outside to `local`.
pub(super) fn port(name: &str, frontends: &[u8], cluster: &[u8], local: &[u8]) -> Port {
    let frontend = Frontend {
        kind: FrontendKind::NodePort,
        inside: Set::Cluster,
        outside: Set::Local,
        restricted: false,
        masquerade: false,
    };
    let members = |numbers: &[u8]| -> SortedSet<Backend> {
        let is_local = |number| local.contains(number);
        numbers.iter().map(|n| backend(*n, is_local(n))).collect()
    };
    Port {
        id: id(name),
        frontends: frontends.iter().map(|n| (key(*n), frontend)).collect(),
        cluster: members(cluster),
        local: members(local),
        serving: members(&[cluster, local].concat()),
        affinity_seconds: 0,
        sources: BTreeSet::new(),
    }
}

pub(super) fn world(ports: impl IntoIterator<Item = Port>) -> World {
    ports
        .into_iter()
        .map(|port| (port.id.clone(), port))
        .collect()
}

/// Where each frontend is to lead to: what its first claimant by name wants.
pub(super) fn wanted(world: &World) -> Shown {
    let mut shown = Shown::new();
    let members = |set: &SortedSet<Backend>, or: Slice| -> Members {
        if set.is_empty() {
            return Err(or);
        }
        Ok(set.iter().map(|m| (m.address, m.port)).collect())
    };
    for port in world.values() {
        for (key, frontend) in &port.frontends {
            let [inside, outside] = [frontend.inside, frontend.outside].map(|set| match set {
                Set::Cluster => members(&port.cluster, Slice::REJECT),
                Set::Local if port.cluster.is_empty() => Err(Slice::REJECT),
                Set::Local => members(&port.local, Slice::DROP),
                Set::Nobody => Err(Slice::REJECT),
            });
            let sources = match frontend.restricted {
                true => port.sources.clone(),
                false => BTreeSet::new(),
            };
            shown.entry(*key).or_insert(Offer {
                inside,
                outside,
                sources,
                affinity_seconds: port.affinity_seconds,
                masquerade: frontend.masquerade,
            });
        }
    }
    shown
}

/// What the agent would apply to get from one world to the other.
pub(super) fn changes(old: &World, new: &World) -> Vec<(PortId, Option<Port>)> {
    let gone = old.keys().filter(|id| !new.contains_key(*id));
    let gone: Vec<_> = gone.map(|id| (id.clone(), None)).collect();
    let changed = new.iter().filter(|(id, port)| old.get(*id) != Some(port));
    let changed = changed.map(|(id, port)| (id.clone(), Some(port.clone())));
    gone.into_iter().chain(changed).collect()
}

/// Applies the way from `old` to `new`, watched.
pub(super) fn go(reconciler: &mut Reconciler, memory: &mut Memory, old: &World, new: &World) {
    memory.rules = Some((memory.shown(), wanted(new)));
    reconciler.apply(changes(old, new), memory.now, memory);
}

/// Retries until all is written.
pub(super) fn settle(reconciler: &mut Reconciler, memory: &mut Memory) {
    for _ in 0..20 {
        if reconciler.failures() == 0 {
            return;
        }
        memory.now += Duration::from_secs(1);
        reconciler.retry(memory.now, memory);
    }
    let errors: Vec<_> = reconciler.ports().filter_map(|port| port.error).collect();
    panic!("still failing: {errors:?}");
}

/// The maps are as a fresh build of `world` would have them.
pub(super) fn check(reconciler: &Reconciler, memory: &Memory, world: &World) {
    assert_eq!(reconciler.failures(), 0);
    assert_eq!(memory.shown(), wanted(world));
    check_sources(reconciler, memory);
    let alive = lb_common::Backend::ALIVE;
    let mut records: Vec<_> = memory
        .backends
        .values()
        .filter(|backend| backend.flags & alive != 0)
        .map(|backend| {
            let endpoint = (IpAddr::from(backend.address), u16::from_be(backend.port));
            (
                backend.service,
                endpoint,
                backend.flags & lb_common::Backend::LOCAL != 0,
            )
        })
        .collect();
    let mut expected = Vec::new();
    let mut services = BTreeSet::new();
    for status in reconciler.ports() {
        let port = &world[&status.port.id];
        assert_eq!(status.port, port);
        assert!(services.insert(status.service), "a service id twice");
        let members: BTreeSet<_> = [&port.cluster, &port.local, &port.serving]
            .into_iter()
            .flatten()
            .collect();
        let record =
            |member: &&Backend| (status.service, (member.address, member.port), member.local);
        expected.extend(members.iter().map(record));
    }
    assert_eq!(services.len(), world.len());
    records.sort_unstable();
    expected.sort_unstable();
    assert_eq!(records, expected, "{:#?}", memory.writes);
}

/// No set of sources is there that no frontend wants, but for those that rest;
/// ports that want the same share one.
fn check_sources(reconciler: &Reconciler, memory: &Memory) {
    let wants = |port: &Port| {
        let mut frontends = port.frontends.values();
        !port.sources.is_empty() && frontends.any(|frontend| frontend.restricted)
    };
    let ports = reconciler.ports().filter(|status| wants(status.port));
    let wanted: BTreeSet<_> = ports.map(|status| &status.port.sources).collect();
    let resting = reconciler.stock.sources.resting();
    let held = memory.sources.len();
    assert!(held >= wanted.len(), "{:#?}", memory.writes);
    assert!(held <= wanted.len() + resting, "{:#?}", memory.writes);
}
