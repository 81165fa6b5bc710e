use std::{
    collections::BTreeSet,
    net::IpAddr,
    num::{NonZeroU16, NonZeroU32},
};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{self as core, ServiceSpec};

use super::{PORTS, PROTOCOLS, label, object_name, port, protocol};
use crate::{
    model::{Family, Service, ServicePort, ServiceType, TrafficPolicy},
    watch::{
        address::{parse_cidr, parse_ip},
        problems::Reporter,
    },
};

const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "None";
const AFFINITY_SECONDS: NonZeroU32 = NonZeroU32::new(10_800).expect("not zero");

/// `None` if the Service is not proxied.
pub(in crate::watch) fn service(
    service: &core::Service,
    reporter: &mut Reporter<'_>,
) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    if label(&service.metadata, OTHER_PROXY).is_some() {
        return None;
    }
    if matches!(spec.cluster_ip.as_deref(), None | Some("" | HEADLESS)) {
        return None;
    }
    let service_type = service_type(spec, reporter)?;
    let cluster_ips = cluster_ips(spec, reporter);
    if cluster_ips.is_empty() {
        return None;
    }

    let external_traffic_policy = policy(
        "spec.externalTrafficPolicy",
        spec.external_traffic_policy.as_deref(),
        reporter,
    );
    Some(Service {
        name: object_name(&service.metadata),
        service_type,
        cluster_ips,
        external_ips: external_ips(spec, reporter),
        load_balancer_ips: load_balancer_ips(service, reporter),
        source_ranges: source_ranges(spec, reporter),
        ports: ports(spec, reporter),
        internal_traffic_policy: policy(
            "spec.internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
            reporter,
        ),
        external_traffic_policy,
        affinity_seconds: affinity_seconds(spec, reporter),
        health_check_node_port: (service_type == ServiceType::LoadBalancer
            && external_traffic_policy == TrafficPolicy::Local)
            .then(|| {
                node_port(
                    "spec.healthCheckNodePort",
                    spec.health_check_node_port,
                    reporter,
                )
            })
            .flatten(),
    })
}

/// `None` for `ExternalName`, and for what is no type at all.
fn service_type(spec: &ServiceSpec, reporter: &mut Reporter<'_>) -> Option<ServiceType> {
    match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => Some(ServiceType::ClusterIP),
        Some("NodePort") => Some(ServiceType::NodePort),
        Some("LoadBalancer") => Some(ServiceType::LoadBalancer),
        Some("ExternalName") => None,
        Some(other) => {
            reporter.report(
                "spec.type",
                format!("{other:?}"),
                "ClusterIP, NodePort, LoadBalancer or ExternalName",
            );
            None
        }
    }
}

fn cluster_ips(spec: &ServiceSpec, reporter: &mut Reporter<'_>) -> Vec<IpAddr> {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    if families.is_empty() {
        let text = spec.cluster_ip.as_deref().unwrap_or_default();
        return address("spec.clusterIP".to_owned(), text, reporter)
            .into_iter()
            .collect();
    }

    let texts = spec.cluster_ips.as_deref().unwrap_or_default();
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (index, (family, text)) in families.iter().zip(texts).enumerate() {
        let Some(address) = address(format!("spec.clusterIPs[{index}]"), text, reporter) else {
            continue;
        };
        if Family::of(address).to_string() != *family {
            reporter.report(
                format!("spec.clusterIPs[{index}]"),
                format!("{text:?}"),
                format!("an address of spec.ipFamilies[{index}], {family:?}"),
            );
        } else if addresses
            .iter()
            .all(|other| Family::of(*other) != Family::of(address))
        {
            addresses.push(address);
        }
    }
    addresses.shrink_to_fit();
    addresses
}

fn external_ips(spec: &ServiceSpec, reporter: &mut Reporter<'_>) -> BTreeSet<IpAddr> {
    let texts = spec
        .external_ips
        .as_deref()
        .unwrap_or_default()
        .iter()
        .enumerate();
    texts
        .filter_map(|(index, text)| address(format!("spec.externalIPs[{index}]"), text, reporter))
        .collect()
}

