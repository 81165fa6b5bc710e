//! Packets that nobody serves, and what their senders are told.

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::{
    lab::{Family, Pair, Protocol},
    packet::Answer,
};

use crate::{
    first,
    frame::{ACK, Frame, RST, SYN, Transport},
    kinds, later,
    rig::{
        Outcome, Place, Rig,
        action::{TC_DROP, TC_PASS, TC_REDIRECT, XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX},
        at,
    },
    socket,
    wiring::{CLIENT, CLIENT1, LOOPBACK, NODE, POD, inner, outer},
};

const VIP: Pair = inner(96, 10);

const VETH: Place = at(Hook::Xdp, "up0");
const NIC: Place = at(Hook::Xdp, "up1");
const IN: Place = at(Hook::TcIngress, "up0");
const FROM_POD: Place = at(Hook::TcIngress, "pod0");
const OUT: Place = at(Hook::TcEgress, "up0");
const LOOP: Place = at(Hook::TcEgress, "lo");

/// Where the packet is put in, who sends it, and what the program does with
/// the answer.
const PLACES: [(Place, Pair, i32, bool); 6] = [
    (VETH, CLIENT, XDP_REDIRECT, true),
    (NIC, CLIENT1, XDP_TX, true),
    (IN, CLIENT, TC_REDIRECT, true),
    (FROM_POD, POD, TC_REDIRECT, true),
    (OUT, NODE, TC_REDIRECT, true),
    (LOOP, NODE, TC_PASS, false),
];

#[test]
fn senders_are_told_that_nobody_serves() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (place, client, action, swapped) in PLACES {
        for (family, protocol) in kinds() {
            let frontend = socket(VIP, family, 80);
            rig.serve("empty", protocol, &[frontend], &[]);
            // 40 reaches what every link takes for UDP over IPv6.
            for payload in [0, 1, 2, 3, 4, 40, 600, 1200, 1400] {
                for (tags, options) in [(vec![], 0), (vec![[0x8100, 7]], 0), (vec![], 12)] {
                    if options > 0 && family == Family::V6 {
                        continue;
                    }
                    let source = socket(client, family, 40_000);
                    let mut frame = Frame::new(first(protocol), source, frontend);
                    frame.payload = (0..payload).map(|n| n as u8).collect();
                    (frame.tags, frame.options) = (tags, options);
                    let mut expected = Answer::to(&frame).bytes(swapped);
                    let asked = frame.bytes();
                    if place.hook == Hook::Xdp && expected.len() < 60 {
                        expected.extend(&asked[expected.len()..asked.len().min(60)]);
                    }
                    let outcome = rig.run(place, &asked);
                    let expected = Outcome {
                        verdict: Verdict::Rejected,
                        action,
                        bytes: expected,
                    };
                    let what =
                        format!("{place:?}, {family} {protocol}, {payload} {:?}", frame.tags);
                    assert_eq!(outcome, expected, "{what}");
                }
            }
        }
    }
    assert_eq!(rig.connections(), 0);
}

#[test]
fn only_what_may_be_answered_is() {
    let mut rig = Rig::new(XdpModeOption::Native);
    let group = Pair {
        v4: std::net::Ipv4Addr::new(224, 0, 0, 9),
        v6: std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 9),
    };
    let nobody = Pair {
        v4: std::net::Ipv4Addr::UNSPECIFIED,
        v6: std::net::Ipv6Addr::UNSPECIFIED,
    };
    let broadcast = Pair {
        v4: std::net::Ipv4Addr::BROADCAST,
        v6: std::net::Ipv6Addr::new(0xffff, 0, 0, 0, 0, 0, 0, 1),
    };
    for (family, protocol) in kinds() {
        let frontend = socket(VIP, family, 80);
        rig.serve("empty", protocol, &[frontend], &[]);
        for (place, drop) in [(VETH, XDP_DROP), (IN, TC_DROP)] {
            for source in [group, nobody, broadcast, NODE, LOOPBACK] {
                let frame = Frame::new(first(protocol), socket(source, family, 40_000), frontend);
                unanswered(&mut rig, place, drop, &frame);
            }
        }
        let mut frame = Frame::new(first(protocol), socket(CLIENT, family, 40_000), frontend);
        frame.macs[0] = [0xff; 6];
        unanswered(&mut rig, IN, TC_DROP, &frame);
    }
}

fn unanswered(rig: &mut Rig, place: Place, action: i32, frame: &Frame) {
    let expected = Outcome {
        verdict: Verdict::Unanswered,
        action,
        bytes: frame.bytes(),
    };
    assert_eq!(
        rig.run(place, &frame.bytes()),
        expected,
        "{place:?} {frame:?}"
    );
}

#[test]
fn only_the_first_segment_of_a_connection_is_refused() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for family in Family::ALL {
        let frontend = socket(VIP, family, 80);
        rig.serve("empty", Protocol::Tcp, &[frontend], &[]);
        for (place, pass) in [(VETH, XDP_PASS), (IN, TC_PASS), (OUT, TC_PASS)] {
            for flags in [RST, ACK, RST | ACK, SYN | ACK] {
                let client = if place.hook == Hook::TcEgress {
                    NODE
                } else {
                    CLIENT
                };
                let source = socket(client, family, 40_000);
                let frame = Frame::new(Transport::Tcp(flags), source, frontend);
                let expected = Outcome {
                    verdict: Verdict::Stray,
                    action: pass,
                    bytes: frame.bytes(),
                };
                let got = rig.run(place, &frame.bytes());
                assert_eq!(got, expected, "{place:?} {flags:x}");
            }
        }
    }
}

/// Longer than the burst: some senders are not told, and others still are.
#[test]
fn nobody_is_told_without_end() {
    let mut rig = Rig::new(XdpModeOption::Native);
    let frontend = socket(VIP, Family::V4, 80);
    rig.serve("empty", Protocol::Udp, &[frontend], &[]);
    let mut told = 0;
    for port in 0..20_000 {
        let source = socket(CLIENT, Family::V4, 10_000 + port);
        let frame = Frame::new(Transport::Udp, source, frontend);
        match rig.act(IN, &frame.bytes()) {
            TC_DROP => break,
            _ => told += 1,
        }
    }
    assert!((100..20_000).contains(&told), "told {told} times");
    let other = socket(outer(0, 200), Family::V4, 10_000);
    let frame = Frame::new(Transport::Udp, other, frontend);
    assert_eq!(rig.run(IN, &frame.bytes()).verdict, Verdict::Rejected);
}

/// A flow that had a backend keeps it, as long as there is no other.
#[test]
fn a_flow_that_lost_its_last_backend_goes_on() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let frontend = socket(VIP, family, 80);
        let backend = (POD.get(family), true);
        rig.serve("lost", protocol, &[frontend], &[backend]);
        let source = socket(CLIENT, family, 41_000);
        let frame = Frame::new(first(protocol), source, frontend);
        assert_eq!(rig.run(IN, &frame.bytes()).verdict, Verdict::Opened);
        rig.serve("lost", protocol, &[frontend], &[]);
        let more = Frame::new(later(protocol, ACK), source, frontend);
        let verdict = rig.run(IN, &more.bytes()).verdict;
        assert_eq!(verdict, Verdict::Forward, "{family} {protocol}");
        let another = Frame::new(first(protocol), socket(CLIENT, family, 41_001), frontend);
        let verdict = rig.run(IN, &another.bytes()).verdict;
        assert_eq!(verdict, Verdict::Rejected, "{family} {protocol}");
    }
}
