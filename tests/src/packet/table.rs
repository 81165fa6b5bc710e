//! A table of connections, read and changed past the programs.

use std::{io, path::Path};

use anyhow::Result;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use lb_agent::dataplane::Sets;
use lb_common::{Connection, Tuple};

use super::pinned;

/// One of the two.
pub enum Table {
    Assured(HashMap<MapData, Tuple, Connection>),
    Unassured(Sets),
}

impl Table {
    /// # Errors
    /// No such map is pinned there.
    pub fn assured(pins: &Path) -> Result<Self> {
        let map = Map::HashMap(pinned(pins, "ASSURED")?);
        Ok(Self::Assured(map.try_into()?))
    }

    /// # Errors
    /// As above.
    pub fn unassured(pins: &Path) -> Result<Self> {
        let settings = Array::try_from(Map::Array(pinned(pins, "SETTINGS")?))?;
        let map = Map::Array(pinned(pins, "UNASSURED")?);
        Ok(Self::Unassured(Sets::open(&map, &settings)?))
    }

    /// # Errors
    /// Those of bpf(2).
    pub fn get(&self, key: &Tuple) -> Result<Option<Connection>> {
        match self {
            Self::Assured(map) => Ok(found(map.get(key, 0))?),
            Self::Unassured(sets) => Ok(sets.get(key)?),
        }
    }

    /// Enters an element, or replaces it.
    ///
    /// # Errors
    /// As above.
    pub fn insert(&mut self, key: &Tuple, connection: &Connection) -> Result<()> {
        match self {
            Self::Assured(map) => Ok(map.insert(key, connection, 0)?),
            Self::Unassured(sets) => Ok(sets.insert(key, connection)?),
        }
    }

    /// Whether it was there.
    ///
    /// # Errors
    /// As above.
    pub fn remove(&mut self, key: &Tuple) -> Result<bool> {
        match self {
            Self::Assured(map) => Ok(found(map.remove(key))?.is_some()),
            Self::Unassured(sets) => Ok(sets.remove(key)?),
        }
    }

    /// # Errors
    /// As above.
    pub fn keys(&self) -> Result<Vec<Tuple>> {
        match self {
            Self::Assured(map) => Ok(map.keys().collect::<Result<_, _>>()?),
            Self::Unassured(sets) => Ok(sets.keys()?),
        }
    }

    /// Removes every element.
    ///
    /// # Errors
    /// As above.
    pub fn clear(&mut self) -> Result<()> {
        for key in self.keys()? {
            self.remove(&key)?;
        }
        Ok(())
    }
}

/// `None` if there is no such element.
pub fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
