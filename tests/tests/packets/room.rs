//! Where there is no room for another assured connection.

use std::{net::SocketAddr, time::Duration};

use lb_agent::dataplane::XdpModeOption;
use lb_common::{Connection, State, Tuple, maps};
use lb_tests::lab::{Family, Protocol};

use crate::{
    frame::{ACK, FIN, SYN},
    kinds,
    line::{ANSWERS, ASKS, HANDSHAKE, INWARD, Line, Packet, WAYS, place},
    rig::Rig,
    sets::{LEAST, crowd},
    socket,
    tables::{Table, tuple},
    wiring::inner,
};
use State::{ClientClosed, Finished, Open, Opening};

/// After which a connection is tried again.
const PAUSE: Duration = Duration::from_secs(2);

const TALK: &[Packet] = &[(ASKS, ACK), (ANSWERS, ACK), (ASKS, ACK), (ANSWERS, ACK)];

fn filler(number: usize) -> Tuple {
    let number = u32::try_from(number).unwrap();
    let [_, a, b, c] = number.to_be_bytes();
    let from = SocketAddr::from(([240, a, b, c], 1));
    tuple(Protocol::Tcp, from, SocketAddr::from(([240, 0, 0, 1], 1)))
}

fn fill(rig: &mut Rig, count: usize) {
    for number in 0..count {
        let key = filler(number);
        let connection = Connection {
            check: key.check(),
            ..Connection::default()
        };
        rig.tables.enter(Table::Assured, &key, &connection);
    }
}

fn is_at(line: &Line<'_>, expected: (Table, State)) {
    assert_eq!(line.state(), Some(expected), "{}", line.what);
}

/// It works, and is assured once there is room. One element is not enough.
#[test]
fn a_full_table_keeps_connections_waiting() {
    let mut rig = Rig::with_room(LEAST);
    for (free, (family, protocol)) in [0, 1]
        .into_iter()
        .flat_map(|f| kinds().map(move |k| (f, k)))
    {
        let way = WAYS[usize::from(family == Family::V6) * 3];
        let mut line = Line::new(&mut rig, way, family, protocol);
        line.what += &format!(", {free} free");
        crowd(&mut line);
        let kept = line.rig.tables.count(Table::Assured) as u64 / 2;
        fill(line.rig, maps::ASSURED - free - line.rig.tables.overflow());
        line.exchange(&HANDSHAKE);
        is_at(&line, (Table::Unassured, Open));
        line.exchange(TALK);
        let (forward, reply) = (line.forward_key(), line.reply_key());
        for side in [ASKS, ANSWERS] {
            line.rig.tables.age(&forward, PAUSE);
            line.exchange(&[(side, ACK)]);
            is_at(&line, (Table::Unassured, Open));
            let half_in = line.rig.tables.is_in(Table::Assured, &reply);
            assert!(!half_in, "{}", line.what);
        }
        let service = line.rig.tables.find(&forward).unwrap().1.service;
        assert_eq!(
            line.rig.tables.holdings(service).connections,
            kept,
            "{}",
            line.what
        );
        for number in 0..2 - free {
            line.rig.tables.remove(&filler(number));
        }
        line.exchange(TALK);
        line.rig.tables.age(&forward, PAUSE);
        line.exchange(TALK);
        is_at(&line, place(Open));
        assert_eq!(
            line.rig.tables.holdings(service).connections,
            kept + 1,
            "{}",
            line.what
        );
    }
}

/// What waits may end, and begin again, like any other.
#[test]
fn what_waits_for_room_goes_its_way() {
    let mut rig = Rig::new(XdpModeOption::Native);
    rig.tables.set_quota(0);
    for way in WAYS {
        for family in Family::ALL {
            let mut line = Line::new(&mut rig, way, family, Protocol::Tcp);
            for _ in 0..2 {
                line.exchange(&HANDSHAKE);
                is_at(&line, (Table::Unassured, Open));
                line.exchange(&[(ASKS, FIN | ACK)]);
                is_at(&line, (Table::Unassured, ClientClosed));
                line.exchange(&[(ANSWERS, FIN | ACK)]);
                is_at(&line, (Table::Unassured, Finished));
            }
        }
    }
}

