//! One port of a client towards several frontends and the backend behind them,
//! all at the same time.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_tests::lab::{Family, Host, Pod, Protocol};

use crate::{
    publish::publish,
    site::TARGET,
    stage::{Stage, Way, kinds},
    talk::Talk,
    what,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// On node 1.
    Pod,
    /// The backend: all but its own address, which it reaches by itself.
    Backend,
    /// Node 1.
    Node,
    Outside,
}

/// Clients, the backend, and by which ways: what is addressed to the backend
/// itself comes last.
const TABLE: [(Client, &str, &[Way]); 7] = [
    (
        Client::Pod,
        "a",
        &[Way::ClusterIp, Way::LoadBalancer, Way::NodePort],
    ),
    (
        Client::Pod,
        "b",
        &[Way::ClusterIp, Way::LoadBalancer, Way::NodePort],
    ),
    (
        Client::Backend,
        "a",
        &[Way::ClusterIp, Way::LoadBalancer, Way::NodePort],
    ),
    (Client::Node, "a", &[Way::ClusterIp, Way::LoadBalancer]),
    (Client::Node, "b", &[Way::ClusterIp, Way::LoadBalancer]),
    (Client::Outside, "a", &[Way::NodePort, Way::LoadBalancer]),
    (Client::Outside, "b", &[Way::NodePort, Way::LoadBalancer]),
];

const ROUNDS: usize = 30;

#[test]
fn one_port_serves_all_ways_at_once() {
    for xdp in ["native", "off"] {
        let stage = Stage::new(1, false, &["--xdp", xdp]);
        let mut ports = 20_000..;
        for backend in ["a", "b"] {
            publish(&stage, backend);
            for (client, _, ways) in TABLE.into_iter().filter(|row| row.1 == backend) {
                for (protocol, family) in kinds() {
                    let what = format!("{client:?} to {backend}, {}", what(protocol, family, xdp));
                    let port = ports.next().unwrap();
                    check(
                        &stage,
                        &what,
                        (client, backend, ways),
                        protocol,
                        family,
                        port,
                    );
                }
            }
        }
    }
}

fn check(
    stage: &Stage,
    what: &str,
    (client, backend, ways): (Client, &str, &[Way]),
    protocol: Protocol,
    family: Family,
    port: u16,
) {
    let pod = |name| -> Arc<Pod> { stage.lab.pod(name).unwrap() };
    let (shell, target) = (pod("shell"), pod(backend));
    let host: &Host = match client {
        Client::Pod => &shell,
        Client::Backend => &target,
        Client::Node => stage.lab.node(1),
        Client::Outside => stage.lab.client(),
    };
    let mut addressees: Vec<SocketAddr> =
        ways.iter().map(|way| stage.address(*way, family)).collect();
    if client != Client::Backend {
        addressees.push(target.socket(family, TARGET));
    }
    let from = host.socket(family, port);
    let mut seen: BTreeSet<(IpAddr, u16)> = BTreeSet::new();
    let mut talks = Vec::new();
    for to in addressees {
        let open = Talk::open(&host.netns, protocol, from, to);
        let mut talk = open.unwrap_or_else(|error| panic!("{what}, {to}: {error}"));
        let reply = talk.say(b"first");
        let reply = reply.unwrap_or_else(|error| panic!("{what}, {to}: {error}"));
        let is_apart = seen.insert((reply.client, reply.port));
        assert!(is_apart, "{what}, {to}: {seen:?}");
        talks.push((to, talk, (reply.client, reply.port)));
    }
    for round in 0..ROUNDS {
        for (to, talk, seen) in &mut talks {
            let payload = format!("{round} to {to}");
            let reply = talk.say(payload.as_bytes());
            let reply = reply.unwrap_or_else(|error| panic!("{what}, {payload}: {error}"));
            let got = (reply.server.as_str(), (reply.client, reply.port));
            assert_eq!(got, (backend, *seen), "{what}, {payload}");
        }
    }
}
