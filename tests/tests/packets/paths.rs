//! Requests and replies on every way through the node.

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::lab::{Family, Pair, Protocol};

use crate::{
    first,
    frame::{ACK, Frame},
    kinds, later,
    rig::{
        Outcome, Place, Rig, TARGET_PORT,
        action::{TC_PASS, XDP_PASS},
    },
    socket,
    ways::{
        FROM_POD, FROM_POD1, IN0, IN1, OUT0, OUT1, SHORT, TO_POD, WITH_XDP, WITHOUT_XDP, XDP0, XDP1,
    },
    wiring::LOOPBACK,
};

#[derive(Clone, Copy)]
pub(crate) enum Macs {
    Kept,
    Swapped,
    Set([[u8; 6]; 2]),
}

/// What happens to a frame, its translation aside.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) at: Place,
    pub(crate) action: i32,
    pub(crate) hops: u8,
    pub(crate) macs: Macs,
}

/// On through the stack.
pub(crate) const fn passed(at: Place) -> Sent {
    let action = match at.hook {
        Hook::Xdp => XDP_PASS,
        Hook::TcIngress | Hook::TcEgress => TC_PASS,
    };
    sent(at, action, 0, Macs::Kept)
}

pub(crate) const fn sent(at: Place, action: i32, hops: u8, macs: Macs) -> Sent {
    Sent {
        at,
        action,
        hops,
        macs,
    }
}

impl Sent {
    pub(crate) fn apply(&self, frame: &Frame) -> Frame {
        let macs = match self.macs {
            Macs::Kept => frame.macs,
            Macs::Swapped => [frame.macs[1], frame.macs[0]],
            Macs::Set(macs) => macs,
        };
        Frame {
            macs,
            hops: frame.hops - self.hops,
            ..frame.clone()
        }
    }
}

pub(crate) struct Way {
    pub(crate) what: &'static str,
    pub(crate) client: Pair,
    pub(crate) frontend: Pair,
    pub(crate) backend: (Pair, bool),
    /// Address that the backend sees, where it is not the client's.
    pub(crate) seen: Option<Pair>,
    pub(crate) request: Sent,
    pub(crate) reply: Sent,
}

#[test]
fn requests_and_replies_take_their_way_with_xdp() {
    check(XdpModeOption::Native, &WITH_XDP);
}

#[test]
fn requests_and_replies_take_their_way_without_xdp() {
    check(XdpModeOption::Off, &WITHOUT_XDP);
}

#[test]
fn requests_and_replies_take_the_short_way_without_xdp() {
    check_on(Rig::with_shortcuts(XdpModeOption::Off), &SHORT);
}

fn check(xdp: XdpModeOption, ways: &[Way]) {
    check_on(Rig::new(xdp), ways);
}

fn check_on(mut rig: Rig, ways: &[Way]) {
    for (port, way) in (30_000..).zip(ways) {
        for (family, protocol) in kinds() {
            // RFC 4291, section 2.5.3: nothing from ::1 leaves the node.
            if way.client == LOOPBACK && family == Family::V6 {
                continue;
            }
            check_way(&mut rig, way, port, family, protocol);
        }
    }
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
    let before = rig.connections();

    let backend = socket(backend, family, TARGET_PORT);
    let seen = way
        .seen
        .map_or(client, |seen| socket(seen, family, client.port()));
    let mut arrived = Frame::new(first(protocol), client, frontend);
    for (transport, verdict) in [
        (first(protocol), Verdict::Opened),
        (first(protocol), Verdict::Forward),
        (later(protocol, ACK), Verdict::Forward),
    ] {
        let request = Frame::new(transport, client, frontend);
        arrived = Frame {
            source: seen,
            destination: backend,
            ..way.request.apply(&request)
        };
        expect(rig, &what, &request, &way.request, verdict, &arrived);
        assert_eq!(rig.connections(), before + 1, "{what}");
    }

    let reply = arrived.answer();
    let at_egress = way.reply.at.hook == Hook::TcEgress;
    for place in [
        XDP0, XDP1, IN0, IN1, FROM_POD, FROM_POD1, OUT0, OUT1, TO_POD,
    ] {
        if at_egress != (place.hook == Hook::TcEgress) {
            let untouched = passed(place);
            expect(rig, &what, &reply, &untouched, Verdict::OtherHook, &reply);
        }
    }
    if way.reply.at.hook == Hook::TcIngress && way.reply.hops == 0 {
        // To a socket, or back to a pod: XDP can do neither.
        expect(rig, &what, &reply, &passed(XDP0), Verdict::Deferred, &reply);
    }
    let returned = Frame {
        source: frontend,
        destination: client,
        ..way.reply.apply(&reply)
    };
    expect(rig, &what, &reply, &way.reply, Verdict::Reply, &returned);
    assert_eq!(rig.connections(), before + 1, "{what}");
}

fn expect(rig: &mut Rig, what: &str, frame: &Frame, sent: &Sent, verdict: Verdict, out: &Frame) {
    let expected = Outcome {
        verdict,
        action: sent.action,
        bytes: out.bytes(),
    };
    let outcome = rig.run(sent.at, &frame.bytes());
    assert_eq!(outcome, expected, "{what}, at {:?}: {frame:?}", sent.at);
}
