//! Connections whose tuples meet.

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::lab::{Family, Pair, Protocol};

use crate::{
    first,
    frame::{ACK, FIN, Frame, RST, SYN, Transport},
    kinds, later,
    line::{ANSWERS, ASKS, INWARD, Line, NODE_OUT, POD_OUT, PORT, Packet, THROUGH, VIP, Way, ends},
    rig::{Place, Rig, TARGET_PORT, at},
    socket,
    wiring::{CLIENT, POD, inner},
};

const OTHER_VIP: Pair = inner(96, 11);

/// Above nodePorts and the usual ephemeral ports.
const FIRST_OTHER_PORT: u16 = 61_000;

const MEETINGS: [&Way; 3] = [&THROUGH, &INWARD, &POD_OUT];

/// One client port through two frontends to the same backend: the backend has
/// to tell them apart, and so have the replies.
#[test]
fn a_taken_source_port_gives_way_to_another() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (port, meeting) in (PORT..).zip(MEETINGS) {
        for (family, protocol) in kinds() {
            let what = format!("{}, {family} {protocol}", meeting.what);
            let (backend, local) = meeting.backend;
            let frontends = [VIP, OTHER_VIP].map(|vip| socket(vip, family, 80));
            rig.serve(
                "both",
                protocol,
                &frontends,
                &[(backend.get(family), local)],
            );
            let ports = frontends.map(|frontend| {
                let client = socket(meeting.client, family, port);
                let open = Frame::new(first(protocol), client, frontend).bytes();
                let outcome = rig.run(meeting.request, &open);
                assert_eq!(outcome.verdict, Verdict::Opened, "{what}");
                let source_port = source_port(family, &outcome.bytes);
                let again = rig.run(meeting.request, &open);
                assert_eq!(again.verdict, Verdict::Forward, "{what}");
                assert_eq!(again.bytes, outcome.bytes, "{what}");
                source_port
            });
            assert_eq!(ports[0], port, "{what}");
            assert!(ports[1] >= FIRST_OTHER_PORT, "{what}: {ports:?}");
            for (frontend, source_port) in frontends.into_iter().zip(ports) {
                let reply = Frame::new(
                    later(protocol, SYN | ACK),
                    socket(backend, family, TARGET_PORT),
                    socket(meeting.seen, family, source_port),
                );
                let outcome = rig.run(meeting.reply, &reply.bytes());
                assert_eq!(outcome.verdict, Verdict::Reply, "{what}");
                let forwarded = meeting.reply.hook == Hook::Xdp;
                let mut expected = Frame {
                    source: frontend,
                    destination: socket(meeting.client, family, port),
                    hops: reply.hops - u8::from(forwarded),
                    ..reply
                };
                expected.macs = [0, 6].map(|at| {
                    let macs = &outcome.bytes[at..at + 6];
                    <[u8; 6]>::try_from(macs).unwrap()
                });
                assert_eq!(outcome.bytes, expected.bytes(), "{what}");
            }
        }
    }
}

fn source_port(family: Family, bytes: &[u8]) -> u16 {
    ends(family, bytes).0.port()
}

/// A client that spoke through a frontend turns to the backend itself, from
/// the port it used before: the replies to either are told apart.
#[test]
fn a_foreign_flow_on_an_old_tuple_gets_its_replies() {
    // What goes by on the old connection; whether it is over then.
    let table: [(&str, Protocol, &[Packet], bool); 6] = [
        ("open", Protocol::Tcp, &[(ASKS, ACK), (ANSWERS, ACK)], false),
        ("closed by the client", Protocol::Tcp, TO_CLOSED, true),
        (
            "closed by the backend",
            Protocol::Tcp,
            &[(ANSWERS, SYN | ACK), (ASKS, ACK), (ANSWERS, FIN | ACK)],
            true,
        ),
        ("refused", Protocol::Tcp, &[(ANSWERS, RST | ACK)], true),
        ("not answered", Protocol::Udp, &[], false),
        ("answered", Protocol::Udp, &[(ANSWERS, 0)], false),
    ];
    // Where the foreign flow goes by, and whether it is seen for the first
    // time there.
    let forwarded = Place {
        origin: Some("up0"),
        ..at(Hook::TcEgress, "pod0")
    };
    let meetings = [
        (&INWARD, INWARD.request, true),
        (&INWARD, at(Hook::TcIngress, "up0"), false),
        (&INWARD, forwarded, false),
        (&POD_OUT, POD_OUT.request, true),
        (&NODE_OUT, NODE_OUT.request, true),
    ];
    let mut rig = Rig::new(XdpModeOption::Native);
    for (way, place, first_seen) in meetings {
        for (what, protocol, packets, is_over) in table {
            for family in Family::ALL {
                let mut line = Line::new(&mut rig, way, family, protocol);
                line.what += &format!(", {what}, at {place:?}");
                line.exchange(&[(ASKS, SYN)]);
                line.exchange(packets);
                let becomes = match (first_seen, is_over) {
                    (false, _) => Foreign::Unseen,
                    (true, true) if place.hook == Hook::Xdp => Foreign::Alone,
                    (true, _) => Foreign::Apart,
                };
                check_foreign(&mut line, place, becomes);
            }
        }
    }
}

