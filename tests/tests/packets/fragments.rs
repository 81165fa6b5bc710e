//! Packets that come in parts.

use lb_agent::{dataplane::XdpModeOption, model};
use lb_common::{Hook, Verdict};
use lb_tests::{
    lab::{Family, Pair},
    packet::{
        extension::{DESTINATION, HOP_BY_HOP},
        fragments,
        sctp::kind,
    },
};

use crate::{
    frame::{Frame, SYN, Transport},
    paths::{Sent, Way},
    rig::{
        Outcome, Place, Rig, TARGET_PORT,
        action::{TC_DROP, TC_PASS, XDP_PASS},
    },
    socket,
    ways::{IN0, OUT0, WITH_XDP, WITHOUT_XDP, XDP0},
    wiring::{CLIENT, LOOPBACK, NODE, POD, REMOTE, inner},
};

pub(crate) const VIP: Pair = inner(96, 10);
pub(crate) const PORT: u16 = 80;

/// Sizes of all parts but the last.
pub(crate) const SIZES: [usize; 3] = [560, 8, 416];

pub(crate) fn long(
    transport: Transport,
    source: (Pair, u16),
    destination: (Pair, u16),
    f: Family,
) -> Frame {
    Frame {
        payload: (0..1300).map(|n| (n * 7) as u8).collect(),
        ..Frame::new(
            transport,
            socket(source.0, f, source.1),
            socket(destination.0, f, destination.1),
        )
    }
}

/// IPv6: with headers that every part has, and headers that the first one has.
fn extended(frame: &Frame) -> Vec<Frame> {
    let mut frames = vec![frame.clone()];
    if frame.source.is_ipv6() {
        let chains: [&[(u8, usize)]; 3] = [
            &[(HOP_BY_HOP, 8)],
            &[(DESTINATION, 24)],
            &[(HOP_BY_HOP, 16), (DESTINATION, 8), (DESTINATION, 16)],
        ];
        frames.extend(chains.map(|chain| Frame {
            extensions: chain.to_vec(),
            ..frame.clone()
        }));
    } else {
        let options = 8;
        let frame = frame.clone();
        frames.push(Frame { options, ..frame });
    }
    frames
}

const PROTOCOLS: [(model::Protocol, Transport); 3] = [
    (model::Protocol::Tcp, Transport::Tcp(SYN)),
    (model::Protocol::Udp, Transport::Udp),
    (model::Protocol::Sctp, Transport::Sctp(kind::INIT)),
];

#[test]
fn parts_take_the_way_of_their_packet_with_xdp() {
    check_ways(XdpModeOption::Native, &WITH_XDP);
}

#[test]
fn parts_take_the_way_of_their_packet_without_xdp() {
    check_ways(XdpModeOption::Off, &WITHOUT_XDP);
}

fn check_ways(xdp: XdpModeOption, ways: &[Way]) {
    let mut rig = Rig::new(xdp);
    let mut id = 0xa_0000;
    for (port, way) in (30_000..).zip(ways) {
        for family in Family::ALL {
            // RFC 4291, section 2.5.3: nothing from ::1 leaves the node.
            if way.client == LOOPBACK && family == Family::V6 {
                continue;
            }
            for (protocol, transport) in PROTOCOLS {
                check_way(&mut rig, way, port, (protocol, transport), family, &mut id);
            }
        }
    }
}

fn check_way(
    rig: &mut Rig,
    way: &Way,
    port: u16,
    (protocol, transport): (model::Protocol, Transport),
    family: Family,
    id: &mut u32,
) {
    let what = format!("{}, {family} {transport:?}", way.what);
    let target = match protocol {
        // Whose checksum a part cannot be given another port in.
        model::Protocol::Sctp => port,
        _ => TARGET_PORT,
    };
    let frontend = socket(way.frontend, family, port);
    let backends = [(way.backend.0.get(family), way.backend.1)];
    let name = format!("parts-{port}");
    rig.serve_any(&name, protocol, target, &[frontend], &backends);
    let plain = long(
        transport,
        (way.client, port + 10_000),
        (way.frontend, port),
        family,
    );
    let mut verdict = Verdict::Opened;
    for request in extended(&plain) {
        let arrived = Frame {
            source: socket(way.seen.unwrap_or(way.client), family, port + 10_000),
            destination: socket(way.backend.0, family, target),
            ..way.request.apply(&request)
        };
        let verdicts = [verdict, Verdict::Forward];
        expect(rig, &what, &way.request, &request, &arrived, verdicts, id);
        verdict = Verdict::Forward;
        let reply = Frame {
            payload: request.payload.clone(),
            ..arrived.answer()
        };
        let returned = Frame {
            source: frontend,
            destination: request.source,
            ..way.reply.apply(&reply)
        };
        let verdicts = [Verdict::Reply; 2];
        expect(rig, &what, &way.reply, &reply, &returned, verdicts, id);
    }
}