/// A Service has as many assured connections as it may, each counted once, and
/// its place goes to the next when one ends.
#[test]
fn a_service_does_not_exceed_its_quota() {
    let mut rig = Rig::new(XdpModeOption::Native);
    for way in WAYS {
        for (family, protocol) in kinds() {
            rig.tables.set_quota(2);
            let mut line = Line::new(&mut rig, way, family, protocol);
            let what = line.what.clone();
            let clients = [1, 2, 3].map(|port| socket(way.client, family, port + 40_000));
            for client in clients {
                line.client = client;
                line.exchange(&HANDSHAKE);
                let table = match client == clients[2] {
                    true => Table::Unassured,
                    false => Table::Assured,
                };
                is_at(&line, (table, Open));
            }
            let key = line.forward_key();
            let service = line.rig.tables.find(&key).unwrap().1.service;
            let refused = line.rig.tables.holdings(service).refused;
            assert!(refused >= 1, "{what}");
            assert_eq!(line.rig.tables.holdings(service).connections, 2, "{what}");
            line.exchange(TALK);

            leave(&mut line, clients[0]);
            assert_eq!(line.rig.tables.holdings(service).connections, 1, "{what}");
            line.client = clients[2];
            line.seen.set_port(clients[2].port());
            line.rig.tables.age(&key, PAUSE);
            line.exchange(TALK);
            is_at(&line, place(Open));
            assert_eq!(line.rig.tables.holdings(service).connections, 2, "{what}");
        }
    }
}

/// Its client begins anew, and gets no answer.
fn leave(line: &mut Line<'_>, client: SocketAddr) {
    line.client = client;
    line.seen.set_port(client.port());
    let key = line.forward_key();
    line.rig.tables.age(&key, Duration::from_secs(440_000));
    line.exchange(&[(ASKS, SYN)]);
    is_at(line, place(Opening));
}

/// Services do not count towards each other's quota.
#[test]
fn a_quota_is_for_one_service() {
    let mut rig = Rig::new(XdpModeOption::Native);
    rig.tables.set_quota(1);
    for family in Family::ALL {
        let other = socket(inner(96, 20), family, 80);
        let backend = (INWARD.backend.0.get(family), true);
        let mut line = Line::new(&mut rig, &INWARD, family, Protocol::Tcp);
        line.rig.serve("other", Protocol::Tcp, &[other], &[backend]);
        let first = line.frontend;
        for (frontend, port, expected) in [
            (first, 1, place(Open)),
            (other, 2, place(Open)),
            (first, 3, (Table::Unassured, Open)),
            (other, 4, (Table::Unassured, Open)),
        ] {
            line.frontend = frontend;
            line.client.set_port(port);
            line.exchange(&HANDSHAKE);
            is_at(&line, expected);
        }
    }
}

/// Whoever lost connections may have been killed before it counted what is left.
#[test]
fn connections_that_an_agent_lost_are_counted_by_none() {
    let mut rig = Rig::new(XdpModeOption::Native);
    let mut line = Line::new(&mut rig, &INWARD, Family::V4, Protocol::Tcp);
    line.exchange(&HANDSHAKE);
    let key = line.forward_key();
    let service = rig.tables.find(&key).unwrap().1.service;
    assert_eq!(rig.tables.holdings(service).connections, 1);

    rig.unpin("SETS");
    drop(rig.beside());
    let (mut next, _) = rig.beside();
    next.sync_interfaces(&[]);
    rig.replace_dataplane(next);
    assert!(rig.tables.find(&key).is_none());
    assert_eq!(rig.tables.holdings(service).connections, 0);
}
