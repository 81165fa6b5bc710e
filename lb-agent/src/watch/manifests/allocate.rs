//! Fills in what the API server would: defaults, cluster IPs and node ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::{
    defaults::{ServiceCidrs, addresses, defaults},
    ledger::{Ledger, Table},
    objects::{Key, Kind, Located},
    pool::{Addresses, Pool, Ports, Range},
    validate::NODE_PORTS,
};
use crate::{
    model::{Family, ObjectName, Origin, Problem},
    watch::problems::Reporter,
};

pub(super) type Services = BTreeMap<ObjectName, Located<Arc<Service>>>;

/// The Services as the API server would show them. What a Service runs with
/// comes first, then what others state; of two that state the same value, the
/// first by name gets it.
pub(super) fn allocate(
    services: &Services,
    cidrs: &ServiceCidrs,
    ledger: &mut Ledger,
) -> (Services, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut filled: Vec<Filled> = services
        .iter()
        .map(|(name, located)| Filled::new(name, located, cidrs, &mut problems))
        .collect();
    let ports = values(&ledger.node_ports).chain(values(&ledger.health_check_node_ports));
    let mut run = Run {
        cidrs,
        addresses: Pool::new(values(&ledger.cluster_ips).collect()),
        ports: Pool::new(ports.collect()),
        ledger,
        port_claims: BTreeMap::new(),
        live: BTreeSet::new(),
        problems,
    };
    for service in &mut filled {
        run.hold(service);
    }
    for service in &mut filled {
        run.claim(service);
    }
    for service in &mut filled {
        run.keep(service);
    }
    for service in &mut filled {
        run.fill(service);
    }
    run.release();

    let problems = run.problems;
    let services = filled.into_iter().map(Filled::finish).collect();
    (services, problems)
}

struct Filled {
    name: ObjectName,
    origin: Origin,
    service: Service,
    /// One for each family; `None` until it is allocated.
    addresses: Vec<(Family, Option<IpAddr>)>,
    /// By index of `spec.ports`; those that lost theirs get none.
    wants_node_ports: BTreeSet<usize>,
    wants_health_check: bool,
}

impl Filled {
    fn new(
        name: &ObjectName,
        located: &Located<Arc<Service>>,
        cidrs: &ServiceCidrs,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut service = Service::clone(&located.object);
        let spec = service.spec.get_or_insert_default();
        defaults(spec);
        let reporter = &mut Reporter::new(&located.origin, title(name), problems);
        let addresses = addresses(spec, cidrs, reporter);
        let external = addresses.is_some()
            && matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        let balancer = spec.type_.as_deref() == Some("LoadBalancer");
        let node_ports =
            external && !(balancer && spec.allocate_load_balancer_node_ports == Some(false));
        let ports = spec.ports.iter().flatten().enumerate();
        let missing = ports
            .filter(|(_, port)| port.node_port.is_none())
            .map(|(index, _)| index);
        Self {
            name: name.clone(),
            origin: located.origin.clone(),
            wants_node_ports: missing.filter(|_| node_ports).collect(),
            wants_health_check: external
                && balancer
                && spec.external_traffic_policy.as_deref() == Some("Local")
                && spec.health_check_node_port.is_none(),
            addresses: addresses.unwrap_or_default(),
            service,
        }
    }

    fn spec(&mut self) -> &mut ServiceSpec {
        self.service.spec.get_or_insert_default()
    }

    fn node_port(&mut self, index: usize) -> Option<i32> {
        self.spec().ports.as_deref().unwrap_or_default()[index].node_port
    }

    /// Of all its ports.
    fn stated_ports(&mut self) -> BTreeSet<u16> {
        let spec = self.spec();
        let ports = spec.ports.iter().flatten().map(|port| port.node_port);
        let ports = ports.chain([spec.health_check_node_port]).flatten();
        ports.filter_map(|port| u16::try_from(port).ok()).collect()
    }

    fn finish(mut self) -> (ObjectName, Located<Arc<Service>>) {
        let found: Vec<(Family, IpAddr)> = self
            .addresses
            .iter()
            .filter_map(|(family, address)| Some((*family, (*address)?)))
            .collect();
        let spec = self.spec();
        if !matches!(spec.cluster_ip.as_deref(), Some("None")) {
            let texts: Vec<String> = found
                .iter()
                .map(|(_, address)| address.to_string())
                .collect();
            spec.cluster_ip = texts.first().cloned();
            spec.cluster_ips = Some(texts);
            spec.ip_families = Some(found.iter().map(|(family, _)| family.to_string()).collect());
        }
        let located = Located {
            origin: self.origin,
            object: Arc::new(self.service),
        };
        (self.name, located)
    }
}

