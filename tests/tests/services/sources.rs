//! `loadBalancerSourceRanges`, and whose address a backend sees.

use std::{io, net::IpAddr};

use lb_tests::lab::CLIENT;
use serde_json::{Value, json};

use crate::stage::{Client, Stage, Way, eventually, is_in_vain, kinds, ready};

fn ranges(texts: &[&str]) -> Value {
    json!({"type": "LoadBalancer", "loadBalancerSourceRanges": texts})
}

/// Only load balancer IPs are closed, and open again with the next change.
#[test]
fn source_ranges_hold_for_the_load_balancer_only() {
    let client = [format!("{}/32", CLIENT.v4), format!("{}/128", CLIENT.v6)];
    let client = client.each_ref().map(String::as_str);
    let others = ["198.51.100.128/25", "2001:db8:100::1000/116"];
    for xdp in ["native", "off"] {
        let stage = Stage::new(1, true, &["--xdp", xdp]);
        let balanced = (Client::Outside, Way::LoadBalancer);
        for (texts, is_open) in [
            (&client[..], true),
            (&others, false),
            (&["0.0.0.0/0", "::/0"], true),
            (&others, false),
            (&[], true),
        ] {
            stage.publish(ranges(texts), &[ready("a"), ready("b")]);
            for (protocol, family) in kinds() {
                let what = format!("xdp {xdp}, {texts:?}, {protocol} {family}");
                let ask = || stage.exchange(balanced, protocol, family);
                if is_open {
                    eventually(&what, ask, Result::is_ok).unwrap();
                } else {
                    eventually(&what, ask, is_in_vain).unwrap_err();
                }
                let node_port = (Client::Outside, Way::NodePort);
                stage.exchange(node_port, protocol, family).unwrap();
                let cluster_ip = (Client::Pod, Way::ClusterIp);
                stage.exchange(cluster_ip, protocol, family).unwrap();
            }
        }
    }
}

/// Backends see the client, if the way back leads past this node; with
/// `--masquerade-all` they see the node.
#[test]
fn backends_see_whom_they_can_answer() {
    for masquerade in [false, true] {
        for xdp in ["native", "off"] {
            let switch: &[&str] = if masquerade {
                &["--masquerade-all"]
            } else {
                &[]
            };
            let stage = Stage::new(1, false, &[&["--xdp", xdp], switch].concat());
            for pod in ["a", "b"] {
                stage.publish(json!({}), &[ready(pod)]);
                let is_local = pod == "a";
                for (protocol, family) in kinds() {
                    let node = stage.lab.node(1).address(family);
                    let shell = stage.lab.pod("shell").unwrap().address(family);
                    let table: [((Client, Way), IpAddr, bool); 4] = [
                        ((Client::Pod, Way::ClusterIp), shell, masquerade),
                        ((Client::Pod, Way::NodePort), shell, masquerade),
                        (
                            (Client::Outside, Way::NodePort),
                            CLIENT.get(family),
                            masquerade || !is_local,
                        ),
                        ((Client::Node, Way::ClusterIp), node, true),
                    ];
                    for (path, client, translated) in table {
                        let what = format!("{path:?} {pod} {protocol} {family} {masquerade} {xdp}");
                        let ask = || stage.exchange(path, protocol, family);
                        let is_right = |result: &io::Result<lb_tests::lab::Reply>| {
                            result.as_ref().is_ok_and(|reply| reply.server == pod)
                        };
                        let reply = eventually(&what, ask, is_right).unwrap();
                        let expect = if translated { node } else { client };
                        assert_eq!(reply.client, expect, "{what}");
                    }
                }
            }
        }
    }
}
