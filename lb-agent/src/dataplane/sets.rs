//! The table of connections, changed past the programs.

use std::io;

use aya::maps::{Array, Map, MapData, MapError};
use lb_common::{
    Connection, Life, Tuple,
    sets::{Element, Place, Secret, Set},
};

use super::{DataplaneError, elements::Elements};

/// What a program changes of the same set between the read and the write of a call
/// is lost.
#[derive(Clone, Debug)]
pub struct Sets {
    elements: Elements<u32, Set>,
    secret: Secret,
}

impl Sets {
    /// `connections` and `secret` are the maps of these names.
    pub fn open(
        connections: &Map,
        secret: &Array<MapData, Secret>,
    ) -> Result<Self, DataplaneError> {
        let secret = secret.get(&0, 0).map_err(|source| DataplaneError::Map {
            map: "SECRET",
            source,
        })?;
        Ok(Self {
            elements: Elements::open("CONNECTIONS", connections)?,
            secret,
        })
    }

    /// The connection, and whether it is assured.
    pub fn get(&self, key: &Tuple) -> Result<Option<(Connection, bool)>, DataplaneError> {
        let set = self.read(self.place(key))?;
        let found = |way: usize| (set.elements[way].connection, set.marks[way].is_assured());
        Ok(set.find(key).map(found))
    }

    /// Enters an element in place of the one with this key, which stays assured if it
    /// was, or of an unassured one that was seen longer ago. `false` if there is none.
    pub fn insert(&self, key: &Tuple, connection: &Connection) -> Result<bool, DataplaneError> {
        let place = self.place(key);
        let mut set = self.read(place)?;
        let seen = Life::unpack(connection.life).seen;
        let Some(way) = set.room(place.tag, seen) else {
            return Ok(false);
        };
        set.elements[way] = Element {
            key: *key,
            connection: *connection,
        };
        // Programs read without a lock: they see the element, or that there is none.
        let before = set.marks[way];
        set.marks[way] = before.cleared();
        self.write(place, &set)?;
        let mark = before.next(place.tag, seen);
        set.marks[way] = mark.with_assured(before.is_assured());
        set.changes = set.changes.wrapping_add(1);
        self.write(place, &set)?;
        Ok(true)
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

    /// All keys of elements that are, or are not, assured, in no order.
    pub fn keys(&self, assured: bool) -> Result<Vec<Tuple>, DataplaneError> {
        let mut keys = Vec::new();
        self.elements.for_each(|_, set| {
            let those = set.iter().filter(|&(_, is_assured)| is_assured == assured);
            keys.extend(those.map(|(element, _)| element.key));
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

/// Draws what nobody outside can guess, if it was not drawn before.
pub(super) fn draw(map: &mut Array<MapData, Secret>) -> Result<(), DataplaneError> {
    let failed = |source| DataplaneError::Map {
        map: "SECRET",
        source,
    };
    let mut secret = map.get(&0, 0).map_err(failed)?;
    if secret != Secret::default() {
        return Ok(());
    }
    let words = bytemuck::bytes_of_mut(&mut secret.words);
    let drawn = getrandom::fill(words).map_err(|error| MapError::from(io::Error::from(error)));
    drawn.map_err(failed)?;
    map.set(0, secret, 0).map_err(failed)
}

fn failed(error: io::Error) -> DataplaneError {
    DataplaneError::Map {
        map: "CONNECTIONS",
        source: MapError::from(error),
    }
}
