//! A client, a frontend and a backend, and the packets between them.

use std::net::{IpAddr, SocketAddr};

use lb_common::{Hook, Life, State, Tuple, Verdict};
use lb_tests::lab::{self, Family, Pair, Protocol};

use crate::{
    frame::{ACK, FIN, Frame, RST, SYN},
    later,
    rig::{Place, Rig, TARGET_PORT, at},
    socket,
    tables::{Table, tuple},
    wiring::{CLIENT, NODE, POD, REMOTE, inner},
};

pub(crate) const VIP: Pair = inner(96, 10);
pub(crate) const PORT: u16 = 40_000;

/// By which hooks the packets of a connection pass.
pub(crate) struct Way {
    pub(crate) what: &'static str,
    pub(crate) client: Pair,
    pub(crate) backend: (Pair, bool),
    /// What the backend sees as the client.
    pub(crate) seen: Pair,
    pub(crate) request: Place,
    pub(crate) reply: Place,
}

pub(crate) const THROUGH: Way = Way {
    what: "outside, SNAT",
    client: CLIENT,
    backend: (REMOTE, false),
    seen: NODE,
    request: at(Hook::Xdp, "up0"),
    reply: at(Hook::Xdp, "up0"),
};

pub(crate) const INWARD: Way = Way {
    what: "outside, client kept",
    client: CLIENT,
    backend: (POD, true),
    seen: CLIENT,
    request: at(Hook::Xdp, "up0"),
    reply: at(Hook::TcEgress, "up0"),
};

pub(crate) const THROUGH_TC: Way = Way {
    what: "outside, SNAT by TC",
    request: at(Hook::TcIngress, "up0"),
    reply: at(Hook::TcIngress, "up0"),
    ..THROUGH
};

pub(crate) const POD_OUT: Way = Way {
    what: "a pod",
    client: POD,
    backend: (REMOTE, false),
    seen: POD,
    request: at(Hook::TcIngress, "pod0"),
    reply: at(Hook::TcEgress, "pod0"),
};

pub(crate) const HAIRPIN: Way = Way {
    what: "a pod to itself",
    client: POD,
    backend: (POD, true),
    seen: NODE,
    request: at(Hook::TcIngress, "pod0"),
    reply: at(Hook::TcIngress, "pod0"),
};

pub(crate) const NODE_OUT: Way = Way {
    what: "the node",
    client: NODE,
    backend: (REMOTE, false),
    seen: NODE,
    request: at(Hook::TcEgress, "up0"),
    reply: at(Hook::TcIngress, "up0"),
};

pub(crate) const WAYS: [&Way; 6] = [
    &THROUGH,
    &INWARD,
    &THROUGH_TC,
    &POD_OUT,
    &HAIRPIN,
    &NODE_OUT,
];

/// One connection, there or not yet.
pub(crate) struct Line<'a> {
    pub(crate) rig: &'a mut Rig,
    pub(crate) what: String,
    pub(crate) way: &'static Way,
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    pub(crate) client: SocketAddr,
    pub(crate) frontend: SocketAddr,
    pub(crate) backend: SocketAddr,
    /// The client as the backend saw it last.
    pub(crate) seen: SocketAddr,
}

impl<'a> Line<'a> {
    /// The rig serves it from here on. It has no connections.
    pub(crate) fn new(
        rig: &'a mut Rig,
        way: &'static Way,
        family: Family,
        protocol: Protocol,
    ) -> Self {
        let (backend, local) = way.backend;
        let frontend = socket(VIP, family, 80);
        rig.serve(
            "line",
            protocol,
            &[frontend],
            &[(backend.get(family), local)],
        );
        rig.tables.clear();
        Self {
            rig,
            what: format!("{}, {family} {protocol}", way.what),
            way,
            family,
            protocol,
            client: socket(way.client, family, PORT),
            frontend,
            backend: socket(backend, family, TARGET_PORT),
            seen: socket(way.seen, family, PORT),
        }
    }

    /// The client sends a packet, with these flags if it is TCP.
    pub(crate) fn ask(&mut self, flags: u8) -> Verdict {
        let (client, frontend) = (self.client, self.frontend);
        let (verdict, sent) = self.send(self.way.request, flags, client, frontend);
        let what = &self.what;
        match verdict {
            Verdict::Opened | Verdict::Forward => {
                let (source, destination) = sent;
                assert_eq!(destination, self.backend, "{what}");
                assert_eq!(source.ip(), self.way.seen.get(self.family), "{what}");
                self.seen = source;
            }
            _ => assert_eq!(sent, (self.client, self.frontend), "{what}: {verdict:?}"),
        }
        verdict
    }

    /// The backend sends one.
    pub(crate) fn answer(&mut self, flags: u8) -> Verdict {
        let (backend, seen) = (self.backend, self.seen);
        let (verdict, sent) = self.send(self.way.reply, flags, backend, seen);
        let expected = match verdict {
            Verdict::Reply => (self.frontend, self.client),
            _ => (backend, seen),
        };
        assert_eq!(sent, expected, "{}: {verdict:?}", self.what);
        verdict
    }

