//! Source ports: which are taken towards a backend, and what a client gets
//! instead.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
};

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Connection, Hook, Life, State, Verdict};
use lb_tests::lab::{
    Family,
    Protocol::{self, Tcp, Udp},
};
use nix::sys::socket::{setsockopt, sockopt::TcpRepair};
use socket2::{Domain, Socket, Type};

use crate::{
    first,
    frame::{ACK, Frame, SYN},
    kinds, later,
    line::{
        ANSWERS, ASKS, HAIRPIN, INWARD, Line, NODE_OUT, POD_OUT, PORT, THROUGH, THROUGH_TC, WAYS,
        Way, ends, place,
    },
    rig::{Place, Rig, at},
    socket,
    tables::{Table, tuple},
    wiring::{CLIENT1, NODE, NODE1, inner},
};

const FIRST_OTHER: u16 = 61_000;
const LAST_OTHER: u16 = 65_535;

/// Where the node's own address becomes the source.
const BY_THE_NODE: [&Way; 3] = [&THROUGH, &THROUGH_TC, &HAIRPIN];

#[test]
fn two_clients_of_one_port_are_told_apart() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in [&THROUGH, &THROUGH_TC] {
        for (family, protocol) in kinds() {
            let mut line = Line::new(&mut rig, way, family, protocol);
            line.establish();
            let first = (line.client, line.seen);
            assert_eq!(first.1.port(), PORT, "{}", line.what);
            line.client = socket(CLIENT1, family, PORT);
            line.establish();
            let second = (line.client, line.seen);
            assert!(second.1.port() >= FIRST_OTHER, "{}: {second:?}", line.what);
            for (client, seen) in [first, second, first] {
                (line.client, line.seen) = (client, seen);
                line.exchange(&[(ANSWERS, ACK), (ASKS, ACK), (ANSWERS, ACK)]);
                assert_eq!(line.seen, seen, "{}", line.what);
            }
        }
    }
}

/// What netfilter sends as the node's own holds its port towards a backend, and
/// gets another where somebody has it.
#[test]
fn clients_of_netfilter_are_told_apart_too() {
    const FORWARDED: Place = Place {
        origin: Some("pod0"),
        ..at(Hook::TcEgress, "up0")
    };
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        for is_before in [true, false] {
            let mut line = Line::new(&mut rig, &THROUGH, family, protocol);
            let what = format!("{}, before: {is_before}", line.what);
            if !is_before {
                line.establish();
                assert_eq!(line.seen.port(), PORT, "{what}");
            }
            let (node, backend) = (socket(NODE, family, PORT), line.backend);
            let sent = Frame::new(first(protocol), node, backend);
            let outcome = line.rig.run(FORWARDED, &sent.bytes());
            assert_eq!(outcome.verdict, Verdict::Opened, "{what}");
            let (seen, to) = ends(family, &outcome.bytes);
            assert_eq!((seen.ip(), to), (node.ip(), backend), "{what}");
            assert_eq!(seen.port() == PORT, is_before, "{what}: {seen}");
            if is_before {
                line.establish();
                assert!(line.seen.port() >= FIRST_OTHER, "{what}: {}", line.seen);
            }
            let answer = |to| {
                Frame::new(later(protocol, ACK), to, backend)
                    .answer()
                    .bytes()
            };
            let outcome = line.rig.run(at(Hook::TcIngress, "up0"), &answer(seen));
            assert_eq!(outcome.verdict, Verdict::Reply, "{what}");
            assert_eq!(outcome.bytes, answer(node), "{what}");
            line.exchange(&[(ANSWERS, ACK), (ASKS, ACK), (ANSWERS, ACK)]);
        }
    }
}

/// Of many at once, too, each with a port of those that are for this.
#[test]
fn many_clients_of_one_port_are_told_apart() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let mut line = Line::new(&mut rig, &THROUGH, family, protocol);
        let mut seen = BTreeSet::new();
        for host in 1..=200 {
            line.client = socket(inner(60, host), family, PORT);
            assert_eq!(line.ask(SYN), Verdict::Opened, "{}", line.what);
            assert!(seen.insert(line.seen.port()), "{}: {seen:?}", line.what);
        }
        assert!(seen.remove(&PORT), "{}", line.what);
        let are_others = seen.iter().all(|port| *port >= FIRST_OTHER);
        assert!(are_others, "{}: {seen:?}", line.what);
    }
}

