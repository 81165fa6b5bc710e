//! Messages that look like errors about packets of connections, and are not.

use lb_agent::dataplane::XdpModeOption;
use lb_common::verdict::Class;
use lb_tests::{
    lab::{Family, Pair, Protocol},
    packet::Icmp,
};

use crate::{
    first,
    frame::{ACK, Frame, Transport},
    icmp::errors,
    kinds, later,
    paths::passed,
    rig::{Place, Rig, TARGET_PORT},
    socket,
    ways::{FROM_POD, IN0, OUT0, TO_POD, XDP0},
    wiring::{CLIENT, POD, inner},
};

const VIP: Pair = inner(96, 10);
const PLACES: [Place; 5] = [XDP0, IN0, FROM_POD, OUT0, TO_POD];

/// What errors about a connection between [`CLIENT`] and [`POD`] quote, at
/// each side of the translation.
struct Connection {
    family: Family,
    request: Frame,
    reply: Frame,
}

impl Connection {
    fn open(rig: &mut Rig, family: Family, protocol: Protocol) -> Self {
        let [client, frontend, pod] = [(CLIENT, 40_000), (VIP, 80), (POD, TARGET_PORT)]
            .map(|(at, port)| socket(at, family, port));
        rig.serve("one", protocol, &[frontend], &[(pod.ip(), true)]);
        let opening = Frame::new(first(protocol), client, frontend);
        rig.run(IN0, &opening.bytes());
        let transport = later(protocol, ACK);
        Self {
            family,
            request: Frame::new(transport, client, pod),
            reply: Frame::new(transport, frontend, client),
        }
    }

    /// An error about a packet of each direction.
    fn errors(&self) -> [Icmp; 2] {
        let (kind, code) = errors(self.family)[0];
        [&self.request, &self.reply]
            .map(|about| Icmp::error(kind, code, about.destination.ip(), about))
    }
}

fn check(rig: &mut Rig, what: &str, bytes: &[u8]) {
    for place in PLACES {
        let got = rig.run(place, bytes);
        assert_eq!(got.bytes, bytes, "{what}, at {place:?}");
        assert_eq!(
            got.verdict.class(),
            Class::Untouched,
            "{what}, at {place:?}"
        );
        assert_eq!(got.action, passed(place).action, "{what}, at {place:?}");
    }
}

#[test]
fn quotes_cut_short_are_left_alone() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let connection = Connection::open(&mut rig, family, protocol);
        for error in connection.errors() {
            let enough = connection.request.transport_offset() - connection.request.network() + 8;
            for length in 0..enough {
                let mut cut = error.clone();
                cut.body.truncate(length);
                check(
                    &mut rig,
                    &format!("{family} {protocol}, {length} bytes"),
                    &cut.bytes(),
                );
            }
            // As many bytes, of which the packet does not have all.
            let whole = error.bytes();
            for length in whole.len() - error.body.len()..whole.len() {
                let what = format!("{family} {protocol}, {length} of {}", whole.len());
                check(&mut rig, &what, &whole[..length]);
            }
        }
    }
}

#[test]
fn messages_of_other_types_are_left_alone() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for family in Family::ALL {
        let connection = Connection::open(&mut rig, family, Protocol::Udp);
        for error in connection.errors() {
            for kind in 0..=255 {
                if errors(family).iter().any(|error| error.0 == kind) {
                    continue;
                }
                let other = Icmp {
                    kind,
                    ..error.clone()
                };
                check(&mut rig, &format!("{family} type {kind}"), &other.bytes());
            }
        }
    }
}

#[test]
fn quotes_that_lie_are_left_alone() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let connection = Connection::open(&mut rig, family, protocol);
        for error in connection.errors() {
            for (what, at, bytes) in lies(family) {
                let mut lie = error.clone();
                lie.body[at..at + bytes.len()].copy_from_slice(&bytes);
                check(
                    &mut rig,
                    &format!("{family} {protocol}, {what}"),
                    &lie.bytes(),
                );
            }
            let elsewhere = Icmp {
                destination: inner(50, 8).get(family),
                ..error.clone()
            };
            check(&mut rig, "to somebody else", &elsewhere.bytes());
        }
    }
}

/// What is written into the quoted IP header, and where.
fn lies(family: Family) -> Vec<(String, usize, Vec<u8>)> {
    let (protocol, length, header) = match family {
        Family::V4 => (9, 2, 20),
        Family::V6 => (6, 4, 0),
    };
    let mut lies = Vec::new();
    let mut add = |what: String, at: usize, bytes: &[u8]| lies.push((what, at, bytes.to_vec()));
    for number in (0..=255).filter(|number| ![6, 17].contains(number)) {
        // Six times what looks like options, in which there is no port.
        add(format!("protocol {number}"), protocol, &[number]);
    }
    for short in 0..header + 8 {
        add(format!("length {short}"), length, &[0, short]);
    }
    for version in (0..16_u8).filter(|&version| version != if family == Family::V4 { 4 } else { 6 })
    {
        add(format!("version {version}"), 0, &[version << 4 | 5]);
    }
    if family == Family::V4 {
        for words in 0..16_u8 {
            if words != 5 {
                add(format!("{words} words of header"), 0, &[0x40 | words]);
            }
        }
        add("last fragment".to_owned(), 6, &[0, 9]);
        add("middle fragment".to_owned(), 6, &[0x20, 9]);
    }
    lies
}

#[test]
fn errors_about_errors_are_left_alone() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for family in Family::ALL {
        let connection = Connection::open(&mut rig, family, Protocol::Tcp);
        let (kind, code) = errors(family)[0];
        let number = if family == Family::V4 { 1 } else { 58 };
        for error in connection.errors() {
            let bytes = error.bytes();
            let about = Frame {
                payload: bytes[bytes.len() - error.body.len() - 8..].to_vec(),
                ..Frame::new(
                    Transport::Raw(number),
                    (error.source, 0).into(),
                    (error.destination, 0).into(),
                )
            };
            let again = Icmp::error(kind, code, error.destination, &about);
            check(&mut rig, "an error about an error", &again.bytes());
        }
    }
}

#[test]
fn errors_about_other_connections_are_left_alone() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let Connection { request, reply, .. } = Connection::open(&mut rig, family, protocol);
        let (kind, code) = errors(family)[0];
        let near = |frame: &Frame| {
            let mut others = vec![frame.clone(); 3];
            others[0].source.set_port(frame.source.port() + 1);
            others[1].destination.set_port(frame.destination.port() + 1);
            others[2].destination.set_ip(inner(8, 99).get(family));
            others
        };
        // The other way round, they are what comes to this node.
        let reversed = [&request, &reply].map(|frame| Frame {
            source: frame.destination,
            destination: frame.source,
            ..frame.clone()
        });
        for about in near(&request)
            .into_iter()
            .chain(near(&reply))
            .chain(reversed)
        {
            let error = Icmp::error(kind, code, about.destination.ip(), &about);
            check(
                &mut rig,
                &format!("{family} {protocol} {about:?}"),
                &error.bytes(),
            );
        }
    }
}
