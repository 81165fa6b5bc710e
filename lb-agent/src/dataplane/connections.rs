//! The connection table, read for people.

use std::collections::HashMap;

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use lb_common::{Connection, Life, State, Tuple, maps};

use super::{Dataplane, DataplaneError, load};

/// A connection from the client's side, as the table holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenConnection {
    pub original: Tuple,
    pub connection: Connection,
}

/// A handle of its own on the tables. To walk full ones takes long enough to
/// be done on a thread of its own.
pub struct ConnectionTable {
    assured: BpfHashMap<MapData, Tuple, Connection>,
    unassured: BpfHashMap<MapData, Tuple, Connection>,
}

impl Dataplane {
    /// Opens the tables once more.
    pub fn connection_table(&self) -> Result<ConnectionTable, DataplaneError> {
        let open = |name, kind: fn(MapData) -> Map| {
            let failed = |source| DataplaneError::Map { map: name, source };
            let data = MapData::from_pin(load::pin_of(&self.pins, name)).map_err(failed)?;
            BpfHashMap::try_from(kind(data)).map_err(failed)
        };
        Ok(ConnectionTable {
            assured: open("ASSURED", Map::HashMap)?,
            unassured: open("UNASSURED", Map::LruHashMap)?,
        })
    }
}

impl ConnectionTable {
    /// Connections as their clients opened them, of all services.
    ///
    /// A key that is removed under the walk starts it anew, so it ends after
    /// as many steps as a table has elements.
    pub fn iter(&self) -> impl Iterator<Item = OpenConnection> {
        let assured = self.assured.iter().take(maps::ASSURED);
        let unassured = self.unassured.iter().take(maps::UNASSURED);
        assured
            .chain(unassured)
            .filter_map(Result::ok)
            .filter(|(_, connection)| connection.flags & Connection::REPLY == 0)
            .map(|(original, connection)| OpenConnection {
                original,
                connection,
            })
    }

    /// Open connections by backend id and generation, those that are over left
    /// out.
    #[must_use]
    pub fn by_backend(&self) -> HashMap<(u32, u32), u64> {
        let mut counts = HashMap::new();
        for OpenConnection { connection, .. } in self.iter() {
            let state = Life::unpack(connection.life).state;
            if matches!(state, State::Opening | State::Answered | State::Open) {
                let backend = (connection.backend, connection.generation);
                *counts.entry(backend).or_default() += 1;
            }
        }
        counts
    }
}
