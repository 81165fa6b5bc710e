//! What others send to see whether we fall for it.

use lb_agent::dataplane::XdpModeOption;
use lb_common::Verdict;
use lb_tests::lab::{Family, Pair, Protocol};

use crate::{
    first,
    frame::{ACK, FIN, Frame, RST, SYN, Transport},
    kinds,
    rig::{
        Outcome, Rig, TARGET_PORT,
        action::{TC_DROP, TC_PASS, TC_REDIRECT, XDP_PASS},
    },
    socket,
    ways::{FROM_POD, IN0, OUT0, XDP0},
    wiring::{CLIENT, GATEWAY_MAC, NODE, POD, REMOTE, inner},
};

const VIP: Pair = inner(96, 10);
const EMPTY: Pair = inner(96, 11);

/// Switches flood, and other nodes have the same frontends.
#[test]
fn frames_for_another_machine_are_left_alone() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let (full, empty) = (socket(VIP, family, 80), socket(EMPTY, family, 80));
        rig.serve("full", protocol, &[full], &[(REMOTE.get(family), false)]);
        rig.serve("empty", protocol, &[empty], &[]);
        for (place, pass) in [(XDP0, XDP_PASS), (IN0, TC_PASS)] {
            for to in [full, empty] {
                let mut frame = Frame::new(first(protocol), socket(CLIENT, family, 41_000), to);
                frame.macs = [[2, 9, 9, 9, 9, 9], GATEWAY_MAC];
                let expected = Outcome {
                    verdict: Verdict::Overheard,
                    action: pass,
                    bytes: frame.bytes(),
                };
                let got = rig.run(place, &frame.bytes());
                assert_eq!(got, expected, "{place:?} {family} {protocol} {to}");
            }
        }
    }
    assert_eq!(rig.connections(), 0);
}

/// A pod that claims to be a backend elsewhere is not taken for it; a backend
/// on this node may be behind any pod's interface.
#[test]
fn replies_of_other_nodes_do_not_come_from_pods() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        for (port, backend, verdict, action) in [
            (80, (REMOTE, false), Verdict::Forged, TC_DROP),
            (81, (POD, true), Verdict::Reply, TC_REDIRECT),
        ] {
            let vip = socket(VIP, family, port);
            let (pod, local) = backend;
            let name = format!("backend-{port}");
            rig.serve(&name, protocol, &[vip], &[(pod.get(family), local)]);
            let own = socket(NODE, family, 40_000 + port);
            let request = Frame::new(first(protocol), own, vip);
            assert_eq!(rig.run(OUT0, &request.bytes()).verdict, Verdict::Opened);
            let reply = match protocol {
                Protocol::Tcp => Transport::Tcp(SYN | ACK),
                Protocol::Udp => Transport::Udp,
            };
            let reply = Frame::new(reply, socket(pod, family, TARGET_PORT), own);
            let got = rig.run(FROM_POD, &reply.bytes());
            assert_eq!(
                (got.verdict, got.action),
                (verdict, action),
                "{family} {protocol}"
            );
        }
    }
}

/// RFC 9293, section 3.10.7: no answer to a reset, whatever else it claims.
#[test]
fn a_syn_that_also_ends_opens_nothing() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for family in Family::ALL {
        let (full, empty) = (socket(VIP, family, 80), socket(EMPTY, family, 80));
        rig.serve(
            "full",
            Protocol::Tcp,
            &[full],
            &[(REMOTE.get(family), false)],
        );
        rig.serve("empty", Protocol::Tcp, &[empty], &[]);
        for flags in [SYN | RST, SYN | FIN, SYN | RST | FIN] {
            for to in [full, empty] {
                let from = socket(CLIENT, family, 41_000);
                let frame = Frame::new(Transport::Tcp(flags), from, to);
                let expected = Outcome {
                    verdict: Verdict::Stray,
                    action: TC_PASS,
                    bytes: frame.bytes(),
                };
                assert_eq!(rig.run(IN0, &frame.bytes()), expected, "{flags:x}");
            }
        }
    }
}
