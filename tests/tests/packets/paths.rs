//! The table of ways through the node: who asks, where, and what becomes of
//! request and reply.

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::lab::{Family, Pair, Protocol};

use crate::{
    first,
    frame::{ACK, Frame},
    kinds, later,
    rig::{
        CLIENT, CLIENT1, FAR, GATEWAY_MAC, GATEWAY1_MAC, LOOPBACK, NODE, NODE1, Outcome, POD, POD1,
        Place, REMOTE, REMOTE1, Rig, TARGET_PORT, UP0_MAC, UP1_MAC,
        action::{TC_PASS, TC_REDIRECT, XDP_PASS, XDP_REDIRECT, XDP_TX},
        at, inner,
    },
    socket,
};

const VIP: Pair = inner(96, 10);

const XDP0: Place = at(Hook::Xdp, "up0");
const XDP1: Place = at(Hook::Xdp, "up1");
const IN0: Place = at(Hook::TcIngress, "up0");
const IN1: Place = at(Hook::TcIngress, "up1");
const OUT0: Place = at(Hook::TcEgress, "up0");
const OUT1: Place = at(Hook::TcEgress, "up1");
const FROM_POD: Place = at(Hook::TcIngress, "pod0");
const FROM_POD1: Place = at(Hook::TcIngress, "pod1");
const TO_POD: Place = at(Hook::TcEgress, "pod0");
const OUT_LO: Place = at(Hook::TcEgress, "lo");

const BY_UP0: Macs = Macs::Set([GATEWAY_MAC, UP0_MAC]);
const BY_UP1: Macs = Macs::Set([GATEWAY1_MAC, UP1_MAC]);

#[derive(Clone, Copy)]
enum Macs {
    Kept,
    Swapped,
    Set([[u8; 6]; 2]),
}

/// What happens to a frame, its translation aside.
#[derive(Clone, Copy)]
struct Sent {
    at: Place,
    action: i32,
    hops: u8,
    macs: Macs,
}

/// On through the stack.
const fn passed(at: Place) -> Sent {
    let action = match at.hook {
        Hook::Xdp => XDP_PASS,
        Hook::TcIngress | Hook::TcEgress => TC_PASS,
    };
    sent(at, action, 0, Macs::Kept)
}

const fn sent(at: Place, action: i32, hops: u8, macs: Macs) -> Sent {
    Sent {
        at,
        action,
        hops,
        macs,
    }
}