    /// Opens it, by both sides.
    pub(crate) fn establish(&mut self) {
        self.reach(State::Open);
    }

    /// Opens it, and brings it to a state.
    pub(crate) fn reach(&mut self, state: State) {
        self.exchange(packets_to(self.protocol, state));
        assert_eq!(self.state(), Some(place(state)), "{}", self.what);
    }

    /// Takes its backend away and brings it back: another one, of the same
    /// address.
    pub(crate) fn replace_backend(&mut self) {
        self.serve(false);
        self.serve(true);
    }

    pub(crate) fn serve(&mut self, by_someone: bool) {
        let backend = (self.backend.ip(), self.way.backend.1);
        let backends: &[_] = if by_someone { &[backend] } else { &[] };
        self.rig
            .serve("line", self.protocol, &[self.frontend], backends);
    }

    /// All of these packets are translated.
    pub(crate) fn exchange(&mut self, packets: &[Packet]) {
        for &(side, flags) in packets {
            let verdict = self.pass((side, flags));
            let is_right = match verdict {
                Verdict::Opened | Verdict::Forward => side == ASKS,
                verdict => verdict == Verdict::Reply,
            };
            assert!(is_right, "{}, {flags:#x}: {verdict:?}", self.what);
        }
    }

    pub(crate) fn pass(&mut self, (side, flags): Packet) -> Verdict {
        match side {
            ASKS => self.ask(flags),
            ANSWERS => self.answer(flags),
        }
    }

    pub(crate) fn forward_key(&self) -> Tuple {
        tuple(self.protocol, self.client, self.frontend)
    }

    pub(crate) fn reply_key(&self) -> Tuple {
        tuple(self.protocol, self.backend, self.seen)
    }

    /// Where it is, and how far. Both halves are in one table.
    pub(crate) fn state(&self) -> Option<(Table, State)> {
        let tables = &self.rig.tables;
        let forward = tables.find(&self.forward_key());
        let reply = tables.find(&self.reply_key());
        let place = |half: &Option<(Table, _)>| half.as_ref().map(|(table, _)| *table);
        assert_eq!(place(&forward), place(&reply), "{}", self.what);
        let (table, forward) = forward?;
        Some((table, Life::unpack(forward.life).state))
    }

    fn send(
        &mut self,
        place: Place,
        flags: u8,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> (Verdict, (SocketAddr, SocketAddr)) {
        let frame = Frame::new(later(self.protocol, flags), source, destination);
        let outcome = self.rig.run(place, &frame.bytes());
        let what = &self.what;
        assert_eq!(
            lab::inspect(&outcome.bytes),
            lab::Verdict::Good,
            "{what}: {:?}",
            outcome.verdict
        );
        (outcome.verdict, ends(self.family, &outcome.bytes))
    }
}

/// Where a connection in this state is, if there is room.
pub(crate) const fn place(state: State) -> (Table, State) {
    match state {
        State::Opening | State::Answered | State::Refused => (Table::Unassured, state),
        _ => (Table::Assured, state),
    }
}

const fn packets_to(protocol: Protocol, state: State) -> &'static [Packet] {
    match (protocol, state) {
        (_, State::Opening) => &[(ASKS, SYN)],
        (Protocol::Udp, _) => &[(ASKS, 0), (ANSWERS, 0)],
        (_, State::Answered) => &[(ASKS, SYN), (ANSWERS, SYN | ACK)],
        (_, State::Refused) => &[(ASKS, SYN), (ANSWERS, RST | ACK)],
        (_, State::Open | State::Dying) => &[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2]],
        (_, State::ClientClosed) => &[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], CLIENT_ENDS],
        (_, State::BackendClosed) => &[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], BACKEND_ENDS],
        (_, State::Finished) => &[
            HANDSHAKE[0],
            HANDSHAKE[1],
            HANDSHAKE[2],
            CLIENT_ENDS,
            BACKEND_ENDS,
        ],
        (_, State::Aborted) => &[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], (ANSWERS, RST)],
    }
}

pub(crate) const HANDSHAKE: [Packet; 3] = [(ASKS, SYN), (ANSWERS, SYN | ACK), (ASKS, ACK)];
const CLIENT_ENDS: Packet = (ASKS, FIN | ACK);
const BACKEND_ENDS: Packet = (ANSWERS, FIN | ACK);

/// Who sends, and the flags of TCP.
pub(crate) type Packet = (bool, u8);
pub(crate) const ASKS: bool = false;
pub(crate) const ANSWERS: bool = true;

/// Source and destination of a frame without tags and options.
pub(crate) fn ends(family: Family, bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let address = |at: usize| -> IpAddr {
        match family {
            Family::V4 => <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap().into(),
            Family::V6 => <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap().into(),
        }
    };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (source, length, ports) = match family {
        Family::V4 => (26, 4, 34),
        Family::V6 => (22, 16, 54),
    };
    (
        SocketAddr::new(address(source), port(ports)),
        SocketAddr::new(address(source + length), port(ports + 2)),
    )
}
