use serde_json::json;

use super::*;

fn scenario() -> Value {
    json!({
        "name": "one",
        "anything": "else",
        "node": {"name": "n", "ips": ["198.18.0.10"]},
        "options": {"nodeport_addresses": ["primary"], "local_traffic": {"mode": "cidr", "cidrs": ["10.20.0.0/16"]}},
        "services": [{
            "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"clusterIP": "10.96.0.7"},
        }],
        "flows": [{
            "src": "10.20.1.2", "proto": "TCP", "dst": "10.96.0.7", "dport": 80,
            "expect": {"verdict": "dnat", "endpoints": ["10.20.1.11:80"]},
        }],
        "steps": [{"delete": {"services": ["shop/web"]}}],
    })
}

fn check(text: &str, expect: &str) {
    let error = format!("{:#}", parse(text).unwrap_err());
    assert!(error.starts_with(expect), "{error}\n{expect}");
}

#[test]
fn a_list_or_a_single_scenario_is_read() {
    let one = scenario();
    for (value, count) in [
        (one.clone(), 1),
        (json!([one.clone(), one]), 2),
        (json!([]), 0),
    ] {
        assert_eq!(parse(&value.to_string()).unwrap().len(), count);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let table = [
        ("/name", json!(7), "scenario 1: name: invalid type"),
        ("/node/ips/0", json!("x"), "scenario one: node.ips[0]: "),
        ("/node/ips", Value::Null, "scenario one: node.ips: "),
        (
            "/options/local_traffic/mode",
            json!("bridge"),
            "scenario one: options.local_traffic.mode: unknown variant `bridge`, expected `cidr` or `none`",
        ),
        (
            "/options/nodeport_addresses/0",
            json!("all"),
            "scenario one: options.nodeport_addresses[0]: found \"all\", accepted: `primary`, or a CIDR",
        ),
        (
            "/options/local_traffic/cidrs/0",
            json!("10.20.0.0/40"),
            "scenario one: options.local_traffic.cidrs[0]: ",
        ),
        (
            "/services/0/kind",
            json!("Secret"),
            "scenario one: services[0]: Secret shop/web: kind: found \"Secret\", accepted: Service or EndpointSlice",
        ),
        (
            "/services/0/spec/clusterIP",
            json!(7),
            "scenario one: services[0]: Service shop/web: spec.clusterIP: found integer `7`",
        ),
        (
            "/flows/0/proto",
            json!("tcp"),
            "scenario one: flows[0].proto: unknown variant `tcp`",
        ),
        (
            "/flows/0/dport",
            json!(70000),
            "scenario one: flows[0].dport: invalid value: integer `70000`",
        ),
        (
            "/flows/0/dst",
            json!("fd00:96::7"),
            "scenario one: flows[0].dst: found fd00:96::7, accepted: an address of the family of 10.20.1.2",
        ),
        (
            "/flows/0/expect/verdict",
            json!("accept"),
            "scenario one: flows[0].expect.verdict: unknown variant `accept`",
        ),
        (
            "/flows/0/expect/verdict",
            json!("drop"),
            "scenario one: flows[0].expect.endpoints: found [10.20.1.11:80]",
        ),
        (
            "/flows/0/expect/endpoints",
            json!([]),
            "scenario one: flows[0].expect.endpoints: found []",
        ),
        (
            "/steps/0/delete/services/0",
            json!("web"),
            "scenario one: steps[0].delete: found \"web\", accepted: namespace/name",
        ),
    ];
    for (field, value, expect) in table {
        let mut scenario = scenario();
        *scenario.pointer_mut(field).unwrap() = value;
        check(&json!([scenario]).to_string(), expect);
    }
    check("[7]", "scenario 1: ");
    check("7", "found 7, accepted: a list of scenarios");
    check("[{]", "key must be a string");
}
