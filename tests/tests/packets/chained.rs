//! A backend that is a frontend as well, such as a port of the node that an
//! external IP stands for: a packet is translated once, whatever hooks it passes.

use std::net::SocketAddr;

use lb_agent::dataplane::XdpModeOption;
use lb_common::Verdict;
use lb_tests::lab::{Family, Pair, Protocol};

use crate::{
    first,
    frame::{ACK, FIN, Frame, RST},
    kinds, later,
    line::ends,
    rig::{Rig, TARGET_PORT},
    socket,
    ways::{FROM_POD, IN0, OUT0, XDP0},
    wiring::{CLIENT, NODE, POD, REMOTE1, inner},
};

const VIP: Pair = inner(96, 10);
const PORT: u16 = 40_000;

/// Backends of the frontend that the first one's backend is.
const BEHIND: [&[Pair]; 2] = [&[REMOTE1], &[]];

/// Serves the node's own port through the clusterIP, and as a frontend.
fn serve(rig: &mut Rig, (family, protocol): (Family, Protocol), behind: &[Pair]) -> SocketAddr {
    let vip = socket(VIP, family, 80);
    rig.serve("first", protocol, &[vip], &[(NODE.get(family), true)]);
    let node = socket(NODE, family, TARGET_PORT);
    let behind: Vec<_> = behind.iter().map(|at| (at.get(family), false)).collect();
    rig.serve("second", protocol, &[node], &behind);
    vip
}

#[test]
fn xdp_has_translated_for_both() {
    for behind in BEHIND {
        let mut rig = Rig::new(XdpModeOption::Native);
        for kind @ (family, protocol) in kinds() {
            let vip = serve(&mut rig, kind, behind);
            let client = socket(CLIENT, family, PORT);
            let node = socket(NODE, family, TARGET_PORT);
            let packets = [
                (first(protocol), Verdict::Opened),
                (later(protocol, ACK), Verdict::Forward),
                (later(protocol, FIN | ACK), Verdict::Forward),
                (later(protocol, RST), Verdict::Forward),
                (later(protocol, ACK), Verdict::Forward),
            ];
            for (index, (transport, verdict)) in packets.into_iter().enumerate() {
                let what = format!("{family} {protocol}, packet {index}, behind {behind:?}");
                let outcome = rig.run(XDP0, &Frame::new(transport, client, vip).bytes());
                let expected = Frame::new(transport, client, node).bytes();
                assert_eq!(
                    (outcome.verdict, &outcome.bytes),
                    (verdict, &expected),
                    "{what}"
                );
                let after = rig.run(IN0, &expected);
                assert_eq!(after.verdict, Verdict::NoFrontend, "{what}");
                assert_eq!(after.bytes, expected, "{what}");
                if index == 0 {
                    let reply = Frame::new(later(protocol, ACK), client, node).answer();
                    let outcome = rig.run(OUT0, &reply.bytes());
                    let expected = Frame::new(later(protocol, ACK), client, vip).answer();
                    assert_eq!(outcome.verdict, Verdict::Reply, "{what}");
                    assert_eq!(outcome.bytes, expected.bytes(), "{what}");
                }
            }
        }
    }
}

/// Who asks for it is served by what it stands for, also from a port that has a
/// connection to it through the other.
#[test]
fn the_backend_is_a_frontend_for_others() {
    for (xdp, place) in [(XdpModeOption::Native, XDP0), (XdpModeOption::Off, IN0)] {
        let mut rig = Rig::new(xdp);
        for kind @ (family, protocol) in kinds() {
            let vip = serve(&mut rig, kind, &[REMOTE1]);
            let node = socket(NODE, family, TARGET_PORT);
            let behind = socket(REMOTE1, family, TARGET_PORT);
            for (client, place) in [(CLIENT, place), (POD, FROM_POD)] {
                for (port, frontend, to) in [
                    (PORT, vip, node),
                    (PORT, node, behind),
                    (PORT + 1, node, behind),
                ] {
                    let what = format!("{family} {protocol} at {place:?} through {frontend}");
                    let client = socket(client, family, port);
                    let frame = Frame::new(first(protocol), client, frontend);
                    let outcome = rig.run(place, &frame.bytes());
                    assert_eq!(outcome.verdict, Verdict::Opened, "{what}");
                    assert_eq!(ends(family, &outcome.bytes).1, to, "{what}");
                }
                rig.tables.clear();
            }
        }
    }
}

/// A connection whose backend is the frontend itself answers from there: that is
/// nobody else's claim, and does not keep its client from another backend.
#[test]
fn a_frontend_that_is_its_own_backend_is_left() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let node = socket(NODE, family, TARGET_PORT);
        let backends = [(NODE, true), (REMOTE1, false)];
        let client = socket(CLIENT, family, PORT);
        let request = Frame::new(first(protocol), client, node).bytes();
        for (backend, local) in backends {
            rig.serve("itself", protocol, &[node], &[(backend.get(family), local)]);
            let outcome = rig.run(IN0, &request);
            assert_eq!(outcome.verdict, Verdict::Opened, "{family} {protocol}");
            let to = socket(backend, family, TARGET_PORT);
            assert_eq!(ends(family, &outcome.bytes).1, to, "{family} {protocol}");
        }
    }
}
