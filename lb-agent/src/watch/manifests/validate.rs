//! The checks of the API server, for the fields that the agent acts upon.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        core::v1::{Endpoints, Pod, Service, ServicePort, ServiceSpec},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::names;
use crate::{
    model::Family,
    watch::{address::parse_ip, problems::Reporter},
};

pub(super) const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

const PORTS: &str = "a port from 1 to 65535";
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const POLICIES: &[&str] = &["Cluster", "Local"];

pub(super) fn service(service: &Service, reporter: &mut Reporter<'_>) {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    one_of(
        "spec.type",
        spec.type_.as_deref(),
        &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"],
        reporter,
    );
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.as_deref().unwrap_or_default();
        if !names::is_subdomain(name.trim_end_matches('.')) {
            reporter.report("spec.externalName", format!("{name:?}"), names::SUBDOMAIN);
        }
        return;
    }

    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !headless {
        reporter.report("spec.ports", "nothing", "at least one port");
    }
    service_ports(ports, reporter);
    for (key, value) in spec.selector.iter().flatten() {
        if !names::is_label_value(value) {
            let field = format!("spec.selector.{key}");
            reporter.report(field, format!("{value:?}"), names::LABEL_VALUE);
        }
    }
    one_of(
        "spec.sessionAffinity",
        spec.session_affinity.as_deref(),
        &["None", "ClientIP"],
        reporter,
    );
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    if let Some(seconds) = timeout.filter(|seconds| !(1..=86_400).contains(seconds)) {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        reporter.report(field, seconds.to_string(), "seconds from 1 to 86400");
    }
    one_of(
        "spec.internalTrafficPolicy",
        spec.internal_traffic_policy.as_deref(),
        POLICIES,
        reporter,
    );
    one_of(
        "spec.externalTrafficPolicy",
        spec.external_traffic_policy.as_deref(),
        POLICIES,
        reporter,
    );
    if let Some(number) = spec.health_check_node_port.filter(|number| *number != 0) {
        port("spec.healthCheckNodePort", number, reporter);
    }
    cluster_ips(spec, reporter);
}

pub(super) fn slice(slice: &EndpointSlice, reporter: &mut Reporter<'_>) {
    let address_type = Some(slice.address_type.as_str());
    required_one_of(
        "addressType",
        address_type,
        &["IPv4", "IPv6", "FQDN"],
        reporter,
    );
    for (index, object) in slice.ports.iter().flatten().enumerate() {
        if let Some(number) = object.port {
            port(&format!("ports[{index}].port"), number, reporter);
        }
        one_of(
            &format!("ports[{index}].protocol"),
            object.protocol.as_deref(),
            PROTOCOLS,
            reporter,
        );
    }
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let field = format!("endpoints[{index}].addresses");
        if endpoint.addresses.is_empty() {
            reporter.report(field, "nothing", "at least one address");
            continue;
        }
        for (index, text) in endpoint.addresses.iter().enumerate() {
            let family = parse_ip(text).map(|address| Family::of(address).to_string());
            if FAMILIES.contains(&slice.address_type.as_str())
                && family.as_deref() != Some(slice.address_type.as_str())
            {
                let accepted = format!("an {} address", slice.address_type);
                reporter.report(format!("{field}[{index}]"), format!("{text:?}"), accepted);
            }
        }
    }
}

pub(super) fn endpoints(endpoints: &Endpoints, reporter: &mut Reporter<'_>) {
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let lists = [
            ("addresses", &subset.addresses),
            ("notReadyAddresses", &subset.not_ready_addresses),
        ];
        for (list, addresses) in lists {
            for (item, address) in addresses.iter().flatten().enumerate() {
                ip(
                    &format!("subsets[{index}].{list}[{item}].ip"),
                    &address.ip,
                    reporter,
                );
            }
        }
        for (item, object) in subset.ports.iter().flatten().enumerate() {
            let field = format!("subsets[{index}].ports[{item}]");
            port(&format!("{field}.port"), object.port, reporter);
            one_of(
                &format!("{field}.protocol"),
                object.protocol.as_deref(),
                PROTOCOLS,
                reporter,
            );
        }
    }
}

pub(super) fn pod(pod: &Pod, reporter: &mut Reporter<'_>) {
    let containers = pod.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
    for (index, container) in containers.iter().enumerate() {
        for (item, object) in container.ports.iter().flatten().enumerate() {
            let field = format!("spec.containers[{index}].ports[{item}]");
            port(
                &format!("{field}.containerPort"),
                object.container_port,
                reporter,
            );
            one_of(
                &format!("{field}.protocol"),
                object.protocol.as_deref(),
                PROTOCOLS,
                reporter,
            );
            if let Some(name) = object
                .name
                .as_deref()
                .filter(|name| !names::is_port_name(name))
            {
                reporter.report(
                    format!("{field}.name"),
                    format!("{name:?}"),
                    names::PORT_NAME,
                );
            }
        }
    }
    let Some(status) = &pod.status else {
        return;
    };
    if let Some(text) = status.pod_ip.as_deref().filter(|text| !text.is_empty()) {
        ip("status.podIP", text, reporter);
    }
    for (index, pod_ip) in status.pod_ips.iter().flatten().enumerate() {
        ip(&format!("status.podIPs[{index}].ip"), &pod_ip.ip, reporter);
    }
}

