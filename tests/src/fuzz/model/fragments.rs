//! Parts of packets: what the first one says of the others, and those that came
//! before it.

use std::{collections::BTreeMap, net::IpAddr};

use super::parse::{Parsed, Part};
use crate::fuzz::flow::Flow;

/// Of one packet, in bytes for each and in number.
const LONGEST: usize = 2048;
const MOST: usize = 4;
/// Ports are remembered for as long, in seconds.
const LIFETIME: u64 = 30;

/// What IPv6 has in place of the protocol, which later parts do not say.
const IPV6_FRAGMENT: u8 = 44;

/// Source, destination, number, protocol.
pub(crate) type Key = (IpAddr, IpAddr, u32, u8);

#[derive(Clone, Debug, Default)]
pub(crate) struct Fragments {
    /// Flows, and when they were heard of.
    known: BTreeMap<Key, (Flow, u64)>,
    held: Vec<(Key, Vec<u8>)>,
}

/// Whether there is room for a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Yes,
    No,
    /// Others wait, perhaps in the same place.
    Perhaps,
}

pub(crate) fn key(parsed: &Parsed) -> Key {
    let flow = &parsed.flow;
    let ends = (flow.source.ip(), flow.destination.ip());
    let protocol = match flow.source.is_ipv4() {
        true => flow.protocol,
        false => IPV6_FRAGMENT,
    };
    (ends.0, ends.1, parsed.id, protocol)
}

impl Fragments {
    pub(crate) fn remember(&mut self, parsed: &Parsed, now: u64) {
        debug_assert_eq!(parsed.part, Part::First);
        self.known.insert(key(parsed), (parsed.flow, now));
    }

    /// The packet's flow, and for how many seconds it has been known.
    pub(crate) fn recall(&self, key: &Key, now: u64) -> Option<(Flow, u64)> {
        let (flow, since) = self.known.get(key)?;
        Some((*flow, now - since))
    }

    pub(crate) fn is_old(age: u64) -> bool {
        age > LIFETIME
    }

    /// Neither old for sure nor young for sure.
    pub(crate) fn is_on_edge(age: u64) -> bool {
        age == LIFETIME
    }

    pub(crate) fn room(&self, key: &Key, frame: &[u8]) -> Room {
        let same = self.held.iter().filter(|(held, _)| held == key).count();
        if frame.len() > LONGEST || same >= MOST {
            return Room::No;
        }
        match self.held.len() == same {
            true => Room::Yes,
            false => Room::Perhaps,
        }
    }

    pub(crate) fn hold(&mut self, key: Key, frame: &[u8]) {
        self.held.push((key, frame.to_vec()));
    }

    pub(crate) fn is_waiting(&self, key: &Key) -> bool {
        self.held.iter().any(|(held, _)| held == key)
    }

    /// Parts of the packet, which wait no more.
    pub(crate) fn release(&mut self, key: &Key) -> Vec<Vec<u8>> {
        let (released, rest) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(held, _)| held == key);
        self.held = rest;
        let released: Vec<(Key, Vec<u8>)> = released;
        released.into_iter().map(|(_, frame)| frame).collect()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.known.keys()
    }

    /// Whether any part waits.
    pub(crate) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    pub(crate) fn drop_held(&mut self) {
        self.held.clear();
    }
}
