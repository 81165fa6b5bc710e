//! A terminating endpoint: new connections go elsewhere, old ones finish.

use std::{net::UdpSocket, time::Duration};

use lb_tests::lab::{Family, Reply, TcpClient};
use serde_json::json;

use crate::stage::{Client, Endpoint, Stage, Way, eventually, kinds, ready};

const LIMIT: Duration = Duration::from_secs(5);

/// Neither ready, nor to be asked for more, but at work.
const DRAINING: Endpoint = ("a", false, true, true);
/// Shut down already.
const DONE: Endpoint = ("a", false, false, true);

struct Flow(UdpSocket);

impl Flow {
    fn open(stage: &Stage, family: Family) -> Self {
        let socket = stage.lab.pod("shell").unwrap().netns.run(|| {
            let any = match family {
                Family::V4 => "0.0.0.0:0",
                Family::V6 => "[::]:0",
            };
            UdpSocket::bind(any)
        });
        let socket = socket.unwrap();
        socket
            .connect(stage.address(Way::ClusterIp, family))
            .unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self(socket)
    }

    fn server(&self) -> String {
        let mut buffer = [0; 256];
        self.0.send(b"who").unwrap();
        let length = self.0.recv(&mut buffer).unwrap();
        Reply::parse(&buffer[..length]).unwrap().server
    }
}

#[test]
fn what_a_terminating_endpoint_serves_it_serves_to_the_end() {
    for xdp in ["native", "off"] {
        let stage = Stage::new(0, false, &["--xdp", xdp]);
        stage.publish(json!({}), &[ready("a")]);
        for (protocol, family) in kinds() {
            for path in [
                (Client::Pod, Way::ClusterIp),
                (Client::Outside, Way::NodePort),
            ] {
                let ask = || stage.exchange(path, protocol, family);
                eventually("served", ask, Result::is_ok).unwrap();
            }
        }
        let hosts = [
            (&stage.lab.pod("shell").unwrap().netns, Way::ClusterIp),
            (&stage.lab.client().netns, Way::NodePort),
        ];
        let mut connections = Vec::new();
        for (netns, way) in hosts {
            for family in Family::ALL {
                let to = stage.address(way, family);
                let connect = || TcpClient::connect(to, None, LIMIT);
                connections.push(netns.run(connect).unwrap());
            }
        }
        let flows = Family::ALL.map(|family| Flow::open(&stage, family));
        for flow in &flows {
            assert_eq!(flow.server(), "a");
        }

        let new_ones = |server: &str| {
            for (protocol, family) in kinds() {
                for path in [
                    (Client::Pod, Way::ClusterIp),
                    (Client::Outside, Way::NodePort),
                ] {
                    let ask = || stage.exchange_anew(path, protocol, family);
                    let is_right = |r: &std::io::Result<Reply>| {
                        r.as_ref().is_ok_and(|reply| reply.server == server)
                    };
                    eventually(server, ask, is_right).unwrap();
                    for _ in 0..5 {
                        assert_eq!(
                            ask().unwrap().server,
                            server,
                            "{path:?} {protocol} {family}"
                        );
                    }
                }
            }
        };
        // Alone, it is still better than nobody; then it is not.
        stage.publish(json!({}), &[DRAINING]);
        new_ones("a");
        stage.publish(json!({}), &[DRAINING, ready("b")]);
        new_ones("b");
        for connection in &mut connections {
            assert_eq!(connection.exchange(b"still").unwrap().server, "a");
        }
        for flow in &flows {
            assert_eq!(flow.server(), "a", "it is serving");
        }
        stage.publish(json!({}), &[DONE, ready("b")]);
        new_ones("b");
        for flow in &flows {
            eventually("moved", || flow.server(), |server| server == "b");
        }
        for connection in &mut connections {
            assert_eq!(connection.exchange(b"to the end").unwrap().server, "a");
        }
    }
}