fn service_ports(ports: &[ServicePort], reporter: &mut Reporter<'_>) {
    let mut names_seen = BTreeSet::new();
    let mut ports_seen = BTreeSet::new();
    let mut node_ports_seen = BTreeSet::new();
    for (index, object) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        port(&field("port"), object.port, reporter);
        one_of(
            &field("protocol"),
            object.protocol.as_deref(),
            PROTOCOLS,
            reporter,
        );
        let protocol = object.protocol.as_deref().unwrap_or("TCP");
        if !ports_seen.insert((object.port, protocol)) {
            let found = format!("{} {protocol} again", object.port);
            reporter.report(field("port"), found, "each port and protocol once");
        }

        let name = object.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            reporter.report(
                field("name"),
                "nothing",
                "a name, as there are several ports",
            );
        } else if !name.is_empty() && !names::is_label(name) {
            reporter.report(field("name"), format!("{name:?}"), names::LABEL);
        } else if !names_seen.insert(name) {
            reporter.report(field("name"), format!("{name:?} again"), "each name once");
        }

        match &object.target_port {
            Some(IntOrString::Int(number)) if *number != 0 => {
                port(&field("targetPort"), *number, reporter);
            }
            Some(IntOrString::String(name)) if !name.is_empty() && !names::is_port_name(name) => {
                let accepted = format!("{PORTS}, or {}", names::PORT_NAME);
                reporter.report(field("targetPort"), format!("{name:?}"), accepted);
            }
            _ => {}
        }

        let Some(number) = object.node_port.filter(|number| *number != 0) else {
            continue;
        };
        if !u16::try_from(number).is_ok_and(|number| NODE_PORTS.contains(&number)) {
            let accepted = format!("a port from {} to {}", NODE_PORTS.start(), NODE_PORTS.end());
            reporter.report(field("nodePort"), number.to_string(), accepted);
        } else if !node_ports_seen.insert((number, protocol)) {
            let found = format!("{number} {protocol} again");
            reporter.report(field("nodePort"), found, "each nodePort and protocol once");
        }
    }
}

fn cluster_ips(spec: &ServiceSpec, reporter: &mut Reporter<'_>) {
    one_of(
        "spec.ipFamilyPolicy",
        spec.ip_family_policy.as_deref(),
        &["SingleStack", "PreferDualStack", "RequireDualStack"],
        reporter,
    );
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (index, family) in families.iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        required_one_of(&field, Some(family), FAMILIES, reporter);
        if families[..index].contains(family) {
            reporter.report(field, format!("{family:?} again"), "each family once");
        }
    }

    let first = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(first), Some(listed)) = (first, all.first())
        && first != listed
    {
        let accepted = format!("{first:?}, as spec.clusterIP has it");
        reporter.report("spec.clusterIPs[0]", format!("{listed:?}"), accepted);
        return;
    }
    let one = first.map(|text| ("spec.clusterIP".to_owned(), text));
    let listed = all
        .iter()
        .enumerate()
        .map(|(index, text)| (format!("spec.clusterIPs[{index}]"), text.as_str()));
    let texts: Vec<(String, &str)> = if all.is_empty() {
        one.into_iter().collect()
    } else {
        listed.collect()
    };
    if let [(_, "None")] = texts.as_slice() {
        return;
    }
    let mut seen = Vec::new();
    for (index, (field, text)) in texts.iter().enumerate() {
        let Some(address) = parse_ip(text) else {
            reporter.report(field, format!("{text:?}"), "an IP address, or None");
            continue;
        };
        let family = Family::of(address);
        let stated = families.get(index);
        if stated.is_some_and(|stated| *stated != family.to_string()) {
            let accepted = format!("an address of spec.ipFamilies[{index}]");
            reporter.report(field, format!("{text:?}"), accepted);
        } else if seen.contains(&family) {
            reporter.report(field, format!("{text:?}"), "one address of each family");
        }
        seen.push(family);
    }
}

/// Absent and empty are left to the defaults.
fn one_of(field: &str, value: Option<&str>, accepted: &[&str], reporter: &mut Reporter<'_>) {
    if value.is_some_and(|value| !value.is_empty()) {
        required_one_of(field, value, accepted, reporter);
    }
}

fn required_one_of(
    field: &str,
    value: Option<&str>,
    accepted: &[&str],
    reporter: &mut Reporter<'_>,
) {
    let value = value.unwrap_or_default();
    if !accepted.contains(&value) {
        let (last, others) = accepted.split_last().unwrap_or((&"", &[]));
        reporter.report(
            field,
            format!("{value:?}"),
            format!("{} or {last}", others.join(", ")),
        );
    }
}

fn port(field: &str, number: i32, reporter: &mut Reporter<'_>) {
    if !(1..=65_535).contains(&number) {
        reporter.report(field, number.to_string(), PORTS);
    }
}

fn ip(field: &str, text: &str, reporter: &mut Reporter<'_>) {
    if parse_ip(text).is_none() {
        reporter.report(field, format!("{text:?}"), "an IP address");
    }
}
