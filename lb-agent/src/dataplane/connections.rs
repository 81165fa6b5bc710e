//! The connection table, read for people.

use std::collections::HashMap;

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use lb_common::{Connection, Tuple, maps};

use super::{Dataplane, DataplaneError, load};

/// A connection from the client's side, as the table holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenConnection {
    pub original: Tuple,
    pub connection: Connection,
}

/// A handle of its own on the table. To walk a full one takes long enough to
/// be done on a thread of its own.
pub struct ConnectionTable(BpfHashMap<MapData, Tuple, Connection>);

impl Dataplane {
    /// Opens the table once more.
    pub fn connection_table(&self) -> Result<ConnectionTable, DataplaneError> {
        let failed = |source| DataplaneError::Map {
            map: "CONNECTIONS",
            source,
        };
        let data = MapData::from_pin(load::pin_of(&self.pins, "CONNECTIONS")).map_err(failed)?;
        let map = BpfHashMap::try_from(Map::LruHashMap(data)).map_err(failed)?;
        Ok(ConnectionTable(map))
    }
}

impl ConnectionTable {
    /// Connections as their clients opened them, of all services.
    ///
    /// A key that is evicted under the walk starts it anew, so it ends after
    /// as many steps as the table has entries.
    pub fn iter(&self) -> impl Iterator<Item = OpenConnection> {
        self.0
            .iter()
            .take(maps::CONNECTIONS)
            .filter_map(Result::ok)
            .filter(|(_, connection)| connection.flags & Connection::REPLY == 0)
            .map(|(original, connection)| OpenConnection {
                original,
                connection,
            })
    }

    /// Open connections by backend id and generation, those that are closing
    /// left out.
    #[must_use]
    pub fn by_backend(&self) -> HashMap<(u32, u32), u64> {
        let mut counts = HashMap::new();
        for OpenConnection { connection, .. } in self.iter() {
            if connection.flags & Connection::CLOSING == 0 {
                let backend = (connection.backend, connection.generation);
                *counts.entry(backend).or_default() += 1;
            }
        }
        counts
    }
}
