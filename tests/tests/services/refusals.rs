//! A Service that loses its last endpoint, and gets it back.

use std::{io, os::fd::AsRawFd, time::Instant};

use lb_tests::lab::{Exchange, Family, Protocol};
use serde_json::json;

use crate::{
    site::{NODE_PORT, cluster_ip},
    stage::{AT_ONCE, Client, Stage, Way, eventually, is_in_vain, kinds, ready},
};

const PATHS: [(Client, Way); 7] = [
    (Client::Pod, Way::ClusterIp),
    (Client::Pod, Way::NodePort),
    (Client::Node, Way::ClusterIp),
    (Client::Node, Way::NodePort),
    (Client::Node, Way::Localhost),
    (Client::Outside, Way::NodePort),
    (Client::Outside, Way::LoadBalancer),
];

fn is_refused<T>(result: &io::Result<T>) -> bool {
    let error = result.as_ref().err();
    error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Every path in every protocol and family that it has.
fn paths() -> impl Iterator<Item = ((Client, Way), Protocol, Family)> {
    let all = PATHS.into_iter();
    let all = all.flat_map(|path| kinds().map(move |(protocol, family)| (path, protocol, family)));
    all.filter(|((_, way), _, family)| *way != Way::Localhost || *family == Family::V4)
}

fn refused_and_served(rp_filter: u8, firewall: bool, xdp: &str) {
    let stage = Stage::new(rp_filter, firewall, &["--xdp", xdp]);
    let mut slowest = std::time::Duration::ZERO;
    for endpoints in [&[][..], &[ready("a")], &[], &[ready("b")]] {
        stage.publish(json!({}), endpoints);
        for (path, protocol, family) in paths() {
            let what = format!("{path:?} {protocol} {family}, {endpoints:?}");
            let ask = || stage.exchange(path, protocol, family);
            let Some((name, ..)) = endpoints.first() else {
                // The first one waits for the agent, the second one does not.
                eventually(&what, ask, is_refused).unwrap_err();
                let start = Instant::now();
                let result = ask();
                slowest = slowest.max(start.elapsed());
                assert!(is_refused(&result), "{what}: {result:?}");
                continue;
            };
            let reply = eventually(&what, ask, Result::is_ok).unwrap();
            assert_eq!(reply.server, *name, "{what}");
        }
    }
    println!("refused within {slowest:?}");
    // Far from the second that an unanswered SYN takes.
    assert!(slowest < AT_ONCE / 2, "{slowest:?}");
}

#[test]
fn the_last_endpoint_goes_and_comes_back() {
    refused_and_served(0, false, "native");
}

#[test]
fn the_last_endpoint_goes_and_comes_back_behind_a_strict_firewall() {
    refused_and_served(1, true, "native");
}

#[test]
fn the_last_endpoint_goes_and_comes_back_without_xdp() {
    refused_and_served(2, true, "off");
}

/// Ports that a clusterIP lacks are refused, addresses that no Service has
/// lead nowhere.
#[test]
fn other_ports_and_other_addresses_of_the_service_network() {
    let stage = Stage::new(1, true, &["--xdp", "native"]);
    stage.publish(json!({}), &[ready("a")]);
    let shell = stage.lab.pod("shell").unwrap();
    for (protocol, family) in kinds() {
        let served = || stage.exchange((Client::Pod, Way::ClusterIp), protocol, family);
        eventually("served", served, Result::is_ok).unwrap();
        for netns in [&shell.netns, &stage.lab.node(1).netns] {
            let mut to = cluster_ip(family, 10);
            to.set_port(81);
            let exchange = Exchange::new(protocol, to).timeout(AT_ONCE);
            let result = exchange.run_in(netns);
            assert!(is_refused(&result), "{to} {protocol}: {result:?}");

            let nobody = cluster_ip(family, 11);
            let exchange = Exchange::new(protocol, nobody).timeout(AT_ONCE);
            let result = exchange.run_in(netns);
            assert!(is_in_vain(&result), "{nobody} {protocol}: {result:?}");
        }
    }
    let counters = &stage.agent.status().unwrap()["counters"];
    for hook in ["tc_ingress", "tc_egress"] {
        assert!(
            counters[hook]["no_service"].as_u64() > Some(0),
            "{counters}"
        );
        assert!(counters[hook]["rejected"].as_u64() > Some(0), "{counters}");
    }
}

/// A process of the node reaches the nodePort on 127.0.0.1, and nobody else
/// does: the sysctl that would let others in stays as it was.
#[test]
fn node_ports_on_localhost_are_the_nodes_own() {
    let stage = Stage::new(1, true, &["--xdp", "native"]);
    let route_localnet = || {
        let output = stage.lab.node(1).netns.command("sysctl").unwrap();
        let mut output = output;
        let output = output.args([
            "-n",
            "net.ipv4.conf.all.route_localnet",
            "net.ipv4.conf.eth0.route_localnet",
        ]);
        String::from_utf8(output.output().unwrap().stdout).unwrap()
    };
    assert_eq!(route_localnet(), "0\n0\n");
    for pod in ["a", "b"] {
        stage.publish(json!({}), &[ready(pod)]);
        for protocol in Protocol::ALL {
            let path = (Client::Node, Way::Localhost);
            let ask = || stage.exchange(path, protocol, Family::V4);
            let is_right = |result: &io::Result<lb_tests::lab::Reply>| {
                result.as_ref().is_ok_and(|reply| reply.server == pod)
            };
            let reply = eventually("localhost", ask, is_right).unwrap();
            let node = stage.lab.node(1).address(Family::V4);
            assert_eq!(reply.client, node, "{pod} {protocol}");
        }
    }
    assert_eq!(route_localnet(), "0\n0\n");
    drop(stage);

    let stage = Stage::new(0, false, &["--localhost-nodeports", "false"]);
    stage.publish(json!({}), &[ready("a")]);
    let reply = || stage.exchange((Client::Node, Way::NodePort), Protocol::Tcp, Family::V4);
    eventually("served", reply, Result::is_ok).unwrap();
    let local = stage.exchange((Client::Node, Way::Localhost), Protocol::Tcp, Family::V4);
    assert!(is_refused(&local), "by the stack, {NODE_PORT}: {local:?}");
}

/// A SYN with options has a header that TC does not cut into.
#[test]
fn connections_with_ip_options_are_refused_too() {
    let stage = Stage::new(0, false, &["--xdp", "off"]);
    stage.publish(json!({}), &[]);
    let ask = || stage.exchange((Client::Pod, Way::ClusterIp), Protocol::Tcp, Family::V4);
    eventually("refused", ask, is_refused).unwrap_err();
    let to = stage.address(Way::ClusterIp, Family::V4);
    let connect = |options: &[u8]| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        // SAFETY: the kernel reads as many bytes as the length says.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_OPTIONS,
                options.as_ptr().cast(),
                options.len() as u32,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        socket.connect_timeout(&to.into(), AT_ONCE)
    };
    let shell = stage.lab.pod("shell").unwrap();
    for netns in [&shell.netns, &stage.lab.node(1).netns] {
        for length in [4, 40] {
            let result = netns.run(|| connect(&vec![1; length]));
            assert!(is_refused(&result), "{length} bytes: {result:?}");
        }
    }
}
