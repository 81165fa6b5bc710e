//! Tables of another size: an agent that is told another one starts with new
//! tables, and takes the connections of the old ones along.

use std::path::Path;

use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError};
use lb_common::{Connection, Life, Tuple};

use super::{Dataplane, DataplaneError, connections::Table, pins::Pins, sets::Sets};

const NO_EXIST: u64 = 1;

type Assured<'a> = BpfHashMap<&'a mut MapData, Tuple, Connection>;

/// What earlier agents left that had tables of other sizes.
#[derive(Debug, Default)]
pub(super) struct Former {
    tables: Vec<Table>,
    copied: bool,
}

impl Former {
    pub(super) fn find(pins: &Pins) -> Self {
        let assured = pins.other_sizes("ASSURED").into_iter().map(|path| {
            let table = open("ASSURED", &path).map(Map::HashMap);
            (path, table.and_then(|map| Table::overflow(&map)))
        });
        let sets = pins.other_sets().into_iter().map(|[sets, members]| {
            let table = open("SETS", &sets).and_then(|map| {
                let members = Map::Array(open("CONNECTIONS", &members)?);
                Table::sets(&Map::Array(map), &members)
            });
            (sets, table)
        });
        let mut tables = Vec::new();
        for (path, table) in assured.chain(sets) {
            match table {
                Ok(table) => tables.push(table),
                Err(error) => tracing::warn!(path = %path.display(), %error, "not read"),
            }
        }
        Self {
            tables,
            copied: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

fn open(map: &'static str, path: &Path) -> Result<MapData, DataplaneError> {
    MapData::from_pin(path).map_err(|source| DataplaneError::Map { map, source })
}

impl Dataplane {
    /// To be called before the programs are replaced.
    pub(super) fn copy_connections_once(&mut self) {
        if !self.connections.former.copied {
            self.connections.former.copied = true;
            self.copy_connections();
        }
    }

    /// To be called after the programs were replaced: takes along what the
    /// earlier ones did meanwhile.
    pub(super) fn settle_connections(&mut self) {
        self.copy_connections();
        if !self.connections.former.is_empty() {
            self.recount_holdings();
        }
        self.connections.former = Former {
            copied: true,
            ..Former::default()
        };
    }

    fn copy_connections(&mut self) {
        if self.connections.former.is_empty() {
            return;
        }
        match self.try_copy() {
            Ok(copied) => {
                tracing::info!(copied, "connections taken along from tables of other sizes")
            }
            Err(error) => tracing::warn!(%error, "connections not taken along"),
        }
    }

    fn try_copy(&mut self) -> Result<u64, DataplaneError> {
        let maps = &mut self.connections;
        let failed = |source| DataplaneError::Map {
            map: "ASSURED",
            source,
        };
        let mut assured = BpfHashMap::try_from(&mut maps.overflow).map_err(failed)?;
        let sets = Sets::open(&maps.sets, &maps.members, &maps.secret)?;
        let mut copied = 0;
        for table in &maps.former.tables {
            table.for_each_forward(|key, connection, is_assured| {
                if is_assured && copy(&mut assured, key, connection) {
                    // It may have been copied before it was assured.
                    let other = connection.mirror(&key).0;
                    let _ = sets.remove(&key);
                    let _ = sets.remove(&other);
                    copied += 1;
                } else if assured.get(&key, 0).is_err() && copy_unassured(&sets, key, connection) {
                    copied += 1;
                }
            })?;
        }
        Ok(copied)
    }
}

/// Enters both halves, or brings what is there up to date. `false` if there is
/// no room.
fn copy(table: &mut Assured<'_>, key: Tuple, connection: Connection) -> bool {
    let (reply_key, reply) = reply_of(&key, &connection);
    let entered = match table.insert(reply_key, reply, NO_EXIST) {
        Ok(()) => true,
        Err(error) if exists(&error) => false,
        Err(_) => return false,
    };
    match table.insert(key, connection, NO_EXIST) {
        Ok(()) => true,
        Err(error) if exists(&error) => match table.get(&key, 0) {
            Ok(held) if is_later(&connection, &held) => table.insert(key, connection, 0).is_ok(),
            held => held.is_ok(),
        },
        Err(_) => {
            if entered {
                let _ = table.remove(&reply_key);
            }
            false
        }
    }
}

/// The same for the other table.
fn copy_unassured(table: &Sets, key: Tuple, connection: Connection) -> bool {
    let (reply_key, reply) = reply_of(&key, &connection);
    let result = match table.get(&key) {
        Ok(Some((held, _))) if !is_later(&connection, &held) => return true,
        Ok(Some(_)) => table.insert(&key, &connection),
        Ok(None) => match table.insert(&reply_key, &reply) {
            Ok(true) => table.insert(&key, &connection),
            result => result,
        },
        Err(error) => Err(error),
    };
    result.unwrap_or(false)
}

/// Key and value of the backend's direction.
fn reply_of(key: &Tuple, connection: &Connection) -> (Tuple, Connection) {
    let (reply_key, mut reply) = connection.mirror(key);
    reply.life = cached(connection.life);
    (reply_key, reply)
}

/// Whether the connection has gone on after it was copied: packets may have met
/// either table.
fn is_later(connection: &Connection, held: &Connection) -> bool {
    let (held, found) = (Life::unpack(held.life), Life::unpack(connection.life));
    let was_seen_later = found.seen != held.seen && held.idle(found.seen) > 0;
    was_seen_later || found.seen == held.seen && found.state > held.state
}

/// What a backend's half holds as its life.
fn cached(life: u64) -> u64 {
    Life {
        state: lb_common::State::Open,
        ..Life::unpack(life)
    }
    .pack()
}

fn exists(error: &MapError) -> bool {
    let MapError::SyscallError(error) = error else {
        return false;
    };
    error.io_error.kind() == std::io::ErrorKind::AlreadyExists
}
