//! A client that talks to a backend itself, from the port that it uses towards
//! a frontend as well.

use std::{mem, net::SocketAddr, time::Duration};

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, State, Verdict, verdict::Class};
use lb_tests::lab::{
    Family,
    Protocol::{self, Tcp, Udp},
};

use crate::{
    first,
    frame::{ACK, FIN, Frame, SYN},
    kinds, later,
    line::{ANSWERS, ASKS, INWARD, Line, NODE_OUT, POD_OUT, Packet, Way, place},
    rig::{Place, Rig, at},
};

const INWARD_TC: Way = Way {
    what: "outside, client kept, by TC",
    request: at(Hook::TcIngress, "up0"),
    ..INWARD
};

const WITH_XDP: [&Way; 3] = [&INWARD, &POD_OUT, &NODE_OUT];
const WITHOUT_XDP: [&Way; 3] = [&INWARD_TC, &POD_OUT, &NODE_OUT];

const TALK: &[Packet] = &[(ASKS, ACK), (ANSWERS, ACK), (ASKS, ACK), (ANSWERS, ACK)];
const GOODBYE: &[Packet] = &[(ASKS, FIN | ACK), (ANSWERS, FIN | ACK), (ASKS, ACK)];

/// Plays with a connection through a frontend and one past it, both open.
fn play(protocols: &[Protocol], check: impl Fn(&mut Both<'_>)) {
    for (xdp, ways) in [
        (XdpModeOption::Native, WITH_XDP),
        (XdpModeOption::Off, WITHOUT_XDP),
    ] {
        let mut rig = Rig::new(xdp);
        for way in ways {
            for (family, protocol) in kinds().filter(|kind| protocols.contains(&kind.1)) {
                check(&mut Both::open(&mut rig, way, family, protocol));
            }
        }
    }
}

struct Both<'a> {
    line: Line<'a>,
    /// Addressee, and the client as the backend sees it, of that which does
    /// not speak now.
    other: (SocketAddr, SocketAddr),
}

impl<'a> Both<'a> {
    fn open(rig: &'a mut Rig, way: &'static Way, family: Family, protocol: Protocol) -> Self {
        let mut line = Line::new(rig, way, family, protocol);
        line.establish();
        let direct = (line.backend, line.seen);
        let mut both = Self {
            line,
            other: direct,
        };
        both.turn();
        both.line.establish();
        let port = both.line.seen.port();
        assert!(port >= 61_000, "{}: {port}", both.line.what);
        both
    }

    /// Turns from the one to the other.
    fn turn(&mut self) {
        let line = &mut self.line;
        let now = (line.frontend, line.seen);
        (line.frontend, line.seen) = mem::replace(&mut self.other, now);
    }
}

#[test]
fn both_work_at_the_same_time() {
    play(&Protocol::ALL, |both| {
        for _ in 0..4 {
            both.line.exchange(TALK);
            let open = Some(place(State::Open));
            assert_eq!(both.line.state(), open, "{}", both.line.what);
            both.turn();
        }
    });
}

/// What the connection through the frontend has translated looks like a packet
/// past it: the hooks that see it next know better.
#[test]
fn what_was_translated_is_left_alone_further_on() {
    const fn forwarded(out: &'static str, origin: &'static str) -> Place {
        Place {
            origin: Some(origin),
            ..at(Hook::TcEgress, out)
        }
    }
    const BEHIND_XDP: [Place; 2] = [at(Hook::TcIngress, "up0"), forwarded("pod0", "up0")];
    const TO_POD: [Place; 1] = [forwarded("pod0", "up0")];
    const FROM_POD: [Place; 2] = [forwarded("up0", "pod0"), forwarded("pod1", "pod0")];
    play(&Protocol::ALL, |both| {
        both.turn();
        let line = &mut both.line;
        let places: &[Place] = match (line.way.request.hook, line.way.request.interface) {
            (Hook::Xdp, _) => &BEHIND_XDP,
            (Hook::TcIngress, "up0") => &TO_POD,
            (Hook::TcIngress, _) => &FROM_POD,
            (Hook::TcEgress, _) => &[],
        };
        for flags in [ACK, ACK | FIN] {
            let frame = Frame::new(later(line.protocol, flags), line.seen, line.backend).bytes();
            for &place in places {
                let outcome = line.rig.run(place, &frame);
                let what = format!("{}, {:?} at {place:?}", line.what, outcome.verdict);
                assert_eq!(outcome.bytes, frame, "{what}");
                assert_eq!(outcome.verdict.class(), Class::Untouched, "{what}");
            }
        }
    });
}

/// It does not depend on a backend that the control path knows.
#[test]
fn it_outlives_the_backend() {
    play(&Protocol::ALL, |both| {
        both.line
            .rig
            .serve("line", both.line.protocol, &[both.other.0], &[]);
        both.line.exchange(TALK);
    });
}

#[test]
fn it_begins_anew_after_its_end() {
    play(&[Tcp], |both| {
        let line = &mut both.line;
        for round in 0..3 {
            let what = format!("{}, round {round}", line.what);
            line.exchange(GOODBYE);
            assert_eq!(line.state(), Some(place(State::Finished)), "{what}");
            assert_eq!(line.ask(SYN), Verdict::Opened, "{what}");
            let seen = line.seen;
            line.exchange(&[(ANSWERS, SYN | ACK), (ASKS, ACK)]);
            assert_eq!(line.seen, seen, "{what}");
            assert_eq!(line.state(), Some(place(State::Open)), "{what}");
        }
    });
}

#[test]
fn it_begins_anew_after_a_rest() {
    play(&[Udp], |both| {
        let line = &mut both.line;
        let key = line.forward_key();
        line.rig.tables.age(&key, Duration::from_secs(600));
        assert_eq!(line.ask(0), Verdict::Opened, "{}", line.what);
        let seen = line.seen;
        line.exchange(&[(ANSWERS, 0), (ASKS, 0), (ANSWERS, 0)]);
        assert_eq!(line.seen, seen, "{}", line.what);
        assert_eq!(line.state(), Some(place(State::Open)), "{}", line.what);
    });
}

/// Once nothing else has the client's port, a new flow past the frontend keeps
/// it, from its first packet to its last.
#[test]
fn it_is_as_it_was_once_it_is_alone() {
    play(&Protocol::ALL, |both| {
        for _ in 0..2 {
            if both.line.protocol == Tcp {
                both.line.exchange(GOODBYE);
            }
            let key = both.line.forward_key();
            both.line.rig.tables.age(&key, Duration::from_secs(600));
            both.turn();
        }
        let line = &mut both.line;
        let transports = [first(line.protocol), later(line.protocol, ACK)];
        for transport in transports {
            let frame = Frame::new(transport, line.client, line.backend).bytes();
            let outcome = line.rig.run(line.way.request, &frame);
            let what = format!("{}, {transport:?}, {:?}", line.what, outcome.verdict);
            assert_eq!(outcome.bytes, frame, "{what}");
        }
    });
}

/// A reply that XDP has translated would look to TC like one through the
/// frontend.
#[test]
fn its_replies_to_the_node_wait_for_tc() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let both = Both::open(&mut rig, &NODE_OUT, family, protocol);
        let line = both.line;
        let frame = Frame::new(later(protocol, ACK), line.backend, line.seen).bytes();
        let outcome = line.rig.run(at(Hook::Xdp, "up0"), &frame);
        assert_eq!(outcome.verdict, Verdict::Deferred, "{}", line.what);
        assert_eq!(outcome.bytes, frame, "{}", line.what);
    }
}
