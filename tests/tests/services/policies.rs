//! Traffic policies, as they are seen from each place.

use std::io;

use lb_tests::lab::{Exchange, Reply};
use serde_json::{Value, json};

use crate::stage::{AT_ONCE, Client, Stage, Way, eventually, is_in_vain, kinds, ready};

fn external_local() -> Value {
    json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})
}

/// Outside clients stay on the node; pods and the node go anywhere.
#[test]
fn external_traffic_policy_local() {
    let paths = [
        (Client::Outside, Way::NodePort),
        (Client::Outside, Way::LoadBalancer),
        (Client::Pod, Way::NodePort),
        (Client::Pod, Way::LoadBalancer),
        (Client::Pod, Way::ClusterIp),
        (Client::Node, Way::NodePort),
        (Client::Node, Way::LoadBalancer),
        (Client::Node, Way::ClusterIp),
    ];
    for xdp in ["native", "off"] {
        let stage = Stage::new(1, true, &["--xdp", xdp]);
        stage.publish(external_local(), &[ready("a")]);
        for (protocol, family) in kinds() {
            for path in paths {
                let ask = || stage.exchange(path, protocol, family);
                let reply = eventually("local", ask, Result::is_ok).unwrap();
                assert_eq!(reply.server, "a");
            }
        }
        stage.publish(external_local(), &[ready("b"), ready("c")]);
        for (protocol, family) in kinds() {
            for path in paths {
                let what = format!("{path:?} {protocol} {family}, xdp {xdp}");
                let ask = || stage.exchange(path, protocol, family);
                if path.0 == Client::Outside {
                    eventually(&what, ask, is_in_vain).unwrap_err();
                    continue;
                }
                let elsewhere = |result: &io::Result<Reply>| {
                    result.as_ref().is_ok_and(|reply| reply.server != "a")
                };
                eventually(&what, ask, elsewhere).unwrap();
            }
        }
    }
}

/// Whose address makes a pod: by interface a pod of another node is an outside
/// client, by network it is a pod.
#[test]
fn pods_are_told_by_interface_or_by_address() {
    let cidr = "10.244.0.0/16,fd00:244::/32";
    for (arguments, is_pod) in [
        (&[][..], false),
        (&["--detect-pods", "none"], false),
        (&["--detect-pods", "cidr", "--cluster-cidr", cidr], true),
    ] {
        let stage = Stage::new(0, false, arguments);
        stage.publish(external_local(), &[ready("c")]);
        let pod = stage.lab.pod("b").unwrap();
        for (protocol, family) in kinds() {
            let what = format!("{arguments:?} {protocol} {family}");
            let served = || stage.exchange((Client::Node, Way::NodePort), protocol, family);
            eventually(&what, served, Result::is_ok).unwrap();
            let to = stage.address(Way::NodePort, family);
            let exchange = Exchange::new(protocol, to).timeout(AT_ONCE);
            let result = exchange.run_in(&pod.netns);
            assert_eq!(result.is_ok(), is_pod, "{what}: {result:?}");
            let own = stage.exchange((Client::Pod, Way::NodePort), protocol, family);
            let expect = arguments != ["--detect-pods", "none"];
            assert_eq!(own.is_ok(), expect, "{what}: {own:?}");
        }
    }
}
