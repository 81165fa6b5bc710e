//! The table of unassured connections, changed past the programs.

use std::{array, io};

use aya::maps::{Array, Map, MapData, MapError};
use lb_common::{
    Connection, Life, Settings, Tuple,
    sets::{Element, Place, SECRET, Set},
};

use super::{DataplaneError, elements::Elements};

/// What a program changes of the same set between the read and the write of a call
/// is lost.
#[derive(Clone, Debug)]
pub struct Sets {
    elements: Elements<u32, Set>,
    secret: [u32; SECRET],
}

impl Sets {
    /// `unassured` and `settings` are the maps of these names.
    pub fn open(
        unassured: &Map,
        settings: &Array<MapData, Settings>,
    ) -> Result<Self, DataplaneError> {
        let settings = settings.get(&0, 0);
        let settings = settings.map_err(|source| DataplaneError::Map {
            map: "SETTINGS",
            source,
        })?;
        Ok(Self {
            elements: Elements::open("UNASSURED", unassured)?,
            secret: settings.secret,
        })
    }

    pub fn get(&self, key: &Tuple) -> Result<Option<Connection>, DataplaneError> {
        let set = self.read(self.place(key))?;
        Ok(set.find(key).map(|way| set.elements[way].connection))
    }

    /// Enters an element in place of the one with this key, or of one that was seen
    /// longer ago.
    pub fn insert(&self, key: &Tuple, connection: &Connection) -> Result<(), DataplaneError> {
        let place = self.place(key);
        let mut set = self.read(place)?;
        let seen = Life::unpack(connection.life).seen;
        let way = set.room(place.tag, seen);
        set.elements[way] = Element {
            key: *key,
            connection: *connection,
        };
        // Programs read without a lock: they see the element, or that there is none.
        let before = set.marks[way];
        set.marks[way] = before.cleared();
        self.write(place, &set)?;
        set.marks[way] = before.next(place.tag, seen);
        set.changes = set.changes.wrapping_add(1);
        self.write(place, &set)
    }

    /// Whether it was there.
    pub fn remove(&self, key: &Tuple) -> Result<bool, DataplaneError> {
        let place = self.place(key);
        let mut set = self.read(place)?;
        let Some(way) = set.find(key) else {
            return Ok(false);
        };
        set.marks[way] = set.marks[way].cleared();
        self.write(place, &set)?;
        Ok(true)
    }

    /// All keys, in no order.
    pub fn keys(&self) -> Result<Vec<Tuple>, DataplaneError> {
        let mut keys = Vec::new();
        self.elements.for_each(|_, set| {
            keys.extend(set.iter().map(|element| element.key));
        })?;
        Ok(keys)
    }

    fn place(&self, key: &Tuple) -> Place {
        Place::of(key, &self.secret, self.elements.room)
    }

    fn read(&self, place: Place) -> Result<Set, DataplaneError> {
        self.elements.get(place.set).map_err(failed)
    }

    fn write(&self, place: Place, set: &Set) -> Result<(), DataplaneError> {
        self.elements.set(place.set, set).map_err(failed)
    }
}

/// What nobody outside can guess.
pub(super) fn secret() -> io::Result<[u32; SECRET]> {
    let mut words = array::from_fn(|_| 0);
    getrandom::fill(bytemuck::bytes_of_mut(&mut words))?;
    Ok(words)
}

fn failed(error: io::Error) -> DataplaneError {
    DataplaneError::Map {
        map: "UNASSURED",
        source: MapError::from(error),
    }
}