/// Who holds the port on the node.
#[derive(Clone, Copy, Debug)]
enum Holder {
    Listener,
    ListenerOfAll,
    ConnectedToBackend,
    ConnectedElsewhere,
    Bound,
    BoundToAll,
    BoundToOtherAddress,
    Frontend,
    FrontendOfOtherAddress,
}

#[test]
fn what_the_node_holds_is_taken() {
    use Holder::{
        Bound, BoundToAll, BoundToOtherAddress, ConnectedElsewhere, ConnectedToBackend, Frontend,
        FrontendOfOtherAddress, Listener, ListenerOfAll,
    };
    // Of which protocol; whether a connection of that protocol gets another
    // port.
    let table: [(Protocol, Holder, bool); 13] = [
        (Tcp, Listener, false),
        (Tcp, ListenerOfAll, false),
        (Tcp, ConnectedToBackend, true),
        (Tcp, ConnectedElsewhere, false),
        (Tcp, Frontend, true),
        (Tcp, FrontendOfOtherAddress, false),
        (Udp, Bound, true),
        (Udp, BoundToAll, true),
        (Udp, BoundToOtherAddress, false),
        (Udp, ConnectedToBackend, true),
        (Udp, ConnectedElsewhere, false),
        (Udp, Frontend, true),
        (Udp, FrontendOfOtherAddress, false),
    ];
    let mut rig = Rig::new(XdpModeOption::Native);
    let mut ports = 20_000..;
    for way in WAYS {
        let by_the_node = BY_THE_NODE.iter().any(|other| other.what == way.what);
        for family in Family::ALL {
            for (held, holder, is_taken) in table {
                for asked in Protocol::ALL {
                    let port = ports.next().unwrap();
                    let mut line = Line::new(&mut rig, way, family, asked);
                    line.client.set_port(port);
                    let what = format!("{}, {held} {holder:?}", line.what);
                    let _held = hold(&mut line, held, holder);
                    assert_eq!(line.ask(SYN), Verdict::Opened, "{what}");
                    let expected = by_the_node && is_taken && held == asked;
                    let got = line.seen.port();
                    assert_eq!(got != port, expected, "{what}: {got}");
                    assert!(got == port || got >= FIRST_OTHER, "{what}: {got}");
                    line.exchange(&[(ANSWERS, SYN | ACK), (ASKS, ACK)]);
                    assert_eq!(line.state(), Some(place(State::Open)), "{what}");
                }
            }
        }
    }
}

/// By an agent whose version had no such map.
#[test]
fn ports_of_frontends_that_were_entered_before_are_taken() {
    let mut rig = Rig::new(XdpModeOption::Native);
    let mut line = Line::new(&mut rig, &THROUGH, Family::V4, Tcp);
    hold(&mut line, Tcp, Holder::Frontend);
    assert_eq!(line.ask(SYN), Verdict::Opened);
    assert!(line.seen.port() >= FIRST_OTHER);

    line.rig.tables.clear();
    line.rig.tables.know_no_ports();
    assert_eq!(line.ask(SYN), Verdict::Opened);
    assert_eq!(line.seen.port(), PORT, "programs ask the map");
    line.rig.tables.clear();
    let _another = line.rig.beside();
    assert_eq!(line.ask(SYN), Verdict::Opened);
    assert!(line.seen.port() >= FIRST_OTHER);
}

fn hold(line: &mut Line<'_>, protocol: Protocol, holder: Holder) -> Option<Socket> {
    let (family, port) = (line.family, line.client.port());
    let own = socket(NODE, family, port);
    let any: SocketAddr = match family {
        Family::V4 => ([0, 0, 0, 0], port).into(),
        Family::V6 => ([0_u16; 8], port).into(),
    };
    let elsewhere = SocketAddr::new(line.backend.ip(), line.backend.port() + 1);
    let backend = line.backend;
    let mut frontend = |at| {
        let backends = [(inner(8, 99).get(family), true)];
        line.rig
            .serve(&format!("held{port}"), protocol, &[at], &backends);
    };
    let (at, to) = match holder {
        Holder::Listener | Holder::Bound => (own, None),
        Holder::ListenerOfAll | Holder::BoundToAll => (any, None),
        Holder::BoundToOtherAddress => (socket(NODE1, family, port), None),
        Holder::ConnectedToBackend => (own, Some(backend)),
        Holder::ConnectedElsewhere => (own, Some(elsewhere)),
        Holder::Frontend => {
            frontend(own);
            return None;
        }
        Holder::FrontendOfOtherAddress => {
            frontend(socket(NODE1, family, port));
            return None;
        }
    };
    Some(line.rig.netns().run(|| open(protocol, at, to)))
}

