//! What the API server fills in before it allocates anything.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::{
    api::core::v1::{ClientIPConfig, ServiceSpec, SessionAffinityConfig},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{
    model::Family,
    watch::{address::parse_ip, problems::Reporter},
};

/// One CIDR a family at most; the first family is the default one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceCidrs(Vec<IpNet>);

impl ServiceCidrs {
    /// `None` if there are two of a family.
    pub(super) fn new(cidrs: &[IpNet]) -> Option<Self> {
        if cidrs.is_empty() {
            let defaults = ["10.96.0.0/16", "fd00:10:96::/112"];
            return Some(Self(
                defaults
                    .iter()
                    .filter_map(|text| text.parse().ok())
                    .collect(),
            ));
        }
        let families: BTreeSet<Family> = cidrs.iter().map(|cidr| Family::of(cidr.addr())).collect();
        (families.len() == cidrs.len()).then(|| Self(cidrs.iter().map(IpNet::trunc).collect()))
    }

    pub(super) fn of(&self, family: Family) -> Option<IpNet> {
        self.0
            .iter()
            .find(|cidr| Family::of(cidr.addr()) == family)
            .copied()
    }

    pub(super) fn families(&self) -> impl Iterator<Item = Family> {
        self.0.iter().map(|cidr| Family::of(cidr.addr()))
    }
}

pub(super) fn defaults(spec: &mut ServiceSpec) {
    default(&mut spec.type_, "ClusterIP");
    default(&mut spec.session_affinity, "None");
    default(&mut spec.internal_traffic_policy, "Cluster");
    default(&mut spec.external_traffic_policy, "Cluster");
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        const TIMEOUT_SECONDS: i32 = 10_800;
        let config: &mut SessionAffinityConfig =
            spec.session_affinity_config.get_or_insert_default();
        let client_ip: &mut ClientIPConfig = config.client_ip.get_or_insert_default();
        client_ip.timeout_seconds.get_or_insert(TIMEOUT_SECONDS);
    }
    spec.health_check_node_port = spec.health_check_node_port.filter(|port| *port != 0);
    for port in spec.ports.iter_mut().flatten() {
        default(&mut port.protocol, "TCP");
        port.node_port = port.node_port.filter(|port| *port != 0);
        let stated = match &port.target_port {
            None | Some(IntOrString::Int(0)) => false,
            Some(IntOrString::String(name)) => !name.is_empty(),
            Some(IntOrString::Int(_)) => true,
        };
        if !stated {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
}

fn default(field: &mut Option<String>, value: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(value.to_owned());
    }
}

/// The families of the Service with the addresses that it states; `None` for
/// a Service without addresses of its own.
pub(super) fn addresses(
    spec: &mut ServiceSpec,
    cidrs: &ServiceCidrs,
    reporter: &mut Reporter<'_>,
) -> Option<Vec<(Family, Option<IpAddr>)>> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let one = spec.cluster_ip.as_slice();
    let texts = if listed.is_empty() { one } else { listed };
    let texts: Vec<&String> = texts.iter().filter(|text| !text.is_empty()).collect();
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    if texts.iter().any(|text| *text == "None") {
        spec.cluster_ip = Some("None".to_owned());
        return None;
    }

    let stated: Vec<IpAddr> = texts.iter().filter_map(|text| parse_ip(text)).collect();
    let named = spec.ip_families.iter().flatten().filter_map(|name| {
        Family::ALL
            .into_iter()
            .find(|family| family.to_string() == *name)
    });
    let mut families: Vec<Family> = named.collect();
    for address in &stated {
        if !families.contains(&Family::of(*address)) {
            families.push(Family::of(*address));
        }
    }
    if families.is_empty() {
        families.extend(cidrs.families().next());
    }

    let dual = families.len() > 1;
    default(
        &mut spec.ip_family_policy,
        if dual {
            "RequireDualStack"
        } else {
            "SingleStack"
        },
    );
    let policy = spec.ip_family_policy.as_deref().unwrap_or_default();
    if policy == "SingleStack" && dual {
        let accepted = "PreferDualStack or RequireDualStack, as there are two families";
        reporter.report("spec.ipFamilyPolicy", format!("{policy:?}"), accepted);
        families.truncate(1);
    }
    if policy != "SingleStack" {
        for family in cidrs.families() {
            if !families.contains(&family) {
                families.push(family);
            }
        }
    }
    if policy == "RequireDualStack" && families.len() < 2 {
        let accepted = "a --service-cidr of each family";
        reporter.report("spec.ipFamilyPolicy", format!("{policy:?}"), accepted);
    }
    let mut found = Vec::new();
    for family in families {
        let address = stated
            .iter()
            .copied()
            .find(|address| Family::of(*address) == family);
        if address.is_none() && cidrs.of(family).is_none() {
            reporter.report(
                "spec.ipFamilies",
                family.to_string(),
                "a family with a --service-cidr",
            );
            continue;
        }
        found.push((family, address));
    }
    Some(found)
}