const TO_CLOSED: &[Packet] = &[(ANSWERS, SYN | ACK), (ASKS, ACK), (ASKS, FIN | ACK)];

/// What becomes of a foreign flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Foreign {
    /// It is left alone, and so is the connection.
    Unseen,
    /// It gets a source port of its own; the backend may remember the other in
    /// TIME-WAIT.
    Apart,
    /// It is left alone, and the connection goes.
    Alone,
}

fn check_foreign(line: &mut Line<'_>, place: Place, becomes: Foreign) {
    let (client, backend) = (line.client, line.backend);
    let what = line.what.clone();
    let asked = Frame::new(first(line.protocol), client, backend).bytes();
    let outcome = line.rig.run(place, &asked);
    let seen = ends(line.family, &outcome.bytes);
    if becomes == Foreign::Apart {
        assert_eq!(outcome.verdict, Verdict::Opened, "{what}");
        assert_eq!((seen.0.ip(), seen.1), (client.ip(), backend), "{what}");
        assert!(seen.0.port() >= FIRST_OTHER_PORT, "{what}: {seen:?}");
        let transport = later(line.protocol, SYN | ACK);
        let reply = Frame::new(transport, backend, seen.0);
        let outcome = line.rig.run(line.way.reply, &reply.bytes());
        assert_eq!(outcome.verdict, Verdict::Reply, "{what}");
        let expected = Frame {
            destination: client,
            ..reply
        };
        assert_eq!(outcome.bytes, expected.bytes(), "{what}");
    } else {
        assert_eq!(outcome.verdict, Verdict::NoFrontend, "{what}");
        assert_eq!(outcome.bytes, asked, "{what}");
    }
    if becomes != Foreign::Alone {
        assert_eq!(line.answer(SYN | ACK), Verdict::Reply, "{what}");
        return;
    }
    let reply = Frame::new(later(line.protocol, SYN | ACK), backend, client).bytes();
    let outcome = line.rig.run(line.way.reply, &reply);
    assert_eq!(outcome.bytes, reply, "{what}");
}

/// Only the first packet of a flow may end what was there before.
#[test]
fn a_stray_segment_ends_no_connection() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for family in Family::ALL {
        let frontend = socket(VIP, family, 80);
        rig.serve(
            "one",
            Protocol::Tcp,
            &[frontend],
            &[(POD.get(family), true)],
        );
        let client = socket(CLIENT, family, PORT);
        let backend = socket(POD, family, TARGET_PORT);
        let mut run = |place, flags, source, destination| {
            let frame = Frame::new(Transport::Tcp(flags), source, destination);
            rig.run(place, &frame.bytes()).verdict
        };
        let (request, reply) = (at(Hook::Xdp, "up0"), at(Hook::TcEgress, "up0"));
        let verdicts = [
            run(request, SYN, client, frontend),
            run(request, FIN | ACK, client, frontend),
            run(request, ACK, client, backend),
            run(reply, ACK, backend, client),
        ];
        use Verdict::{Forward, NoFrontend, Opened, Reply};
        assert_eq!(verdicts, [Opened, Forward, NoFrontend, Reply], "{family}");
    }
}
