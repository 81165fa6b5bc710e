//! Packets that can go no further, and what their senders are told.

use std::net::SocketAddr;

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::{
    lab::{Family, Pair, Protocol},
    packet::{Answer, Icmp},
};

use crate::{
    first,
    frame::{ACK, Frame, checksum},
    icmp::errors,
    kinds, later,
    rig::{
        Outcome, Place, Rig, TARGET_PORT,
        action::{TC_DROP, TC_REDIRECT, XDP_DROP, XDP_REDIRECT, XDP_TX},
    },
    socket,
    ways::{IN0, OUT0, XDP0, XDP1},
    wiring::{CLIENT, CLIENT1, NODE, NODE1, REMOTE, REMOTE1, inner},
};

const VIP: Pair = inner(96, 10);

/// The MTU of every link of the node.
const MTU: u16 = 1500;

/// A way straight through the node, and what the program does with an answer.
struct Way {
    at: Place,
    client: Pair,
    backend: Pair,
    node: Pair,
    action: i32,
}

const WAYS: [Way; 3] = [
    Way {
        at: XDP0,
        client: CLIENT,
        backend: REMOTE,
        node: NODE,
        action: XDP_REDIRECT,
    },
    Way {
        at: XDP1,
        client: CLIENT1,
        backend: REMOTE1,
        node: NODE1,
        action: XDP_TX,
    },
    Way {
        at: IN0,
        client: CLIENT,
        backend: REMOTE,
        node: NODE,
        action: TC_REDIRECT,
    },
];

impl Way {
    /// Packets of the client: the first one, and the others once a backend has
    /// answered; then those of the backend.
    fn for_each(
        &self,
        rig: &mut Rig,
        (family, protocol): (Family, Protocol),
        check: impl Fn(&mut Rig, &str, &Frame),
    ) {
        let vip = socket(VIP, family, 80);
        let backend = socket(self.backend, family, TARGET_PORT);
        rig.serve("vip", protocol, &[vip], &[(backend.ip(), false)]);
        let client = |port| socket(self.client, family, port);
        let what = |which| format!("{which} {family} {protocol} at {:?}", self.at);
        let opening = |port| Frame::new(first(protocol), client(port), vip);
        check(rig, &what("first"), &opening(40_000));
        let opened = rig.run(self.at, &opening(40_001).bytes()).verdict;
        assert_eq!(opened, Verdict::Opened);
        let request = Frame::new(later(protocol, ACK), client(40_001), vip);
        check(rig, &what("early"), &request);
        let seen = socket(self.node, family, 40_001);
        let reply = Frame::new(later(protocol, ACK), backend, seen);
        assert_eq!(rig.run(self.at, &reply.bytes()).verdict, Verdict::Reply);
        assert_eq!(rig.run(self.at, &request.bytes()).verdict, Verdict::Forward);
        check(rig, &what("later"), &request);
        check(rig, &what("reply"), &reply);
    }
}

fn told(verdict: Verdict, action: i32, at: Place, answer: &Answer) -> Outcome {
    let asked = answer.asked.bytes();
    let mut bytes = answer.bytes(true);
    if at.hook == Hook::Xdp && bytes.len() < 60 {
        bytes.extend(&asked[bytes.len()..asked.len().min(60)]);
    }
    Outcome {
        verdict,
        action,
        bytes,
    }
}

#[test]
fn senders_are_told_that_hops_are_used_up() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (way, kind) in WAYS
        .iter()
        .flat_map(|way| kinds().map(move |kind| (way, kind)))
    {
        let error = if kind.0 == Family::V4 {
            (11, 0)
        } else {
            (3, 0)
        };
        way.for_each(&mut rig, kind, |rig, what, frame| {
            for hops in [0, 1] {
                let frame = Frame {
                    hops,
                    ..frame.clone()
                };
                let answer = Answer::error(&frame, way.node.get(kind.0), error, 0);
                let expected = told(Verdict::TimeExceeded, way.action, way.at, &answer);
                assert_eq!(
                    rig.run(way.at, &frame.bytes()),
                    expected,
                    "{what}, {hops} hops"
                );
            }
        });
    }
}

#[test]
fn senders_are_told_what_the_path_takes() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (way, kind) in WAYS
        .iter()
        .flat_map(|way| kinds().map(move |kind| (way, kind)))
    {
        let error = if kind.0 == Family::V4 { (3, 4) } else { (2, 0) };
        way.for_each(&mut rig, kind, |rig, what, frame| {
            let headers = frame.transport_offset() - frame.network() + frame.transport.header();
            let with = |length: usize| Frame {
                payload: vec![7; length - headers],
                ..frame.clone()
            };
            let fits = with(MTU.into());
            let verdict = rig.run(way.at, &fits.bytes()).verdict;
            let sent = [Verdict::Opened, Verdict::Forward, Verdict::Reply];
            assert!(sent.contains(&verdict), "{what}: {verdict:?}");
            for length in [usize::from(MTU) + 1, 3000] {
                let frame = with(length);
                let answer = Answer::error(&frame, way.node.get(kind.0), error, MTU.into());
                let expected = told(Verdict::TooBig, way.action, way.at, &answer);
                assert_eq!(
                    rig.run(way.at, &frame.bytes()),
                    expected,
                    "{what}, {length}"
                );
            }
        });
    }
}