struct Run<'a> {
    cidrs: &'a ServiceCidrs,
    ledger: &'a mut Ledger,
    addresses: Pool<IpAddr>,
    /// Whoever has a port has it for all protocols, as far as allocation goes.
    ports: Pool<u16>,
    port_claims: BTreeMap<(u16, String), ObjectName>,
    live: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Run<'_> {
    /// What was allocated and is in use, unless the manifest states another
    /// value now.
    fn hold(&mut self, service: &mut Filled) {
        let name = service.name.clone();
        for (family, address) in &mut service.addresses {
            let key = address_key(&name, *family);
            let Some(value) = live(&self.ledger.cluster_ips, &key) else {
                continue;
            };
            let usable = match *address {
                Some(stated) => stated == value,
                None => {
                    let cidr = self.cidrs.of(*family);
                    cidr.is_some_and(|cidr| Addresses(cidr).contains(value))
                }
            };
            if usable && self.addresses.take(value, &name).is_ok() {
                *address = Some(value);
                self.live.insert(key);
            }
        }

        let stated = service.stated_ports();
        for index in 0..service.spec().ports.as_deref().unwrap_or_default().len() {
            let key = port_key(service, index);
            let Some(value) = live(&self.ledger.node_ports, &key) else {
                continue;
            };
            let port = &service.spec().ports.as_deref().unwrap_or_default()[index];
            let protocol = port.protocol.clone().unwrap_or_default();
            let usable = match port.node_port {
                Some(stated) => stated == i32::from(value),
                None => service.wants_node_ports.contains(&index) && !stated.contains(&value),
            };
            if usable && self.hold_port(value, protocol, &name) {
                set_node_port(service, index, Some(value));
                self.live.insert(key);
            }
        }
        let key = name.to_string();
        let Some(value) = live(&self.ledger.health_check_node_ports, &key) else {
            return;
        };
        let usable = match service.spec().health_check_node_port {
            Some(stated) => stated == i32::from(value),
            None => service.wants_health_check && !stated.contains(&value),
        };
        if usable && self.hold_port(value, "TCP".to_owned(), &name) {
            service.spec().health_check_node_port = Some(i32::from(value));
            self.live.insert(key);
        }
    }

    fn hold_port(&mut self, value: u16, protocol: String, owner: &ObjectName) -> bool {
        let held = NODE_PORTS.contains(&value) && self.ports.take(value, owner).is_ok();
        if held {
            self.port_claims.insert((value, protocol), owner.clone());
        }
        held
    }

    /// What the manifest states.
    fn claim(&mut self, service: &mut Filled) {
        let name = service.name.clone();
        let reporter = &mut Reporter::new(&service.origin, title(&name), &mut self.problems);
        for (index, (_, address)) in service.addresses.iter_mut().enumerate() {
            let Some(value) = *address else { continue };
            if let Err(owner) = self.addresses.take(value, &name) {
                let found = format!("{value}, which belongs to Service {owner}");
                let accepted = "an address of its own (another one is allocated)";
                reporter.report(format!("spec.clusterIPs[{index}]"), found, accepted);
                *address = None;
            }
        }

        let spec = service.service.spec.get_or_insert_default();
        for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
            let Some(value) = port.node_port.and_then(|value| u16::try_from(value).ok()) else {
                continue;
            };
            let key = (value, port.protocol.clone().unwrap_or_default());
            let owner = self.port_claims.entry(key).or_insert_with(|| name.clone());
            if *owner != name {
                let found = format!("{value}, which belongs to Service {owner}");
                reporter.report(
                    format!("spec.ports[{index}].nodePort"),
                    found,
                    "a port of its own",
                );
                port.node_port = None;
            }
            // Two Services may share a number with different protocols.
            let _shared = self.ports.take(value, &name);
        }
        let Some(value) = spec
            .health_check_node_port
            .and_then(|value| u16::try_from(value).ok())
        else {
            return;
        };
        let owner = self
            .port_claims
            .entry((value, "TCP".to_owned()))
            .or_insert_with(|| name.clone());
        if *owner == name {
            let _shared = self.ports.take(value, &name);
        } else {
            let found = format!("{value}, which belongs to Service {owner}");
            reporter.report("spec.healthCheckNodePort", found, "a port of its own");
            spec.health_check_node_port = None;
        }
    }

    /// What was allocated before and is free.
    fn keep(&mut self, service: &mut Filled) {
        let name = service.name.clone();
        for (family, address) in &mut service.addresses {
            let Some(cidr) = self.cidrs.of(*family).filter(|_| address.is_none()) else {
                continue;
            };
            let key = address_key(&name, *family);
            let table = &mut self.ledger.cluster_ips;
            let usable = |value| Addresses(cidr).contains(value);
            *address = self.addresses.keep(table, &key, &name, usable);
            self.live.insert(key);
        }
        for index in service.wants_node_ports.clone() {
            if service.node_port(index).is_some() {
                continue;
            }
            let key = port_key(service, index);
            let table = &mut self.ledger.node_ports;
            let kept = self
                .ports
                .keep(table, &key, &name, |value| NODE_PORTS.contains(&value));
            self.live.insert(key);
            set_node_port(service, index, kept);
        }
        if service.wants_health_check && service.spec().health_check_node_port.is_none() {
            let table = &mut self.ledger.health_check_node_ports;
            let key = name.to_string();
            let kept = self
                .ports
                .keep(table, &key, &name, |value| NODE_PORTS.contains(&value));
            self.live.insert(key);
            service.spec().health_check_node_port = kept.map(i32::from);
        }
    }

    /// What is still missing.
    fn fill(&mut self, service: &mut Filled) {
        let name = service.name.clone();
        for (family, address) in &mut service.addresses {
            let Some(cidr) = self.cidrs.of(*family).filter(|_| address.is_none()) else {
                continue;
            };
            let key = address_key(&name, *family);
            let table = &mut self.ledger.cluster_ips;
            let range = Addresses(cidr);
            *address = self.addresses.allocate(&range, table, &key, &name);
            if address.is_none() {
                let reporter =
                    &mut Reporter::new(&service.origin, title(&name), &mut self.problems);
                let found = format!("no free address in {cidr}");
                reporter.report("spec.clusterIP", found, "a larger --service-cidr");
            }
        }
        for index in service.wants_node_ports.clone() {
            if service.node_port(index).is_some() {
                continue;
            }
            let key = port_key(service, index);
            let table = &mut self.ledger.node_ports;
            let port = self.ports.allocate(&Ports(NODE_PORTS), table, &key, &name);
            set_node_port(service, index, port);
            self.check_port(service, port, format!("spec.ports[{index}].nodePort"));
        }
        if service.wants_health_check && service.spec().health_check_node_port.is_none() {
            let table = &mut self.ledger.health_check_node_ports;
            let key = name.to_string();
            let port = self.ports.allocate(&Ports(NODE_PORTS), table, &key, &name);
            service.spec().health_check_node_port = port.map(i32::from);
            self.check_port(service, port, "spec.healthCheckNodePort".to_owned());
        }
    }

    fn check_port(&mut self, service: &Filled, port: Option<u16>, field: String) {
        if port.is_none() {
            let reporter =
                &mut Reporter::new(&service.origin, title(&service.name), &mut self.problems);
            let found = format!(
                "no free port from {} to {}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            );
            reporter.report(field, found, "fewer Services with node ports");
        }
    }

    /// Marks what lost its owner.
    fn release(&mut self) {
        let Ledger {
            sequence,
            cluster_ips,
            node_ports,
            health_check_node_ports,
            ..
        } = &mut *self.ledger;
        let before = *sequence;
        release(cluster_ips, &self.live, before, sequence);
        release(node_ports, &self.live, before, sequence);
        release(health_check_node_ports, &self.live, before, sequence);
    }
}

