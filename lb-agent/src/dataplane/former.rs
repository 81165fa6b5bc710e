//! Tables of another size: an agent that is told another one starts with new
//! tables, and takes the connections of the old ones along.

use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError};
use lb_common::{Connection, Life, Tuple};

use super::{
    Dataplane, DataplaneError, connections::for_each_forward, elements::Elements, pins::Pins,
};

const NO_EXIST: u64 = 1;

type Table<'a> = BpfHashMap<&'a mut MapData, Tuple, Connection>;

/// What earlier agents left that had tables of other sizes.
#[derive(Debug, Default)]
pub(super) struct Former {
    assured: Vec<Elements<Tuple, Connection>>,
    unassured: Vec<Elements<Tuple, Connection>>,
    copied: bool,
}

impl Former {
    pub(super) fn find(pins: &Pins) -> Self {
        let open = |name, kind: fn(MapData) -> Map| {
            let mut tables = Vec::new();
            for path in pins.other_sizes(name) {
                let failed = |source| DataplaneError::Map { map: name, source };
                let opened = MapData::from_pin(&path).map_err(failed);
                match opened.and_then(|data| Elements::open(name, &kind(data))) {
                    Ok(table) => tables.push(table),
                    Err(error) => tracing::warn!(path = %path.display(), %error, "not read"),
                }
            }
            tables
        };
        Self {
            assured: open("ASSURED", Map::HashMap),
            unassured: open("UNASSURED", Map::LruHashMap),
            copied: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.assured.is_empty() && self.unassured.is_empty()
    }
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
        let has_copied = !self.connections.former.is_empty();
        if has_copied || self.connections.miscounted {
            match self.recount_holdings() {
                Ok(()) => self.connections.miscounted = false,
                Err(error) => tracing::warn!(%error, "connections of Services not counted"),
            }
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
        let mut assured = open("ASSURED", &mut maps.assured)?;
        let mut unassured = open("UNASSURED", &mut maps.unassured)?;
        let mut copied = 0;
        for former in &maps.former.assured {
            for_each_forward(former, |key, connection| {
                let other = connection.mirror(&key).0;
                if copy(&mut assured, key, connection) {
                    // It may have been copied before it was assured.
                    let _ = unassured.remove(&key);
                    let _ = unassured.remove(&other);
                    copied += 1;
                } else if copy(&mut unassured, key, connection) {
                    copied += 1;
                }
            })?;
        }
        for former in &maps.former.unassured {
            for_each_forward(former, |key, connection| {
                if assured.get(&key, 0).is_err() && copy(&mut unassured, key, connection) {
                    copied += 1;
                }
            })?;
        }
        Ok(copied)
    }
}

fn open<'a>(name: &'static str, map: &'a mut Map) -> Result<Table<'a>, DataplaneError> {
    BpfHashMap::try_from(map).map_err(|source| DataplaneError::Map { map: name, source })
}

/// Enters both halves, or brings what is there up to date. `false` if there is
/// no room.
fn copy(table: &mut Table<'_>, key: Tuple, connection: Connection) -> bool {
    let (reply_key, mut reply) = connection.mirror(&key);
    reply.life = cached(connection.life);
    let entered = match table.insert(reply_key, reply, NO_EXIST) {
        Ok(()) => true,
        Err(error) if exists(&error) => false,
        Err(_) => return false,
    };
    match table.insert(key, connection, NO_EXIST) {
        Ok(()) => true,
        Err(error) if exists(&error) => update(table, key, connection),
        Err(_) => {
            if entered {
                let _ = table.remove(&reply_key);
            }
            false
        }
    }
}

/// Writes the life that is later: packets may have met either table.
fn update(table: &mut Table<'_>, key: Tuple, connection: Connection) -> bool {
    let Ok(held) = table.get(&key, 0) else {
        return false;
    };
    let (held, found) = (Life::unpack(held.life), Life::unpack(connection.life));
    let is_later = found.seen != held.seen && held.idle(found.seen) > 0;
    let moved_on = found.seen == held.seen && found.state > held.state;
    !(is_later || moved_on) || table.insert(key, connection, 0).is_ok()
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
