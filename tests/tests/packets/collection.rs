//! Connections that are over are collected, both halves together, and no
//! others.

use std::collections::BTreeMap;

use lb_agent::{
    connections::{Limits, Settings, Timeouts},
    dataplane::{Dataplane, Options, TcModeOption, Tick, XdpModeOption},
    shortcut::ShortcutOption,
};
use lb_common::{
    Connection, Life, State, Tuple,
    collection::{OVERFLOW, ROOM, SETS},
    lifecycle::{SCTP, TCP, UDP},
};
use lb_tests::lab::{Family, Protocol};
use nix::time::{ClockId, clock_getres};

use self::held::{Held, SERVICE};
use crate::{
    frame::{ACK, Frame, SYN, Transport},
    rig::{Rig, TARGET_PORT, at},
    socket,
    wiring::{CLIENT, POD, inner},
};

mod held;

fn held() -> Held {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
    let second = 1_000_000_000 / tick.tv_nsec();
    Held::new(
        Rig::new(XdpModeOption::Native),
        u32::try_from(second).unwrap(),
    )
}

#[test]
fn what_is_over_goes_as_a_whole() {
    use State::{Aborted, Answered, Dying, Finished, Open, Opening, Refused};
    let mut held = held();
    for (row, (table, protocol, state, seconds, over)) in [
        (OVERFLOW, TCP, Open, 431_000, false),
        (OVERFLOW, TCP, Open, 433_000, true),
        (OVERFLOW, TCP, Finished, 110, false),
        (OVERFLOW, TCP, Finished, 130, true),
        (OVERFLOW, TCP, Aborted, 8, false),
        (OVERFLOW, TCP, Aborted, 12, true),
        (OVERFLOW, UDP, Open, 110, false),
        (OVERFLOW, UDP, Open, 130, true),
        (OVERFLOW, SCTP, Open, 215, true),
        (OVERFLOW, TCP, Dying, 0, true),
        (SETS, TCP, Opening, 110, false),
        (SETS, TCP, Opening, 130, true),
        (SETS, TCP, Answered, 70, true),
        (SETS, TCP, Refused, 12, true),
        (SETS, UDP, Opening, 25, false),
        (SETS, UDP, Opening, 35, true),
        (SETS, SCTP, Opening, 5, true),
        // Kept from the other table by a quota.
        (SETS, TCP, Open, 1000, false),
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("{table} {protocol} {state:?} {seconds} s");
        let (key, connection) = held.connection(protocol, 1000 + row as u16, state, seconds);
        held.enter(table, &key, &connection);
        let before = held.held(SERVICE);
        let other_key = connection.mirror(&key).0;
        // As the backend's half alone says nothing, it stays with the other.
        assert_eq!(held.ask(table, &[other_key]), [None], "{what}");
        let expect = over.then_some(state);
        assert_eq!(held.ask(table, &[key]), [expect], "{what}");
        for key in [key, other_key] {
            assert_eq!(held.get(table, &key).is_none(), over, "{what} {key:?}");
        }
        let freed = u64::from(over && table == OVERFLOW);
        assert_eq!(held.held(SERVICE), before - freed, "{what}");
        assert_eq!(held.ask(table, &[key]), [None], "{what}, again");
    }
}

