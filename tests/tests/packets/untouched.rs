//! What is none of our business comes out bit by bit as it went in.

use std::net::Ipv6Addr;

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::lab::{Family, Protocol};

use crate::{
    first,
    frame::{ACK, FIN, Frame, RST, SYN, Transport, checksum},
    kinds,
    rig::{
        Outcome, Place, Rig,
        action::{TC_PASS, XDP_PASS},
        at,
    },
    socket,
    wiring::{CLIENT, NODE, POD, REMOTE},
};

const PORT: u16 = 30_080;

const PLACES: [Place; 6] = [
    at(Hook::Xdp, "up0"),
    at(Hook::TcIngress, "up0"),
    at(Hook::TcIngress, "pod0"),
    at(Hook::TcEgress, "up0"),
    at(Hook::TcEgress, "pod0"),
    at(Hook::TcEgress, "lo"),
];

fn rig() -> Rig {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let backends = [(REMOTE.get(family), false), (POD.get(family), true)];
        rig.serve(
            "untouched",
            protocol,
            &[socket(NODE, family, PORT)],
            &backends,
        );
    }
    rig
}

fn check(rig: &mut Rig, what: &str, bytes: &[u8], verdict: Verdict) {
    for place in PLACES {
        check_at(rig, what, place, bytes, verdict);
    }
}

fn check_at(rig: &mut Rig, what: &str, place: Place, bytes: &[u8], verdict: Verdict) {
    let expected = Outcome {
        verdict,
        action: if place.hook == Hook::Xdp {
            XDP_PASS
        } else {
            TC_PASS
        },
        bytes: bytes.to_vec(),
    };
    assert_eq!(rig.run(place, bytes), expected, "{what}, at {place:?}");
    assert_eq!(rig.connections(), 0, "{what}, at {place:?}");
}

/// A frame to the frontend, as its bytes.
fn request(family: Family, transport: Transport) -> Frame {
    let client = socket(CLIENT, family, 40_000);
    Frame::new(transport, client, socket(NODE, family, PORT))
}

