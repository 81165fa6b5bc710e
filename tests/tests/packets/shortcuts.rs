//! Who may take the short way past the node's stack, and what is noticed there.

use lb_agent::dataplane::XdpModeOption;
use lb_common::Verdict;
use lb_tests::lab::{Family, Pair, Protocol};

use crate::{
    first,
    frame::{ACK, Frame},
    kinds, later,
    rig::{
        Place, Rig, TARGET_PORT,
        action::{TC_DROP, TC_PASS, TC_REDIRECT, XDP_PASS},
    },
    socket,
    ways::{FROM_POD, FROM_POD1, IN0, OUT0, TO_POD, XDP0},
    wiring::{CLIENT, GATEWAY_MAC, NODE, POD, POD1, REMOTE, inner, outer},
};

const VIP: Pair = inner(96, 10);

/// Requests of a client in one family after the other; what becomes of each.
fn check(rig: &mut Rig, place: Place, client: Pair, backend: (Pair, bool), expect: (Verdict, i32)) {
    for (number, (family, protocol)) in (41_000..).zip(kinds()) {
        let frontend = socket(VIP, family, 80);
        let backends = [(backend.0.get(family), backend.1)];
        rig.serve("short", protocol, &[frontend], &backends);
        let request = Frame::new(first(protocol), socket(client, family, number), frontend);
        let outcome = rig.run(place, &request.bytes());
        let what = format!("{client:?} at {place:?}, {family} {protocol}");
        assert_eq!((outcome.verdict, outcome.action), expect, "{what}");
    }
}

/// A decision holds for the connections that begin after it.
#[test]
fn connections_keep_the_way_they_began_on() {
    let mut rig = Rig::with_shortcuts(XdpModeOption::Off);
    for (family, protocol) in kinds() {
        let frontend = socket(VIP, family, 80);
        rig.serve("short", protocol, &[frontend], &[(POD1.get(family), true)]);
        let mut clients = Vec::new();
        for (taken, port, action) in [(true, 42_000, TC_REDIRECT), (false, 42_001, TC_PASS)] {
            rig.take_shortcuts(taken);
            let client = socket(POD, family, port);
            let request = Frame::new(first(protocol), client, frontend);
            assert_eq!(rig.run(FROM_POD, &request.bytes()).action, action);
            clients.push((client, action));
        }
        for taken in [true, false] {
            rig.take_shortcuts(taken);
            for &(client, action) in &clients {
                let request = Frame::new(later(protocol, ACK), client, frontend);
                let outcome = rig.run(FROM_POD, &request.bytes());
                assert_eq!(outcome.verdict, Verdict::Forward, "{family} {protocol}");
                assert_eq!(outcome.action, action, "{family} {protocol}");
            }
        }
        rig.take_shortcuts(true);
    }
}

/// Where the stack would not send replies to this client through the interface
/// that it asks from, neither do we.
#[test]
fn a_borrowed_address_gets_no_short_way() {
    let mut rig = Rig::with_shortcuts(XdpModeOption::Off);
    check(
        &mut rig,
        FROM_POD,
        POD1,
        (POD1, true),
        (Verdict::Opened, TC_REDIRECT),
    );
    check(
        &mut rig,
        FROM_POD,
        CLIENT,
        (POD1, true),
        (Verdict::Opened, TC_PASS),
    );
    check(
        &mut rig,
        FROM_POD1,
        POD,
        (REMOTE, false),
        (Verdict::Opened, TC_PASS),
    );
    check(&mut rig, IN0, POD, (POD1, true), (Verdict::Opened, TC_PASS));
    check(
        &mut rig,
        IN0,
        CLIENT,
        (POD1, true),
        (Verdict::Opened, TC_PASS),
    );
}

/// Nor does another pod go on with what a client has begun.
#[test]
fn another_pod_does_not_ask_for_a_client() {
    let mut rig = Rig::with_shortcuts(XdpModeOption::Off);
    for (family, protocol) in kinds() {
        let frontend = socket(VIP, family, 80);
        rig.serve(
            "short",
            protocol,
            &[frontend],
            &[(REMOTE.get(family), false)],
        );
        let client = socket(POD, family, 44_001);
        let request = Frame::new(first(protocol), client, frontend);
        assert_eq!(rig.run(FROM_POD, &request.bytes()).verdict, Verdict::Opened);
        let next = Frame::new(later(protocol, ACK), client, frontend);
        for place in [FROM_POD1, IN0] {
            let forged = rig.run(place, &next.bytes());
            let found = (forged.verdict, forged.action);
            assert_eq!(
                found,
                (Verdict::Forged, TC_DROP),
                "{place:?} {family} {protocol}"
            );
        }
        let honest = rig.run(FROM_POD, &next.bytes());
        assert_eq!(honest.verdict, Verdict::Forward, "{family} {protocol}");
    }
}

