//! What adopted ports keep while some of the truth cannot be read.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::Backend;

use super::stock::{Held, Owned};
use crate::{
    compile::{self, Port, PortId},
    sorted::SortedSet,
};

/// Members that the kernel had for a port, added to those it is said to have
/// until all of the truth is in: they may be in what cannot be read.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    is_on: bool,
    ports: BTreeMap<PortId, (Port, BTreeSet<compile::Backend>)>,
}

impl Inheritance {
    pub(super) fn start(&mut self) {
        self.is_on = true;
    }

    /// Ends it; the ports as they are to be without.
    pub(super) fn end(&mut self) -> Vec<(PortId, Option<Port>)> {
        self.is_on = false;
        let ports = std::mem::take(&mut self.ports).into_iter();
        ports.map(|(id, (port, _))| (id, Some(port))).collect()
    }

    pub(super) fn forget(&mut self, id: &PortId) {
        self.ports.remove(id);
    }

    /// Notes what a port has that was just taken over from the kernel.
    pub(super) fn note(&mut self, port: &Port, owned: &Owned) {
        if !self.is_on {
            return;
        }
        let shown: BTreeSet<u32> = owned.slices.values().flatten().copied().collect();
        let members = owned.backends.iter();
        let members = members.filter(|(_, (id, _))| shown.contains(id));
        let members = members.map(|(&(address, port), (_, backend))| compile::Backend {
            address,
            port,
            local: backend.flags & Backend::LOCAL != 0,
        });
        let inherited = (port.clone(), members.collect());
        self.ports.insert(port.id.clone(), inherited);
    }

    /// A port as it was last asked for.
    pub(super) fn without(&self, held: &Held) -> Port {
        let inherited = self.ports.get(&held.desired.id);
        inherited.map_or_else(|| held.desired.clone(), |(port, _)| port.clone())
    }

    /// The port with what it has inherited.
    pub(super) fn extend(&mut self, mut desired: Port) -> Port {
        let Some((port, members)) = self.ports.get_mut(&desired.id) else {
            return desired;
        };
        port.clone_from(&desired);
        let known = |set: &SortedSet<compile::Backend>, member: &compile::Backend| {
            let same = |other: &compile::Backend| {
                (other.address, other.port) == (member.address, member.port)
            };
            set.iter().any(same)
        };
        for member in members.iter() {
            if !known(&desired.cluster, member) {
                desired.cluster.insert(member.clone());
            }
            if member.local && !known(&desired.local, member) {
                desired.local.insert(member.clone());
            }
        }
        desired
    }
}
