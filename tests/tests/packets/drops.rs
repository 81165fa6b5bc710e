//! What cannot be sent on: dropped, or handed from XDP to TC as it is.

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Hook, Verdict};
use lb_tests::lab::Pair;

use crate::{
    first,
    frame::Frame,
    kinds,
    rig::{
        Outcome, Place, Rig,
        action::{TC_DROP, XDP_DROP, XDP_PASS},
        at,
    },
    socket,
    wiring::{CLIENT, FAR, FORBIDDEN, NODE, POD, inner},
};

const VIP: Pair = inner(96, 10);

const XDP: Place = at(Hook::Xdp, "up0");
const IN: Place = at(Hook::TcIngress, "up0");
const OUT: Place = at(Hook::TcEgress, "up0");

#[test]
fn what_cannot_be_sent_is_dropped_or_deferred() {
    use Verdict::{Deferred, NoRoute};

    type Row = (Place, Pair, &'static [Pair], Verdict, i32);
    let table: [Row; 4] = [
        (XDP, CLIENT, &[FORBIDDEN], NoRoute, XDP_DROP),
        (IN, CLIENT, &[FORBIDDEN], NoRoute, TC_DROP),
        (OUT, NODE, &[FORBIDDEN], NoRoute, TC_DROP),
        (XDP, CLIENT, &[FAR], Deferred, XDP_PASS),
    ];
    let mut rig = Rig::new(XdpModeOption::Native);
    for (port, (place, client, backends, verdict, action)) in (1_u16..).zip(table) {
        for (family, protocol) in kinds() {
            let what = format!("{verdict:?} at {place:?}, {family} {protocol}");
            let frontend = socket(VIP, family, port);
            let backends: Vec<_> = backends.iter().map(|b| (b.get(family), false)).collect();
            rig.serve(&format!("drop-{port}"), protocol, &[frontend], &backends);
            let client = socket(client, family, 40_000 + port);
            let frame = Frame::new(first(protocol), client, frontend);
            let expected = Outcome {
                verdict,
                action,
                bytes: frame.bytes(),
            };
            assert_eq!(rig.run(place, &frame.bytes()), expected, "{what}");
            assert_eq!(rig.connections(), 0, "{what}");
        }
    }
}

#[test]
fn the_last_hop_is_enough_where_the_stack_counts() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for (family, protocol) in kinds() {
        let frontend = socket(VIP, family, 80);
        rig.serve("near", protocol, &[frontend], &[(POD.get(family), true)]);
        for (place, client) in [(XDP, CLIENT), (OUT, NODE)] {
            let mut frame = Frame::new(first(protocol), socket(client, family, 40_000), frontend);
            frame.hops = 1;
            let outcome = rig.run(place, &frame.bytes());
            assert_eq!(outcome.verdict, Verdict::Opened, "{family} {protocol}");
            frame.destination = socket(POD, family, 8080);
            assert_eq!(outcome.bytes, frame.bytes(), "{family} {protocol}");
        }
    }
}
