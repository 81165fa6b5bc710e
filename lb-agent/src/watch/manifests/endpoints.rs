//! Slices as the endpoint slice controllers would make them: of Pods by
//! selector, and of legacy Endpoints.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU16,
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{ContainerPort, Endpoints, Pod, Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use crate::{
    model::{Family, ObjectName},
    watch::{address::parse_ip, convert::SERVICE_NAME},
};

/// The Pods of the folder, found by namespace and label.
pub(super) struct PodIndex<'a> {
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Pod>>,
}

impl<'a> PodIndex<'a> {
    pub(super) fn new(pods: impl Iterator<Item = (&'a ObjectName, &'a Arc<Pod>)>) -> Self {
        let mut by_label: HashMap<_, Vec<&Pod>> = HashMap::new();
        for (name, pod) in pods {
            for (key, value) in pod.metadata.labels.iter().flatten() {
                let label = (name.namespace.as_str(), key.as_str(), value.as_str());
                by_label.entry(label).or_default().push(pod);
            }
        }
        Self { by_label }
    }

    fn select(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Vec<&'a Pod> {
        let lists = selector
            .iter()
            .map(|(key, value)| self.with(namespace, key, value));
        let fewest = lists.min_by_key(|pods| pods.len()).unwrap_or_default();
        let matches = |pod: &&&Pod| {
            let labels = pod.metadata.labels.as_ref();
            selector
                .iter()
                .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        };
        fewest.iter().filter(matches).copied().collect()
    }

    fn with<'s>(&'s self, namespace: &'s str, key: &'s str, value: &'s str) -> &'s [&'a Pod] {
        self.by_label
            .get(&(namespace, key, value))
            .map_or(&[], Vec::as_slice)
    }
}

/// The slices of a Service with a selector; one for each family and set of
/// resolved ports.
pub(super) fn of_pods(
    name: &ObjectName,
    service: &Service,
    pods: &PodIndex<'_>,
) -> Vec<EndpointSlice> {
    let Some((spec, selector)) = selector(service) else {
        return Vec::new();
    };
    let mut slices: BTreeMap<String, EndpointSlice> = BTreeMap::new();
    for pod in pods.select(&name.namespace, selector) {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            continue;
        }
        let ports = resolve(spec, pod);
        for (family, address) in addresses(pod) {
            let title = ports
                .iter()
                .fold(format!("pods:{}:{family}", name.name), |title, port| {
                    let (name, protocol) = (port.name.as_deref(), port.protocol.as_deref());
                    let number = port.port.unwrap_or_default();
                    format!(
                        "{title}:{}={number}/{}",
                        name.unwrap_or_default(),
                        protocol.unwrap_or_default()
                    )
                });
            let slice = slices.entry(title).or_insert_with_key(|title| {
                empty_slice(name, title.clone(), family, ports.clone())
            });
            slice
                .endpoints
                .get_or_insert_default()
                .push(endpoint(pod, address, spec));
        }
    }
    slices.into_values().collect()
}

/// The slices that mirror `endpoints`, which has the name of its Service.
pub(super) fn of_endpoints(name: &ObjectName, endpoints: &Endpoints) -> Vec<EndpointSlice> {
    const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
    const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
    let labels = endpoints.metadata.labels.as_ref();
    let annotations = endpoints.metadata.annotations.as_ref();
    if labels.is_some_and(|labels| labels.get(SKIP_MIRROR).is_some_and(|value| value == "true"))
        || annotations.is_some_and(|annotations| annotations.contains_key(LEADER))
    {
        return Vec::new();
    }

    let mut slices: BTreeMap<String, EndpointSlice> = BTreeMap::new();
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: port.name.clone(),
                port: Some(port.port),
                protocol: port.protocol.clone(),
                ..EndpointPort::default()
            })
            .collect();
        for (ready, list) in [
            (true, &subset.addresses),
            (false, &subset.not_ready_addresses),
        ] {
            for address in list.iter().flatten() {
                let Some(ip) = parse_ip(&address.ip) else {
                    continue;
                };
                let family = Family::of(ip);
                let title = format!("endpoints:{}:{family}:{index}", name.name);
                let slice = slices.entry(title).or_insert_with_key(|title| {
                    empty_slice(name, title.clone(), family, ports.clone())
                });
                slice.endpoints.get_or_insert_default().push(Endpoint {
                    addresses: vec![ip.to_string()],
                    conditions: Some(EndpointConditions {
                        ready: Some(ready),
                        ..EndpointConditions::default()
                    }),
                    node_name: address.node_name.clone(),
                    ..Endpoint::default()
                });
            }
        }
    }
    slices.into_values().collect()
}

pub(super) fn has_selector(service: &Service) -> bool {
    selector(service).is_some()
}

fn selector(service: &Service) -> Option<(&ServiceSpec, &BTreeMap<String, String>)> {
    let spec = service.spec.as_ref()?;
    let selector = spec
        .selector
        .as_ref()
        .filter(|selector| !selector.is_empty())?;
    Some((spec, selector))
}

/// `title` has a character that no name of an object has.
fn empty_slice(
    service: &ObjectName,
    title: String,
    family: Family,
    ports: Vec<EndpointPort>,
) -> EndpointSlice {
    EndpointSlice {
        address_type: family.to_string(),
        metadata: ObjectMeta {
            namespace: Some(service.namespace.clone()),
            name: Some(title),
            labels: Some([(SERVICE_NAME.to_owned(), service.name.clone())].into()),
            ..ObjectMeta::default()
        },
        ports: Some(ports),
        ..EndpointSlice::default()
    }
}

fn endpoint(pod: &Pod, address: String, spec: &ServiceSpec) -> Endpoint {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    let serving =
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let always = spec.publish_not_ready_addresses.unwrap_or(false);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(always || serving && !terminating),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        ..Endpoint::default()
    }
}

/// The first address of each family.
fn addresses(pod: &Pod) -> BTreeMap<Family, String> {
    let Some(status) = &pod.status else {
        return BTreeMap::new();
    };
    let many = status.pod_ips.iter().flatten().map(|pod_ip| &pod_ip.ip);
    let mut addresses = BTreeMap::new();
    for ip in many.chain(&status.pod_ip).filter_map(|text| parse_ip(text)) {
        addresses
            .entry(Family::of(ip))
            .or_insert_with(|| ip.to_string());
    }
    addresses
}

fn resolve(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        Some(EndpointPort {
            name: port.name.clone(),
            port: Some(number(port, protocol, pod)?.get().into()),
            protocol: Some(protocol.to_owned()),
            ..EndpointPort::default()
        })
    });
    ports.collect()
}

fn number(port: &ServicePort, protocol: &str, pod: &Pod) -> Option<NonZeroU16> {
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) if name.is_empty() => port.port,
        Some(IntOrString::String(name)) => {
            let named = |candidate: &&ContainerPort| {
                candidate.name.as_ref() == Some(name)
                    && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            container_ports(pod).find(named)?.container_port
        }
    };
    u16::try_from(number).ok().and_then(NonZeroU16::new)
}

/// Those of containers that run as long as the Pod does.
fn container_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let spec = pod.spec.iter();
    let sidecars = spec
        .clone()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars =
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.flat_map(|spec| &spec.containers).chain(sidecars);
    containers.flat_map(|container| container.ports.iter().flatten())
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
