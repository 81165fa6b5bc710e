//! Echo requests to addresses of frontends.

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::{
    lab::{Family, Pair},
    packet::Icmp,
};

use crate::{
    paths::passed,
    rig::{
        Outcome, Place, Rig,
        action::{TC_DROP, TC_PASS, TC_REDIRECT, XDP_DROP, XDP_REDIRECT, XDP_TX},
        at,
    },
    ways::{FROM_POD, IN0, OUT0, XDP0, XDP1},
    wiring::{CLIENT, CLIENT1, GATEWAY_MAC, NODE, POD, inner},
};

const VIP: Pair = inner(96, 10);
const OTHER: Pair = inner(96, 11);
const OUT_LO: Place = at(Hook::TcEgress, "lo");

/// Who asks, where, and what the program does with the reply.
const PLACES: [(Place, Pair, i32, bool); 6] = [
    (XDP0, CLIENT, XDP_REDIRECT, true),
    (XDP1, CLIENT1, XDP_TX, true),
    (IN0, CLIENT, TC_REDIRECT, true),
    (FROM_POD, POD, TC_REDIRECT, true),
    (OUT0, NODE, TC_REDIRECT, true),
    (OUT_LO, NODE, TC_PASS, false),
];

fn rig() -> Rig {
    let mut rig = Rig::new(XdpModeOption::Native);
    for family in Family::ALL {
        rig.answer_echo(VIP.get(family));
    }
    rig
}

#[test]
fn requests_are_answered() {
    let mut rig = rig();
    for (place, client, action, swapped) in PLACES {
        for family in Family::ALL {
            for tags in [vec![], vec![[0x8100, 7]]] {
                for length in [0, 1, 56, 1400] {
                    let request = Icmp {
                        tags: tags.clone(),
                        hops: 1,
                        body: vec![7; length],
                        ..Icmp::request(client.get(family), VIP.get(family))
                    };
                    let mut reply = request.answer();
                    reply.hops = 64;
                    if !swapped {
                        reply.macs = request.macs;
                    }
                    let expected = Outcome {
                        verdict: Verdict::Echo,
                        action,
                        bytes: reply.bytes(),
                    };
                    let got = rig.run(place, &request.bytes());
                    assert_eq!(got, expected, "{place:?} {family} {length} {tags:?}");
                }
            }
        }
    }
}

#[test]
fn other_messages_are_left_alone() {
    let mut rig = rig();
    for (place, client, ..) in PLACES {
        for family in Family::ALL {
            let [client, vip, other] = [client, VIP, OTHER].map(|pair| pair.get(family));
            let request = Icmp::request(client, vip);
            let elsewhere = Icmp::request(client, other);
            let reply = Icmp {
                kind: if family == Family::V4 { 0 } else { 129 },
                ..request.clone()
            };
            let code = Icmp {
                code: 1,
                ..request.clone()
            };
            let mut short = request.bytes();
            short.truncate(short.len() - 20);
            let long = [request.bytes(), vec![0; 6]].concat();
            assert_eq!(rig.run(place, &long).verdict, Verdict::Echo, "{place:?}");
            for (bytes, verdict) in [
                (elsewhere.bytes(), Verdict::OtherProtocol),
                (reply.bytes(), Verdict::OtherProtocol),
                (code.bytes(), Verdict::OtherProtocol),
                (short, Verdict::Malformed),
            ] {
                let expected = Outcome {
                    verdict,
                    action: passed(place).action,
                    bytes: bytes.clone(),
                };
                assert_eq!(rig.run(place, &bytes), expected, "{place:?} {bytes:?}");
            }
        }
    }
}

#[test]
fn only_hosts_are_answered() {
    let mut rig = rig();
    let groups = Pair {
        v4: Ipv4Addr::new(224, 0, 0, 9),
        v6: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 9),
    };
    for family in Family::ALL {
        for (place, drop) in [(XDP0, XDP_DROP), (IN0, TC_DROP)] {
            for source in [groups, NODE] {
                let request = Icmp::request(source.get(family), VIP.get(family));
                let expected = Outcome {
                    verdict: Verdict::Unanswered,
                    action: drop,
                    bytes: request.bytes(),
                };
                assert_eq!(rig.run(place, &request.bytes()), expected, "{place:?}");
            }
            let mut request = Icmp::request(CLIENT.get(family), VIP.get(family));
            request.macs = [[2, 9, 9, 9, 9, 9], GATEWAY_MAC];
            let verdict = rig.run(place, &request.bytes()).verdict;
            assert_eq!(verdict, Verdict::Overheard, "{place:?}");
        }
    }
}
