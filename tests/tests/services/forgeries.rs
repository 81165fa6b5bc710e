//! A pod with every right in its own namespace tries to get past the node.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use lb_tests::{
    lab::{Family, Host, Injector, Netns, Pod, Protocol, mac},
    packet::frame::{Frame, Transport},
};
use serde_json::json;

use crate::{
    site::{PORT, TARGET},
    stage::{Client, Stage, Way, eventually, ready},
};

const PATIENCE: Duration = Duration::from_secs(1);

/// Sends frames out of the pod's `eth0`, whatever they claim.
fn shout(pod: &Pod, node: &Host, frame: &mut Frame) {
    frame.macs = [
        mac(&node.netns, &pod.interface).unwrap(),
        mac(&pod.netns, "eth0").unwrap(),
    ];
    let injector = Injector::open(&pod.netns, "eth0").unwrap();
    injector.send(&vec![frame.bytes(); 5]).unwrap();
}

fn run(netns: &Netns, program: &str, arguments: &[&str]) {
    let mut command = netns.command(program).unwrap();
    let output = command.args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
}

/// `tc_index` outlives the way out of a namespace: whoever sets it must not
/// pass for one of our own programs.
#[test]
fn a_label_from_a_pod_leads_to_no_socket_of_the_node() {
    let stage = Stage::new(1, true, &["--xdp", "native"]);
    stage.publish(json!({}), &[ready("a")]);
    let ask = || stage.exchange((Client::Pod, Way::ClusterIp), Protocol::Tcp, Family::V4);
    eventually("served", ask, Result::is_ok).unwrap();
    let (shell, node) = (stage.lab.pod("shell").unwrap(), stage.lab.node(1));
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 9999));
    let listener = node.netns.run(bind).unwrap();
    listener.set_read_timeout(Some(PATIENCE)).unwrap();
    run(
        &shell.netns,
        "tc",
        &["qdisc", "add", "dev", "eth0", "clsact"],
    );
    for label in ["1:4c01", "1:4c02", "1:4c03"] {
        let accept_all = "1,6 0 0 4294967295";
        let filter = [
            "dev", "eth0", "egress", "bpf", "bytecode", accept_all, "classid", label,
        ];
        run(
            &shell.netns,
            "tc",
            &[&["filter", "replace"], &filter[..]].concat(),
        );
        for source in [shell.address(Family::V4), IpAddr::V4(Ipv4Addr::LOCALHOST)] {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 9999));
            let mut frame = Frame::new(Transport::Udp, SocketAddr::new(source, 5555), to);
            shout(&shell, node, &mut frame);
            let got = listener.recv_from(&mut [0; 64]);
            assert!(got.is_err(), "label {label} from {source}: {got:?}");
        }
        run(
            &shell.netns,
            "tc",
            &["filter", "del", "dev", "eth0", "egress"],
        );
    }
}

/// Nor does the node believe a pod that speaks for a backend elsewhere.
#[test]
fn a_pod_does_not_answer_for_a_backend_elsewhere() {
    let stage = Stage::new(1, true, &["--xdp", "native"]);
    stage.publish(json!({}), &[ready("b")]);
    let ask = || stage.exchange((Client::Node, Way::ClusterIp), Protocol::Udp, Family::V4);
    eventually("served", ask, Result::is_ok).unwrap();
    let (shell, node) = (stage.lab.pod("shell").unwrap(), stage.lab.node(1));
    let own = SocketAddr::new(node.address(Family::V4), 40_001);
    let socket = node.netns.run(|| UdpSocket::bind(own)).unwrap();
    let vip = stage.address(Way::ClusterIp, Family::V4);
    assert_eq!(vip.port(), PORT);
    socket.connect(vip).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"who").unwrap();
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).unwrap();
    assert!(buffer[..length].starts_with(b"b "), "{buffer:?}");

    let backend = stage.lab.pod("b").unwrap().socket(Family::V4, TARGET);
    let mut forged = Frame::new(Transport::Udp, backend, own);
    shout(&shell, node, &mut forged);
    let got = socket.recv(&mut buffer);
    assert!(got.is_err(), "{got:?}: {buffer:?}");
    let counters = &stage.agent.status().unwrap()["counters"];
    assert!(
        counters["tc_ingress"]["forged"].as_u64() >= Some(5),
        "{counters}"
    );
}
