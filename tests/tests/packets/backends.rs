//! Which backend a packet goes to, from the first to the last of its flow.

use std::{collections::BTreeSet, net::IpAddr};

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::lab::{Family, Pair, Protocol};

use crate::{
    first,
    frame::{ACK, FIN, Frame, RST, SYN, Transport},
    kinds, later,
    rig::{Place, Rig, TARGET_PORT, at},
    socket,
    wiring::{CLIENT, inner},
};

const VIP: Pair = inner(96, 10);
const XDP: Place = at(Hook::Xdp, "up0");
const OUT: Place = at(Hook::TcEgress, "up0");
const OLD: u8 = 100;
const NEW: u8 = 101;

/// One service of pods 10.8.0.`host`, and a client.
struct Scene {
    rig: Rig,
    family: Family,
    protocol: Protocol,
}

impl Scene {
    fn backends(&mut self, hosts: &[u8]) {
        let (family, protocol) = (self.family, self.protocol);
        let backends: Vec<(IpAddr, bool)> = hosts
            .iter()
            .map(|&host| (inner(8, host).get(family), true))
            .collect();
        let frontend = socket(VIP, family, 80);
        self.rig.serve("scene", protocol, &[frontend], &backends);
    }

    /// Verdict of the client's packet, and the last byte of its backend.
    fn request(&mut self, port: u16, transport: Transport) -> (Verdict, u8) {
        let frontend = socket(VIP, self.family, 80);
        let frame = Frame::new(transport, socket(CLIENT, self.family, port), frontend);
        let outcome = self.rig.run(XDP, &frame.bytes());
        let end = frame.transport_offset();
        let host = outcome.bytes[end - 1];
        let expected = Frame {
            destination: socket(inner(8, host), self.family, TARGET_PORT),
            ..frame
        };
        assert_eq!(
            outcome.bytes,
            expected.bytes(),
            "{} {}",
            self.family,
            self.protocol
        );
        (outcome.verdict, host)
    }

    fn reply(&mut self, port: u16, host: u8, transport: Transport) -> Verdict {
        let client = socket(CLIENT, self.family, port);
        let backend = socket(inner(8, host), self.family, TARGET_PORT);
        let frame = Frame::new(transport, backend, client);
        self.rig.run(OUT, &frame.bytes()).verdict
    }
}

fn scenes(mut play: impl FnMut(&mut Scene)) {
    let mut scene = Scene {
        rig: Rig::new(XdpModeOption::Native),
        family: Family::V4,
        protocol: Protocol::Tcp,
    };
    for (family, protocol) in kinds() {
        (scene.family, scene.protocol) = (family, protocol);
        play(&mut scene);
    }
}

