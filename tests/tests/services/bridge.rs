//! Pods behind a bridge that has the node's address towards them, as many
//! container network plugins wire them.

use lb_tests::lab::{Exchange, Family};
use serde_json::json;

use crate::stage::{AT_ONCE, Client, Stage, Way, eventually, kinds, ready};

/// Puts the pods of node 1 behind `cni0`.
fn bridge(stage: &Stage) {
    let node = stage.lab.node(1);
    let mut batch = "link add cni0 type bridge
        link set cni0 address 02:00:00:cc:00:01 up
        addr add 10.244.1.1/24 dev cni0
        addr add fd00:244:1::ffff/64 dev cni0 nodad
    "
    .to_owned();
    let pods = ["shell", "a"].map(|name| stage.lab.pod(name).unwrap());
    for pod in &pods {
        let interface = &pod.interface;
        let [v4, v6] = Family::ALL.map(|family| pod.address(family));
        batch += &format!(
            "route del {v4}/32 dev {interface}
             route del {v6}/128 dev {interface}
             addr flush dev {interface}
             link set {interface} master cni0
            "
        );
    }
    node.netns.ip(&batch).unwrap();
    for pod in &pods {
        let [v4, v6] = Family::ALL.map(|family| pod.address(family));
        let batch = format!(
            "addr flush dev eth0
             addr add {v4}/24 dev eth0
             addr add {v6}/64 dev eth0 nodad
             route replace default via 10.244.1.1
             route replace default via fd00:244:1::ffff
            "
        );
        pod.netns.ip(&batch).unwrap();
    }
}

#[test]
fn pods_behind_a_bridge_are_reached_from_everywhere() {
    for (xdp, rp_filter, masquerade) in [("native", 1, false), ("off", 0, true)] {
        let switch: &[&str] = if masquerade {
            &["--masquerade-all"]
        } else {
            &[]
        };
        let stage = Stage::new(rp_filter, false, &[&["--xdp", xdp], switch].concat());
        bridge(&stage);
        let own = stage.lab.pod("a").unwrap();
        for pod in ["a", "b"] {
            stage.publish(json!({}), &[ready(pod)]);
            for (protocol, family) in kinds() {
                let localhost = (family == Family::V4).then_some((Client::Node, Way::Localhost));
                let paths = [
                    (Client::Pod, Way::ClusterIp),
                    (Client::Pod, Way::NodePort),
                    (Client::Node, Way::ClusterIp),
                    (Client::Node, Way::NodePort),
                    (Client::Outside, Way::NodePort),
                ];
                for path in paths.into_iter().chain(localhost) {
                    let what = format!("{path:?} to {pod}, {protocol} {family}, xdp {xdp}");
                    let ask = || stage.exchange(path, protocol, family);
                    let is_right = |result: &std::io::Result<lb_tests::lab::Reply>| {
                        result.as_ref().is_ok_and(|reply| reply.server == pod)
                    };
                    eventually(&what, ask, is_right).unwrap();
                }
                for way in [Way::ClusterIp, Way::NodePort] {
                    let what = format!("a by {way:?} to {pod}, {protocol} {family}, xdp {xdp}");
                    let exchange = Exchange::new(protocol, stage.address(way, family));
                    let ask = || exchange.clone().timeout(AT_ONCE).run_in(&own.netns);
                    let reply = eventually(&what, ask, Result::is_ok).unwrap();
                    assert_eq!(reply.server, pod, "{what}");
                }
            }
        }
    }
}
