//! Many datagrams in parts, one after the other.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use lb_tests::lab::{Family, Host, Service};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::stage::{PLAYED, Stage};

const DATAGRAMS: usize = 4_000;
const LENGTH: usize = 8_000;
/// Sent without a pause.
const BURST: usize = 8;

#[test]
fn nothing_is_lost_under_load_by_xdp() {
    check(&Stage::new("native"));
}

#[test]
fn nothing_is_lost_under_load_by_tc() {
    check(&Stage::new("off"));
}

fn check(stage: &Stage) {
    let lab = &stage.scene.lab;
    let shell = lab.pod("shell").unwrap();
    for family in Family::ALL {
        for (service, server) in PLAYED {
            let pod = lab.pod(server).unwrap();
            let direct = pod.socket(family, Service::TARGET_PORT);
            let node_port = lab.node(1).socket(family, service.node_port());
            let ways = [
                (&shell.host, service.cluster_ip(family)),
                (lab.client(), node_port),
            ];
            for (host, to) in ways {
                let [by_route, by_service] = [direct, to].map(|to| arrived(host, to, &pod, family));
                let what = format!("{} to {to}: {by_service}, routed {by_route}", host.name);
                assert!(by_service + DATAGRAMS / 100 >= by_route, "{what}");
            }
        }
    }
}

/// How many of the datagrams that `host` sends to `to` reach the pod whole.
fn arrived(host: &Host, to: SocketAddr, pod: &Host, family: Family) -> usize {
    let at = pod.socket(family, Service::TARGET_PORT);
    let server = pod.netns.run(|| UdpSocket::bind(at)).unwrap();
    server
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    // A busy machine lets it wait.
    setsockopt(&server, RcvBufForce, &(256 << 20)).unwrap();
    let client = host.netns.run(|| UdpSocket::bind(host.socket(family, 0)));
    let client = client.unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut buffer = vec![0; LENGTH + 1];
            let mut count = 0;
            while let Ok((LENGTH, _)) = server.recv_from(&mut buffer) {
                count += 1;
            }
            count
        });
        let datagram = vec![7; LENGTH];
        for sent in 0..DATAGRAMS {
            client.send_to(&datagram, to).unwrap();
            if sent % BURST == 0 {
                thread::sleep(Duration::from_micros(500));
            }
        }
        server.join().unwrap()
    })
}