/// All parts, in order; the verdicts of the first one and of the others.
fn expect(
    rig: &mut Rig,
    what: &str,
    sent: &Sent,
    frame: &Frame,
    out: &Frame,
    verdicts: [Verdict; 2],
    id: &mut u32,
) {
    *id += 1;
    let before = rig.connections();
    let parts = fragments(frame, *id, &SIZES);
    let outs = fragments(out, *id, &SIZES);
    for (index, (part, bytes)) in parts.into_iter().zip(outs).enumerate() {
        let expected = Outcome {
            verdict: verdicts[index.min(1)],
            action: sent.action,
            bytes,
        };
        let outcome = rig.run(sent.at, &part);
        assert_eq!(outcome, expected, "{what}, part {index}: {frame:?}");
    }
    let opened = usize::from(verdicts[0] == Verdict::Opened);
    assert_eq!(rig.connections(), before + opened, "{what}");
}

/// Services at the node's address and at a clusterIP, with a pod and a machine
/// elsewhere as backends.
pub(crate) fn rig() -> Rig {
    let mut rig = Rig::new(XdpModeOption::Native);
    for family in Family::ALL {
        rig.serve_address(VIP.get(family));
        for (protocol, _) in PROTOCOLS {
            for (frontend, port, backend, local) in [
                (NODE, PORT, POD, true),
                (NODE, PORT + 1, REMOTE, false),
                (VIP, PORT, POD, true),
                (VIP, PORT + 1, REMOTE, false),
            ] {
                let frontend = socket(frontend, family, port);
                let backends = [(backend.get(family), local)];
                let name = format!("rig-{frontend}");
                rig.serve_any(&name, protocol, TARGET_PORT, &[frontend], &backends);
            }
        }
    }
    rig
}

pub(crate) fn udp(port: u16, family: Family) -> Frame {
    long(Transport::Udp, (CLIENT, port), (NODE, PORT), family)
}

/// What is made of it on the way to the pod.
pub(crate) fn to_pod(frame: &Frame) -> Frame {
    let family = Family::of(frame.source.ip());
    Frame {
        destination: socket(POD, family, TARGET_PORT),
        ..frame.clone()
    }
}

pub(crate) fn outcome(place: Place, verdict: Verdict, bytes: Vec<u8>) -> Outcome {
    let action = match (verdict, place.hook) {
        (Verdict::Held | Verdict::FragmentLost, _) => TC_DROP,
        (_, Hook::Xdp) => XDP_PASS,
        _ => TC_PASS,
    };
    Outcome {
        verdict,
        action,
        bytes,
    }
}

#[test]
fn packets_are_told_apart_by_their_numbers() {
    let mut rig = rig();
    for family in Family::ALL {
        for place in [XDP0, IN0] {
            let frames: Vec<_> = (0..40).map(|n| udp(20_000 + n, family)).collect();
            let parts = |frame: &Frame, n: usize| fragments(frame, 7 + n as u32, &SIZES);
            let order = (0..4).flat_map(|part| (0..40).map(move |n| (part, (n * 7 + part) % 40)));
            for (part, n) in order {
                let bytes = parts(&to_pod(&frames[n]), n).swap_remove(part);
                let got = rig.run(place, &parts(&frames[n], n)[part]);
                let expected = outcome(place, got.verdict, bytes);
                assert_eq!(got, expected, "{family} packet {n}, part {part}");
                let verdicts = [Verdict::Opened, Verdict::Forward];
                assert!(verdicts.contains(&got.verdict), "{got:?}");
            }
        }
    }
}

#[test]
fn a_number_is_used_again_for_other_ports() {
    let mut rig = rig();
    for family in Family::ALL {
        for place in [XDP0, IN0] {
            for port in [30_000, 30_001, 30_000] {
                let frame = udp(port, family);
                let outs = fragments(&to_pod(&frame), 7, &SIZES);
                for (part, bytes) in fragments(&frame, 7, &SIZES).iter().zip(outs) {
                    let got = rig.run(place, part);
                    assert_eq!(got, outcome(place, got.verdict, bytes), "{family} {port}");
                }
            }
        }
    }
}

/// What is known is old: another packet has the number by now.
#[test]
fn an_old_number_means_nothing() {
    let mut rig = rig();
    for family in Family::ALL {
        let parts = fragments(&udp(30_000, family), 7, &SIZES);
        rig.run(XDP0, &parts[0]);
        rig.age_fragments(31);
        let left = outcome(XDP0, Verdict::Deferred, parts[1].clone());
        assert_eq!(rig.run(XDP0, &parts[1]), left, "{family}");
    }
}

#[test]
fn a_part_does_not_change_its_connection() {
    let mut rig = rig();
    for family in Family::ALL {
        for transport in [Transport::Tcp(SYN), Transport::Udp] {
            let frame = Frame {
                transport,
                ..udp(30_000, family)
            };
            let parts = fragments(&frame, 7, &SIZES);
            assert_eq!(rig.run(XDP0, &parts[0]).verdict, Verdict::Opened);
            let before = rig.lives();
            let reply = Frame {
                payload: frame.payload.clone(),
                ..to_pod(&frame).answer()
            };
            for part in &parts[1..] {
                assert_eq!(rig.run(XDP0, part).verdict, Verdict::Forward);
            }
            assert_eq!(rig.lives(), before);
            let replies = fragments(&reply, 7, &SIZES);
            assert_eq!(rig.run(OUT0, &replies[0]).verdict, Verdict::Reply);
            let before = rig.lives();
            for part in &replies[1..] {
                assert_eq!(rig.run(OUT0, part).verdict, Verdict::Reply);
            }
            assert_eq!(rig.lives(), before);
        }
    }
}
