//! A pod that is its own backend.

use lb_tests::lab::{Exchange, Family, Protocol};

use crate::{
    publish::publish,
    stage::{AT_ONCE, Stage, Way, eventually, kinds},
    what,
};

const TIMES: usize = 10;

fn lengths(protocol: Protocol) -> &'static [usize] {
    match protocol {
        Protocol::Tcp => &[1, 1461, 40_000],
        Protocol::Udp => &[1, 999, 1440],
    }
}

/// By whatever way it asks, it is asked by the node.
#[test]
fn a_pod_reaches_itself_by_every_frontend() {
    for (xdp, rp_filter, firewall) in [("native", 1, true), ("off", 0, false)] {
        let stage = Stage::new(rp_filter, firewall, &["--xdp", xdp]);
        publish(&stage, "a");
        let pod = stage.lab.pod("a").unwrap();
        for (protocol, family) in kinds() {
            for way in [Way::ClusterIp, Way::NodePort, Way::LoadBalancer] {
                for &length in lengths(protocol) {
                    let what = format!("{way:?}, {length} bytes, {}", what(protocol, family, xdp));
                    check(&stage, &what, family, || {
                        Exchange::new(protocol, stage.address(way, family))
                            .payload(length)
                            .timeout(AT_ONCE)
                            .run_in(&pod.netns)
                    });
                }
            }
        }
    }
}

fn check(
    stage: &Stage,
    what: &str,
    family: Family,
    ask: impl Fn() -> std::io::Result<lb_tests::lab::Reply>,
) {
    eventually(what, &ask, Result::is_ok).unwrap();
    let node = stage.lab.node(1).address(family);
    for _ in 0..TIMES {
        let reply = ask().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((reply.server.as_str(), reply.client), ("a", node), "{what}");
    }
}
