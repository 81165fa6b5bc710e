//! The connection tables, read for people.

use std::collections::HashMap;

use lb_common::{Connection, Life, State, Tuple};

use super::{Dataplane, DataplaneError, elements::Elements};

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
    pub(super) assured: Elements<Tuple, Connection>,
    pub(super) unassured: Elements<Tuple, Connection>,
}

impl Dataplane {
    /// Opens the tables once more.
    pub fn connection_table(&self) -> Result<ConnectionTable, DataplaneError> {
        let maps = &self.connections;
        Ok(ConnectionTable {
            assured: Elements::open("ASSURED", &maps.assured)?,
            unassured: Elements::open("UNASSURED", &maps.unassured)?,
        })
    }
}

impl ConnectionTable {
    /// Connections as their clients opened them, of all services. Those that
    /// the kernel does not give are left out.
    pub fn iter(&self) -> impl Iterator<Item = OpenConnection> {
        let mut all = Vec::new();
        for elements in [&self.assured, &self.unassured] {
            let read = for_each_forward(elements, |original, connection| {
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
        for (elements, count) in [(&self.assured, assured), (&self.unassured, unassured)] {
            for_each_forward(elements, |_, connection| {
                *count += 1;
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

pub(super) fn for_each_forward(
    elements: &Elements<Tuple, Connection>,
    mut visit: impl FnMut(Tuple, Connection),
) -> Result<(), DataplaneError> {
    elements.for_each(|key, connection| {
        if connection.flags & Connection::REPLY == 0 {
            visit(*key, *connection);
        }
    })
}
