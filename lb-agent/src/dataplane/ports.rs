//! Which ports frontends may have, as the programs ask it.

use std::collections::BTreeSet;

use aya::maps::{Array, MapData, MapError};
use lb_common::{
    FrontendKey,
    ports::{WORDS, place},
};

/// A bit stays when the last frontend of its port goes: it costs a lookup now and then.
pub(super) struct Ports {
    map: Array<MapData, u64>,
    /// What the map is to hold.
    words: Vec<u64>,
    /// Those that it does not hold yet.
    unwritten: BTreeSet<u32>,
}

impl Ports {
    pub(super) fn open(map: Array<MapData, u64>) -> Result<Self, MapError> {
        let words: Result<_, _> = (0..WORDS).map(|index| map.get(&index, 0)).collect();
        Ok(Self {
            words: words?,
            unwritten: BTreeSet::new(),
            map,
        })
    }

    /// Has programs look for frontends of these ports. To be called before there are
    /// any.
    pub(super) fn admit<'a>(
        &mut self,
        keys: impl IntoIterator<Item = &'a FrontendKey>,
    ) -> Result<(), MapError> {
        for key in keys {
            let (index, bit) = place(key.port);
            let word = &mut self.words[index as usize];
            if *word & bit == 0 {
                *word |= bit;
                self.unwritten.insert(index);
            }
        }
        while let Some(&index) = self.unwritten.first() {
            self.map.set(index, self.words[index as usize], 0)?;
            self.unwritten.remove(&index);
        }
        Ok(())
    }
}