/// Nothing is sent: a TCP socket under repair takes it that the other side has
/// agreed.
fn open(protocol: Protocol, at: SocketAddr, to: Option<SocketAddr>) -> Socket {
    let domain = Domain::for_address(at);
    if protocol == Udp {
        let socket = UdpSocket::bind(at).unwrap();
        if let Some(to) = to {
            socket.connect(to).unwrap();
        }
        return socket.into();
    }
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    if to.is_some() {
        setsockopt(&socket, TcpRepair, &1).unwrap();
    }
    socket.bind(&at.into()).unwrap();
    match to {
        Some(to) => socket.connect(&to.into()).unwrap(),
        None => socket.listen(1).unwrap(),
    }
    socket
}

/// Whose connections have all ports; what the next client gets.
#[derive(Clone, Copy, Debug)]
enum Others {
    Living(Table, State),
    /// Over, but not removed: the backend may still be in TIME-WAIT.
    Closed,
    Idle,
    /// The kernel has given the clients' halves away.
    Halved,
}

#[test]
fn ports_run_out_only_if_all_are_in_use() {
    use Others::{Closed, Halved, Idle, Living};
    let table = [
        Living(Table::Assured, State::Open),
        Living(Table::Unassured, State::Opening),
        Closed,
        Idle,
        Halved,
    ];
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in [&THROUGH, &INWARD, &POD_OUT, &HAIRPIN, &NODE_OUT] {
        for (family, protocol) in kinds() {
            for others in table {
                let mut line = Line::new(&mut rig, way, family, protocol);
                line.what += &format!(", {others:?}");
                crowd(&mut line, others);
                check_crowded(&mut line, others);
            }
        }
    }
}

fn check_crowded(line: &mut Line<'_>, others: Others) {
    let count = |line: &Line<'_>| {
        let tables = [Table::Assured, Table::Unassured];
        tables.map(|table| line.rig.tables.count(table))
    };
    let before = count(line);
    let verdict = line.ask(SYN);
    let what = &line.what;
    match others {
        Others::Living(..) => {
            assert_eq!(verdict, Verdict::NoSourcePort, "{what}");
            assert_eq!(count(line), before, "{what}");
        }
        Others::Closed => {
            assert_eq!(verdict, Verdict::Opened, "{what}");
            assert!(line.seen.port() >= FIRST_OTHER, "{what}: {}", line.seen);
        }
        Others::Idle | Others::Halved => {
            assert_eq!(verdict, Verdict::Opened, "{what}");
            assert_eq!(line.seen.port(), PORT, "{what}");
        }
    }
}

/// Enters connections through another frontend.
fn crowd(line: &mut Line<'_>, others: Others) {
    line.reach(State::Opening);
    let (_, own) = line.rig.tables.find(&line.forward_key()).unwrap();
    line.rig.tables.clear();
    let now = Life::unpack(own.life).seen;
    let hour = 3600 * line.rig.tables.settings().second;
    let (table, state, seen) = match others {
        Others::Living(table, state) => (table, state, now),
        Others::Closed if line.protocol == Tcp => (Table::Assured, State::Finished, now),
        // Datagrams know no end.
        Others::Closed => (Table::Assured, State::Aborted, now),
        Others::Idle => (Table::Unassured, State::Opening, now.wrapping_sub(hour)),
        Others::Halved => (Table::Unassured, State::Opening, now),
    };
    let life = Life { state, seen }.pack();
    let frontend = socket(inner(96, 77), line.family, 80);
    for port in [PORT].into_iter().chain(FIRST_OTHER..=LAST_OTHER) {
        let client = SocketAddr::new(line.client.ip(), port);
        let seen = SocketAddr::new(line.seen.ip(), port);
        let key = tuple(line.protocol, client, frontend);
        let forward = Connection {
            translated: tuple(line.protocol, seen, line.backend),
            check: key.check(),
            life,
            ..own
        };
        let (reply_key, reply) = forward.mirror(&key);
        line.rig.tables.enter(table, &reply_key, &reply);
        if !matches!(others, Others::Halved) {
            line.rig.tables.enter(table, &key, &forward);
        }
    }
}
