//! Parts that come before the first one of their packet.

use std::{thread, time::Duration};

use lb_common::Verdict;
use lb_tests::{
    lab::{Capture, Family, Pair},
    packet::fragments,
};

use crate::{
    fragments::{PORT, SIZES, VIP, long, outcome, rig, udp},
    frame::{Frame, SYN, Transport},
    rig::{Counts, Place, Rig, TARGET_PORT, action::TC_DROP},
    socket,
    ways::{FROM_POD, IN0, OUT0, TO_POD, XDP0},
    wiring::{CLIENT, GATEWAY_MAC, NODE, POD, REMOTE, UP0_MAC},
};

#[test]
fn parts_that_come_too_early() {
    use Verdict::{Deferred, Fragment, FragmentLost, Held};

    let from_elsewhere = Place {
        origin: Some("up0"),
        ..OUT0
    };
    // Where; from and to; each of five parts.
    let table: [(Place, Pair, Pair, [Verdict; 5]); 10] = [
        (XDP0, CLIENT, NODE, [Deferred; 5]),
        (XDP0, CLIENT, REMOTE, [Deferred; 5]),
        (IN0, CLIENT, NODE, [Held, Held, Held, Held, Fragment]),
        (IN0, CLIENT, VIP, [Held, Held, Held, Held, FragmentLost]),
        (IN0, CLIENT, REMOTE, [Fragment; 5]),
        (IN0, CLIENT, POD, [Fragment; 5]),
        (FROM_POD, POD, VIP, [Held, Held, Held, Held, FragmentLost]),
        (FROM_POD, POD, REMOTE, [Held, Held, Held, Held, Fragment]),
        (TO_POD, REMOTE, POD, [Held, Held, Held, Held, Fragment]),
        (from_elsewhere, POD, CLIENT, [Fragment; 5]),
    ];
    let mut rig = rig();
    // With these numbers, none of the packets share what room there is.
    for (number, (place, from, to, verdicts)) in (11..).zip(table) {
        for family in Family::ALL {
            for (offset, transport) in [(0, Transport::Udp), (1, Transport::Tcp(SYN))] {
                let frame = long(transport, (from, 30_000), (to, PORT), family);
                let id = number * 2 + offset;
                let parts = fragments(&frame, id, &[160, 160, 160, 160, 160]);
                for (part, verdict) in parts[1..].iter().zip(verdicts) {
                    let what = format!("{family} {transport:?} {from:?} {to:?}");
                    let expected = outcome(place, verdict, part.clone());
                    assert_eq!(rig.run(place, part), expected, "{what} at {place:?}");
                }
            }
        }
    }
    assert_eq!(rig.connections(), 0);
}

#[test]
fn long_parts_do_not_wait() {
    let mut rig = rig();
    for family in Family::ALL {
        let mut frame = long(Transport::Udp, (CLIENT, 30_000), (VIP, PORT), family);
        frame.payload.resize(2_600, 7);
        let parts = fragments(&frame, 7, &[160]);
        let expected = outcome(IN0, Verdict::FragmentLost, parts[1].clone());
        assert_eq!(rig.run(IN0, &parts[1]), expected, "{family}");
    }
}

/// What the programs counted, and what left by the interface, once both are as
/// long as expected.
fn released(
    rig: &mut Rig,
    place: Place,
    frame: &[u8],
    peer: &str,
    expected: &Counts,
) -> (Counts, Vec<Vec<u8>>) {
    let capture = Capture::start(rig.netns(), &[peer]).unwrap();
    let (_, counts) = rig.observe(place, frame, expected.values().sum());
    let recording = capture.stop().unwrap();
    let frames = recording.frames.into_iter();
    let frames = frames
        .filter(|frame| !frame.outgoing)
        .map(|frame| frame.bytes);
    (counts, frames.collect())
}

