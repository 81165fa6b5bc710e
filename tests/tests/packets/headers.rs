//! Headers of every kind, there and back, byte by byte.

use lb_agent::{dataplane::XdpModeOption, model};
use lb_common::{Hook, Verdict};
use lb_tests::{
    lab::Family,
    packet::{
        extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING},
        sctp::kind,
    },
};

use crate::{
    frame::{ACK, Frame, SYN, Transport},
    rig::{
        Outcome, Place, Rig, TARGET_PORT,
        action::{TC_PASS, TC_REDIRECT, XDP_PASS, XDP_REDIRECT},
        at,
    },
    socket,
    wiring::{CLIENT, GATEWAY_MAC, NODE, POD, REMOTE, UP0_MAC},
};

pub(crate) const XDP: Place = at(Hook::Xdp, "up0");
const IN: Place = at(Hook::TcIngress, "up0");
const OUT: Place = at(Hook::TcEgress, "up0");

pub(crate) const TO_LOCAL: u16 = 30_001;
const TO_REMOTE: u16 = 30_002;

const TRANSPORTS: [Transport; 5] = [
    Transport::Tcp(SYN),
    Transport::Udp,
    Transport::UdpUnsummed,
    Transport::Sctp(kind::INIT),
    Transport::SctpUnsummed(kind::INIT),
];

pub(crate) fn rig() -> Rig {
    let mut rig = Rig::new(XdpModeOption::Native);
    // Nothing is too long for the way out.
    rig.netns().ip("link set up0 mtu 65535\n").unwrap();
    for family in Family::ALL {
        for (port, backend, local) in [(TO_LOCAL, POD, true), (TO_REMOTE, REMOTE, false)] {
            for protocol in [
                model::Protocol::Tcp,
                model::Protocol::Udp,
                model::Protocol::Sctp,
            ] {
                rig.serve_any(
                    &format!("headers-{port}"),
                    protocol,
                    TARGET_PORT,
                    &[socket(NODE, family, port)],
                    &[(backend.get(family), local)],
                );
            }
        }
    }
    rig
}

/// Plain requests by every transport, to a backend here and one elsewhere.
pub(crate) fn requests(family: Family) -> impl Iterator<Item = Frame> {
    TRANSPORTS.into_iter().flat_map(move |transport| {
        [TO_LOCAL, TO_REMOTE].map(|port| {
            let client = socket(CLIENT, family, 40_000);
            Frame::new(transport, client, socket(NODE, family, port))
        })
    })
}

pub(crate) type Encode<'a> = &'a dyn Fn(&Frame) -> Vec<u8>;

/// Sends a request and what answers it, each laid out by `encode`, by every
/// hook that they may come in by.
pub(crate) fn check(rig: &mut Rig, what: &str, request: &Frame, encode: Encode<'_>) {
    let is_local = request.destination.port() == TO_LOCAL;
    for place in [XDP, IN] {
        let what = format!("{what}, {:?} at {place:?}", request.transport);
        let arrived = check_request(rig, &what, place, request, encode);
        let reply = Frame {
            tags: request.tags.clone(),
            options: request.options,
            extensions: request.extensions.clone(),
            ..arrived.answer()
        };
        let place = if is_local { OUT } else { place };
        let returned = Frame {
            source: request.destination,
            destination: request.source,
            ..sent(place, is_local, &reply)
        };
        let expected = [(Verdict::Reply, returned)];
        expect(rig, &what, place, is_local, &reply, &expected, encode);
    }
}

/// What reaches the backend.
pub(crate) fn check_request(
    rig: &mut Rig,
    what: &str,
    place: Place,
    request: &Frame,
    encode: Encode<'_>,
) -> Frame {
    let family = Family::of(request.source.ip());
    let is_local = request.destination.port() == TO_LOCAL;
    let (backend, seen) = if is_local {
        (POD, CLIENT)
    } else {
        (REMOTE, NODE)
    };
    let arrived = Frame {
        source: socket(seen, family, request.source.port()),
        destination: socket(backend, family, TARGET_PORT),
        ..sent(place, is_local, request)
    };
    let expected = [Verdict::Opened, Verdict::Forward].map(|verdict| (verdict, arrived.clone()));
    expect(rig, what, place, is_local, request, &expected, encode);
    arrived
}

/// The frame as it leaves, its translation aside.
pub(crate) fn sent(place: Place, is_local: bool, frame: &Frame) -> Frame {
    let mut sent = frame.clone();
    if !is_local {
        sent.hops -= 1;
        sent.macs = [GATEWAY_MAC, UP0_MAC];
    }
    sent
}

pub(crate) fn expect(
    rig: &mut Rig,
    what: &str,
    place: Place,
    is_local: bool,
    frame: &Frame,
    expected: &[(Verdict, Frame)],
    encode: Encode<'_>,
) {
    let action = match (place.hook, is_local) {
        (Hook::Xdp, true) => XDP_PASS,
        (Hook::Xdp, false) => XDP_REDIRECT,
        (_, true) => TC_PASS,
        (_, false) => TC_REDIRECT,
    };
    let bytes = encode(frame);
    let outcome = rig.run(place, &bytes);
    // XDP sends plain frames only.
    if !is_local && place.hook == Hook::Xdp && !frame.tags.is_empty() {
        let deferred = Outcome {
            verdict: Verdict::Deferred,
            action: XDP_PASS,
            bytes,
        };
        assert_eq!(outcome, deferred, "{what}");
        return;
    }
    let named = |(verdict, _): &&(Verdict, Frame)| *verdict == outcome.verdict;
    let Some((verdict, out)) = expected.iter().find(named) else {
        panic!("{what}: {:?}", outcome.verdict);
    };
    let expected = Outcome {
        verdict: *verdict,
        action,
        bytes: encode(out),
    };
    assert_eq!(outcome, expected, "{what}");
}