/// XDP leads into no pod: what comes from outside takes the stack, and replies to
/// pods are left to TC.
#[test]
fn xdp_leaves_the_short_way_to_tc() {
    let mut rig = Rig::with_shortcuts(XdpModeOption::Native);
    check(
        &mut rig,
        XDP0,
        CLIENT,
        (POD1, true),
        (Verdict::Opened, XDP_PASS),
    );
    for (family, protocol) in kinds() {
        let frontend = socket(VIP, family, 81);
        rig.serve("far", protocol, &[frontend], &[(REMOTE.get(family), false)]);
        let client = socket(POD, family, 43_000);
        let request = Frame::new(first(protocol), client, frontend);
        assert_eq!(rig.run(FROM_POD, &request.bytes()).action, TC_REDIRECT);
        let backend = socket(REMOTE, family, TARGET_PORT);
        let mut reply = Frame::new(first(protocol), client, backend).answer();
        reply.transport = later(protocol, ACK);
        let outcome = rig.run(XDP0, &reply.bytes());
        assert_eq!(outcome.bytes, reply.bytes());
        let found = (outcome.verdict, outcome.action);
        assert_eq!(found, (Verdict::Deferred, XDP_PASS), "{family} {protocol}");
        let outcome = rig.run(IN0, &reply.bytes());
        let found = (outcome.verdict, outcome.action);
        assert_eq!(found, (Verdict::Reply, TC_REDIRECT), "{family} {protocol}");
    }
}

/// Opens a connection from one pod to another; returns a reply.
fn open(rig: &mut Rig, family: Family, protocol: Protocol) -> Vec<u8> {
    let frontend = socket(VIP, family, 80);
    rig.serve("short", protocol, &[frontend], &[(POD1.get(family), true)]);
    let client = socket(POD, family, 44_000);
    let request = Frame::new(first(protocol), client, frontend);
    assert_eq!(rig.run(FROM_POD, &request.bytes()).verdict, Verdict::Opened);
    let backend = socket(POD1, family, TARGET_PORT);
    let mut reply = Frame::new(first(protocol), client, backend).answer();
    reply.transport = later(protocol, ACK);
    reply.bytes()
}

/// What a backend on this node says comes from its own interface.
#[test]
fn another_pod_does_not_answer_for_a_backend() {
    let mut rig = Rig::with_shortcuts(XdpModeOption::Off);
    for (family, protocol) in kinds() {
        let reply = open(&mut rig, family, protocol);
        let forged = rig.run(FROM_POD, &reply);
        let found = (forged.verdict, forged.action);
        assert_eq!(found, (Verdict::Forged, TC_DROP), "{family} {protocol}");
        // Nor somebody outside, where XDP would send it straight back.
        let forged = rig.run(IN0, &reply);
        assert_eq!(forged.verdict, Verdict::Forged, "{family} {protocol}");
        let honest = rig.run(FROM_POD1, &reply);
        let found = (honest.verdict, honest.action);
        assert_eq!(found, (Verdict::Reply, TC_REDIRECT), "{family} {protocol}");
        for place in [OUT0, TO_POD] {
            let outcome = rig.run(place, &reply);
            assert_eq!(outcome.verdict, Verdict::OtherHook, "{family} {protocol}");
        }
    }
}

/// A backend that moved to another node and kept its address goes on there.
#[test]
fn a_backend_that_moved_is_heard() {
    let mut rig = Rig::with_shortcuts(XdpModeOption::Off);
    let answers: Vec<_> = kinds()
        .map(|(family, protocol)| open(&mut rig, family, protocol))
        .collect();
    for answer in &answers {
        assert_eq!(rig.run(IN0, answer).verdict, Verdict::Forged);
    }
    rig.lose("pod1");
    for answer in &answers {
        // Not from another pod here.
        assert_eq!(rig.run(FROM_POD, answer).verdict, Verdict::Forged);
        let outcome = rig.run(IN0, answer);
        let found = (outcome.verdict, outcome.action);
        assert_eq!(found, (Verdict::Reply, TC_REDIRECT));
    }
}

/// What is remembered of a route is outdated when the agent says so, or after a
/// second.
#[test]
fn a_changed_route_is_noticed() {
    let mut rig = Rig::with_shortcuts(XdpModeOption::Native);
    let family = Family::V4;
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let frontend = socket(NODE, family, 30_082);
        rig.serve("far", protocol, &[frontend], &[(REMOTE.get(family), false)]);
        let client = socket(CLIENT, family, 45_000);
        let request = Frame::new(first(protocol), client, frontend);
        let reply = Frame::new(
            later(protocol, ACK),
            socket(REMOTE, family, TARGET_PORT),
            socket(NODE, family, 45_000),
        );
        let next = Frame::new(later(protocol, ACK), client, frontend);
        let outcomes = [&request, &reply].map(|frame| rig.run(XDP0, &frame.bytes()).verdict);
        assert_eq!(outcomes, [Verdict::Opened, Verdict::Reply], "{protocol}");
        let sent_to = |rig: &mut Rig| {
            let outcome = rig.run(XDP0, &next.bytes());
            assert_eq!(outcome.verdict, Verdict::Forward, "{protocol}");
            outcome.bytes[..6].to_vec()
        };
        assert_eq!(sent_to(&mut rig), GATEWAY_MAC, "{protocol}");
        let gateway = outer(0, 2).get(family);
        let to = |rig: &Rig, mac: &str| {
            let netns = rig.netns();
            let batch = format!("neigh replace {gateway} lladdr {mac} dev up0 nud permanent\n");
            netns.ip(&batch).unwrap();
        };
        to(&rig, "02:00:00:00:00:07");
        rig.dataplane().forget_routes().unwrap();
        assert_eq!(sent_to(&mut rig), [2, 0, 0, 0, 0, 7], "{protocol}");
        to(&rig, "02:00:00:00:00:02");
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert_eq!(sent_to(&mut rig), GATEWAY_MAC, "{protocol}");
    }
}
