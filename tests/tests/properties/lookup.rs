//! What the programs do with a client's first packet, by the maps.

use std::collections::BTreeSet;

use lb_agent::compile::{frontend_key, protocol_number};
use lb_common::{Address, Backend, Frontend, FrontendKey, Slice};

use crate::{
    maps::{Maps, endpoint},
    probe::{Answer, Chosen, Client, Endpoint, Probe},
};

/// With [`Frontend::service`] if there is a choice of backends.
pub(crate) fn look_up(maps: &Maps, probe: &Probe) -> (Answer, Option<u32>) {
    let key = frontend_key(probe.destination, probe.port, probe.protocol);
    assert_eq!(key.protocol, protocol_number(probe.protocol));
    let frontend = maps.frontends.get(&key);
    let Some(frontend) = frontend.filter(|frontend| frontend.flags & Frontend::ENDPOINT == 0)
    else {
        return (miss(maps, probe), None);
    };
    let networks = maps.networks(frontend);
    if frontend.sources != 0 && !networks.iter().any(|net| net.contains(&probe.source)) {
        return (Answer::Drop, None);
    }
    let set = match is_inside(maps, probe, frontend) {
        true => frontend.inside,
        false => frontend.outside,
    };
    let members = match maps.members(set) {
        Err(Slice::DROP) => return (Answer::Drop, None),
        Err(_) => return (Answer::Reject, None),
        Ok(members) => members,
    };
    let mut endpoints = BTreeSet::new();
    for backend in members.values() {
        assert_eq!(backend.service, frontend.service, "{probe:?}");
        let (address, port) = endpoint(backend);
        let local = backend.flags & Backend::LOCAL != 0;
        let is_new = endpoints.insert(Endpoint {
            address,
            port,
            local,
        });
        assert!(is_new, "{address} {port} comes twice: {probe:?}");
    }
    let chosen = Chosen {
        endpoints,
        affinity_seconds: frontend.affinity_seconds,
    };
    (Answer::Dnat(chosen), Some(frontend.service))
}

fn miss(maps: &Maps, probe: &Probe) -> Answer {
    let any_port = FrontendKey::any_port(Address::from(probe.destination));
    if maps.frontends.contains_key(&any_port) {
        return Answer::Reject;
    }
    let mut networks = maps.settings.service_networks.iter();
    match networks.any(|network| network.contains(&probe.destination)) {
        true => Answer::Drop,
        false => Answer::Pass,
    }
}

fn is_inside(maps: &Maps, probe: &Probe, frontend: &Frontend) -> bool {
    if frontend.inside == frontend.outside {
        return true;
    }
    let mut networks = maps.settings.pod_networks.iter();
    match probe.client {
        Client::Node => true,
        Client::Pod if maps.settings.pods_by_interface => true,
        Client::Pod | Client::Outside => networks.any(|network| network.contains(&probe.source)),
    }
}