impl Sent {
    fn apply(&self, frame: &Frame) -> Frame {
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

struct Way {
    what: &'static str,
    client: Pair,
    frontend: Pair,
    backend: (Pair, bool),
    /// Address that the backend sees, where it is not the client's.
    seen: Option<Pair>,
    request: Sent,
    reply: Sent,
}

const WITH_XDP: [Way; 8] = [
    Way {
        what: "outside to a local backend",
        client: CLIENT,
        frontend: NODE,
        backend: (POD, true),
        seen: None,
        request: passed(XDP0),
        reply: passed(OUT0),
    },
    Way {
        what: "outside to a pod that is not said to be local",
        client: CLIENT,
        frontend: NODE,
        backend: (POD1, false),
        seen: None,
        request: passed(XDP0),
        reply: passed(OUT0),
    },
    Way {
        what: "outside to the node's own address",
        client: CLIENT,
        frontend: VIP,
        backend: (NODE1, false),
        seen: None,
        request: passed(XDP0),
        reply: passed(OUT0),
    },
    Way {
        what: "outside to a remote backend, back over a veth",
        client: CLIENT,
        frontend: NODE,
        backend: (REMOTE, false),
        seen: Some(NODE),
        request: sent(XDP0, XDP_REDIRECT, 1, BY_UP0),
        reply: sent(XDP0, XDP_REDIRECT, 1, BY_UP0),
    },
    Way {
        what: "outside to a remote backend, back over a NIC",
        client: CLIENT1,
        frontend: VIP,
        backend: (REMOTE1, false),
        seen: Some(NODE1),
        request: sent(XDP1, XDP_TX, 1, BY_UP1),
        reply: sent(XDP1, XDP_TX, 1, BY_UP1),
    },
    Way {
        what: "outside to a remote backend on another uplink",
        client: CLIENT,
        frontend: NODE,
        backend: (REMOTE1, false),
        seen: Some(NODE1),
        request: sent(XDP0, XDP_REDIRECT, 1, BY_UP1),
        reply: sent(XDP1, XDP_REDIRECT, 1, BY_UP0),
    },
    Way {
        what: "outside, asked in TC after all",
        client: CLIENT,
        frontend: NODE,
        backend: (FAR, false),
        seen: Some(NODE),
        request: sent(IN0, TC_REDIRECT, 1, Macs::Kept),
        reply: sent(XDP0, XDP_REDIRECT, 1, BY_UP0),
    },
    Way {
        what: "a pod to a remote backend",
        client: POD,
        frontend: VIP,
        backend: (REMOTE, false),
        seen: None,
        request: passed(FROM_POD),
        reply: passed(TO_POD),
    },
];

const WITHOUT_XDP: [Way; 16] = [
    Way {
        what: "a pod to another on this node",
        client: POD,
        frontend: VIP,
        backend: (POD1, true),
        seen: None,
        request: passed(FROM_POD),
        reply: passed(TO_POD),
    },
    Way {
        what: "a pod to a remote backend",
        client: POD,
        frontend: VIP,
        backend: (REMOTE, false),
        seen: None,
        request: passed(FROM_POD),
        reply: passed(TO_POD),
    },
    Way {
        what: "a pod to a nodePort, local backend",
        client: POD,
        frontend: NODE,
        backend: (POD1, true),
        seen: None,
        request: passed(FROM_POD),
        reply: passed(TO_POD),
    },
    Way {
        what: "a pod to a nodePort, remote backend",
        client: POD,
        frontend: NODE,
        backend: (REMOTE, false),
        seen: None,
        request: passed(FROM_POD),
        reply: passed(TO_POD),
    },
    Way {
        what: "a pod to itself",
        client: POD,
        frontend: VIP,
        backend: (POD, true),
        seen: Some(NODE),
        request: sent(FROM_POD, TC_REDIRECT, 0, Macs::Swapped),
        reply: sent(FROM_POD, TC_REDIRECT, 0, Macs::Swapped),
    },
    Way {
        what: "outside to a local backend",
        client: CLIENT,
        frontend: NODE,
        backend: (POD, true),
        seen: None,
        request: passed(IN0),
        reply: passed(OUT0),
    },
    Way {
        what: "outside to a remote backend",
        client: CLIENT,
        frontend: NODE,
        backend: (REMOTE, false),
        seen: Some(NODE),
        request: sent(IN0, TC_REDIRECT, 1, Macs::Kept),
        reply: sent(IN0, TC_REDIRECT, 1, Macs::Kept),
    },
    Way {
        what: "outside to a remote backend on another uplink",
        client: CLIENT,
        frontend: NODE,
        backend: (REMOTE1, false),
        seen: Some(NODE1),
        request: sent(IN0, TC_REDIRECT, 1, Macs::Kept),
        reply: sent(IN1, TC_REDIRECT, 1, Macs::Kept),
    },
    Way {
        what: "outside to a backend whose neighbour is unknown",
        client: CLIENT,
        frontend: NODE,
        backend: (FAR, false),
        seen: Some(NODE),
        request: sent(IN0, TC_REDIRECT, 1, Macs::Kept),
        reply: sent(IN0, TC_REDIRECT, 1, Macs::Kept),
    },
    Way {
        what: "the node to a remote backend",
        client: NODE,
        frontend: VIP,
        backend: (REMOTE, false),
        seen: None,
        request: sent(OUT0, TC_REDIRECT, 0, Macs::Kept),
        reply: sent(IN0, TC_REDIRECT, 0, Macs::Kept),
    },
    Way {
        what: "the node to a remote backend, out of the other uplink",
        client: NODE,
        frontend: VIP,
        backend: (REMOTE1, false),
        seen: None,
        request: sent(OUT0, TC_REDIRECT, 0, Macs::Kept),
        reply: sent(IN1, TC_REDIRECT, 0, Macs::Kept),
    },
    Way {
        what: "the node to a pod of its own",
        client: NODE1,
        frontend: VIP,
        backend: (POD1, true),
        seen: None,
        request: sent(OUT1, TC_REDIRECT, 0, Macs::Kept),
        reply: sent(FROM_POD1, TC_REDIRECT, 0, Macs::Kept),
    },
    Way {
        what: "the node to an address of its own",
        client: NODE,
        frontend: VIP,
        backend: (NODE1, true),
        seen: None,
        request: sent(OUT0, TC_REDIRECT, 0, Macs::Kept),
        reply: passed(OUT_LO),
    },
    Way {
        what: "the node to its own nodePort, remote backend",
        client: NODE,
        frontend: NODE,
        backend: (REMOTE, false),
        seen: None,
        request: sent(OUT_LO, TC_REDIRECT, 0, Macs::Kept),
        reply: sent(IN0, TC_REDIRECT, 0, Macs::Kept),
    },
    Way {
        what: "the node's loopback to a remote backend",
        client: LOOPBACK,
        frontend: LOOPBACK,
        backend: (REMOTE1, false),
        seen: Some(NODE1),
        request: sent(OUT_LO, TC_REDIRECT, 0, Macs::Kept),
        reply: sent(IN1, TC_REDIRECT, 0, Macs::Kept),
    },
    Way {
        what: "the node's loopback to a pod",
        client: LOOPBACK,
        frontend: LOOPBACK,
        backend: (POD, true),
        seen: Some(NODE),
        request: sent(OUT_LO, TC_REDIRECT, 0, Macs::Kept),
        reply: sent(FROM_POD, TC_REDIRECT, 0, Macs::Kept),
    },
];

#[test]
fn requests_and_replies_take_their_way_with_xdp() {
    check(XdpModeOption::Native, &WITH_XDP);
}

#[test]
fn requests_and_replies_take_their_way_without_xdp() {
    check(XdpModeOption::Off, &WITHOUT_XDP);
}

fn check(xdp: XdpModeOption, ways: &[Way]) {
    let mut rig = Rig::new(xdp);
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
