use std::{collections::BTreeSet, time::SystemTime};

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};

use super::{PORTS, PROTOCOLS, label, object_name, port, protocol};
use crate::{
    model::{Endpoint, Family, ObjectName, Slice, SlicePort},
    watch::{address::parse_ip, problems::Reporter},
};

pub(in crate::watch) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// `None` if the slice belongs to no Service that is proxied.
pub(in crate::watch) fn slice(slice: &EndpointSlice, reporter: &mut Reporter<'_>) -> Option<Slice> {
    if label(&slice.metadata, HEADLESS).is_some() {
        return None;
    }
    let service = label(&slice.metadata, SERVICE_NAME).filter(|name| !name.is_empty())?;
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return None,
        other => {
            reporter.report("addressType", format!("{other:?}"), "IPv4, IPv6 or FQDN");
            return None;
        }
    };
    let name = object_name(&slice.metadata);
    let endpoints = slice
        .endpoints
        .as_deref()
        .unwrap_or_default()
        .iter()
        .enumerate();
    let ports = ports(slice, reporter);
    let mut endpoints: Vec<Endpoint> = endpoints
        .filter_map(|(index, object)| endpoint(index, object, family, reporter))
        .collect();
    endpoints.shrink_to_fit();
    Some(Slice {
        service: ObjectName::new(&name.namespace, service),
        name,
        family,
        ports,
        endpoints,
        trigger_time: trigger_time(slice, reporter),
    })
}

fn ports(slice: &EndpointSlice, reporter: &mut Reporter<'_>) -> Vec<SlicePort> {
    let mut ports = Vec::new();
    for (index, object) in slice
        .ports
        .as_deref()
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let Some(number) = object.port.filter(|number| *number != 0) else {
            continue;
        };
        let Some(number) = port(number) else {
            reporter.report(format!("ports[{index}].port"), number.to_string(), PORTS);
            continue;
        };
        let Some(protocol) = protocol(object.protocol.as_deref()) else {
            let found = format!("{:?}", object.protocol);
            reporter.report(format!("ports[{index}].protocol"), found, PROTOCOLS);
            continue;
        };
        ports.push(SlicePort {
            name: object.name.clone().unwrap_or_default(),
            protocol,
            port: number,
        });
    }
    ports.shrink_to_fit();
    ports
}

fn endpoint(
    index: usize,
    object: &discovery::Endpoint,
    family: Family,
    reporter: &mut Reporter<'_>,
) -> Option<Endpoint> {
    let text = object.addresses.first().map_or("", String::as_str);
    let Some(address) = parse_ip(text).filter(|address| Family::of(*address) == family) else {
        reporter.report(
            format!("endpoints[{index}].addresses[0]"),
            format!("{text:?}"),
            format!("an {family} address"),
        );
        return None;
    };
    let conditions = object.conditions.as_ref();
    let hints = object.hints.as_ref();
    let zones = hints
        .and_then(|hints| hints.for_zones.as_deref())
        .unwrap_or_default();
    let nodes = hints
        .and_then(|hints| hints.for_nodes.as_deref())
        .unwrap_or_default();
    Some(Endpoint {
        address,
        node: object.node_name.clone(),
        ready: conditions
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true),
        serving: conditions
            .and_then(|conditions| conditions.serving)
            .unwrap_or(true),
        terminating: conditions
            .and_then(|conditions| conditions.terminating)
            .unwrap_or(false),
        for_zones: zones
            .iter()
            .map(|zone| zone.name.clone())
            .collect::<BTreeSet<_>>(),
        for_nodes: nodes
            .iter()
            .map(|node| node.name.clone())
            .collect::<BTreeSet<_>>(),
    })
}

