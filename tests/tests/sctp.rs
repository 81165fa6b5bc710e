//! SCTP associations through the node.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "sctp/stage.rs"]
mod stage;

use std::{io, net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Capture, Family, Host, Lab, LabOptions, Reply, SctpClient, SctpServer, payload,
};
use stage::{EMPTY, LOCAL, REMOTE, Service, Stage, TARGET};

const PATIENCE: Duration = Duration::from_secs(2);

/// Messages of every length modulo 4, in packets whose length needs one byte and
/// two; all fit the path.
const LENGTHS: [usize; 11] = [1, 2, 3, 4, 63, 64, 225, 300, 1000, 1399, 1400];

/// Sends messages of many lengths; the server is the same for all. Then the port
/// is used again, after an association that was shut down, and one that was not.
fn converse(host: &Host, to: SocketAddr) -> io::Result<(u16, Reply)> {
    host.netns.run(|| {
        let mut client = SctpClient::connect(to, PATIENCE)?;
        let port = client.port();
        let first = client.exchange(b"")?;
        for length in LENGTHS {
            let reply = client.exchange(&payload(length))?;
            let echo = first.echo.clone();
            assert_eq!(Reply { echo, ..reply }, first, "{to}");
        }
        client.shut_down()?;
        for _ in 0..2 {
            let mut again = SctpClient::connect_from(port, to, PATIENCE)?;
            again.exchange(&payload(32))?;
            again.abort()?;
        }
        Ok((port, first))
    })
}

#[test]
fn endpoints_of_the_lab_understand_each_other() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let pods = [(1, "a"), (2, "b")].map(|(node, name)| lab.add_pod(node, name).unwrap());
    let servers = [0, 1].map(|index| SctpServer::start(&pods[index], TARGET).unwrap());
    let capture = Capture::start(&lab.router().netns, &["node1", "node2"]).unwrap();
    for family in Family::ALL {
        for pod in &pods {
            let to = pod.socket(family, TARGET);
            let (port, reply) = converse(lab.client(), to).unwrap();
            let expect = Reply {
                server: pod.name.clone(),
                client: lab.client().address(family),
                port,
                echo: Vec::new(),
            };
            assert_eq!(reply, expect);
        }
        let nobody = pods[0].socket(family, TARGET + 1);
        let error = converse(lab.client(), nobody).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }
    for server in &servers {
        assert_eq!(server.flaws(), [""; 0]);
    }
    let report = capture.stop().unwrap().checksums();
    assert!(report.bad.is_empty(), "{}", report.bad[0]);
    assert!(report.checked > 4 * 2 * LENGTHS.len(), "{}", report.checked);
}

#[test]
fn services_are_reached_from_everywhere_by_xdp() {
    let stage = Stage::new(&["--xdp", "native"]);
    check(&stage);
    assert!(stage.count("xdp", "opened") > 0);
}

#[test]
fn services_are_reached_from_everywhere_by_tc() {
    let stage = Stage::new(&["--xdp", "off"]);
    check(&stage);
    assert_eq!(stage.count("xdp", "opened"), 0);
}

fn check(stage: &Stage) {
    let pods = ["shell", "a", "b"].map(|name| stage.lab.pod(name).unwrap());
    let mut places = vec![("router", &stage.lab.router().netns, vec!["node1", "node2"])];
    places.extend(pods.iter().map(|pod| ("pod", &pod.netns, vec!["eth0"])));
    let captures: Vec<_> = places
        .into_iter()
        .map(|(place, netns, interfaces)| (place, Capture::start(netns, &interfaces).unwrap()))
        .collect();
    for family in Family::ALL {
        for service in [LOCAL, REMOTE] {
            check_service(stage, service, family);
        }
        check_refusals(stage, family);
    }
    assert_eq!(stage.flaws(), [""; 0]);
    for (place, capture) in captures {
        let report = capture.stop().unwrap().checksums();
        assert!(report.bad.is_empty(), "{place}: {}", report.bad[0]);
        let checked = report.checked;
        assert!(checked > LENGTHS.len(), "{place}: {checked} frames");
    }
}

fn check_service(stage: &Stage, service: Service, family: Family) {
    let backend = service.backend.unwrap();
    let ask = |host: &Host, to| {
        let what = format!("{} to {} by {to}", host.name, service.name);
        let result = converse(host, to);
        let (port, reply) = result.unwrap_or_else(|error| {
            panic!("{what}: {error}; servers saw {:?}", stage.flaws());
        });
        assert_eq!(reply.server, backend, "{what}");
        (what, port, reply)
    };
    stage.for_each_path(service, family, |host, to| {
        let (what, port, reply) = ask(host, to);
        if host.name == "client" && service == REMOTE {
            assert_eq!(reply.client, stage.lab.node(1).address(family), "{what}");
        } else {
            let seen = (reply.client, reply.port);
            assert_eq!(seen, (host.address(family), port), "{what}");
        }
    });
    if service == LOCAL {
        let itself = stage.lab.pod(backend).unwrap();
        ask(&itself, service.cluster_ip(family));
    }
}

fn check_refusals(stage: &Stage, family: Family) {
    stage.for_each_path(EMPTY, family, |host, to| {
        let connect = || SctpClient::connect(to, PATIENCE);
        let error = host.netns.run(connect).unwrap_err();
        let what = format!("{} to {to}: {error}", host.name);
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{what}");
    });
}
