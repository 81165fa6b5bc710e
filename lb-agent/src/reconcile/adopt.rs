//! What the kernel holds when the agent starts, until a port claims it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;
use lb_common::{Backend, Frontend, FrontendKey, Slice, maps};

use super::{
    pool::{Ids, Slots},
    sources::Sources,
    stock::Owned,
};

/// The kernel's maps as read at start.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// Every backend that was ever written, by ascending id.
    pub backends: Vec<(u32, Backend)>,
    /// Content of the slots of every slice that a frontend points to.
    pub slots: HashMap<Slice, Vec<u32>>,
    /// Every set of sources, by its number.
    pub sources: BTreeMap<u32, BTreeSet<IpNet>>,
    /// What backends start with that were never written; 0 stands for 1. Maps
    /// that are new beside old connections need one that those do not know.
    pub first_generation: u32,
}

/// Id of frontends that no single service port has.
pub(super) const NOBODY: u32 = 0;
/// Service ids are counted up from 1; none gets here in a node's life.
const IMPLAUSIBLE_SERVICE: u32 = 1 << 31;

#[derive(Debug, Default)]
pub(super) struct Adoptable {
    services: BTreeMap<u32, Owned>,
    /// Alive, but a second one of the same service and endpoint.
    spare: Vec<(u32, Backend)>,
    next_service: u32,
}

impl Adoptable {
    pub(super) fn new(
        snapshot: &Snapshot,
        ids: &mut Ids,
        slots: &mut Slots,
        sources: &mut Sources,
    ) -> Self {
        let mut this = Self::default();
        let mut alive = BTreeSet::new();
        for &(id, backend) in &snapshot.backends {
            if id >= maps::BACKENDS as u32 {
                continue;
            }
            if backend.flags & Backend::ALIVE == 0 {
                ids.found(id, Some(backend.generation.max(1)));
                continue;
            }
            ids.found(id, None);
            alive.insert(id);
            this.note_service(backend.service);
            let endpoint = (backend.address.into(), u16::from_be(backend.port));
            let owned = this.services.entry(backend.service).or_default();
            if let Some(second) = owned.backends.insert(endpoint, (id, backend)) {
                this.spare.push(second);
            }
        }
        let mut seen = BTreeSet::new();
        let owned = |(_, frontend): &&(_, Frontend)| frontend.service != NOBODY;
        for (_, frontend) in snapshot.frontends.iter().filter(owned) {
            this.note_service(frontend.service);
            let owned = this.services.entry(frontend.service).or_default();
            let set = frontend.sources;
            if !owned.sources.contains_key(&set)
                && let Some(networks) = sources.adopt(set)
            {
                owned.sources.insert(set, networks);
            }
            for slice in [frontend.inside, frontend.outside].map(Slice::unpack) {
                if slice.count == 0 || !is_plausible(slice, alive.len()) {
                    continue;
                }
                let fresh = seen.insert(slice);
                if fresh && !slots.reserve(slice) {
                    // Overlaps another: leave both unused, write anew.
                    continue;
                }
                let mut content = snapshot.slots.get(&slice).cloned().unwrap_or_default();
                content.sort_unstable();
                if fresh {
                    if content.iter().any(|id| !alive.contains(id)) {
                        content.clear();
                    }
                    owned.slices.insert(slice, content.into());
                }
            }
        }
        this
    }

    fn note_service(&mut self, service: u32) {
        if service < IMPLAUSIBLE_SERVICE {
            self.next_service = self.next_service.max(service + 1);
        }
    }

    /// One above all service ids that were seen.
    pub(super) fn next_service(&self) -> u32 {
        self.next_service.max(1)
    }

    /// Hands a service over to the first port that asks.
    pub(super) fn claim(&mut self, service: u32) -> Option<(u32, Owned)> {
        if service == NOBODY {
            return None;
        }
        Some((service, self.services.remove(&service)?))
    }

    /// What nobody claimed, by service.
    pub(super) fn take_services(&mut self) -> impl Iterator<Item = Owned> + use<> {
        std::mem::take(&mut self.services).into_values()
    }

    pub(super) fn take_spare(&mut self) -> Vec<(u32, Backend)> {
        std::mem::take(&mut self.spare)
    }
}

/// Whether a set of distinct living backends can lie there.
fn is_plausible(slice: Slice, alive: usize) -> bool {
    let end = slice.base.checked_add(slice.count);
    slice.count as usize <= alive && end.is_some_and(|end| end <= maps::SLOTS as u32)
}