fn trigger_time(slice: &EndpointSlice, reporter: &mut Reporter<'_>) -> Option<SystemTime> {
    let text = slice.metadata.annotations.as_ref()?.get(TRIGGER_TIME)?;
    let Ok(time) = text.parse::<Timestamp>() else {
        reporter.report(
            format!("metadata.annotations[{TRIGGER_TIME}]"),
            format!("{text:?}"),
            "a time such as 2026-01-02T03:04:05Z",
        );
        return None;
    };
    Some(time.into())
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU16, time::Duration};

    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Origin, Protocol};

    fn convert(labels: Value, body: Value) -> (Option<Slice>, Vec<String>) {
        let mut object = json!({
            "metadata": {"namespace": "ns", "name": "web-1", "labels": labels},
            "addressType": "IPv4",
        });
        for (key, value) in body.as_object().unwrap() {
            object[key] = value.clone();
        }
        let object: EndpointSlice = serde_json::from_value(object).unwrap();
        let mut problems = Vec::new();
        let found = slice(&object, &mut Reporter::new(&Origin::Api, "", &mut problems));
        (
            found,
            problems.into_iter().map(|problem| problem.field).collect(),
        )
    }

    fn web_label() -> Value {
        json!({"kubernetes.io/service-name": "web"})
    }

    #[test]
    fn skipped() {
        let headless =
            json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""});
        for (labels, body, field) in [
            (headless, json!({}), None),
            (json!({}), json!({}), None),
            (json!({"kubernetes.io/service-name": ""}), json!({}), None),
            (web_label(), json!({"addressType": "FQDN"}), None),
            (
                web_label(),
                json!({"addressType": "ipv4"}),
                Some("addressType"),
            ),
        ] {
            let expect = field.map(str::to_owned).into_iter().collect();
            assert_eq!(convert(labels, body.clone()), (None, expect), "{body}");
        }
    }

    #[test]
    fn ports_and_endpoints() {
        let (found, problems) = convert(
            web_label(),
            json!({
                "ports": [
                    {"port": 8080},
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "any"},
                    {"name": "zero", "port": 0},
                    {"name": "big", "port": 70000},
                    {"name": "odd", "port": 1, "protocol": "ICMP"},
                ],
                "endpoints": [
                    {"addresses": ["10.1.0.1", "10.1.0.2"]},
                    {"addresses": ["10.1.0.3"], "nodeName": "n1",
                     "conditions": {"ready": false, "serving": true, "terminating": true},
                     "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}},
                    {"addresses": ["10.1.0.4"], "conditions": {"ready": false}},
                    {"addresses": ["fd00::1"]},
                    {"addresses": []},
                    {"addresses": ["example.org"]},
                ],
            }),
        );
        let port = |name: &str, protocol, port| SlicePort {
            name: name.to_owned(),
            protocol,
            port: NonZeroU16::new(port).unwrap(),
        };
        let ready = |address: &str| Endpoint {
            address: address.parse().unwrap(),
            node: None,
            ready: true,
            serving: true,
            terminating: false,
            for_zones: BTreeSet::new(),
            for_nodes: BTreeSet::new(),
        };
        let expect = Slice {
            name: ObjectName::new("ns", "web-1"),
            service: ObjectName::new("ns", "web"),
            family: Family::V4,
            ports: vec![
                port("", Protocol::Tcp, 8080),
                port("dns", Protocol::Udp, 53),
            ],
            endpoints: vec![
                ready("10.1.0.1"),
                Endpoint {
                    node: Some("n1".to_owned()),
                    ready: false,
                    terminating: true,
                    for_zones: ["z1".to_owned()].into(),
                    for_nodes: ["n1".to_owned()].into(),
                    ..ready("10.1.0.3")
                },
                Endpoint {
                    ready: false,
                    ..ready("10.1.0.4")
                },
            ],
            trigger_time: None,
        };
        assert_eq!(found, Some(expect));
        assert_eq!(
            problems,
            [
                "ports[4].port",
                "ports[5].protocol",
                "endpoints[3].addresses[0]",
                "endpoints[4].addresses[0]",
                "endpoints[5].addresses[0]",
            ]
        );
    }

    #[test]
    fn trigger_times() {
        let field = format!("metadata.annotations[{TRIGGER_TIME}]");
        let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (text, expect, problems) in [
            ("2026-01-02T03:04:05Z", Some(second(1_767_323_045)), vec![]),
            (
                "2026-01-02T04:04:05.5+01:00",
                Some(second(1_767_323_045) + Duration::from_millis(500)),
                vec![],
            ),
            ("yesterday", None, vec![field]),
        ] {
            let metadata = json!({
                "namespace": "ns", "name": "web-1", "labels": web_label(),
                "annotations": {TRIGGER_TIME: text},
            });
            let (found, reported) = convert(json!({}), json!({"metadata": metadata}));
            assert_eq!(found.map(|slice| slice.trigger_time), Some(expect));
            assert_eq!(reported, problems);
        }
    }
}
