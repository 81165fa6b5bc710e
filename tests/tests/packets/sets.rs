//! Sets of the table of connections: who makes room, who does not, and what two CPUs
//! enter at once.

use std::{
    collections::BTreeSet,
    hint,
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_agent::dataplane::XdpModeOption;
use lb_common::{
    State, Tuple, Verdict,
    sets::{self, ASSURED, Place, WAYS},
};
use lb_tests::{
    lab::{Family, Protocol},
    packet::test_run,
};

use crate::{
    first,
    frame::{ACK, Frame, SYN},
    kinds,
    line::{ANSWERS, ASKS, HANDSHAKE, INWARD, Line, THROUGH},
    rig::Rig,
    socket,
    tables::{Table, tuple},
    wiring::inner,
};

/// Unassured connections of [`Rig::with_room`].
pub(crate) const LEAST: u32 = 1 << 10;

/// Clients of the line, other than its own.
fn strangers(line: &Line<'_>) -> impl Iterator<Item = SocketAddr> + use<> {
    let family = line.family;
    (101..=250_u8)
        .flat_map(move |host| (1..=200_u16).map(move |port| socket(inner(60, host), family, port)))
}

fn set_of(rig: &Rig, key: &Tuple) -> u32 {
    let secret = rig.tables.secret();
    Place::of(key, &secret, sets::sets(2 * LEAST)).set
}

/// Assures as many elements of the set in which the line's own begins as may be; their
/// keys. Both may be those of one connection.
pub(crate) fn crowd(line: &mut Line<'_>) -> Vec<Tuple> {
    let (own, own_key) = (line.client, line.forward_key());
    let set = set_of(line.rig, &own_key);
    let mut keys = Vec::new();
    for port in (1_024..=u16::MAX).rev() {
        line.client.set_port(port);
        let key = line.forward_key();
        if key == own_key || set_of(line.rig, &key) != set {
            continue;
        }
        line.exchange(&HANDSHAKE);
        let tables = &line.rig.tables;
        keys.extend([key, line.reply_key()].into_iter().filter(|key| {
            let is_kept = tables.is_in_sets(key) && tables.is_in(Table::Assured, key);
            is_kept && set_of(line.rig, key) == set
        }));
        if keys.len() == ASSURED {
            break;
        }
    }
    line.client = own;
    assert_eq!(keys.len(), ASSURED, "{}", line.what);
    keys
}

/// Clients whose connections' both keys share one set with nothing else that they
/// enter: that of `key`.
fn neighbours(line: &Line<'_>, key: &Tuple, count: usize) -> Vec<SocketAddr> {
    let set = set_of(line.rig, key);
    let shares = |client: &SocketAddr| {
        let forward = tuple(line.protocol, *client, line.frontend);
        let reply = tuple(line.protocol, line.backend, *client);
        set_of(line.rig, &forward) == set && set_of(line.rig, &reply) != set
    };
    strangers(line).filter(shares).take(count).collect()
}

fn ask(line: &mut Line<'_>, client: SocketAddr) {
    let frame = Frame::new(first(line.protocol), client, line.frontend).bytes();
    let verdict = line.rig.run(INWARD.request, &frame).verdict;
    assert!(
        matches!(verdict, Verdict::Opened | Verdict::Forward),
        "{verdict:?}"
    );
}

fn tick() {
    thread::sleep(Duration::from_millis(25));
}

/// One that was seen once more meanwhile is not the one that was seen last the
/// longest ago.
#[test]
fn a_full_set_gives_up_the_one_seen_last_the_longest_ago() {
    for seen_again in [false, true] {
        let mut rig = Rig::with_room(LEAST);
        let mut line = Line::new(&mut rig, &INWARD, Family::V4, Protocol::Tcp);
        let own = line.forward_key();
        let mut clients = neighbours(&line, &own, WAYS + 1);
        let late = clients.split_off(WAYS);
        let keys: Vec<Tuple> = clients
            .iter()
            .map(|client| tuple(line.protocol, *client, line.frontend))
            .collect();
        for client in &clients {
            ask(&mut line, *client);
            tick();
        }
        assert!(keys.iter().all(|key| line.rig.tables.find(key).is_some()));
        if seen_again {
            thread::sleep(Duration::from_millis(1100));
            ask(&mut line, clients[0]);
        }
        ask(&mut line, late[0]);
        let gone: Vec<usize> = (0..WAYS)
            .filter(|&index| line.rig.tables.find(&keys[index]).is_none())
            .collect();
        assert_eq!(gone, [usize::from(seen_again)]);
    }
}

/// Whatever is in the way of its being assured.
#[test]
fn a_flow_that_goes_on_outlasts_a_flood() {
    // Too few to fill a set twice over between two packets.
    const EACH: usize = 100;
    const ROUNDS: usize = 200;
    for protocol in Protocol::ALL {
        let mut rig = Rig::with_room(LEAST);
        rig.tables.set_quota(0);
        let mut line = Line::new(&mut rig, &INWARD, Family::V4, protocol);
        line.exchange(&[(ASKS, SYN), (ANSWERS, SYN | ACK), (ASKS, ACK)]);
        let strangers: Vec<_> = strangers(&line).take(EACH * ROUNDS).collect();
        for (round, strangers) in strangers.chunks(EACH).enumerate() {
            for stranger in strangers {
                ask(&mut line, *stranger);
            }
            let verdicts = [line.pass((ASKS, ACK)), line.pass((ANSWERS, ACK))];
            assert_eq!(
                verdicts,
                [Verdict::Forward, Verdict::Reply],
                "{protocol} {round}"
            );
        }
    }
}

/// What its set has no room for is assured all the same.
#[test]
fn assured_connections_make_no_room_and_find_some() {
    for way in [&INWARD, &THROUGH] {
        for (family, protocol) in kinds() {
            let mut rig = Rig::with_room(LEAST);
            let mut line = Line::new(&mut rig, way, family, protocol);
            let what = line.what.clone();
            let own = line.client;
            let kept = crowd(&mut line);
            let key = line.forward_key();
            line.exchange(&HANDSHAKE);
            assert_eq!(line.state(), Some((Table::Assured, State::Open)), "{what}");
            assert!(!line.rig.tables.is_in_sets(&key), "{what}");
            assert!(!line.rig.tables.is_in_sets(&line.reply_key()), "{what}");
            let service = line.rig.tables.find(&key).unwrap().1.service;
            let open = line.rig.tables.count(Table::Assured) as u64 / 2;
            assert_eq!(
                line.rig.tables.holdings(service).connections,
                open,
                "{what}"
            );

            let set = set_of(line.rig, &key);
            let strangers: Vec<SocketAddr> = (1_024..40_000)
                .map(|port| SocketAddr::new(own.ip(), port))
                .filter(|stranger| {
                    let key = tuple(protocol, *stranger, line.frontend);
                    set_of(line.rig, &key) == set && line.rig.tables.find(&key).is_none()
                })
                .take(3 * WAYS)
                .collect();
            assert_eq!(strangers.len(), 3 * WAYS, "{what}");
            for stranger in strangers {
                line.client = stranger;
                assert_eq!(line.ask(SYN), Verdict::Opened, "{what}");
            }
            line.client = own;
            for key in kept.iter().chain([&key]) {
                assert!(line.rig.tables.is_in(Table::Assured, key), "{what} {key:?}");
            }
            line.exchange(&[(ASKS, ACK), (ANSWERS, ACK)]);
        }
    }
}

/// Another element has come where its mark says that it is: nobody would find either.
#[test]
fn what_is_entered_past_the_programs_leaves_no_strays() {
    let mut rig = Rig::with_room(LEAST);
    let mut line = Line::new(&mut rig, &INWARD, Family::V4, Protocol::Tcp);
    line.exchange(&HANDSHAKE);
    let own = line.forward_key();
    let client = neighbours(&line, &own, 1)[0];
    let neighbour = tuple(line.protocol, client, line.frontend);
    let (_, connection) = line.rig.tables.find(&own).unwrap();
    let elsewhere = Tuple {
        source_port: own.source_port.swap_bytes(),
        ..own
    };

    let assured = |line: &Line<'_>| line.rig.tables.keys(Table::Assured);
    line.rig
        .tables
        .rename(set_of(line.rig, &own), &own, elsewhere);
    assert!(assured(&line).contains(&elsewhere));
    line.rig
        .tables
        .enter(Table::Unassured, &neighbour, &connection);
    assert!(!assured(&line).contains(&elsewhere));
    assert!(line.rig.tables.is_in(Table::Unassured, &neighbour));
}

/// From clients of the same ports, or from the same client. To the backend, no two
/// connections look the same.
#[test]
fn two_cpus_at_once_enter_no_key_twice() {
    const ROUNDS: u16 = 1_600;
    const PASSES: usize = 5;
    for protocol in Protocol::ALL {
        let mut rig = Rig::new(XdpModeOption::Native);
        let frontend = Line::new(&mut rig, &THROUGH, Family::V4, protocol).frontend;
        let mut programs = [rig.beside(), rig.beside()];
        for pass in 0..PASSES {
            let what = format!("{protocol}, {pass}");
            rig.tables.clear();
            let meet = AtomicU32::new(0);
            let netns = rig.netns();
            thread::scope(|scope| {
                for (number, (dataplane, indices)) in (0_u8..).zip(&mut programs) {
                    let meet = &meet;
                    let run = move || {
                        for round in 0..ROUNDS {
                            let host = if round % 8 == 0 { 1 } else { number + 1 };
                            let client = socket(inner(60, host), Family::V4, 1_024 + round);
                            let frame = Frame::new(first(protocol), client, frontend).bytes();
                            meet.fetch_add(1, Ordering::SeqCst);
                            while meet.load(Ordering::SeqCst) < 2 * (u32::from(round) + 1) {
                                hint::spin_loop();
                            }
                            // One is in the midst of it when the other begins.
                            let (met, late) = (Instant::now(), 20 * u64::from(round % 100));
                            while number == 1 && met.elapsed() < Duration::from_nanos(late) {}
                            let request = THROUGH.request;
                            test_run(dataplane, request, |name| indices[name], &frame).unwrap();
                        }
                    };
                    scope.spawn(move || netns.run(run));
                }
            });
            let table = rig.dataplane().connection_table().unwrap();
            let open: Vec<_> = table.iter().map(|one| one.connection.translated).collect();
            let seen: BTreeSet<&Tuple> = open.iter().collect();
            assert_eq!(seen.len(), open.len(), "{what}: some look the same");
            let both = usize::from(ROUNDS);
            let once = both.div_ceil(8);
            assert_eq!(open.len(), 2 * both - once, "{what}");
            let keys = rig.tables.keys(Table::Unassured);
            let distinct: BTreeSet<&Tuple> = keys.iter().collect();
            assert_eq!(distinct.len(), keys.len(), "{what}");
        }
    }
}
