//! The connection tables, read for people.

use std::collections::HashMap;

use aya::maps::Map;
use lb_common::{Connection, Life, State, Tuple};

use super::{
    Dataplane, DataplaneError,
    elements::{Elements, Walk},
    sets::{self, Places},
};

/// A connection from the client's side, as the table holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenConnection {
    pub original: Tuple,
    pub connection: Connection,
}

/// Connections as they were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Those that are not over, by backend id and generation.
    pub by_backend: HashMap<(u32, u32), u64>,
    pub assured: u64,
    pub unassured: u64,
}

/// A handle of its own on the tables. To walk full ones takes long enough to
/// be done on a thread of its own.
#[derive(Clone, Debug)]
pub struct ConnectionTable {
    pub(super) overflow: Table,
    pub(super) sets: Table,
}

/// One of the tables, to be read.
#[derive(Clone, Debug)]
pub(super) enum Table {
    Hash(Elements<Tuple, Connection>),
    Sets(Places),
}

/// A walk over a table.
#[derive(Debug)]
pub(super) enum TableWalk {
    Hash(Walk<Tuple, Connection>),
    Sets(sets::Walk),
}

/// What [`TableWalk::step`] did.
pub(super) struct Step {
    /// How many elements and sets it looked at: what it cost.
    pub(super) places: u64,
    /// After the end it begins anew.
    pub(super) ended: bool,
}

impl Table {
    pub(super) fn overflow(map: &Map) -> Result<Self, DataplaneError> {
        Elements::open("ASSURED", map).map(Self::Hash)
    }

    pub(super) fn sets(sets: &Map, members: &Map) -> Result<Self, DataplaneError> {
        Places::open(sets, members).map(Self::Sets)
    }

    /// [`Step::places`] of a whole walk at most, as far as it is known.
    pub(super) fn places(&self) -> u64 {
        match self {
            Self::Hash(_) => 0,
            Self::Sets(places) => places.room(),
        }
    }

    pub(super) fn walk(&self) -> TableWalk {
        match self {
            Self::Hash(elements) => TableWalk::Hash(elements.walk()),
            Self::Sets(places) => TableWalk::Sets(places.walk()),
        }
    }

    /// Calls `visit` for every connection, with the key of its client's direction, and
    /// whether it is assured.
    pub(super) fn for_each_forward(
        &self,
        mut visit: impl FnMut(Tuple, Connection, bool),
    ) -> Result<(), DataplaneError> {
        let mut walk = self.walk();
        let mut visit = |key: &Tuple, connection: &Connection, is_assured| {
            if connection.flags & Connection::REPLY == 0 {
                visit(*key, *connection, is_assured);
            }
        };
        while !walk.step(&mut visit)?.ended {}
        Ok(())
    }
}

impl TableWalk {
    pub(super) fn begin_anew(&mut self) {
        match self {
            Self::Hash(walk) => walk.begin_anew(),
            Self::Sets(walk) => walk.begin_anew(),
        }
    }

    /// Calls `visit` for the next elements; says whether each is assured.
    pub(super) fn step(
        &mut self,
        visit: &mut impl FnMut(&Tuple, &Connection, bool),
    ) -> Result<Step, DataplaneError> {
        match self {
            Self::Hash(walk) => {
                let mut places = 0;
                let ended = walk.step(&mut |key, connection| {
                    places += 1;
                    visit(key, connection, true);
                })?;
                Ok(Step { places, ended })
            }
            Self::Sets(walk) => walk.step(visit),
        }
    }
}

impl Dataplane {
    /// Opens the tables once more.
    pub fn connection_table(&self) -> Result<ConnectionTable, DataplaneError> {
        let maps = &self.connections;
        Ok(ConnectionTable {
            overflow: Table::overflow(&maps.overflow)?,
            sets: Table::sets(&maps.sets, &maps.members)?,
        })
    }
}

impl ConnectionTable {
    /// Connections as their clients opened them, of all services. Those that
    /// the kernel does not give are left out.
    pub fn iter(&self) -> impl Iterator<Item = OpenConnection> {
        let mut all = Vec::new();
        for table in [&self.overflow, &self.sets] {
            let read = table.for_each_forward(|original, connection, _| {
                all.push(OpenConnection {
                    original,
                    connection,
                });
            });
            if let Err(error) = read {
                tracing::warn!(%error, "connections not read");
            }
        }
        all.into_iter()
    }

    pub fn count(&self) -> Result<Census, DataplaneError> {
        let mut census = Census::default();
        let Census {
            by_backend,
            assured,
            unassured,
        } = &mut census;
        for table in [&self.overflow, &self.sets] {
            table.for_each_forward(|_, connection, is_assured| {
                match is_assured {
                    true => *assured += 1,
                    false => *unassured += 1,
                }
                let state = Life::unpack(connection.life).state;
                if matches!(state, State::Opening | State::Answered | State::Open) {
                    let backend = (connection.backend, connection.generation);
                    *by_backend.entry(backend).or_default() += 1;
                }
            })?;
        }
        Ok(census)
    }
}
