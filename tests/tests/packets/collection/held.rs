//! Connections put into the tables past the programs.

use aya::{
    maps::{HashMap, Map, MapData},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use lb_common::{
    Address, Connection, Holdings, Life, State, Tuple,
    collection::{HEADER, OVERFLOW, ROOM, answer},
};

use lb_tests::packet::{Table, pinned};

use crate::rig::Rig;

pub(crate) const SERVICE: u32 = 7;

/// The tables, and the program that collects from them.
pub(crate) struct Held {
    pub(crate) rig: Rig,
    tables: [Table; 2],
    holdings: HashMap<MapData, u32, Holdings>,
    second: u32,
}

impl Held {
    pub(crate) fn new(rig: Rig, second: u32) -> Self {
        let pins = rig.pins();
        let tables = [Table::assured, Table::unassured].map(|open| open(&pins).unwrap());
        let holdings = Map::HashMap(pinned(&pins, "HOLDINGS").unwrap());
        let holdings = holdings.try_into().unwrap();
        Self {
            rig,
            tables,
            holdings,
            second,
        }
    }

    /// Enters both halves of a connection that was seen so many seconds ago.
    pub(crate) fn enter(&mut self, table: u32, key: &Tuple, connection: &Connection) {
        let (reply_key, reply) = connection.mirror(key);
        let reply_life = Life {
            state: State::Open,
            ..Life::unpack(connection.life)
        };
        let reply = Connection {
            life: reply_life.pack(),
            ..reply
        };
        self.put(table, key, connection);
        self.put(table, &reply_key, &reply);
        if table == OVERFLOW {
            let held = self.held(connection.service);
            self.set_held(connection.service, held + 1);
        }
    }

    pub(crate) fn put(&mut self, table: u32, key: &Tuple, connection: &Connection) {
        self.tables[table as usize].insert(key, connection).unwrap();
    }

    pub(crate) fn remove(&mut self, table: u32, key: &Tuple) {
        assert!(self.tables[table as usize].remove(key).unwrap());
    }

    pub(crate) fn get(&self, table: u32, key: &Tuple) -> Option<Connection> {
        self.tables[table as usize].get(key).unwrap()
    }

    pub(crate) fn elements(&self, table: u32) -> usize {
        self.tables[table as usize].keys().unwrap().len()
    }

    /// Assured connections of a Service, as the programs count them.
    pub(crate) fn held(&self, service: u32) -> u64 {
        let holdings = self.holdings.get(&service, 0);
        holdings.map_or(0, |holdings| holdings.connections)
    }

    pub(crate) fn set_held(&mut self, service: u32, connections: u64) {
        let holdings = Holdings {
            connections,
            refused: 0,
        };
        self.holdings.insert(service, holdings, 0).unwrap();
    }

    /// A connection in this state, seen so many seconds ago.
    pub(crate) fn connection(
        &mut self,
        protocol: u8,
        number: u16,
        state: State,
        seconds: u32,
    ) -> (Tuple, Connection) {
        let key = Tuple {
            source: Address::v4(0x0100_000a),
            destination: Address::v4(0x0100_600a),
            source_port: number.to_be(),
            destination_port: 80_u16.to_be(),
            protocol,
            ..Tuple::default()
        };
        let seen = self.now().wrapping_sub(seconds * self.second);
        let connection = Connection {
            translated: Tuple {
                destination: Address::v4(0x0200_000a),
                destination_port: 8080_u16.to_be(),
                ..key
            },
            service: SERVICE,
            life: Life { state, seen }.pack(),
            check: key.check(),
            ..Connection::default()
        };
        (key, connection)
    }

    /// Runs the program on keys; the states in which their connections were
    /// removed.
    pub(crate) fn ask(&mut self, table: u32, keys: &[Tuple]) -> Vec<Option<State>> {
        let mut frame = vec![0; HEADER];
        frame.extend_from_slice(bytemuck::cast_slice(keys));
        let (_, frame) = self.run(table, &frame);
        let answers = frame[HEADER..].chunks(size_of::<Tuple>());
        let at = std::mem::offset_of!(Tuple, reserved);
        answers.map(|tuple| answer::state(tuple[at])).collect()
    }

    fn now(&mut self) -> u32 {
        self.run(OVERFLOW, &[0; HEADER]).0
    }

    fn run(&mut self, table: u32, frame: &[u8]) -> (u32, Vec<u8>) {
        assert!(frame.len() <= HEADER + ROOM * size_of::<Tuple>());
        let context: Vec<u8> = [0, 0, table]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        let mut bytes = vec![0; frame.len()];
        let program = self.rig.dataplane().ebpf_mut().program_mut("lb_collect");
        let program: &mut SchedClassifier = program.unwrap().try_into().unwrap();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut bytes),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let now = program.test_run(options).unwrap().return_value;
        (now, bytes)
    }
}
