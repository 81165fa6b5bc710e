//! The connection tables, read and changed past the programs.

use std::{net::SocketAddr, path::Path, time::Duration};

use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::{
    Connection, Holdings, Life, Settings, State, Tuple, known, ports,
    sets::{Members, Secret},
};
use lb_tests::{
    lab::Protocol,
    packet::{Table as Elements, pinned},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Assured,
    Unassured,
}

impl Table {
    const ALL: [Self; 2] = [Self::Assured, Self::Unassured];
}

pub(crate) struct Tables {
    assured: Elements,
    unassured: Elements,
    holdings: HashMap<MapData, u32, Holdings>,
    settings: Array<MapData, Settings>,
    known: Array<MapData, u64>,
    ports: Array<MapData, u64>,
    secret: Array<MapData, Secret>,
    members: Array<MapData, Members>,
}

impl Tables {
    pub(crate) fn open(pins: &Path) -> Self {
        let data = |name| pinned(pins, name).unwrap();
        Self {
            assured: Elements::assured(pins).unwrap(),
            unassured: Elements::unassured(pins).unwrap(),
            holdings: Map::HashMap(data("HOLDINGS")).try_into().unwrap(),
            settings: Map::Array(data("SETTINGS")).try_into().unwrap(),
            known: Map::Array(data("KNOWN")).try_into().unwrap(),
            ports: Map::Array(data("PORTS")).try_into().unwrap(),
            secret: Map::Array(data("SECRET")).try_into().unwrap(),
            members: Map::Array(data("CONNECTIONS")).try_into().unwrap(),
        }
    }

    /// Where the element of this key is, and what it holds.
    pub(crate) fn find(&self, key: &Tuple) -> Option<(Table, Connection)> {
        let found = Table::ALL.map(|table| Some((table, self.of(table).get(key).unwrap()?)));
        let [assured, unassured] = found;
        assert!(
            assured.is_none() || unassured.is_none(),
            "{key:?} is in both tables"
        );
        assured.or(unassured)
    }

    pub(crate) fn is_in(&self, table: Table, key: &Tuple) -> bool {
        self.of(table).get(key).unwrap().is_some()
    }

    /// Whether the element has its place in a set.
    pub(crate) fn is_in_sets(&self, key: &Tuple) -> bool {
        self.assured.is_in_sets(key).unwrap()
    }

    /// Elements that their sets had no room for.
    pub(crate) fn overflow(&self) -> usize {
        let keys = self.keys(Table::Assured);
        keys.iter().filter(|key| !self.is_in_sets(key)).count()
    }

    pub(crate) fn enter(&mut self, table: Table, key: &Tuple, connection: &Connection) {
        let mark = known::Mark::of(key.check());
        let word = self.known.get(&mark.word, 0).unwrap();
        let word = word | mark.in_both();
        self.known.set(mark.word, word, 0).unwrap();
        self.of_mut(table).insert(key, connection).unwrap();
    }

    pub(crate) fn remove(&mut self, key: &Tuple) -> (Table, Connection) {
        let (table, connection) = self.find(key).unwrap();
        assert!(self.of_mut(table).remove(key).unwrap());
        (table, connection)
    }

    pub(crate) fn remove_from(&mut self, table: Table, key: &Tuple) {
        assert!(self.of_mut(table).remove(key).unwrap());
    }

    /// Lets the connection of which this is a key have been seen last so long
    /// ago.
    pub(crate) fn age(&mut self, key: &Tuple, time: Duration) {
        let jiffies = u32::try_from(time.as_secs()).unwrap() * self.settings().second;
        let (other_key, _) = self.find(key).unwrap().1.mirror(key);
        for key in [key, &other_key] {
            self.change(key, |life| life.seen = life.seen.wrapping_sub(jiffies));
        }
    }

    pub(crate) fn set_state(&mut self, key: &Tuple, state: State) {
        self.change(key, |life| life.state = state);
    }

    pub(crate) fn count(&self, table: Table) -> usize {
        self.of(table).keys().unwrap().len()
    }

    pub(crate) fn keys(&self, table: Table) -> Vec<Tuple> {
        self.of(table).keys().unwrap()
    }

    /// Whether the programs look for the key in the tables.
    pub(crate) fn may_hold(&self, key: &Tuple) -> bool {
        let mark = known::Mark::of(key.check());
        let set = self.known.get(&known::ASKED, 0).unwrap() as u32;
        self.known.get(&mark.word, 0).unwrap() & mark.in_set(set & 1) != 0
    }

    /// Has the programs look for nothing that was entered before.
    pub(crate) fn know_nothing(&mut self) {
        for index in 1..known::ELEMENTS {
            self.known.set(index, 0, 0).unwrap();
        }
    }

    /// Has the element of this set have another key.
    pub(crate) fn rename(&mut self, set: u32, key: &Tuple, to: Tuple) {
        let mut members = self.members.get(&set, 0).unwrap();
        let mut elements = members.elements.iter_mut();
        elements.find(|element| element.key == *key).unwrap().key = to;
        self.members.set(set, members, 0).unwrap();
    }

    /// Has the programs look for no frontend at the node's ports.
    pub(crate) fn know_no_ports(&mut self) {
        for index in 0..ports::WORDS {
            self.ports.set(index, 0, 0).unwrap();
        }
    }

    /// Forgets all connections.
    pub(crate) fn clear(&mut self) {
        for table in Table::ALL {
            self.of_mut(table).clear().unwrap();
        }
        let services: Vec<u32> = self.holdings.keys().map(Result::unwrap).collect();
        for service in services {
            self.holdings.remove(&service).unwrap();
        }
    }

    pub(crate) fn holdings(&self, service: u32) -> Holdings {
        self.holdings.get(&service, 0).unwrap_or_default()
    }

    pub(crate) fn set_quota(&mut self, connections: u32) {
        let settings = Settings {
            connection_quota: connections,
            ..self.settings()
        };
        self.settings.set(0, settings, 0).unwrap();
    }

    pub(crate) fn secret(&self) -> Secret {
        self.secret.get(&0, 0).unwrap()
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings.get(&0, 0).unwrap()
    }

    fn change(&mut self, key: &Tuple, change: impl FnOnce(&mut Life)) {
        let (table, mut connection) = self.find(key).unwrap();
        let mut life = Life::unpack(connection.life);
        change(&mut life);
        connection.life = life.pack();
        self.enter(table, key, &connection);
    }

    fn of(&self, table: Table) -> &Elements {
        match table {
            Table::Assured => &self.assured,
            Table::Unassured => &self.unassured,
        }
    }

    fn of_mut(&mut self, table: Table) -> &mut Elements {
        match table {
            Table::Assured => &mut self.assured,
            Table::Unassured => &mut self.unassured,
        }
    }
}

pub(crate) fn tuple(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Tuple {
    Tuple {
        source: source.ip().into(),
        destination: destination.ip().into(),
        source_port: source.port().to_be(),
        destination_port: destination.port().to_be(),
        protocol: match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        },
        ..Tuple::default()
    }
}
