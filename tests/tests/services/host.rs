//! A backend in the node's own network, whose port is a frontend of another
//! Service.

use std::io;

use lb_tests::lab::{Exchange, Family, Protocol, Reply};
use serde_json::{Value, json};

use crate::{
    site::{self, NODE_PORT, TARGET, slices},
    stage::{AT_ONCE, Client, Stage, Way, eventually, kinds, ready},
};

/// The node's own address and port stand for another Service's backend `b`.
fn other(stage: &Stage) -> Vec<Value> {
    let node = stage.lab.node(1);
    let mut service = site::service("other", 11, 0);
    let own = Family::ALL.map(|family| node.address(family));
    service["spec"]["externalIPs"] = json!(own);
    for port in service["spec"]["ports"].as_array_mut().unwrap() {
        port["port"] = json!(TARGET);
    }
    let slices = slices(&stage.lab, "other", &["b"]);
    [service].into_iter().chain(slices).collect()
}

/// `web`, with a process of the node behind it.
fn web(stage: &Stage) -> Vec<Value> {
    let node = stage.lab.node(1);
    let mut slices = slices(&stage.lab, "web", &["a"]);
    for (slice, family) in slices.iter_mut().zip(Family::ALL) {
        slice["endpoints"][0]["addresses"] = json!([node.address(family)]);
    }
    let service = site::service("web", 10, NODE_PORT);
    [service].into_iter().chain(slices).collect()
}

fn is_from(server: &str) -> impl Fn(&io::Result<Reply>) -> bool {
    move |reply| reply.as_ref().is_ok_and(|reply| reply.server == server)
}

#[test]
fn a_process_of_the_node_is_reached_where_its_port_is_a_frontend() {
    for xdp in ["native", "off"] {
        let stage = Stage::new(1, false, &["--xdp", xdp]);
        let node = stage.lab.node(1);
        let ports = Protocol::ALL.map(|protocol| (protocol, TARGET));
        stage.lab.serve(node, &ports).unwrap();
        stage.publish(json!({}), &[ready("a")]);
        site::write(&stage.manifests, "web", &web(&stage));
        site::write(&stage.manifests, "other", &other(&stage));
        for (protocol, family) in kinds() {
            let to_other = node.socket(family, TARGET);
            let ask_other = || {
                let exchange = Exchange::new(protocol, to_other).timeout(AT_ONCE);
                exchange.run_in(&stage.lab.client().netns)
            };
            let what = format!("{to_other} {protocol}, XDP {xdp}");
            eventually(&what, ask_other, is_from("b")).unwrap();
            for path in [
                (Client::Outside, Way::NodePort),
                (Client::Pod, Way::ClusterIp),
                (Client::Pod, Way::NodePort),
                (Client::Node, Way::ClusterIp),
            ] {
                let ask = || stage.exchange(path, protocol, family);
                let what = format!("{path:?} {protocol} {family}, XDP {xdp}");
                eventually(&what, ask, is_from("node1")).unwrap();
                for _ in 0..5 {
                    assert_eq!(ask().unwrap().server, "node1", "{what}");
                }
            }
        }
    }
}
