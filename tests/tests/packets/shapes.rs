//! Frames of every shape are translated byte by byte.

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::lab::{Family, Pair, Protocol};

use crate::{
    first,
    frame::{Frame, Transport},
    kinds,
    rig::{
        Outcome, Place, Rig, TARGET_PORT,
        action::{TC_PASS, TC_REDIRECT, XDP_PASS, XDP_REDIRECT},
        at,
    },
    socket,
    wiring::{CLIENT, GATEWAY_MAC, NODE, POD, REMOTE, UP0_MAC},
};

const XDP: Place = at(Hook::Xdp, "up0");
const TC: Place = at(Hook::TcIngress, "up0");

/// Ways with and without SNAT.
const TO_LOCAL: u16 = 30_001;
const TO_REMOTE: u16 = 30_002;

fn rig() -> Rig {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        for (port, backend, local) in [(TO_LOCAL, POD, true), (TO_REMOTE, REMOTE, false)] {
            let frontend = socket(NODE, family, port);
            let backends = [(backend.get(family), local)];
            rig.serve(&format!("shape-{port}"), protocol, &[frontend], &backends);
        }
    }
    rig
}

/// `frame` after translation, the way of the place and the port it goes to.
fn translated(place: Place, frame: &Frame) -> (Frame, i32) {
    let family = Family::of(frame.source.ip());
    let seen = |backend: Pair, source: Pair| Frame {
        source: socket(source, family, frame.source.port()),
        destination: socket(backend, family, TARGET_PORT),
        ..frame.clone()
    };
    match (place.hook, frame.destination.port()) {
        (Hook::Xdp, TO_LOCAL) => (seen(POD, CLIENT), XDP_PASS),
        (_, TO_LOCAL) => (seen(POD, CLIENT), TC_PASS),
        (Hook::Xdp, _) => {
            let macs = [GATEWAY_MAC, UP0_MAC];
            let hops = frame.hops - 1;
            let seen = seen(REMOTE, NODE);
            (Frame { macs, hops, ..seen }, XDP_REDIRECT)
        }
        _ => {
            let macs = [GATEWAY_MAC, UP0_MAC];
            let hops = frame.hops - 1;
            let seen = seen(REMOTE, NODE);
            (Frame { macs, hops, ..seen }, TC_REDIRECT)
        }
    }
}

fn check(rig: &mut Rig, what: &str, place: Place, frame: &Frame) {
    let (out, action) = translated(place, frame);
    let what = format!("{what}, {} at {place:?}", frame.destination);
    for _ in 0..2 {
        let outcome = rig.run(place, &frame.bytes());
        let expected = Outcome {
            verdict: outcome.verdict,
            action,
            bytes: out.bytes(),
        };
        assert_eq!(outcome, expected, "{what}");
        let verdicts = [Verdict::Opened, Verdict::Forward];
        assert!(verdicts.contains(&outcome.verdict), "{what}");
    }
}

fn frames() -> Vec<(&'static str, Frame)> {
    let mut frames = Vec::new();
    for (family, protocol) in kinds() {
        let client = socket(CLIENT, family, 40_000);
        for port in [TO_LOCAL, TO_REMOTE] {
            let plain = Frame::new(first(protocol), client, socket(NODE, family, port));
            let payload = |payload: Vec<u8>| Frame {
                payload,
                ..plain.clone()
            };
            frames.extend([
                ("empty", payload(Vec::new())),
                ("one byte", payload(vec![0xa5])),
                ("all ones", payload(vec![0xff; 64])),
                ("full", payload((0..1400).map(|n| (n * 7) as u8).collect())),
            ]);
            if family == Family::V4 {
                for options in [4, 20, 40] {
                    let frame = plain.clone();
                    frames.push(("options", Frame { options, ..frame }));
                }
            }
            if family == Family::V4 && protocol == Protocol::Udp {
                let transport = Transport::UdpUnsummed;
                frames.push((
                    "no checksum",
                    Frame {
                        transport,
                        ..plain.clone()
                    },
                ));
            }
        }
    }
    frames
}

#[test]
fn payloads_and_options_are_kept_and_checksums_right() {
    let mut rig = rig();
    for (what, frame) in frames() {
        for place in [XDP, TC] {
            check(&mut rig, what, place, &frame);
        }
    }
}

#[test]
fn tags_are_kept_and_xdp_leaves_sending_to_tc() {
    let mut rig = rig();
    for tags in [vec![[0x8100, 0x2005]], vec![[0x88a8, 7], [0x8100, 0x0fff]]] {
        for (what, frame) in frames() {
            let tags = tags.clone();
            let frame = Frame { tags, ..frame };
            if frame.destination.port() == TO_LOCAL {
                check(&mut rig, what, XDP, &frame);
            } else {
                let expected = Outcome {
                    verdict: Verdict::Deferred,
                    action: XDP_PASS,
                    bytes: frame.bytes(),
                };
                let outcome = rig.run(XDP, &frame.bytes());
                assert_eq!(outcome, expected, "{what} with {} tags", frame.tags.len());
            }
            check(&mut rig, what, TC, &frame);
        }
    }
}

/// A UDP checksum that comes out as zero is sent as all ones, and one that
/// came in as all ones is a checksum like any other.
#[test]
fn a_udp_checksum_of_zero_is_not_taken_for_none() {
    let mut rig = rig();
    for family in Family::ALL {
        let client = socket(CLIENT, family, 40_000);
        for port in [TO_LOCAL, TO_REMOTE] {
            for place in [XDP, TC] {
                let mut frame = Frame::new(Transport::Udp, client, socket(NODE, family, port));
                frame.payload = vec![0, 0];
                for ones_in in [true, false] {
                    let out = translated(place, &frame).0;
                    let summed = if ones_in { &frame } else { &out };
                    let mut with_ones = frame.clone();
                    with_ones.payload = sum_of(summed).to_vec();
                    let end = translated(place, &with_ones).0;
                    let is = if ones_in { &with_ones } else { &end };
                    assert_eq!(sum_of(is), [0xff, 0xff], "the test itself");
                    check(&mut rig, "all ones", place, &with_ones);
                }
            }
        }
    }
}

fn sum_of(frame: &Frame) -> [u8; 2] {
    let at = frame.transport_offset() + 6;
    let bytes = frame.bytes();
    [bytes[at], bytes[at + 1]]
}
