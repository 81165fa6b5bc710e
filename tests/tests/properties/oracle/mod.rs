//! What becomes of a client's first packet, told slowly from the manifests.
//!
//! Shares nothing with what it judges but the names of protocols and options.

mod endpoints;
mod frontends;
mod manifest;
mod sources;

use std::net::IpAddr;

use ipnet::IpNet;
use lb_agent::{model::Protocol, node::PodDetection};

pub(crate) use self::manifest::parse_ip;
use self::{
    endpoints::{Endpoints, endpoints},
    frontends::frontends,
    manifest::{Service, ServicePort},
    sources::lets_in,
};
use crate::{
    cluster::Cluster,
    probe::{Answer, Chosen, Client, Probe},
};

/// Rules are numbered as kube-proxy's verdicts come: source ranges, no endpoint
/// anywhere, clusterIPs, external frontends, clusterIPs without such a port.
pub(crate) struct Oracle<'a> {
    cluster: &'a Cluster,
    frontends: Vec<Frontend<'a>>,
    /// Of Services that are proxied.
    cluster_ips: Vec<IpAddr>,
}

pub(crate) struct Frontend<'a> {
    service: Service<'a>,
    port: ServicePort<'a>,
    kind: Kind,
    pub(crate) address: IpAddr,
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
    endpoints: Endpoints,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ClusterIp,
    LoadBalancerIp,
    ExternalIp,
    NodePort,
}

impl Frontend<'_> {
    pub(crate) fn is_load_balancer_ip(&self) -> bool {
        self.kind == Kind::LoadBalancerIp
    }
}

impl<'a> Oracle<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        let mut this = Self {
            cluster,
            frontends: Vec::new(),
            cluster_ips: Vec::new(),
        };
        for (name, manifest) in &cluster.services {
            let service = Service { name, manifest };
            for is_v4 in [true, false] {
                let Some(cluster_ip) = service.cluster_ip(is_v4) else {
                    continue;
                };
                this.cluster_ips.push(cluster_ip);
                for port in service.ports() {
                    let of_port = frontends(service, cluster_ip, port, &cluster.node);
                    let endpoints = endpoints(cluster, name, port, is_v4);
                    for (kind, address, number) in of_port {
                        this.frontends.push(Frontend {
                            service,
                            port,
                            kind,
                            address,
                            number,
                            protocol: port.protocol(),
                            endpoints: endpoints.clone(),
                        });
                    }
                }
            }
        }
        this
    }

    pub(crate) fn frontends(&self) -> &[Frontend<'a>] {
        &self.frontends
    }

    /// With the identity of the service port in its family if there is a choice
    /// of backends.
    pub(crate) fn judge(&self, probe: &Probe) -> (Answer, Option<String>) {
        let addressed = |frontend: &&Frontend<'_>| {
            frontend.address == probe.destination
                && frontend.number == probe.port
                && frontend.protocol == probe.protocol
        };
        let found: Vec<_> = self.frontends.iter().filter(addressed).collect();
        let load_balancer = found.iter().find(|f| f.kind == Kind::LoadBalancerIp);

        // Rule 1.
        if let Some(frontend) = load_balancer
            && !lets_in(frontend.service, probe, &self.cluster.node)
        {
            return (Answer::Drop, None);
        }
        let Some(frontend) = found.first() else {
            return (self.miss(probe), None);
        };
        // Rule 2.
        if !frontend.endpoints.any_usable {
            return (Answer::Reject, None);
        }
        let service = frontend.service;
        let members = match frontend.kind {
            // Rule 3.
            Kind::ClusterIp => match service.is_local("internalTrafficPolicy") {
                true => &frontend.endpoints.local,
                false => &frontend.endpoints.cluster,
            },
            // Rule 4.
            Kind::LoadBalancerIp | Kind::ExternalIp | Kind::NodePort => {
                let is_local = service.is_local("externalTrafficPolicy")
                    && service.may_be_called_from_outside();
                match is_local && !self.is_pod_or_node(probe) {
                    true => &frontend.endpoints.local,
                    false => &frontend.endpoints.cluster,
                }
            }
        };
        if members.is_empty() {
            return (Answer::Drop, None);
        }
        let chosen = Chosen {
            endpoints: members.clone(),
            affinity_seconds: service.affinity_seconds(),
        };
        let is_v4 = frontend.address.is_ipv4();
        let identity = format!(
            "{} {:?} {} {is_v4}",
            service.name,
            frontend.port.name(),
            frontend.protocol
        );
        (Answer::Dnat(chosen), Some(identity))
    }

    /// Rules 5 and 6.
    fn miss(&self, probe: &Probe) -> Answer {
        if self.cluster_ips.contains(&probe.destination) {
            return Answer::Reject;
        }
        let cidrs = &self.cluster.node.options.service_cidrs;
        if cidrs.iter().any(|cidr| cidr.contains(&probe.destination)) {
            return Answer::Drop;
        }
        Answer::Pass
    }

    fn is_pod_or_node(&self, probe: &Probe) -> bool {
        let node = &self.cluster.node;
        let within = |cidrs: &[IpNet]| cidrs.iter().any(|c| c.contains(&probe.source));
        let is_pod = match &node.options.pods {
            PodDetection::None => false,
            PodDetection::Interface => probe.client == Client::Pod,
            PodDetection::Networks(cidrs) => within(cidrs),
            PodDetection::NodeNetworks => within(&node.pod_cidrs),
        };
        is_pod || probe.client == Client::Node
    }
}
