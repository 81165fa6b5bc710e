//! Where a service port is reached.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{Address, FrontendKey};

use super::{Echo, Frontend, FrontendKind, NodeContext, Set, echo_key, frontend_key, of_family};
use crate::model::{Family, Service, ServicePort, ServiceType, TrafficPolicy};

pub(super) fn frontends(
    service: &Service,
    cluster_ip: IpAddr,
    port: &ServicePort,
    node: &NodeContext,
) -> BTreeMap<FrontendKey, Frontend> {
    let family = Family::of(cluster_ip);
    let set = |policy| match policy {
        TrafficPolicy::Cluster => Set::Cluster,
        TrafficPolicy::Local => Set::Local,
    };
    let internal = set(service.internal_traffic_policy);
    let external = match is_external(service) {
        true => set(service.external_traffic_policy),
        false => Set::Cluster,
    };
    let mut frontends = BTreeMap::new();
    let mut add = |address, number, kind| {
        let (inside, outside) = match kind {
            FrontendKind::ClusterIp => (internal, internal),
            FrontendKind::AnyPort | FrontendKind::Echo | FrontendKind::Endpoint => {
                (Set::Nobody, Set::Nobody)
            }
            FrontendKind::NodePort | FrontendKind::ExternalIp | FrontendKind::LoadBalancerIp => {
                (Set::Cluster, external)
            }
        };
        let key = match kind {
            FrontendKind::AnyPort => FrontendKey::any_port(Address::from(address)),
            FrontendKind::Echo => echo_key(address),
            _ => frontend_key(address, number, port.protocol),
        };
        let masquerade = match kind {
            FrontendKind::ClusterIp => true,
            FrontendKind::AnyPort | FrontendKind::Echo | FrontendKind::Endpoint => false,
            _ => outside == Set::Cluster,
        };
        frontends.entry(key).or_insert(Frontend {
            kind,
            inside,
            outside,
            restricted: kind == FrontendKind::LoadBalancerIp,
            masquerade: node.masquerade_all && masquerade,
        });
    };
    add(cluster_ip, port.port.get(), FrontendKind::ClusterIp);
    add(cluster_ip, 0, FrontendKind::AnyPort);
    for address in of_family(&service.load_balancer_ips, family) {
        add(address, port.port.get(), FrontendKind::LoadBalancerIp);
    }
    for address in of_family(&service.external_ips, family) {
        add(address, port.port.get(), FrontendKind::ExternalIp);
    }
    if let Some(Echo { own }) = &node.echo {
        let others = [&service.load_balancer_ips, &service.external_ips];
        let others = others.into_iter().flat_map(|all| of_family(all, family));
        let all = std::iter::once(cluster_ip).chain(others);
        for address in all.filter(|address| !own.contains(address)) {
            add(address, 0, FrontendKind::Echo);
        }
    }
    if let Some(node_port) = port.node_port {
        for address in of_family(&node.node_port_addresses, family) {
            add(address, node_port.get(), FrontendKind::NodePort);
        }
    }
    frontends
}

/// Whether anything but its clusterIP leads to the Service from outside, so
/// that `externalTrafficPolicy` counts.
fn is_external(service: &Service) -> bool {
    service.service_type != ServiceType::ClusterIP || !service.external_ips.is_empty()
}