fn release<V>(table: &mut Table<V>, live: &BTreeSet<String>, before: u64, sequence: &mut u64) {
    for (key, entry) in table {
        if entry.released.is_none() && !live.contains(key) {
            *sequence = before + 1;
            entry.released = Some(*sequence);
        }
    }
}

fn title(name: &ObjectName) -> String {
    let key = Key {
        kind: Kind::Service,
        name: name.clone(),
    };
    key.to_string()
}

fn address_key(name: &ObjectName, family: Family) -> String {
    format!("{name} {family}")
}

fn port_key(service: &Filled, index: usize) -> String {
    let ports = service
        .service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref());
    let port = &ports.unwrap_or_default()[index];
    let name = port.name.as_deref().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or_default();
    format!("{}/{name}/{protocol}", service.name)
}

fn set_node_port(service: &mut Filled, index: usize, value: Option<u16>) {
    if let Some(port) = service.spec().ports.iter_mut().flatten().nth(index) {
        port.node_port = value.map(i32::from);
    }
}

/// The value of `key`, if its owner was there all the time.
fn live<V: Copy>(table: &Table<V>, key: &str) -> Option<V> {
    let entry = table.get(key)?;
    entry.released.is_none().then_some(entry.value)
}

fn values<V: Copy>(table: &Table<V>) -> impl Iterator<Item = V> {
    table.values().map(|entry| entry.value)
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
