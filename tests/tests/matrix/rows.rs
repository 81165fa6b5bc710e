//! Who reaches what, and as whom.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeFrom,
};

use lb_tests::lab::{Exchange, Family, Host, Protocol};

use super::stage::{PATIENCE, Stage, service_on};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Pod(u8),
    /// The backend itself: a hairpin where it reaches its own Service.
    Backend(u8),
    Node(u8),
    Outside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frontend {
    ClusterIp,
    NodePort(u8),
}

/// The client's address as the backend sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Own,
    Node(u8),
}

use Frontend::{ClusterIp, NodePort};
use Place::{Backend, Node, Outside, Pod};
use Seen::{Node as As, Own};

/// What a backend on node 1 and one on node 2 see of each client.
pub(crate) const ROWS: [(Place, Frontend, [Seen; 2]); 20] = [
    (Pod(1), ClusterIp, [Own, Own]),
    (Pod(1), NodePort(1), [Own, Own]),
    (Pod(1), NodePort(2), [As(2), Own]),
    (Pod(2), ClusterIp, [Own, Own]),
    (Pod(2), NodePort(1), [Own, As(1)]),
    (Pod(2), NodePort(2), [Own, Own]),
    (Node(1), ClusterIp, [Own, Own]),
    (Node(1), NodePort(1), [Own, Own]),
    (Node(1), NodePort(2), [As(2), Own]),
    (Node(2), ClusterIp, [Own, Own]),
    (Node(2), NodePort(1), [Own, As(1)]),
    (Node(2), NodePort(2), [Own, Own]),
    (Outside, NodePort(1), [Own, As(1)]),
    (Outside, NodePort(2), [As(2), Own]),
    (Backend(1), ClusterIp, [As(1), Own]),
    (Backend(1), NodePort(1), [As(1), Own]),
    (Backend(1), NodePort(2), [As(2), Own]),
    (Backend(2), ClusterIp, [Own, As(2)]),
    (Backend(2), NodePort(1), [Own, As(1)]),
    (Backend(2), NodePort(2), [Own, As(2)]),
];

/// One row of the table towards one of its backends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    from: Place,
    frontend: Frontend,
    backend: u8,
    seen: Seen,
}

impl Path {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        ROWS.into_iter().flat_map(|(from, frontend, seen)| {
            [1, 2]
                .into_iter()
                .zip(seen)
                .map(move |(backend, seen)| Self {
                    from,
                    frontend,
                    backend,
                    seen,
                })
        })
    }

    /// Sends one request from a source port of its own, which is to be kept.
    pub(crate) fn run(
        self,
        stage: &Stage,
        exchange: (Protocol, Family, usize),
        ports: &mut RangeFrom<u16>,
    ) -> Result<(), String> {
        let (protocol, family, length) = exchange;
        let from = self.from.address(stage, family);
        let port = ports.next().expect("more ports than exchanges");
        let request = Exchange::new(protocol, self.frontend.address(stage, self.backend, family))
            .from(SocketAddr::new(from, port))
            .payload(length)
            .timeout(PATIENCE);
        let told = |what: String| format!("{self:?} {protocol} {family} {length} bytes: {what}");
        let reply = self.from.with(stage, |host| request.run_in(&host.netns));
        let reply = reply.map_err(|error| told(error.to_string()))?;
        let seen = match self.seen {
            Own => from,
            As(node) => stage.lab().node(node).address(family),
        };
        let got = (reply.server, reply.client, reply.port);
        let expect = (format!("backend{}", self.backend), seen, port);
        if got == expect {
            Ok(())
        } else {
            Err(told(format!("{got:?}, not {expect:?}")))
        }
    }
}

impl Place {
    fn address(self, stage: &Stage, family: Family) -> IpAddr {
        self.with(stage, |host| host.address(family))
    }

    fn with<T>(self, stage: &Stage, work: impl FnOnce(&Host) -> T) -> T {
        match self {
            Pod(node) => work(&stage.pod("asker", node)),
            Backend(node) => work(&stage.backend(node)),
            Node(node) => work(stage.lab().node(node)),
            Outside => work(stage.lab().client()),
        }
    }
}

impl Frontend {
    pub(crate) fn address(self, stage: &Stage, backend: u8, family: Family) -> SocketAddr {
        let service = service_on(backend);
        match self {
            ClusterIp => service.cluster_ip(family),
            NodePort(node) => stage.lab().node(node).socket(family, service.node_port()),
        }
    }
}

/// Runs every path with payloads of several sizes; returns the number of
/// exchanges.
pub(crate) fn check(stage: &Stage) -> usize {
    let mut ports = FIRST_PORT..;
    let mut failures = Vec::new();
    let mut count = 0;
    for path in Path::all() {
        for protocol in Protocol::ALL {
            for family in Family::ALL {
                for length in lengths(protocol, family) {
                    let run = path.run(stage, (protocol, family, length), &mut ports);
                    failures.extend(run.err());
                    count += 1;
                }
            }
        }
        assert!(failures.len() < 20, "gave up:\n{}", failures.join("\n"));
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    count
}

/// Above where the agent itself listens; below the nodePorts and everything
/// that the kernel chooses by itself.
pub(crate) const FIRST_PORT: u16 = 11_000;

fn lengths(protocol: Protocol, family: Family) -> [usize; 4] {
    match (protocol, family) {
        (Protocol::Tcp, _) => [1, 1000, 1461, 64 * 1024],
        (Protocol::Udp, Family::V4) => [1, 32, 1001, 1500 - 20 - 8],
        (Protocol::Udp, Family::V6) => [1, 32, 1001, 1500 - 40 - 8],
    }
}
