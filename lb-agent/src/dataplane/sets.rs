//! The table of connections, changed past the programs.

use std::{collections::HashMap, io};

use aya::maps::{Array, Map, MapData, MapError};
use lb_common::{
    Connection, Life, Tuple,
    sets::{Element, Mark, Place, Secret, Set, index},
};

use super::{
    DataplaneError, bpf,
    connections::Step,
    elements::{self, Elements},
};

/// All sets and what is in them.
#[derive(Clone, Debug)]
pub(super) struct Places {
    sets: Elements<u32, Set>,
    elements: Elements<u32, Element>,
}

/// A walk over them. What is entered or removed meanwhile may be seen or not, all else
/// is seen once.
#[derive(Debug)]
pub(super) struct Walk {
    places: Places,
    sets: elements::Walk<u32, Set>,
}

/// What a program changes of the same set between the read and the write of a call
/// is lost.
#[derive(Clone, Debug)]
pub struct Sets {
    places: Places,
    secret: Secret,
}

impl Places {
    /// `sets` and `elements` are the maps SETS and CONNECTIONS.
    pub(super) fn open(sets: &Map, elements: &Map) -> Result<Self, DataplaneError> {
        Ok(Self {
            sets: Elements::open(SETS, sets)?,
            elements: Elements::open(CONNECTIONS, elements)?,
        })
    }

    /// [`Step::places`] of a whole walk, at most.
    pub(super) fn room(&self) -> u64 {
        u64::from(self.sets.room) + u64::from(self.elements.room)
    }

    pub(super) fn walk(&self) -> Walk {
        Walk {
            places: self.clone(),
            sets: self.sets.walk(),
        }
    }

    /// Calls `visit` for the elements of neighbouring sets that were read. How many it
    /// has read for that.
    fn visit(
        &self,
        sets: &[(u32, Set)],
        visit: &mut impl FnMut(&Tuple, &Connection, bool),
    ) -> Result<u64, DataplaneError> {
        let taken = taken(sets);
        let (Some(&(first, _)), Some(&(last, _))) = (taken.first(), taken.last()) else {
            return Ok(0);
        };
        let read = self.elements.range(first, last - first + 1, 0);
        let elements = read.map_err(|error| failed(CONNECTIONS, error))?;
        // One that made room meanwhile may have been read by halves.
        let again = self.sets.range(sets[0].0, sets.len() as u32, 0);
        let again = again.map_err(|error| failed(SETS, error))?;
        let again: Vec<_> = (sets[0].0..).zip(again).collect();
        let still: HashMap<u32, Mark> = self::taken(&again).into_iter().collect();
        for (index, before) in taken {
            if let Some(mark) = still.get(&index)
                && mark.is_of(before)
            {
                let Element { key, connection } = &elements[(index - first) as usize];
                visit(key, connection, mark.is_assured());
            }
        }
        Ok(elements.len() as u64)
    }
}

/// Index into CONNECTIONS and mark of every element of these sets, in order.
fn taken(sets: &[(u32, Set)]) -> Vec<(u32, Mark)> {
    let of_set = |(set, marks): &(u32, Set)| {
        let set = *set;
        let ways: Vec<_> = marks.iter().collect();
        ways.into_iter()
            .map(move |(way, mark)| (index(set, way), mark))
    };
    sets.iter().flat_map(of_set).collect()
}

impl Walk {
    /// Sets whose elements are read at once.
    const STRETCH: usize = 8;

    /// Calls `visit` for the next elements; says whether each is assured.
    pub(super) fn step(
        &mut self,
        visit: &mut impl FnMut(&Tuple, &Connection, bool),
    ) -> Result<Step, DataplaneError> {
        let mut sets = Vec::new();
        let ended = self
            .sets
            .step(&mut |&set, marks| sets.push((set, *marks)))?;
        let mut places = sets.len() as u64;
        for stretch in sets.chunks(Self::STRETCH) {
            places += self.places.visit(stretch, visit)?;
        }
        Ok(Step { places, ended })
    }
}

impl Sets {
    /// `sets`, `elements` and `secret` are the maps SETS, CONNECTIONS and SECRET.
    pub fn open(
        sets: &Map,
        elements: &Map,
        secret: &Array<MapData, Secret>,
    ) -> Result<Self, DataplaneError> {
        let secret = secret.get(&0, 0).map_err(|source| DataplaneError::Map {
            map: "SECRET",
            source,
        })?;
        Ok(Self {
            places: Places::open(sets, elements)?,
            secret,
        })
    }

    /// The connection, and whether it is assured.
    pub fn get(&self, key: &Tuple) -> Result<Option<(Connection, bool)>, DataplaneError> {
        let found = self.find(self.place(key), key)?;
        Ok(found.map(|(set, way, connection)| (connection, set.marks[way as usize].is_assured())))
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
        // Programs read without a lock: they see the element, or that there is none.
        let before = set.marks[way];
        set.marks[way] = before.cleared();
        self.write(place, &set)?;
        let element = Element {
            key: *key,
            connection: *connection,
        };
        let elements = &self.places.elements;
        let written = elements.set(index(place.set, way as u32), &element, 0);
        written.map_err(|error| failed(CONNECTIONS, error))?;
        let mark = before.next(place.tag, seen);
        set.marks[way] = mark.with_assured(before.is_assured());
        set.changes = set.changes.wrapping_add(1);
        self.write(place, &set)?;
        Ok(true)
    }

    /// Whether it was there.
    pub fn remove(&self, key: &Tuple) -> Result<bool, DataplaneError> {
        let place = self.place(key);
        let Some((mut set, way, _)) = self.find(place, key)? else {
            return Ok(false);
        };
        let mark = &mut set.marks[way as usize];
        *mark = mark.cleared();
        self.write(place, &set)?;
        Ok(true)
    }

    /// All keys of elements that are, or are not, assured, in no order.
    pub fn keys(&self, assured: bool) -> Result<Vec<Tuple>, DataplaneError> {
        let mut keys = Vec::new();
        let mut walk = self.places.walk();
        let mut visit = |key: &Tuple, _: &Connection, is_assured| {
            if is_assured == assured {
                keys.push(*key);
            }
        };
        while !walk.step(&mut visit)?.ended {}
        Ok(keys)
    }

    /// The set of the element with this key, and where it is there.
    fn find(
        &self,
        place: Place,
        key: &Tuple,
    ) -> Result<Option<(Set, u32, Connection)>, DataplaneError> {
        let set = self.read(place)?;
        let Some(way) = set.find(place.tag) else {
            return Ok(None);
        };
        let element = self.places.elements.get(index(place.set, way), 0);
        let element = element.map_err(|error| failed(CONNECTIONS, error))?;
        Ok((element.key == *key).then_some((set, way, element.connection)))
    }

    fn place(&self, key: &Tuple) -> Place {
        Place::of(key, &self.secret, self.places.sets.room)
    }

    fn read(&self, place: Place) -> Result<Set, DataplaneError> {
        let read = self.places.sets.get(place.set, bpf::LOCKED);
        read.map_err(|error| failed(SETS, error))
    }

    fn write(&self, place: Place, set: &Set) -> Result<(), DataplaneError> {
        let written = self.places.sets.set(place.set, set, bpf::LOCKED);
        written.map_err(|error| failed(SETS, error))
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

const SETS: &str = "SETS";
const CONNECTIONS: &str = "CONNECTIONS";

fn failed(map: &'static str, error: io::Error) -> DataplaneError {
    DataplaneError::Map {
        map,
        source: MapError::from(error),
    }
}
