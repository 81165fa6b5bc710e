//! What tests read from `/status`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().unwrap().iter()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Problems that name a file.
pub(crate) fn problems(status: &Value, file: &str) -> Vec<String> {
    let lines = list(status, "problems").map(text);
    lines.filter(|line| line.contains(file)).collect()
}

/// Services with their frontends and backends, without counts that move.
pub(crate) fn services(status: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut services = BTreeMap::new();
    for service in list(status, "services") {
        let mut lines = BTreeSet::new();
        for port in list(service, "ports") {
            for (kind, numbered) in [("frontend", "frontends"), ("backend", "backends")] {
                let ends = list(port, numbered).map(|end| {
                    let [address, number] = ["address", "port"].map(|key| text(&end[key]));
                    format!("{kind} {address} {number}/{}", text(&port["protocol"]))
                });
                lines.extend(ends);
            }
        }
        services.insert(text(&service["name"]), lines);
    }
    services
}

/// Cluster IPs and node ports by Service.
pub(crate) type Allocations = BTreeMap<String, BTreeSet<String>>;

pub(crate) fn allocations(status: &Value) -> Allocations {
    let mut allocations = Allocations::new();
    for service in list(status, "services") {
        let allocated = allocations.entry(text(&service["name"])).or_default();
        for frontend in list(service, "ports").flat_map(|port| list(port, "frontends")) {
            let kind = text(&frontend["kind"]);
            let value = match kind.as_str() {
                "clusterIP" => &frontend["address"],
                _ => &frontend["port"],
            };
            allocated.insert(format!("{kind} {}", text(value)));
        }
    }
    allocations
}