/// Nobody on this path can cut the packet; who is told does it.
#[test]
fn senders_that_let_others_cut_are_told_too() {
    let mut rig = Rig::new(XdpModeOption::Native);
    let vip = socket(VIP, Family::V4, 80);
    rig.serve(
        "vip",
        Protocol::Udp,
        &[vip],
        &[(REMOTE.get(Family::V4), false)],
    );
    let mut frame = Frame::new(
        first(Protocol::Udp),
        socket(CLIENT, Family::V4, 40_000),
        vip,
    );
    frame.payload = vec![7; 1600];
    let mut bytes = frame.bytes();
    bytes[14 + 6] = 0;
    bytes[14 + 10..14 + 12].fill(0);
    let sum = checksum(&bytes[14..34]);
    bytes[14 + 10..14 + 12].copy_from_slice(&sum.to_be_bytes());
    for place in [XDP0, IN0] {
        assert_eq!(rig.run(place, &bytes).verdict, Verdict::TooBig, "{place:?}");
    }
}

/// Only TC can send what leaves by an uplink without XDP, but what no path takes
/// is answered by who sees it first, whether or not the way is remembered.
#[test]
fn xdp_answers_what_it_could_not_have_sent() {
    let mut rig = Rig::new(XdpModeOption::Off);
    for (family, protocol) in kinds() {
        let vip = socket(VIP, family, 80);
        rig.serve("vip", protocol, &[vip], &[(REMOTE1.get(family), false)]);
        let client = socket(CLIENT, family, 40_000);
        let frame = Frame::new(first(protocol), client, vip);
        for verdict in [Verdict::Opened, Verdict::Forward, Verdict::Forward] {
            let long = Frame {
                payload: vec![7; 1600],
                ..Frame::new(later(protocol, ACK), client, vip)
            };
            if verdict == Verdict::Forward {
                let outcome = rig.run(XDP0, &long.bytes());
                assert_eq!(outcome.verdict, Verdict::TooBig, "{family} {protocol}");
            }
            let outcome = rig.run(XDP0, &frame.bytes());
            assert_eq!(outcome.verdict, Verdict::Deferred, "{family} {protocol}");
            let outcome = rig.run(IN0, &frame.bytes());
            assert_eq!(outcome.verdict, verdict, "{family} {protocol}");
        }
    }
}

/// The node's own packets come back to it, as if from the frontend.
#[test]
fn the_node_is_told_too() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let vip = socket(VIP, family, 80);
        rig.serve("vip", protocol, &[vip], &[(REMOTE.get(family), false)]);
        let error = if family == Family::V4 { (3, 4) } else { (2, 0) };
        let mut frame = Frame::new(first(protocol), socket(NODE, family, 40_000), vip);
        frame.payload = vec![7; 1600];
        let answer = Answer::error(&frame, vip.ip(), error, MTU.into());
        let expected = told(Verdict::TooBig, TC_REDIRECT, OUT0, &answer);
        assert_eq!(
            rig.run(OUT0, &frame.bytes()),
            expected,
            "{family} {protocol}"
        );
    }
}

#[test]
fn errors_are_never_answered() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let [client, vip, node, backend] = [
            (CLIENT, 40_000),
            (VIP, 80),
            (NODE, 40_000),
            (REMOTE, TARGET_PORT),
        ]
        .map(|(at, port): (Pair, u16)| -> SocketAddr { socket(at, family, port) });
        rig.serve("vip", protocol, &[vip], &[(backend.ip(), false)]);
        let request = Frame::new(first(protocol), client, vip);
        assert_eq!(rig.run(XDP0, &request.bytes()).verdict, Verdict::Opened);
        let (kind, code) = errors(family)[0];
        for about in [
            Frame::new(first(protocol), node, backend),
            Frame::new(first(protocol), vip, client),
        ] {
            let used_up = Icmp {
                hops: 1,
                ..Icmp::error(kind, code, about.destination.ip(), &about)
            };
            let mut too_big = Icmp::error(kind, code, about.destination.ip(), &about);
            too_big.body.resize(1600, 0);
            for (place, action) in [(XDP0, XDP_DROP), (IN0, TC_DROP)] {
                for error in [&used_up, &too_big] {
                    let expected = Outcome {
                        verdict: Verdict::Unanswered,
                        action,
                        bytes: error.bytes(),
                    };
                    let got = rig.run(place, &error.bytes());
                    assert_eq!(got, expected, "{place:?} {error:?}");
                }
            }
        }
    }
}