#[test]
fn a_connection_keeps_the_backend_it_was_given() {
    scenes(|scene| {
        let hosts = [101, 102, 103, 104, 105];
        scene.backends(&hosts);
        let mut seen = BTreeSet::new();
        // One of five stays out by chance once in 10^19.
        for port in 20_000..20_200 {
            let (verdict, host) = scene.request(port, first(scene.protocol));
            assert_eq!(verdict, Verdict::Opened);
            for flags in [SYN, ACK, ACK | FIN, ACK] {
                let next = scene.request(port, later(scene.protocol, flags));
                assert_eq!(next, (Verdict::Forward, host), "{port}");
            }
            seen.insert(host);
        }
        assert_eq!(seen, BTreeSet::from(hosts));
    });
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The set of backends from here on.
    Backends(&'static [u8]),
    /// A request with these flags: its verdict and its backend.
    Request(u8, Verdict, u8),
    /// A reply of that backend: its verdict.
    Reply(u8, u8, Verdict),
}
use Step::{Backends, Reply, Request};

const BEGIN: [Step; 4] = [
    Backends(&[OLD]),
    Request(SYN, Verdict::Opened, OLD),
    Reply(SYN | ACK, OLD, Verdict::Reply),
    Request(ACK, Verdict::Forward, OLD),
];

const TCP_STORIES: [(&str, &[Step]); 7] = [
    (
        "a repeated SYN belongs to the connection",
        &[Request(SYN, Verdict::Forward, OLD)],
    ),
    (
        "an open connection outlives its backend's place in the set",
        &[
            Backends(&[NEW]),
            Request(ACK, Verdict::Forward, OLD),
            Reply(ACK, OLD, Verdict::Reply),
            Request(ACK | FIN, Verdict::Forward, OLD),
            Reply(ACK | FIN, OLD, Verdict::Reply),
            Request(ACK, Verdict::Forward, OLD),
        ],
    ),
    (
        "a SYN does not go to a backend that is gone",
        &[Backends(&[NEW]), Request(SYN, Verdict::Opened, NEW)],
    ),
    (
        "a SYN after the client's FIN starts anew",
        &[
            Request(ACK | FIN, Verdict::Forward, OLD),
            Request(SYN, Verdict::Opened, OLD),
            Request(SYN, Verdict::Forward, OLD),
        ],
    ),
    (
        "a SYN after the backend's FIN starts anew",
        &[
            Reply(ACK | FIN, OLD, Verdict::Reply),
            Request(SYN, Verdict::Opened, OLD),
        ],
    ),
    (
        "a SYN after a reset starts anew",
        &[
            Reply(RST, OLD, Verdict::Reply),
            Request(SYN, Verdict::Opened, OLD),
            Reply(SYN | ACK, OLD, Verdict::Reply),
            Request(RST, Verdict::Forward, OLD),
            Request(SYN, Verdict::Opened, OLD),
        ],
    ),
    (
        "one backend that comes back is another",
        &[
            Backends(&[NEW]),
            Backends(&[OLD]),
            Request(ACK, Verdict::Forward, OLD),
            Request(SYN, Verdict::Opened, OLD),
        ],
    ),
];

const UDP_STORIES: [(&str, &[Step]); 3] = [
    (
        "a flow leaves a backend that is gone",
        &[
            Backends(&[NEW]),
            Request(0, Verdict::Opened, NEW),
            Request(0, Verdict::Forward, NEW),
            Reply(0, NEW, Verdict::Reply),
        ],
    ),
    (
        "a flow keeps its backend while there is no other",
        &[
            Backends(&[]),
            Request(0, Verdict::Forward, OLD),
            Reply(0, OLD, Verdict::Reply),
            Backends(&[NEW]),
            Request(0, Verdict::Opened, NEW),
        ],
    ),
    (
        "a flow stays when others come",
        &[
            Backends(&[OLD, NEW, 102, 103, 104, 105]),
            Request(0, Verdict::Forward, OLD),
            Request(0, Verdict::Forward, OLD),
        ],
    ),
];

#[test]
fn flows_and_changing_backends() {
    scenes(|scene| {
        let stories: &[_] = match scene.protocol {
            Protocol::Tcp => &TCP_STORIES,
            Protocol::Udp => &UDP_STORIES,
        };
        for (port, (what, story)) in (20_000..).zip(stories) {
            let what = format!("{what}, {} {}", scene.family, scene.protocol);
            for &step in BEGIN.iter().chain(*story) {
                play(scene, &what, port, step);
            }
        }
    });
}

fn play(scene: &mut Scene, what: &str, port: u16, step: Step) {
    match step {
        Backends(hosts) => scene.backends(hosts),
        Request(flags, verdict, host) => {
            let got = scene.request(port, later(scene.protocol, flags));
            assert_eq!(got, (verdict, host), "{what}: {step:?}");
        }
        Reply(flags, host, verdict) => {
            let got = scene.reply(port, host, later(scene.protocol, flags));
            assert_eq!(got, verdict, "{what}: {step:?}");
        }
    }
}

/// Whose port is gone has no backend to keep: a flow of a Service that is there
/// without that port is told so at once.
#[test]
fn a_flow_ends_with_its_port() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for family in Family::ALL {
        for is_answered in [true, false] {
            let [before, after] = [80, 81].map(|port| socket(VIP, family, port));
            let [old, new] = [OLD, NEW].map(|host| (inner(8, host).get(family), true));
            rig.serve_address(before.ip());
            rig.serve("ports", Protocol::Udp, &[before], &[old]);
            let client = socket(CLIENT, family, 40_000);
            let request = Frame::new(Transport::Udp, client, before);
            let what = format!("{family}, answered: {is_answered}");
            let verdict = rig.run(XDP, &request.bytes()).verdict;
            assert_eq!(verdict, Verdict::Opened, "{what}");
            if is_answered {
                let backend = socket(inner(8, OLD), family, TARGET_PORT);
                let answer = Frame::new(Transport::Udp, client, backend).answer();
                let verdict = rig.run(OUT, &answer.bytes()).verdict;
                assert_eq!(verdict, Verdict::Reply, "{what}");
            }
            rig.serve("ports", Protocol::Udp, &[after], &[new]);
            for _ in 0..2 {
                let verdict = rig.run(XDP, &request.bytes()).verdict;
                assert_eq!(verdict, Verdict::Rejected, "{what}");
                assert_eq!(rig.connections(), 0, "{what}");
            }
        }
    }
}
