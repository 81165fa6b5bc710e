//! Connections, read and changed past the programs.

use std::{io, path::Path};

use anyhow::{Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use lb_agent::dataplane::Sets;
use lb_common::{Connection, Tuple};

use super::pinned;

/// One of the two kinds.
pub enum Table {
    /// In the sets, or where those are that the sets have no room for.
    Assured(Sets, HashMap<MapData, Tuple, Connection>),
    Unassured(Sets),
}

impl Table {
    /// # Errors
    /// No such maps are pinned there.
    pub fn assured(pins: &Path) -> Result<Self> {
        let map = Map::HashMap(pinned(pins, "ASSURED")?);
        Ok(Self::Assured(sets(pins)?, map.try_into()?))
    }

    /// # Errors
    /// As above.
    pub fn unassured(pins: &Path) -> Result<Self> {
        sets(pins).map(Self::Unassured)
    }

    /// # Errors
    /// Those of bpf(2).
    pub fn get(&self, key: &Tuple) -> Result<Option<Connection>> {
        let kept = match self {
            Self::Assured(sets, _) => of_kind(sets, key, true)?,
            Self::Unassured(sets) => of_kind(sets, key, false)?,
        };
        match self {
            Self::Assured(_, map) if kept.is_none() => Ok(found(map.get(key, 0))?),
            _ => Ok(kept),
        }
    }

    /// Whether the element is in the sets.
    ///
    /// # Errors
    /// As above.
    pub fn is_in_sets(&self, key: &Tuple) -> Result<bool> {
        let (Self::Assured(sets, _) | Self::Unassured(sets)) = self;
        Ok(sets.get(key)?.is_some())
    }

    /// Enters an element, or replaces it. New assured ones are not in the sets.
    ///
    /// # Errors
    /// As above; or a set has no room.
    pub fn insert(&mut self, key: &Tuple, connection: &Connection) -> Result<()> {
        match self {
            Self::Assured(sets, map) if of_kind(sets, key, true)?.is_none() => {
                Ok(map.insert(key, connection, 0)?)
            }
            Self::Assured(sets, _) | Self::Unassured(sets) => {
                ensure!(sets.insert(key, connection)?, "all of the set is assured");
                Ok(())
            }
        }
    }

    /// Whether it was there.
    ///
    /// # Errors
    /// As above.
    pub fn remove(&mut self, key: &Tuple) -> Result<bool> {
        match self {
            Self::Assured(sets, map) if of_kind(sets, key, true)?.is_none() => {
                Ok(found(map.remove(key))?.is_some())
            }
            Self::Unassured(sets) if of_kind(sets, key, false)?.is_none() => Ok(false),
            Self::Assured(sets, _) | Self::Unassured(sets) => Ok(sets.remove(key)?),
        }
    }

    /// # Errors
    /// As above.
    pub fn keys(&self) -> Result<Vec<Tuple>> {
        match self {
            Self::Assured(sets, map) => {
                let mut keys = sets.keys(true)?;
                for key in map.keys() {
                    keys.push(key?);
                }
                Ok(keys)
            }
            Self::Unassured(sets) => Ok(sets.keys(false)?),
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

fn sets(pins: &Path) -> Result<Sets> {
    let secret = Array::try_from(Map::Array(pinned(pins, "SECRET")?))?;
    let [sets, elements] = ["SETS", "CONNECTIONS"].map(|name| pinned(pins, name).map(Map::Array));
    Ok(Sets::open(&sets?, &elements?, &secret)?)
}

fn of_kind(sets: &Sets, key: &Tuple, assured: bool) -> Result<Option<Connection>> {
    let found = sets.get(key)?;
    Ok(found.and_then(|(connection, is_assured)| (is_assured == assured).then_some(connection)))
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
