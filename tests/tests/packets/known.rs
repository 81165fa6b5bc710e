//! Packets of no connection are known for it without a look at the tables; those
//! of one always are looked for.

use lb_agent::{
    connections::Timeouts,
    dataplane::{Collector, XdpModeOption},
};
use lb_common::{Tuple, Verdict};
use lb_tests::lab::{Family, Pair, Protocol};

use crate::{
    first,
    frame::{ACK, Frame},
    kinds, later,
    rig::{Rig, TARGET_PORT},
    socket,
    ways::{FROM_POD, TO_POD},
    wiring::{POD, POD1, inner},
};

const VIP: Pair = inner(96, 10);

/// Opens connections, assured and not; returns what belongs to each.
fn open(rig: &mut Rig) -> Vec<(Frame, Tuple)> {
    let mut opened = Vec::new();
    for (family, protocol) in kinds() {
        let frontend = socket(VIP, family, 80);
        rig.serve("known", protocol, &[frontend], &[(POD1.get(family), true)]);
        for port in 46_000..46_004 {
            let client = socket(POD, family, port);
            let request = Frame::new(first(protocol), client, frontend);
            assert_eq!(rig.run(FROM_POD, &request.bytes()).verdict, Verdict::Opened);
            if port % 2 == 0 {
                let backend = socket(POD1, family, TARGET_PORT);
                let reply = Frame::new(first(protocol), client, backend).answer();
                assert_eq!(rig.run(TO_POD, &reply.bytes()).verdict, Verdict::Reply);
            }
            let next = Frame::new(later(protocol, ACK), client, frontend);
            let number = match protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            };
            let lives = rig.lives();
            let key = lives.keys().find(|key| {
                key.source_port == port.to_be()
                    && key.protocol == number
                    && key.source.is_v4() == (family == Family::V4)
            });
            opened.push((next, *key.unwrap()));
        }
    }
    opened
}

fn assert_all_follow(rig: &mut Rig, opened: &[(Frame, Tuple)]) {
    for (next, key) in opened {
        let verdict = rig.run(FROM_POD, &next.bytes()).verdict;
        assert_eq!(verdict, Verdict::Forward, "{key:?}");
    }
}

#[test]
fn walks_over_the_tables_lose_no_connection() {
    let mut rig = Rig::new(XdpModeOption::Off);
    let opened = open(&mut rig);
    rig.dataplane().forget_other_versions();
    let mut collector = rig.dataplane().collector(&Timeouts::default()).unwrap();
    for _ in 0..4 {
        walk(&mut collector);
        assert_all_follow(&mut rig, &opened);
    }
    // What is not there any more is forgotten, by the second walk at the latest.
    let (_, gone) = &opened[0];
    rig.tables.remove(gone);
    for _ in 0..2 {
        walk(&mut collector);
    }
    assert!(!rig.tables.may_hold(gone));
    assert!(opened[1..].iter().all(|(_, key)| rig.tables.may_hold(key)));
    assert_all_follow(&mut rig, &opened[1..]);
}

/// As long as programs of another version may enter connections, nothing is
/// taken for unknown.
#[test]
fn nothing_is_forgotten_before_all_programs_are_ours() {
    let mut rig = Rig::new(XdpModeOption::Off);
    let opened = open(&mut rig);
    let mut collector = rig.dataplane().collector(&Timeouts::default()).unwrap();
    let (_, gone) = &opened[0];
    rig.tables.remove(gone);
    for _ in 0..3 {
        walk(&mut collector);
    }
    assert!(rig.tables.may_hold(gone));
}

#[test]
fn only_what_may_be_there_is_looked_for() {
    let mut rig = Rig::new(XdpModeOption::Off);
    let opened = open(&mut rig);
    assert_all_follow(&mut rig, &opened);
    rig.tables.know_nothing();
    for (next, key) in &opened {
        let verdict = rig.run(FROM_POD, &next.bytes()).verdict;
        assert_ne!(verdict, Verdict::Forward, "{key:?}");
    }
}

/// Tables of a version that kept no such sets hold connections all the same.
#[test]
fn connections_of_before_are_looked_for() {
    let mut rig = Rig::new(XdpModeOption::Off);
    let opened = open(&mut rig);
    rig.unpin("KNOWN");
    let (next, _) = rig.beside();
    rig.replace_dataplane(next);
    assert_all_follow(&mut rig, &opened);
}

/// Goes over both tables.
fn walk(collector: &mut Collector) {
    while collector.tick().unwrap().unassured.is_none() {}
}
