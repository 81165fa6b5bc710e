//! EndpointSlices that overlap.

use proptest::{
    collection,
    prelude::{Just, Strategy},
    prop_oneof,
    sample::subsequence,
    strategy::BoxedStrategy,
};
use serde_json::{Value, json};

use super::{SERVICES, object, one_of};

pub(super) fn slice(index: usize) -> BoxedStrategy<Value> {
    let owner = index % SERVICES.len();
    let family = prop_oneof![
        5 => Just(Some("IPv4")),
        4 => Just(Some("IPv6")),
        1 => Just(None),
    ];
    (labels(owner), ports(), family)
        .prop_flat_map(move |(labels, ports, family)| {
            let endpoints = collection::vec(endpoint(family), 0..=4);
            (Just((labels, ports, family)), endpoints)
        })
        .prop_map(move |((labels, ports, family), endpoints)| {
            let name = format!("s{index}");
            json!({
                "kind": "EndpointSlice",
                "metadata": {"namespace": SERVICES[owner][0], "name": name, "labels": labels},
                "addressType": family.unwrap_or("FQDN"),
                "ports": ports,
                "endpoints": endpoints,
            })
        })
        .boxed()
}

fn labels(owner: usize) -> BoxedStrategy<Value> {
    let of = |name: &str| json!({"kubernetes.io/service-name": name});
    let mut headless = of(SERVICES[owner][1]);
    headless["service.kubernetes.io/headless"] = "".into();
    prop_oneof![
        12 => Just(of(SERVICES[owner][1])),
        4 => Just(of("web")),
        1 => Just(of("nobody")),
        1 => Just(of("")),
        1 => Just(json!({})),
        1 => Just(headless),
    ]
    .boxed()
}

fn ports() -> BoxedStrategy<Value> {
    let numbers = one_of(&[
        json!(8080),
        json!(8080),
        json!(8080),
        json!(9090),
        json!(0),
        Value::Null,
    ]);
    let joined = [
        ("http", Some("TCP")),
        ("http", Some("UDP")),
        ("dns", Some("UDP")),
        ("dns-tcp", Some("TCP")),
        ("sctp", Some("SCTP")),
        ("plain", None),
        ("", Some("TCP")),
        ("", Some("UDP")),
    ];
    let count = joined.len();
    let chosen = subsequence(joined.to_vec(), 3..=count);
    let numbers = collection::vec(numbers, count);
    (chosen, numbers)
        .prop_map(|(chosen, numbers)| {
            let ports = chosen.into_iter().zip(numbers);
            let ports = ports.map(|((name, protocol), number)| {
                let mut port = json!({"name": name, "port": number});
                if let Some(protocol) = protocol {
                    port["protocol"] = protocol.into();
                }
                port
            });
            ports.collect()
        })
        .boxed()
}

/// Of no family: a host name.
fn endpoint(family: Option<&str>) -> BoxedStrategy<Value> {
    let addresses: Vec<Value> = (1..=4)
        .map(|number| match family {
            // The second does not count.
            Some("IPv4") if number == 4 => json!(["10.0.0.4", "10.0.0.1"]),
            Some("IPv4") => json!([format!("10.0.0.{number}")]),
            Some(_) => json!([format!("fd00:10::{number}")]),
            None => json!([format!("pod-{number}.example")]),
        })
        .collect();
    let condition = |values: &[Value]| one_of(values);
    let (nil, yes, no) = (Value::Null, json!(true), json!(false));
    let conditions = object(vec![
        (
            "ready",
            condition(&[
                nil.clone(),
                yes.clone(),
                yes.clone(),
                no.clone(),
                no.clone(),
            ]),
        ),
        (
            "serving",
            condition(&[nil.clone(), yes.clone(), no.clone()]),
        ),
        ("terminating", condition(&[nil, no.clone(), no, yes])),
    ]);
    let named = |names: &[&str]| -> Value { names.iter().map(|n| json!({"name": n})).collect() };
    let zones = [
        Value::Null,
        named(&["z1"]),
        named(&["z1"]),
        named(&["z2"]),
        named(&["z2"]),
        named(&["z2", "z1"]),
        named(&["z3"]),
        named(&[]),
    ];
    let nodes = [
        Value::Null,
        Value::Null,
        named(&["n1"]),
        named(&["n2"]),
        named(&["n2", "n1"]),
        named(&[]),
    ];
    let hints = object(vec![
        ("forZones", one_of(&zones)),
        ("forNodes", one_of(&nodes)),
    ]);
    object(vec![
        ("addresses", one_of(&addresses)),
        ("conditions", conditions),
        ("nodeName", one_of(&[Value::Null, "n1".into(), "n2".into()])),
        ("hints", hints),
    ])
}