/// Parts that waited follow the first one, at ingress and at egress.
#[test]
fn parts_wait_for_the_first_one() {
    let mut rig = rig();
    for family in Family::ALL {
        let request = long(Transport::Udp, (CLIENT, 30_000), (NODE, PORT + 1), family);
        let sent = Frame {
            source: socket(NODE, family, 30_000),
            destination: socket(REMOTE, family, TARGET_PORT),
            hops: 63,
            macs: [GATEWAY_MAC, UP0_MAC],
            ..request.clone()
        };
        let parts = fragments(&request, 7, &SIZES);
        for part in parts[1..].iter().rev() {
            let held = outcome(IN0, Verdict::Held, part.clone());
            assert_eq!(rig.run(IN0, part), held, "{family}");
        }
        let deferred = outcome(XDP0, Verdict::Deferred, parts[0].clone());
        assert_eq!(rig.run(XDP0, &parts[0]), deferred, "{family}");
        let expected = Counts::from([
            (("tc_ingress", "passing"), 1),
            (("tc_ingress", "opened"), 1),
            (("tc_ingress", "forward"), 3),
            (("tc_egress", "passing"), 4),
        ]);
        let (counts, frames) = released(&mut rig, IN0, &parts[0], "up0x", &expected);
        assert_eq!(counts, expected, "{family}");
        check_set(frames, fragments(&sent, 7, &SIZES));

        // The reply to a client that is a pod.
        let request = long(Transport::Udp, (POD, 30_000), (VIP, PORT + 1), family);
        assert_eq!(rig.run(FROM_POD, &request.bytes()).verdict, Verdict::Opened);
        let reply = Frame {
            payload: request.payload.clone(),
            ..Frame::new(
                Transport::Udp,
                socket(REMOTE, family, TARGET_PORT),
                request.source,
            )
        };
        let returned = Frame {
            source: request.destination,
            ..reply.clone()
        };
        let parts = fragments(&reply, 7, &SIZES);
        for part in parts[1..].iter().rev() {
            let held = outcome(TO_POD, Verdict::Held, part.clone());
            assert_eq!(rig.run(TO_POD, part), held, "{family}");
        }
        let expected = Counts::from([(("tc_egress", "passing"), 1), (("tc_egress", "reply"), 4)]);
        let (counts, frames) = released(&mut rig, TO_POD, &parts[0], "pod0x", &expected);
        assert_eq!(counts, expected, "{family}");
        check_set(frames, fragments(&returned, 7, &SIZES));
    }
}

/// The first one first, the others in any order.
fn check_set(mut frames: Vec<Vec<u8>>, mut expected: Vec<Vec<u8>>) {
    assert_eq!(frames.first(), expected.first());
    frames.sort();
    expected.sort();
    assert_eq!(frames, expected);
}

/// A part waits no longer than its sender can be thought to mean it.
#[test]
fn parts_that_wait_in_vain_are_forgotten() {
    let mut rig = rig();
    for family in Family::ALL {
        let parts = fragments(&udp(30_000, family), 7, &SIZES);
        assert_eq!(rig.run(IN0, &parts[1]).verdict, Verdict::Held);
        assert_eq!(rig.run(XDP0, &parts[0]).verdict, Verdict::Deferred);
        thread::sleep(Duration::from_millis(2_100));
        assert_eq!(rig.run(XDP0, &parts[0]).verdict, Verdict::Opened);
        assert_eq!(rig.run(IN0, &parts[0]).verdict, Verdict::Forward);
    }
}

/// The client is told once, by the first part; the others go nowhere.
#[test]
fn parts_of_a_refused_packet() {
    let mut rig = rig();
    for family in Family::ALL {
        for (place, client) in [(IN0, CLIENT), (FROM_POD, POD)] {
            let nobody = long(Transport::Udp, (client, 30_000), (VIP, PORT + 2), family);
            let parts = fragments(&nobody, 7, &SIZES);
            assert_eq!(rig.run(place, &parts[0]).verdict, Verdict::Rejected);
            for part in &parts[1..] {
                let expected = Counts::from([
                    (("tc_ingress", "held"), 1),
                    (("tc_ingress", "fragment_lost"), 1),
                ]);
                let (returned, counts) = rig.observe(place, part, 2);
                assert_eq!((returned.action, counts), (TC_DROP, expected), "{family}");
            }
            assert_eq!(rig.connections(), 0);
        }
    }
}

/// As where the first one is still among what has arrived.
#[test]
fn parts_whose_first_one_is_on_its_way() {
    let mut rig = rig();
    for family in Family::ALL {
        let frame = long(Transport::Udp, (CLIENT, 30_000), (NODE, PORT + 3), family);
        let parts = fragments(&frame, 7, &SIZES);
        assert_eq!(rig.run(XDP0, &parts[0]).verdict, Verdict::NoFrontend);
        let left = outcome(XDP0, Verdict::Fragment, parts[1].clone());
        assert_eq!(rig.run(XDP0, &parts[1]), left, "{family}");
        let expected = Counts::from([(("tc_ingress", "held"), 1), (("tc_ingress", "fragment"), 1)]);
        let (returned, counts) = rig.observe(IN0, &parts[1], 2);
        assert_eq!((returned.action, counts), (TC_DROP, expected), "{family}");
    }
}