#[test]
fn tags_and_options_of_every_length() {
    let mut rig = rig();
    let tags = [
        vec![],
        vec![[0x8100, 0x2005]],
        vec![[0x88a8, 7]],
        vec![[0x88a8, 7], [0x8100, 0x0fff]],
        vec![[0x8100, 7], [0x8100, 8]],
    ];
    for tags in &tags {
        for frame in requests(Family::V4) {
            for options in (0..=40).step_by(4) {
                let tags = tags.clone();
                let what = format!("{} tags, {options} bytes of options", tags.len());
                let frame = Frame {
                    tags,
                    options,
                    ..frame.clone()
                };
                check(&mut rig, &what, &frame, &Frame::bytes);
            }
        }
        for frame in requests(Family::V6) {
            let tags = tags.clone();
            let what = format!("{} tags", tags.len());
            check(&mut rig, &what, &Frame { tags, ..frame }, &Frame::bytes);
        }
    }
}

#[test]
fn extension_headers_are_looked_through() {
    let mut rig = rig();
    let table: [&[(u8, usize)]; 9] = [
        &[(HOP_BY_HOP, 8)],
        &[(DESTINATION, 8)],
        &[(DESTINATION, 2048)],
        &[(ROUTING, 24)],
        &[(FRAGMENT, 8)],
        &[(HOP_BY_HOP, 264), (FRAGMENT, 8), (DESTINATION, 16)],
        &[(HOP_BY_HOP, 8), (DESTINATION, 16), (ROUTING, 8)],
        &[(DESTINATION, 8); 6],
        &[
            (HOP_BY_HOP, 16),
            (DESTINATION, 8),
            (ROUTING, 40),
            (FRAGMENT, 8),
            (DESTINATION, 504),
            (DESTINATION, 8),
        ],
    ];
    for extensions in table {
        for frame in requests(Family::V6) {
            let what = format!("{extensions:?}");
            let extensions = extensions.to_vec();
            let frame = Frame {
                extensions,
                ..frame
            };
            check(&mut rig, &what, &frame, &Frame::bytes);
        }
    }
}

#[test]
fn other_extension_headers_are_left_alone() {
    let mut rig = rig();
    let all = |extensions: &[(u8, usize)]| {
        let frame = requests(Family::V6).next().unwrap();
        let extensions = extensions.to_vec();
        Frame {
            extensions,
            ..frame
        }
        .bytes()
    };
    let mut segments_left = all(&[(DESTINATION, 16), (ROUTING, 24)]);
    segments_left[14 + 40 + 16 + 3] = 1;
    let mut beyond = all(&[(DESTINATION, 16)]);
    beyond[14 + 40 + 1] = 200;
    let table = [
        (all(&[(DESTINATION, 8); 7]), Verdict::OtherProtocol),
        (all(&[(AUTHENTICATION, 24)]), Verdict::OtherProtocol),
        (
            all(&[(HOP_BY_HOP, 8), (AUTHENTICATION, 24), (DESTINATION, 8)]),
            Verdict::OtherProtocol,
        ),
        (segments_left, Verdict::OtherProtocol),
        (beyond, Verdict::Malformed),
    ];
    for (bytes, verdict) in table {
        for place in [XDP, IN, OUT] {
            let untouched = Outcome {
                verdict,
                action: if place == XDP { XDP_PASS } else { TC_PASS },
                bytes: bytes.clone(),
            };
            assert_eq!(rig.run(place, &bytes), untouched, "{place:?}");
        }
    }
    assert_eq!(rig.connections(), 0);
}

/// What the node forwards through its stack keeps its last hop: the stack says
/// that it was the last.
#[test]
fn the_last_hop_is_for_the_stack_to_take() {
    let mut rig = rig();
    for family in Family::ALL {
        for mut frame in requests(family) {
            frame.hops = 1;
            if frame.destination.port() == TO_LOCAL {
                for place in [XDP, IN] {
                    check_request(&mut rig, "last hop", place, &frame, &Frame::bytes);
                }
            }
        }
    }
}

#[test]
fn tcp_in_the_middle_of_a_connection() {
    let mut rig = rig();
    for family in Family::ALL {
        for frame in requests(family).filter(|frame| frame.transport == Transport::Tcp(SYN)) {
            check(&mut rig, "SYN", &frame, &Frame::bytes);
            for flags in [ACK, ACK | 8, ACK | 0x20, ACK | 0xc0] {
                let transport = Transport::Tcp(flags);
                let frame = Frame {
                    transport,
                    ..frame.clone()
                };
                check(&mut rig, &format!("{flags:x}"), &frame, &Frame::bytes);
            }
        }
    }
}
