//! Connections whose tuples meet.

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::lab::{Family, Pair, Protocol};

use crate::{
    first,
    frame::{ACK, FIN, Frame, SYN, Transport},
    kinds, later,
    rig::{Place, Rig, TARGET_PORT, at},
    socket,
    wiring::{CLIENT, NODE, POD, REMOTE, inner},
};

const VIP: Pair = inner(96, 10);
const OTHER_VIP: Pair = inner(96, 11);
const PORT: u16 = 40_000;

/// Above nodePorts and the usual ephemeral ports.
const FIRST_OTHER_PORT: u16 = 61_000;

struct Meeting {
    what: &'static str,
    client: Pair,
    backend: (Pair, bool),
    /// What the backend sees as the client.
    seen: Pair,
    request: Place,
    reply: Place,
}

const MEETINGS: [Meeting; 3] = [
    Meeting {
        what: "outside, SNAT",
        client: CLIENT,
        backend: (REMOTE, false),
        seen: NODE,
        request: at(Hook::Xdp, "up0"),
        reply: at(Hook::Xdp, "up0"),
    },
    Meeting {
        what: "outside, client kept",
        client: CLIENT,
        backend: (POD, true),
        seen: CLIENT,
        request: at(Hook::Xdp, "up0"),
        reply: at(Hook::TcEgress, "up0"),
    },
    Meeting {
        what: "a pod",
        client: POD,
        backend: (REMOTE, false),
        seen: POD,
        request: at(Hook::TcIngress, "pod0"),
        reply: at(Hook::TcEgress, "pod0"),
    },
];

const NODES_OWN: Meeting = Meeting {
    what: "the node",
    client: NODE,
    backend: (REMOTE, false),
    seen: NODE,
    request: at(Hook::TcEgress, "up0"),
    reply: at(Hook::TcIngress, "up0"),
};

/// One client port through two frontends to the same backend: the backend has
/// to tell them apart, and so have the replies.
#[test]
fn a_taken_source_port_gives_way_to_another() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (port, meeting) in (PORT..).zip(&MEETINGS) {
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
    let at = if family == Family::V4 { 34 } else { 54 };
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A client that spoke through a frontend turns to the backend itself, from
/// the port it used before: its replies are its own.
#[test]
fn a_foreign_flow_on_an_old_tuple_is_left_alone() {
    // What goes by on the old connection; whether the foreign flow has it.
    type Packets = &'static [(bool, u8)];
    let table: [(&str, Protocol, Packets, bool); 6] = [
        ("open", Protocol::Tcp, &[(true, ACK), (false, ACK)], false),
        (
            "closed by the client",
            Protocol::Tcp,
            &[(true, FIN | ACK)],
            true,
        ),
        (
            "closed by the backend",
            Protocol::Tcp,
            &[(false, FIN | ACK)],
            true,
        ),
        (
            "closed by both",
            Protocol::Tcp,
            &[(true, FIN | ACK), (false, FIN | ACK)],
            true,
        ),
        ("not answered", Protocol::Udp, &[], true),
        ("answered", Protocol::Udp, &[(false, 0)], true),
    ];
    // Where the foreign flow goes by, and whether it is seen for the first
    // time there.
    let forwarded = Place {
        origin: Some("up0"),
        ..at(Hook::TcEgress, "pod0")
    };
    let meetings = [
        (&MEETINGS[1], MEETINGS[1].request, true),
        (&MEETINGS[1], at(Hook::TcIngress, "up0"), false),
        (&MEETINGS[1], forwarded, false),
        (&MEETINGS[2], MEETINGS[2].request, true),
        (&NODES_OWN, NODES_OWN.request, true),
    ];
    let mut rig = Rig::new(XdpModeOption::Native);
    let mut port = PORT;
    for (meeting, place, first_seen) in meetings {
        for (what, protocol, packets, yields) in table {
            port += 1;
            for family in Family::ALL {
                let what = format!("{}, {what}, {family} {protocol} at {place:?}", meeting.what);
                let yields = yields && first_seen;
                check_foreign(
                    &mut rig,
                    &what,
                    meeting,
                    place,
                    (family, protocol, port),
                    packets,
                    yields,
                );
            }
        }
    }
}

fn check_foreign(
    rig: &mut Rig,
    what: &str,
    meeting: &Meeting,
    place: Place,
    (family, protocol, port): (Family, Protocol, u16),
    packets: &[(bool, u8)],
    yields: bool,
) {
    let frontend = socket(VIP, family, 80);
    let (backend, local) = meeting.backend;
    rig.serve(
        "one",
        protocol,
        &[frontend],
        &[(backend.get(family), local)],
    );
    let client = socket(meeting.client, family, port);
    let backend = socket(backend, family, TARGET_PORT);
    let mut send = |place, transport, source, destination| {
        let bytes = Frame::new(transport, source, destination).bytes();
        let outcome = rig.run(place, &bytes);
        (outcome.verdict, outcome.bytes == bytes)
    };
    let sent = send(meeting.request, first(protocol), client, frontend);
    assert_eq!(sent, (Verdict::Opened, false), "{what}");
    for &(from_client, flags) in packets {
        let transport = later(protocol, flags);
        let (sent, verdict) = if from_client {
            (
                send(meeting.request, transport, client, frontend),
                Verdict::Forward,
            )
        } else {
            (
                send(meeting.reply, transport, backend, client),
                Verdict::Reply,
            )
        };
        assert_eq!(sent, (verdict, false), "{what}");
    }
    let untouched = (Verdict::NoFrontend, true);
    assert_eq!(
        send(place, first(protocol), client, backend),
        untouched,
        "{what}"
    );
    let sent = send(meeting.reply, later(protocol, SYN | ACK), backend, client);
    let expected = if yields {
        untouched
    } else {
        (Verdict::Reply, false)
    };
    assert_eq!(sent, expected, "{what}");
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
