//! The table of connections, changed past the programs.

use std::io;

use aya::maps::{Array, Map, MapData, MapError};
use lb_common::{
    Connection, Life, Tuple,
    sets::{Element, Members, Place, Secret, Set},
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
    members: Elements<u32, Members>,
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
    /// `sets` and `members` are the maps SETS and CONNECTIONS.
    pub(super) fn open(sets: &Map, members: &Map) -> Result<Self, DataplaneError> {
        Ok(Self {
            sets: Elements::open(SETS, sets)?,
            members: Elements::open(CONNECTIONS, members)?,
        })
    }

    /// [`Step::places`] of a whole walk, at most.
    pub(super) fn room(&self) -> u64 {
        2 * u64::from(self.sets.room)
    }

    pub(super) fn walk(&self) -> Walk {
        Walk {
            places: self.clone(),
            sets: self.sets.walk(),
        }
    }

    /// Calls `visit` for the elements of neighbouring sets that were read, none of
    /// which is empty.
    fn visit(
        &self,
        sets: &[(u32, Set)],
        visit: &mut impl FnMut(&Tuple, &Connection, bool),
    ) -> Result<(), DataplaneError> {
        let (first, count) = (sets[0].0, sets.len() as u32);
        let members = self.members.range(first, count, 0);
        let members = members.map_err(|error| failed(CONNECTIONS, error))?;
        // One that made room meanwhile may have been read by halves.
        let again = self.sets.range(first, count, 0);
        let again = again.map_err(|error| failed(SETS, error))?;
        for (((_, before), after), members) in sets.iter().zip(again).zip(&members) {
            for (way, mark) in after.iter() {
                if mark.is_of(before.marks[way]) {
                    let Element { key, connection } = &members.elements[way];
                    visit(key, connection, mark.is_assured());
                }
            }
        }
        Ok(())
    }
}

impl Walk {
    /// Sets whose elements are read at once, at most.
    const STRETCH: usize = 64;

    pub(super) fn begin_anew(&mut self) {
        self.sets.begin_anew();
    }

    /// Calls `visit` for the next elements; says whether each is assured.
    pub(super) fn step(
        &mut self,
        visit: &mut impl FnMut(&Tuple, &Connection, bool),
    ) -> Result<Step, DataplaneError> {
        let mut sets = Vec::new();
        let mut places = 0;
        let ended = self.sets.step(&mut |&set, marks| {
            places += 1;
            if marks.iter().next().is_some() {
                sets.push((set, *marks));
            }
        })?;
        for neighbours in sets.chunk_by(|before, after| before.0 + 1 == after.0) {
            for stretch in neighbours.chunks(Self::STRETCH) {
                self.places.visit(stretch, visit)?;
            }
        }
        places += sets.len() as u64;
        Ok(Step { places, ended })
    }
}

impl Sets {
    /// `sets`, `members` and `secret` are the maps SETS, CONNECTIONS and SECRET.
    pub fn open(
        sets: &Map,
        members: &Map,
        secret: &Array<MapData, Secret>,
    ) -> Result<Self, DataplaneError> {
        let secret = secret.get(&0, 0).map_err(|source| DataplaneError::Map {
            map: "SECRET",
            source,
        })?;
        Ok(Self {
            places: Places::open(sets, members)?,
            secret,
        })
    }

    /// The connection, and whether it is assured.
    pub fn get(&self, key: &Tuple) -> Result<Option<(Connection, bool)>, DataplaneError> {
        let place = self.place(key);
        let set = self.read(place)?;
        let Some(way) = set.find(place.tag) else {
            return Ok(None);
        };
        let Element {
            key: held,
            connection,
        } = self.members(place)?.elements[way];
        Ok((held == *key).then_some((connection, set.marks[way].is_assured())))
    }

    /// Enters an element in place of the one with this key, which stays assured if it
    /// was, or of an unassured one that was seen longer ago. `false` if there is none.
    pub fn insert(&self, key: &Tuple, connection: &Connection) -> Result<bool, DataplaneError> {
        let place = self.place(key);
        let (mut set, mut members) = (self.read(place)?, self.members(place)?);
        let seen = Life::unpack(connection.life).seen;
        let Some(way) = set.room(place.tag, seen) else {
            return Ok(false);
        };
        // Programs read without a lock: they see the element, or that there is none.
        let before = set.marks[way];
        set.marks[way] = before.cleared();
        self.write(place, &set)?;
        members.elements[way] = Element {
            key: *key,
            connection: *connection,
        };
        let written = self.places.members.set(place.set, &members, 0);
        written.map_err(|error| failed(CONNECTIONS, error))?;
        let mark = before.next(place.tag, seen);
        set.marks[way] = mark.with_assured(before.is_assured());
        set.changes = set.changes.wrapping_add(1);
        self.write(place, &set)?;
        self.clear_strays(place)?;
        Ok(true)
    }

    /// Whether it was there.
    pub fn remove(&self, key: &Tuple) -> Result<bool, DataplaneError> {
        let place = self.place(key);
        let mut set = self.read(place)?;
        let Some(way) = set.find(place.tag) else {
            return Ok(false);
        };
        if self.members(place)?.elements[way].key != *key {
            return Ok(false);
        }
        set.marks[way] = set.marks[way].cleared();
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

    /// Removes marks of elements that a program has replaced between the read and the
    /// write of a call: nobody would find them.
    fn clear_strays(&self, place: Place) -> Result<(), DataplaneError> {
        let mut set = self.read(place)?;
        let members = self.members(place)?;
        let mut has_strays = false;
        for (mark, element) in set.marks.iter_mut().zip(&members.elements) {
            let own = Place {
                tag: mark.tag(),
                ..place
            };
            if mark.tag() != 0 && self.place(&element.key) != own {
                *mark = mark.cleared();
                has_strays = true;
            }
        }
        match has_strays {
            true => self.write(place, &set),
            false => Ok(()),
        }
    }

    fn place(&self, key: &Tuple) -> Place {
        Place::of(key, &self.secret, self.places.sets.room)
    }

    fn read(&self, place: Place) -> Result<Set, DataplaneError> {
        let read = self.places.sets.get(place.set, bpf::LOCKED);
        read.map_err(|error| failed(SETS, error))
    }

    fn members(&self, place: Place) -> Result<Members, DataplaneError> {
        let read = self.places.members.get(place.set, 0);
        read.map_err(|error| failed(CONNECTIONS, error))
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