fn load_balancer_ips(service: &core::Service, reporter: &mut Reporter<'_>) -> BTreeSet<IpAddr> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = status
        .and_then(|status| status.ingress.as_deref())
        .unwrap_or_default();
    let vips = ingress
        .iter()
        .enumerate()
        .filter(|(_, ingress)| matches!(ingress.ip_mode.as_deref(), None | Some("VIP")))
        .filter_map(|(index, ingress)| {
            Some((index, ingress.ip.as_deref().filter(|ip| !ip.is_empty())?))
        });
    vips.filter_map(|(index, text)| {
        address(
            format!("status.loadBalancer.ingress[{index}].ip"),
            text,
            reporter,
        )
    })
    .collect()
}

fn source_ranges(spec: &ServiceSpec, reporter: &mut Reporter<'_>) -> BTreeSet<IpNet> {
    let texts = spec
        .load_balancer_source_ranges
        .as_deref()
        .unwrap_or_default();
    let mut ranges = BTreeSet::new();
    for (index, text) in texts.iter().enumerate() {
        match parse_cidr(text) {
            Some(range) => {
                ranges.insert(range);
            }
            None => reporter.report(
                format!("spec.loadBalancerSourceRanges[{index}]"),
                format!("{text:?}"),
                "a CIDR such as 10.0.0.0/8",
            ),
        }
    }
    ranges
}

fn ports(spec: &ServiceSpec, reporter: &mut Reporter<'_>) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for (index, object) in spec.ports.as_deref().unwrap_or_default().iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let Some(number) = port(object.port) else {
            reporter.report(field("port"), object.port.to_string(), PORTS);
            continue;
        };
        let Some(protocol) = protocol(object.protocol.as_deref()) else {
            reporter.report(
                field("protocol"),
                format!("{:?}", object.protocol),
                PROTOCOLS,
            );
            continue;
        };
        ports.push(ServicePort {
            name: object.name.clone().unwrap_or_default(),
            protocol,
            port: number,
            node_port: node_port(&field("nodePort"), object.node_port, reporter),
        });
    }
    ports.shrink_to_fit();
    ports
}

fn node_port(field: &str, number: Option<i32>, reporter: &mut Reporter<'_>) -> Option<NonZeroU16> {
    let number = number.filter(|number| *number != 0)?;
    let found = port(number);
    if found.is_none() {
        reporter.report(field, number.to_string(), PORTS);
    }
    found
}

fn policy(field: &str, text: Option<&str>, reporter: &mut Reporter<'_>) -> TrafficPolicy {
    match text {
        Some("Local") => return TrafficPolicy::Local,
        None | Some("" | "Cluster") => {}
        Some(other) => reporter.report(field, format!("{other:?}"), "Cluster or Local"),
    }
    TrafficPolicy::Cluster
}

fn affinity_seconds(spec: &ServiceSpec, reporter: &mut Reporter<'_>) -> Option<NonZeroU32> {
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => {}
        None | Some("" | "None") => return None,
        Some(other) => {
            reporter.report(
                "spec.sessionAffinity",
                format!("{other:?}"),
                "None or ClientIP",
            );
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref();
    let Some(seconds) = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds) else {
        return Some(AFFINITY_SECONDS);
    };
    let parsed = u32::try_from(seconds).ok().and_then(NonZeroU32::new);
    if parsed.is_none() {
        reporter.report(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            seconds.to_string(),
            "seconds from 1 to 86400",
        );
    }
    parsed.or(Some(AFFINITY_SECONDS))
}

fn address(field: String, text: &str, reporter: &mut Reporter<'_>) -> Option<IpAddr> {
    let parsed = parse_ip(text);
    if parsed.is_none() {
        reporter.report(field, format!("{text:?}"), "an IP address");
    }
    parsed
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
