//! The world's services as the agent's compiler would have them.

use std::{collections::BTreeSet, net::IpAddr};

use lb_agent::{
    compile::{self, FrontendKind, Port, PortId, PortName, Set, frontend_key},
    model::{self, ObjectName},
    sorted::{SortedMap, SortedSet},
};
use lb_common::FrontendKey;

use super::{
    model::Endpoint,
    world::{self, AFFINITY, Frontend, Policy, Service, TCP, UDP, World},
};
use crate::lab::Family;

pub(crate) fn every_port(
    world: &World,
    endpoints: impl Fn(usize) -> Vec<Endpoint>,
) -> Vec<(PortId, Option<Port>)> {
    let services = 0..world.services.len();
    let ports = services.map(|service| port_of(world, service, &endpoints(service)));
    let refused = world.cluster_ips.iter().copied().map(refused_port);
    let all = ports.chain(refused);
    all.map(|port| (port.id.clone(), Some(port))).collect()
}

/// One of the world's service ports.
pub(crate) fn port_of(world: &World, service: usize, endpoints: &[Endpoint]) -> Port {
    let mut port = port(&world.services[service], endpoints);
    let frontends = world.frontends.iter();
    for ((at, protocol), frontend) in frontends.filter(|(_, one)| one.service == service) {
        let key = frontend_key(at.ip(), at.port(), told_protocol(*protocol));
        port.frontends.insert(key, told(frontend));
        port.sources.extend(frontend.sources);
    }
    meet(&mut port);
    port
}

/// What refuses whatever a clusterIP has no frontend for.
fn refused_port(address: IpAddr) -> Port {
    let nobody = Service {
        name: "any-port",
        family: Family::of(address),
        protocol: TCP,
        has_affinity: false,
        backends: Vec::new(),
    };
    let mut port = port(&nobody, &[]);
    let refused = compile::Frontend {
        kind: FrontendKind::AnyPort,
        inside: Set::Nobody,
        outside: Set::Nobody,
        restricted: false,
        masquerade: false,
    };
    let key = FrontendKey::any_port(address.into());
    port.frontends.insert(key, refused);
    port
}

/// Adds the backends themselves to the frontends.
fn meet(port: &mut Port) {
    let sets = [&port.cluster, &port.local, &port.serving];
    let met: Vec<_> = compile::endpoint_frontends(sets, port.id.protocol).collect();
    for (key, frontend) in met {
        port.frontends.insert_new(key, frontend);
    }
}

/// A service port without frontends.
fn port(service: &Service, endpoints: &[Endpoint]) -> Port {
    let told = |endpoint: &Endpoint| told_backend(&endpoint.backend);
    let usable = endpoints.iter().filter(|endpoint| endpoint.is_usable);
    let usable: SortedSet<_> = usable.map(told).collect();
    Port {
        id: PortId::from(PortName {
            service: ObjectName::new("default", service.name),
            port: String::new(),
            protocol: told_protocol(service.protocol),
            family: match service.family {
                Family::V4 => model::Family::V4,
                Family::V6 => model::Family::V6,
            },
        }),
        frontends: SortedMap::default(),
        local: usable.iter().filter(|one| one.local).cloned().collect(),
        serving: endpoints.iter().map(told).collect(),
        cluster: usable,
        affinity_seconds: if service.has_affinity { AFFINITY } else { 0 },
        sources: BTreeSet::new(),
    }
}

fn told_backend(backend: &world::Backend) -> compile::Backend {
    compile::Backend {
        address: backend.at.ip(),
        port: backend.at.port(),
        local: backend.local,
    }
}

pub(crate) fn told_protocol(number: u8) -> model::Protocol {
    match number {
        TCP => model::Protocol::Tcp,
        UDP => model::Protocol::Udp,
        _ => model::Protocol::Sctp,
    }
}

/// What a service has unless something happens.
pub(crate) fn all_of(world: &World, service: usize) -> Vec<Endpoint> {
    let backends = world.services[service].backends.iter();
    let usable = |backend: &world::Backend| Endpoint {
        backend: *backend,
        is_usable: true,
    };
    backends.map(usable).collect()
}

/// A frontend as it is told to the reconciler.
fn told(frontend: &Frontend) -> compile::Frontend {
    compile::Frontend {
        kind: FrontendKind::ClusterIp,
        inside: Set::Cluster,
        outside: match frontend.policy {
            Policy::Cluster => Set::Cluster,
            Policy::Local => Set::Local,
        },
        restricted: frontend.sources.is_some(),
        masquerade: frontend.masquerade,
    }
}
