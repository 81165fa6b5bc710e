//! Elements of a map, read and written by the thousand.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use aya::{Pod, maps::Map};
use bytemuck::Zeroable;

use super::{DataplaneError, bpf};
use crate::reconcile::{Refusals, TableError};

/// A hash map or an array of `K` and `V`; copies share it.
#[derive(Clone, Debug)]
pub(super) struct Elements<K, V> {
    name: &'static str,
    /// How many it takes.
    pub(super) room: u32,
    map: Arc<OwnedFd>,
    of: std::marker::PhantomData<fn() -> (K, V)>,
}

/// A walk over all elements, in no order if they are of a hash map. What is entered or removed meanwhile
/// may be seen or not, all else is seen once.
#[derive(Debug)]
pub(super) struct Walk<K, V> {
    elements: Elements<K, V>,
    position: Option<u32>,
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Pod + Zeroable, V: Pod + Zeroable> Elements<K, V> {
    pub(super) fn open(name: &'static str, map: &Map) -> Result<Self, DataplaneError> {
        let failed = |source| DataplaneError::Map { map: name, source };
        let (Map::HashMap(map) | Map::LruHashMap(map) | Map::Array(map)) = map else {
            return Err(DataplaneError::Incomplete { what: "map", name });
        };
        let info = map.info().map_err(failed)?;
        for (size, expected) in [
            (info.key_size(), size_of::<K>()),
            (info.value_size(), size_of::<V>()),
        ] {
            if size as usize != expected {
                let size = size as usize;
                let error = aya::maps::MapError::InvalidValueSize { size, expected };
                return Err(failed(error));
            }
        }
        let copy = map.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            name,
            room: info.max_entries(),
            map: Arc::new(copy.map_err(|error| failed(error.into()))?),
            of: std::marker::PhantomData,
        })
    }

    /// Writes them in order. What was refused, by its index; all else is done.
    pub(super) fn write(&self, keys: &[K], values: &[V]) -> Refusals {
        let mut refusals = Vec::new();
        let mut at = 0;
        while at < keys.len() {
            let (written, result) =
                bpf::update_batch(self.map.as_fd(), &keys[at..], &values[at..], 0);
            at += written;
            if let Err(error) = result {
                let error = TableError {
                    map: self.name,
                    reason: error.to_string(),
                };
                refusals.push((at, error));
                at += 1;
            }
        }
        refusals
    }

    /// Calls `visit` for every element.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&K, &V)) -> Result<(), DataplaneError> {
        let mut walk = self.walk();
        while !walk.step(&mut visit)? {}
        Ok(())
    }

    pub(super) fn walk(&self) -> Walk<K, V> {
        Walk {
            elements: self.clone(),
            position: None,
            keys: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl<V: Pod + Zeroable> Elements<u32, V> {
    /// Reads an element of an array. `flags` are those of bpf(2).
    pub(super) fn get(&self, index: u32, flags: u64) -> io::Result<V> {
        Ok(self.range(index, 1, flags)?[0])
    }

    /// Reads so many elements of an array.
    pub(super) fn range(&self, first: u32, count: u32, flags: u64) -> io::Result<Vec<V>> {
        let count = count as usize;
        let (mut indices, mut values) = (vec![0; count], vec![V::zeroed(); count]);
        let before = first.checked_sub(1);
        let map = self.map.as_fd();
        let read = bpf::lookup_batch(map, before, &mut indices, &mut values, flags)?;
        match read.count == count {
            true => Ok(values),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Writes an element of an array.
    pub(super) fn set(&self, index: u32, value: &V, flags: u64) -> io::Result<()> {
        let (indices, values) = ([index], std::slice::from_ref(value));
        bpf::update_batch(self.map.as_fd(), &indices, values, flags).1
    }
}

impl<K: Pod + Zeroable, V: Pod + Zeroable> Walk<K, V> {
    /// Elements that are read at once.
    const STEP: usize = (1 << 19) / (size_of::<K>() + size_of::<V>());

    pub(super) fn begin_anew(&mut self) {
        self.position = None;
    }

    /// Calls `visit` for the next elements. `true` at the end, after which it
    /// begins anew.
    pub(super) fn step(&mut self, visit: &mut impl FnMut(&K, &V)) -> Result<bool, DataplaneError> {
        let batch = self.read().map_err(|error| DataplaneError::Map {
            map: self.elements.name,
            source: error.into(),
        })?;
        let read = self.keys.iter().zip(&self.values).take(batch.count);
        read.for_each(|(key, value)| visit(key, value));
        self.position = batch.next;
        Ok(batch.next.is_none())
    }

    fn read(&mut self) -> io::Result<bpf::Batch> {
        let mut room = self.keys.len().max(Self::STEP);
        loop {
            self.keys.resize(room, K::zeroed());
            self.values.resize(room, V::zeroed());
            let map = self.elements.map.as_fd();
            let (keys, values) = (&mut self.keys, &mut self.values);
            let result = bpf::lookup_batch(map, self.position, keys, values, 0);
            match result {
                // More in one bucket than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => room *= 2,
                result => return result,
            }
        }
    }
}
