//! ICMP errors about packets of connections, on every way through the node.

use std::net::SocketAddr;

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::{
    lab::{Family, Protocol},
    packet::{Icmp, quote},
};

use crate::{
    first,
    frame::{ACK, Frame, Transport},
    kinds, later,
    paths::{Macs, Sent, Way, passed},
    rig::{Outcome, Rig, TARGET_PORT},
    socket,
    ways::{FROM_POD, IN0, IN1, OUT0, OUT1, TO_POD, WITH_XDP, WITHOUT_XDP, XDP0, XDP1},
    wiring::{LOOPBACK, outer},
};

/// Type and code of one error of each kind.
pub(crate) const fn errors(family: Family) -> [(u8, u8); 4] {
    match family {
        Family::V4 => [(3, 3), (4, 0), (11, 0), (12, 0)],
        Family::V6 => [(1, 4), (2, 0), (3, 0), (4, 1)],
    }
}

#[test]
fn errors_take_the_way_of_replies_and_requests_with_xdp() {
    check(XdpModeOption::Native, &WITH_XDP);
}

#[test]
fn errors_take_the_way_of_replies_and_requests_without_xdp() {
    check(XdpModeOption::Off, &WITHOUT_XDP);
}

fn check(xdp: XdpModeOption, ways: &[Way]) {
    let mut rig = Rig::new(xdp);
    for (port, way) in (30_000..).zip(ways) {
        for (family, protocol) in kinds() {
            if way.client == LOOPBACK && family == Family::V6 {
                continue;
            }
            check_way(&mut rig, way, port, family, protocol);
        }
    }
}

/// A packet as one side of the translation has it, and as the other has it.
struct Quoted {
    ours: Frame,
    theirs: Frame,
}

/// The addresses that an error has before and after its translation.
struct Ends {
    source: [SocketAddr; 2],
    destination: SocketAddr,
}

fn check_way(rig: &mut Rig, way: &Way, port: u16, family: Family, protocol: Protocol) {
    let what = format!("{}, {family} {protocol}", way.what);
    let frontend = socket(way.frontend, family, port);
    let client = socket(way.client, family, port + 10_000);
    let (backend, local) = way.backend;
    let name = format!("way-{port}");
    rig.serve(
        &name,
        protocol,
        &[frontend],
        &[(backend.get(family), local)],
    );
    let request = Frame::new(first(protocol), client, frontend);
    let opened = rig.run(way.request.at, &request.bytes()).verdict;
    assert_eq!(opened, Verdict::Opened, "{what}");

    let backend = socket(backend, family, TARGET_PORT);
    let seen = way
        .seen
        .map_or(client, |seen| socket(seen, family, client.port()));
    let router = SocketAddr::new(outer(0, 77).get(family), 0);
    let connections = rig.connections();
    for (kind, code) in errors(family) {
        for quoted in quotes(protocol, [seen, backend], [client, frontend]) {
            for source in [[backend, frontend], [router, router]] {
                let ends = Ends {
                    source,
                    destination: client,
                };
                check_error(rig, &what, (kind, code), &quoted, &ends, &way.reply);
            }
        }
        for quoted in quotes(protocol, [frontend, client], [backend, seen]) {
            for source in [client, router] {
                let after = way.seen.map_or(source, |_| seen);
                let ends = Ends {
                    source: [source, after],
                    destination: backend,
                };
                check_error(rig, &what, (kind, code), &quoted, &ends, &way.request);
            }
        }
    }
    check_other_hooks(rig, &what, way, &Frame::new(first(protocol), seen, backend));
    assert_eq!(rig.connections(), connections, "{what}");
}

/// Packets that an error may quote.
fn quotes(protocol: Protocol, ours: [SocketAddr; 2], theirs: [SocketAddr; 2]) -> Vec<Quoted> {
    let mut shapes = vec![(0, vec![], vec![])];
    if ours[0].is_ipv4() {
        shapes.push((12, vec![], vec![]));
    } else {
        shapes.push((0, vec![(60, 16), (0, 8)], vec![]));
    }
    shapes.push((0, vec![], vec![7; 1200]));
    let mut transports = vec![later(protocol, ACK)];
    if protocol == Protocol::Udp {
        transports.push(Transport::UdpUnsummed);
    }
    let mut quotes = Vec::new();
    for (options, extensions, payload) in shapes {
        for transport in &transports {
            let frame = |[source, destination]: [SocketAddr; 2]| Frame {
                hops: 3,
                options,
                extensions: extensions.clone(),
                payload: payload.clone(),
                ..Frame::new(*transport, source, destination)
            };
            quotes.push(Quoted {
                ours: frame(ours),
                theirs: frame(theirs),
            });
        }
    }
    quotes
}

fn check_error(
    rig: &mut Rig,
    what: &str,
    (kind, code): (u8, u8),
    Quoted { ours, theirs }: &Quoted,
    ends: &Ends,
    sent: &Sent,
) {
    let limit = if ours.source.is_ipv4() { 548 } else { 1232 };
    let network = ours.transport_offset() - ours.network();
    // Not 17: half a checksum is left as it is.
    for length in [8, 9, 16, 18, 19, 20, limit] {
        let about = |source: SocketAddr, frame: &Frame| Icmp {
            rest: [0, 0, 5, 0xdc],
            body: quote(frame, limit.min(network + length)),
            ..Icmp::error(kind, code, source.ip(), frame)
        };
        let error = about(ends.source[0], ours);
        let translated = Icmp {
            destination: ends.destination.ip(),
            ..about(ends.source[1], theirs)
        };
        let expected = Outcome {
            verdict: Verdict::Related,
            action: sent.action,
            bytes: travelled(&translated, sent).bytes(),
        };
        let got = rig.run(sent.at, &error.bytes());
        let at = sent.at;
        assert_eq!(got, expected, "{what}, at {at:?}, {length}: {error:?}");
    }
}

fn travelled(error: &Icmp, sent: &Sent) -> Icmp {
    Icmp {
        macs: match sent.macs {
            Macs::Kept => error.macs,
            Macs::Swapped => [error.macs[1], error.macs[0]],
            Macs::Set(macs) => macs,
        },
        hops: error.hops - sent.hops,
        ..error.clone()
    }
}

/// An error about a request is translated where replies are, and only there.
fn check_other_hooks(rig: &mut Rig, what: &str, way: &Way, arrived: &Frame) {
    let (kind, code) = errors(match arrived.source {
        SocketAddr::V4(_) => Family::V4,
        SocketAddr::V6(_) => Family::V6,
    })[0];
    let error = Icmp::error(kind, code, arrived.destination.ip(), arrived).bytes();
    let at_egress = way.reply.at.hook == Hook::TcEgress;
    let mut check = |place, verdict| {
        let expected = Outcome {
            verdict,
            action: passed(place).action,
            bytes: error.clone(),
        };
        assert_eq!(rig.run(place, &error), expected, "{what}, at {place:?}");
    };
    for place in [XDP0, XDP1, IN0, IN1, FROM_POD, OUT0, OUT1, TO_POD] {
        if at_egress != (place.hook == Hook::TcEgress) {
            check(place, Verdict::OtherHook);
        }
    }
    if way.reply.at.hook == Hook::TcIngress && way.reply.hops == 0 {
        check(XDP0, Verdict::Deferred);
    }
}