/// Between the agent's look and the program's, a packet may have come by.
#[test]
fn what_was_heard_of_meanwhile_stays() {
    let mut held = held();
    let family = Family::V4;
    let vip = socket(inner(96, 10), family, 80);
    let client = socket(CLIENT, family, 40_000);
    let backend = socket(POD, family, TARGET_PORT);
    let pod = [(POD.get(family), true)];
    held.rig.serve("one", Protocol::Tcp, &[vip], &pod);
    let (request, reply) = (
        at(lb_common::Hook::Xdp, "up0"),
        at(lb_common::Hook::TcEgress, "up0"),
    );
    let send = |held: &mut Held, place, flags, source, destination| {
        let frame = Frame::new(Transport::Tcp(flags), source, destination);
        held.rig.run(place, &frame.bytes())
    };
    send(&mut held, request, SYN, client, vip);
    send(&mut held, reply, SYN | ACK, backend, client);
    send(&mut held, request, ACK, client, vip);
    let key = Tuple {
        source: client.ip().into(),
        destination: vip.ip().into(),
        source_port: client.port().to_be(),
        destination_port: vip.port().to_be(),
        protocol: TCP,
        ..Tuple::default()
    };
    let connection = held.get(OVERFLOW, &key).unwrap();
    let age = |held: &mut Held| {
        let seen = Life::unpack(held.connection(TCP, 1, State::Open, 500_000).1.life);
        for key in [key, connection.mirror(&key).0] {
            let found = held.get(OVERFLOW, &key).unwrap();
            let life = seen.pack();
            held.put(OVERFLOW, &key, &Connection { life, ..found });
        }
    };
    age(&mut held);
    send(&mut held, reply, ACK, backend, client);
    assert_eq!(held.ask(SETS, &[key]), [None]);
    assert_eq!(held.elements(OVERFLOW), 2);
    age(&mut held);
    assert_eq!(held.ask(SETS, &[key]), [Some(State::Open)]);
    assert_eq!(held.elements(OVERFLOW), 0);
    assert_eq!(held.held(connection.service), 0);
}

#[test]
fn a_half_goes_when_it_cannot_restore_the_other() {
    let mut held = held();
    for (row, (table, protocol, seconds, over)) in [
        (OVERFLOW, TCP, 0, false),
        (OVERFLOW, TCP, 3, true),
        (SETS, TCP, 3, false),
        (SETS, TCP, 130, true),
        (SETS, UDP, 35, true),
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("{table} {protocol} {seconds} s");
        let number = 2000 + row as u16;
        let (key, connection) = held.connection(protocol, number, State::Open, seconds);
        held.enter(table, &key, &connection);
        held.remove(table, &key);
        let other_key = connection.mirror(&key).0;
        let expect = over.then_some(State::Dying);
        assert_eq!(held.ask(table, &[key, other_key]), [None, expect], "{what}");
        assert_eq!(held.get(table, &other_key).is_none(), over, "{what}");
    }
}

#[test]
fn udp_whose_backend_is_retired_lasts_as_long_as_without_an_answer() {
    let mut held = held();
    let mut number = 3000;
    for (retired, direct, seconds, over) in [
        (false, false, 40, false),
        (true, false, 20, false),
        (true, false, 40, true),
        (true, true, 40, false),
    ] {
        number += 1;
        let (key, mut connection) = held.connection(UDP, number, State::Open, seconds);
        // Slot 5 of a table of zeros.
        connection.backend = 5;
        connection.generation = u32::from(retired);
        if direct {
            connection.flags = Connection::DIRECT;
        }
        held.enter(OVERFLOW, &key, &connection);
        let expect = over.then_some(State::Open);
        assert_eq!(held.ask(OVERFLOW, &[key]), [expect], "{retired} {seconds}");
    }
}