/// Changes bytes of the IP header and sums it again.
fn edited(family: Family, at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = request(family, Transport::Tcp(SYN)).bytes();
    bytes[14 + at..14 + at + new.len()].copy_from_slice(new);
    if family == Family::V4 {
        bytes[24..26].fill(0);
        let sum = checksum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

#[test]
fn other_traffic_is_left_alone() {
    let mut rig = rig();
    let (v4, v6) = (Family::V4, Family::V6);
    let arp = [&[0xff; 12][..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 20]].concat();
    let mut three_tags = request(v4, Transport::Tcp(SYN));
    three_tags.tags = vec![[0x88a8, 1], [0x88a8, 2], [0x8100, 3]];
    let table = [
        ("ARP", arp, Verdict::NotIp),
        ("three VLAN tags", three_tags.bytes(), Verdict::NotIp),
        ("ICMP", edited(v4, 9, &[1]), Verdict::OtherProtocol),
        ("SCTP", edited(v4, 9, &[132]), Verdict::NoFrontend),
        ("ICMPv6", edited(v6, 6, &[58]), Verdict::OtherProtocol),
        ("IPsec", edited(v6, 6, &[50]), Verdict::OtherProtocol),
        (
            "authenticated",
            edited(v6, 6, &[51]),
            Verdict::OtherProtocol,
        ),
        (
            "nothing behind",
            edited(v6, 6, &[59]),
            Verdict::OtherProtocol,
        ),
        // Of which the source port would say what follows.
        (
            "hop-by-hop options",
            edited(v6, 6, &[0]),
            Verdict::OtherProtocol,
        ),
        (
            "IPv4 of version 6",
            edited(v4, 0, &[0x65]),
            Verdict::Malformed,
        ),
        (
            "IPv4 header of 16 bytes",
            edited(v4, 0, &[0x44]),
            Verdict::Malformed,
        ),
        (
            "IPv6 of version 4",
            edited(v6, 0, &[0x40]),
            Verdict::Malformed,
        ),
    ];
    for (what, bytes, verdict) in table {
        check(&mut rig, what, &bytes, verdict);
    }
}

#[test]
fn lengths_that_lie_are_left_alone() {
    let mut rig = rig();
    let (v4, v6) = (Family::V4, Family::V6);
    let mapped = "::ffff:10.50.0.7".parse::<Ipv6Addr>().unwrap().octets();
    // A TCP header is 20 bytes, the payload 15.
    let table = [
        ("no room for IPv4", edited(v4, 2, &[0, 0])),
        ("no room for TCP", edited(v4, 2, &[0, 39])),
        ("one byte beyond the frame", edited(v4, 2, &[0, 56])),
        ("far beyond the frame", edited(v4, 2, &[0xff, 0xff])),
        ("no room for TCP", edited(v6, 4, &[0, 19])),
        ("one byte beyond the frame", edited(v6, 4, &[0, 36])),
        ("a jumbo payload", edited(v6, 4, &[0, 0])),
        ("from IPv4 in IPv6", edited(v6, 8, &mapped)),
        ("to IPv4 in IPv6", edited(v6, 24, &mapped)),
    ];
    for (what, bytes) in table {
        check(&mut rig, what, &bytes, Verdict::Malformed);
    }
}

#[test]
fn other_destinations_are_left_alone() {
    let mut rig = rig();
    for (family, protocol) in kinds() {
        for (at, port) in [(NODE, PORT + 1), (REMOTE, PORT), (POD, 8081)] {
            let mut frame = request(family, first(protocol));
            frame.destination = socket(at, family, port);
            let what = format!("{protocol} to {}", frame.destination);
            check(&mut rig, &what, &frame.bytes(), Verdict::NoFrontend);
        }
    }
}

#[test]
fn the_frontend_of_another_protocol_is_none() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for family in Family::ALL {
        for (served, asked) in [
            (Protocol::Tcp, Protocol::Udp),
            (Protocol::Udp, Protocol::Tcp),
        ] {
            let port = PORT + u16::from(served == Protocol::Tcp);
            let frontend = socket(NODE, family, port);
            rig.serve("one", served, &[frontend], &[(POD.get(family), true)]);
            let frame = Frame::new(first(asked), socket(CLIENT, family, 40_000), frontend);
            let what = format!("{asked} to {served} {frontend}");
            check(&mut rig, &what, &frame.bytes(), Verdict::NoFrontend);
        }
    }
}

#[test]
fn forwarded_packets_are_not_the_nodes_own() {
    let mut rig = rig();
    for (family, protocol) in kinds() {
        for (origin, out) in [("pod0", "up0"), ("up0", "pod0"), ("up0", "up1")] {
            let place = Place {
                hook: Hook::TcEgress,
                interface: out,
                origin: Some(origin),
            };
            let bytes = request(family, first(protocol)).bytes();
            check_at(&mut rig, "forwarded", place, &bytes, Verdict::NoFrontend);
        }
    }
}

#[test]
fn only_a_syn_opens_a_tcp_connection() {
    let mut rig = rig();
    for family in Family::ALL {
        for flags in [RST, RST | ACK, ACK, FIN | ACK, SYN | ACK, 0] {
            let what = format!("{family} flags {flags:#x}");
            let bytes = request(family, Transport::Tcp(flags)).bytes();
            check(&mut rig, &what, &bytes, Verdict::Stray);
        }
    }
}

#[test]
fn frames_cut_anywhere_are_left_alone() {
    let mut rig = rig();
    for (family, protocol) in kinds() {
        let mut tagged = request(family, first(protocol));
        tagged.tags = vec![[0x88a8, 5], [0x8100, 6]];
        let mut with_options = request(family, first(protocol));
        with_options.options = if family == Family::V4 { 40 } else { 0 };
        for frame in [request(family, first(protocol)), tagged, with_options] {
            let whole = frame.transport_offset() + frame.transport.header();
            let bytes = frame.bytes();
            for place in PLACES {
                for length in shortest(place, &frame)..whole {
                    let what = format!("{family} {protocol} cut to {length} of {whole}");
                    let verdict = Verdict::Malformed;
                    check_at(&mut rig, &what, place, &bytes[..length], verdict);
                }
            }
        }
    }
}

/// What BPF_PROG_TEST_RUN accepts: for TC, a whole IP header behind an IP
/// EtherType; else one byte behind Ethernet.
fn shortest(place: Place, frame: &Frame) -> usize {
    if place.hook == Hook::Xdp || !frame.tags.is_empty() {
        return 15;
    }
    frame.transport_offset() - frame.options
}
