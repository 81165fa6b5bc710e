//! Sets of sources, shared by all ports that let in the same networks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use ipnet::IpNet;
use lb_common::NetworkKey;

use super::{TableError, Tables, pool::SLOT_GRACE};

type Networks = BTreeSet<IpNet>;

/// Sets are counted up; none gets here in a node's life.
const IMPLAUSIBLE: u32 = 1 << 31;

#[derive(Debug, Default)]
pub(super) struct Sources {
    /// By number: the networks, and how many ports have them.
    sets: BTreeMap<u32, (Networks, usize)>,
    numbers: HashMap<Networks, u32>,
    next: u32,
    /// Sets that no frontend shows, until no program may still look at them.
    resting: VecDeque<(Duration, u32, Networks)>,
}

impl Sources {
    /// Begins with what the kernel holds; nobody has it yet.
    pub(super) fn new(found: &BTreeMap<u32, Networks>) -> Self {
        let mut this = Self {
            next: NetworkKey::FIRST_SOURCES,
            ..Self::default()
        };
        for (&set, networks) in found {
            if set < IMPLAUSIBLE {
                this.next = this.next.max(set + 1);
            }
            this.sets.insert(set, (networks.clone(), 0));
            this.numbers.insert(networks.clone(), set);
        }
        this
    }

    /// Gives a port the set that its frontends show in the kernel.
    pub(super) fn adopt(&mut self, set: u32) -> Option<Networks> {
        let (networks, owners) = self.sets.get_mut(&set)?;
        *owners += 1;
        Some(networks.clone())
    }

    /// The number of a set that holds `networks`, for one port more.
    pub(super) fn take(
        &mut self,
        networks: &Networks,
        now: Duration,
        tables: &mut impl Tables,
    ) -> Result<u32, TableError> {
        if let Some(set) = self.numbers.get(networks) {
            if let Some((_, owners)) = self.sets.get_mut(set) {
                *owners += 1;
            }
            return Ok(*set);
        }
        let set = self.next;
        if let Err(error) = tables.write_sources(set, networks) {
            // What is half written takes room from others.
            if tables.delete_sources(set, networks).is_err() {
                self.next += 1;
                self.rest(set, networks.clone(), now);
            }
            return Err(error);
        }
        self.next += 1;
        self.sets.insert(set, (networks.clone(), 1));
        self.numbers.insert(networks.clone(), set);
        Ok(set)
    }

    /// One port less has the set.
    pub(super) fn free(&mut self, set: u32, now: Duration) {
        let Some((_, owners)) = self.sets.get_mut(&set) else {
            return;
        };
        *owners = owners.saturating_sub(1);
        if *owners == 0 {
            self.drop_set(set, now);
        }
    }

    /// Drops what was found and nobody has adopted.
    pub(super) fn drop_unowned(&mut self, now: Duration) {
        let unowned = self.sets.iter().filter(|(_, (_, owners))| *owners == 0);
        let unowned: Vec<u32> = unowned.map(|(&set, _)| set).collect();
        unowned.into_iter().for_each(|set| self.drop_set(set, now));
    }

    /// Deletes what has rested.
    pub(super) fn settle(&mut self, now: Duration, tables: &mut impl Tables) {
        while let Some((_, set, networks)) = self.resting.pop_front_if(|&mut (at, ..)| at <= now) {
            if let Err(error) = tables.delete_sources(set, &networks) {
                tracing::warn!(%error, set, "sources not deleted, will retry");
                self.rest(set, networks, now);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn resting(&self) -> usize {
        self.resting.len()
    }

    fn drop_set(&mut self, set: u32, now: Duration) {
        let Some((networks, _)) = self.sets.remove(&set) else {
            return;
        };
        if self.numbers.get(&networks) == Some(&set) {
            self.numbers.remove(&networks);
        }
        self.rest(set, networks, now);
    }

    fn rest(&mut self, set: u32, networks: Networks, now: Duration) {
        self.resting.push_back((now + SLOT_GRACE, set, networks));
    }
}