/// A walk goes on where it stopped, and ends.
#[test]
fn walks_collect_all_that_is_over() {
    // In the sets few enough that none of them has to make room.
    const ALL: [(u32, u8, u16); 2] = [(OVERFLOW, TCP, 12_000), (SETS, SCTP, 3_000)];
    let mut held = held();
    for (table, protocol, count) in ALL {
        for number in 0..count {
            let (state, seconds) = match number % 3 {
                0 => (State::Open, 0),
                1 => (State::Open, 433_000),
                _ => (State::Aborted, 60),
            };
            let (key, connection) = held.connection(protocol, number, state, seconds);
            held.enter(table, &key, &connection);
        }
    }
    let timeouts = Timeouts::default();
    let mut collector = held.rig.dataplane().collector(&timeouts).unwrap();
    let mut collected = BTreeMap::new();
    let mut ticks = Vec::new();
    for _ in 0..16 {
        let tick = collector.tick().unwrap();
        for (kind, count) in &tick.collected {
            *collected.entry(*kind).or_insert(0) += count;
        }
        ticks.push(tick);
        if ticks.last().unwrap().unassured.is_some() {
            break;
        }
    }
    // All within the shortest timeout, and one more for what one step is too many.
    assert!((2..=4).contains(&ticks.len()), "{ticks:?}");
    let expect: BTreeMap<_, _> = ALL
        .into_iter()
        .flat_map(|(_, protocol, count)| {
            let third = u64::from(count) / 3;
            [State::Open, State::Aborted].map(|state| ((protocol, state), third))
        })
        .collect();
    assert_eq!(collected, expect);
    let [assured, unassured] = ALL.map(|(_, _, count)| u64::from(count));
    assert_eq!(ticks.last().unwrap().unassured, Some(unassured));
    for (table, _, count) in ALL {
        assert_eq!(held.elements(table), usize::from(count) / 3 * 2);
    }
    assert_eq!(held.held(SERVICE), assured / 3);

    let mut again = Tick::default();
    while again.unassured.is_none() {
        again = collector.tick().unwrap();
        assert_eq!(again.collected, BTreeMap::new());
    }
    assert_eq!(again.unassured, Some(unassured / 3));
    let services: Vec<_> = again
        .holdings
        .iter()
        .map(|(s, h)| (*s, h.connections))
        .collect();
    assert_eq!(services, [(SERVICE, assured / 3)]);
}

/// Some program is about to remove it, unless it failed.
#[test]
fn what_is_dying_is_left_alone_for_a_walk() {
    let mut held = held();
    let (key, connection) = held.connection(TCP, 4000, State::Dying, 0);
    held.enter(OVERFLOW, &key, &connection);
    let mut collector = held
        .rig
        .dataplane()
        .collector(&Timeouts::default())
        .unwrap();
    let mut walk = || {
        let mut collected = BTreeMap::new();
        loop {
            let tick = collector.tick().unwrap();
            collected.extend(tick.collected);
            if tick.unassured.is_some() {
                break collected;
            }
        }
    };
    assert_eq!(walk(), BTreeMap::new());
    assert_eq!(walk(), BTreeMap::from([((TCP, State::Dying), 1)]));
    assert_eq!(held.elements(OVERFLOW), 0);
}

#[test]
fn a_frame_takes_as_many_as_it_has_room_for() {
    let mut held = held();
    let mut keys = Vec::new();
    for number in 0..ROOM as u16 {
        let (key, connection) = held.connection(TCP, number, State::Open, 433_000);
        held.enter(OVERFLOW, &key, &connection);
        keys.push(key);
    }
    let answers = held.ask(OVERFLOW, &keys);
    assert_eq!(answers, vec![Some(State::Open); ROOM]);
    assert_eq!(held.elements(OVERFLOW), 0);
}

/// What finds no room among the assured can be evicted, and is not lost.
#[test]
fn a_smaller_table_takes_what_it_can() {
    const ALL: u16 = 1500;
    let mut held = held();
    for number in 0..ALL {
        let (key, connection) = held.connection(TCP, number, State::Open, 0);
        held.enter(OVERFLOW, &key, &connection);
    }
    let limits = Limits {
        assured: 1024,
        ..Limits::default()
    };
    let mut smaller = Dataplane::open(&Options {
        bpffs: held.rig.pins(),
        xdp: XdpModeOption::Native,
        tc: TcModeOption::Auto,
        connections: Settings {
            limits,
            timeouts: Timeouts::default(),
        },
        shortcut: ShortcutOption::Never,
        trace_packets: false,
    })
    .unwrap();
    smaller.forget_other_versions();
    let census = smaller.connection_table().unwrap().count().unwrap();
    let expect = (1024, u64::from(ALL) - 1024);
    assert_eq!((census.assured, census.unassured), expect);
    assert_eq!(held.held(SERVICE), 1024);
    let pins = std::fs::read_dir(held.rig.pins().join("maps")).unwrap();
    let names = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("ASSURED_")).count(), 1);
}
