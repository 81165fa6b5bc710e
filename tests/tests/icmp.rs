//! What ICMP says about Services, asked with real sockets and tools.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "icmp/path_mtu.rs"]
mod path_mtu;
#[path = "icmp/stage.rs"]
mod stage;
#[path = "icmp/tools.rs"]
mod tools;

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use lb_tests::lab::{Exchange, Family, Host, LAN_GATEWAY, NODES_GATEWAY, Protocol};
use path_mtu::PathMtu;
use stage::{LOCAL, REMOTE, Service, Stage};
use tools::{Probe, ping, trace};

const MODES: [&str; 2] = ["native", "off"];

/// What the links on a path are narrowed to.
const NARROW: u32 = 1400;

#[test]
fn a_closed_port_of_a_backend_reaches_the_clients_socket() {
    for mode in MODES {
        let stage = Stage::new(&["--xdp", mode]);
        for family in Family::ALL {
            for service in [LOCAL, REMOTE] {
                stage.for_each_path(service.closed(), family, |host, to| {
                    let error = host.netns.run(|| ask(to)).unwrap_err();
                    let what = format!("{} to {} by {to}, XDP {mode}", host.name, service.name);
                    assert_eq!(
                        error.kind(),
                        io::ErrorKind::ConnectionRefused,
                        "{what}: {error}"
                    );
                });
            }
        }
    }
}

fn ask(to: SocketAddr) -> io::Result<usize> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0_u16; 8].into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(to)?;
    socket.send(b"anybody?")?;
    socket.recv(&mut [0; 16])
}

/// The smaller link is behind the backend's node, which is a router to others.
#[test]
fn clients_learn_what_the_path_to_the_backend_takes() {
    for mode in MODES {
        let stage = Stage::new(&["--xdp", mode]);
        stage.narrow_pod(2, "b", NARROW);
        stage.narrow_pod(1, "a", NARROW);
        for family in Family::ALL {
            for service in [REMOTE, LOCAL] {
                stage.for_each_path(service, family, |host, to| {
                    check_learned(host, to, mode);
                    check_converse(host, to, mode);
                });
            }
        }
    }
}

/// The node that translates has the smaller link itself.
#[test]
fn clients_learn_what_the_way_out_takes() {
    for mode in MODES {
        let stage = Stage::new(&["--xdp", mode]);
        stage.narrow_route(NARROW);
        for family in Family::ALL {
            stage.for_each_path(REMOTE, family, |host, to| {
                check_learned(host, to, mode);
                check_converse(host, to, mode);
            });
        }
        let counted = ["xdp", "tc_ingress"].map(|hook| stage.count(hook, "too_big"));
        assert_eq!(
            counted.map(|count| count > 0),
            [mode != "off", mode == "off"]
        );
        assert!(stage.count("tc_egress", "too_big") > 0, "XDP {mode}");
    }
}

/// The device cuts what the node sends, and cannot know how small.
#[test]
fn packets_that_are_cut_later_have_to_fit_too() {
    let stage = Stage::new(&["--xdp", "off"]);
    stage.narrow_route(NARROW);
    stage.cut_late();
    for family in Family::ALL {
        let before = stage.count("tc_egress", "too_big");
        check_converse(stage.lab.node(1), REMOTE.cluster_ip(family), "off");
        assert!(stage.count("tc_egress", "too_big") > before, "{family}");
    }
}

/// The smaller link is between client and node, so replies are too long.
#[test]
fn backends_learn_what_the_path_to_the_client_takes() {
    for mode in MODES {
        let stage = Stage::new(&["--xdp", mode]);
        stage.narrow_client(NARROW);
        for family in Family::ALL {
            for service in [REMOTE, LOCAL] {
                let to = stage.lab.node(1).socket(family, service.node_port());
                check_converse(stage.lab.client(), to, mode);
            }
        }
        assert!(stage.related() > 0, "XDP {mode}");
    }
}

fn check_learned(host: &Host, to: SocketAddr, mode: &str) {
    let learned = host.netns.run(|| PathMtu::open(to)?.learn(1500));
    let what = format!("{} to {to}, XDP {mode}", host.name);
    assert_eq!(learned.unwrap(), NARROW, "{what}");
}

/// More than fits into one packet, and back.
fn check_converse(host: &Host, to: SocketAddr, mode: &str) {
    let exchange = Exchange::new(Protocol::Tcp, to).payload(50_000);
    let result = host.netns.run(|| exchange.run());
    let what = format!("{} to {to}, XDP {mode}", host.name);
    result.unwrap_or_else(|error| panic!("{what}: {error}"));
}

#[test]
fn paths_are_traced_hop_by_hop() {
    for mode in MODES {
        let stage = Stage::new(&["--xdp", mode]);
        for family in Family::ALL {
            for probe in [Probe::Udp, Probe::Tcp] {
                for service in [REMOTE, LOCAL] {
                    check_trace(&stage, service, family, probe);
                }
            }
        }
    }
}

fn check_trace(stage: &Stage, service: Service, family: Family, probe: Probe) {
    // What answers a UDP probe is a port unreachable.
    let service = match probe {
        Probe::Udp => service.closed(),
        Probe::Tcp => service,
    };
    let at = |host: &Host| host.address(family);
    let [node1, node2] = [1, 2].map(|number| stage.lab.node(number));
    let lan = LAN_GATEWAY.get(family);
    let (node_port, vip) = (
        node1.socket(family, service.node_port()),
        service.cluster_ip(family),
    );

    let mut behind = vec![at(node1)];
    if service.backend == REMOTE.backend {
        behind.push(at(node2));
    }
    let from_client = [&[lan], &behind[..], &[node_port.ip()]].concat();
    let shell = stage.lab.pod("shell").unwrap();
    for (host, to, expected) in [
        (stage.lab.client(), node_port, from_client),
        (&shell.host, vip, [&behind[..], &[vip.ip()]].concat()),
    ] {
        let hops = trace(host, to, probe);
        let expected: Vec<_> = expected.into_iter().map(Some).collect();
        assert_eq!(hops, expected, "{} to {to} {probe:?}", host.name);
    }
}

#[test]
fn addresses_of_services_answer_ping_if_they_are_to() {
    for mode in MODES {
        for answers in [true, false] {
            let arguments = ["--xdp", mode, "--answer-echo"];
            let stage = Stage::new(&arguments[..if answers { 3 } else { 2 }]);
            let shell = stage.lab.pod("shell").unwrap();
            for family in Family::ALL {
                let vip = REMOTE.cluster_ip(family).ip();
                stage.lab.route_to_node(&vip.to_string(), 1).unwrap();
                for host in [stage.lab.client(), stage.lab.node(1), &shell.host] {
                    let what = format!("{} to {vip}, XDP {mode}", host.name);
                    assert_eq!(ping(host, vip), answers, "{what}");
                }
                assert!(ping(stage.lab.client(), NODES_GATEWAY.get(family)));
            }
        }
    }
}
