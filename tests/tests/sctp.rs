//! SCTP associations through the node.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::{io, net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Capture, Family, Host, Lab, LabOptions, Reply, SctpClient, SctpServer, payload,
};

const PATIENCE: Duration = Duration::from_secs(2);
const TARGET: u16 = 8080;

/// Messages of every length modulo 4, in packets whose length needs one byte and
/// two; all fit the path.
const LENGTHS: [usize; 12] = [0, 1, 2, 3, 4, 63, 64, 225, 300, 1000, 1399, 1400];

/// Sends messages of many lengths; the server is the same for all.
fn converse(host: &Host, to: SocketAddr) -> io::Result<(u16, Reply)> {
    host.netns.run(|| {
        let mut client = SctpClient::connect(to, PATIENCE)?;
        let mut first = None;
        for length in LENGTHS {
            let reply = client.exchange(&payload(length))?;
            let first = first.get_or_insert_with(|| reply.clone());
            let same = |reply: &Reply| (reply.server.clone(), reply.client, reply.port);
            assert_eq!(same(&reply), same(first), "{to}");
        }
        let port = client.port();
        client.shut_down()?;
        Ok((port, first.unwrap()))
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
