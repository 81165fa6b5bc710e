//! What the kernel holds when the agent starts, until a port claims it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use lb_common::{Backend, Frontend, FrontendKey, Slice, maps};

use super::pool::{Ids, Slots};

/// The kernel's maps as read at start.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// Every backend that was ever written, by ascending id.
    pub backends: Vec<(u32, Backend)>,
    /// Content of the slots of every slice that a frontend points to.
    pub slots: HashMap<Slice, Vec<u32>>,
}

type Backends = BTreeMap<(IpAddr, u16), (u32, Backend)>;
type Slices = BTreeMap<Slice, Vec<u32>>;

#[derive(Debug, Default)]
pub(super) struct Adoptable {
    services: BTreeMap<u32, (Backends, Slices)>,
    /// Alive, but a second one of the same service and endpoint.
    spare: Vec<(u32, Backend)>,
    next_service: u32,
}

impl Adoptable {
    pub(super) fn new(snapshot: &Snapshot, ids: &mut Ids, slots: &mut Slots) -> Self {
        let mut this = Self::default();
        let mut alive = BTreeSet::new();
        for &(id, backend) in &snapshot.backends {
            if backend.flags & Backend::ALIVE == 0 {
                ids.found(id, Some(backend.generation.max(1)));
                continue;
            }
            ids.found(id, None);
            alive.insert(id);
            this.next_service = this.next_service.max(backend.service.saturating_add(1));
            let endpoint = (backend.address.into(), u16::from_be(backend.port));
            let (backends, _) = this.services.entry(backend.service).or_default();
            if let Some(second) = backends.insert(endpoint, (id, backend)) {
                this.spare.push(second);
            }
        }
        let mut seen = BTreeSet::new();
        for (_, frontend) in &snapshot.frontends {
            this.next_service = this.next_service.max(frontend.service.saturating_add(1));
            let (_, slices) = this.services.entry(frontend.service).or_default();
            for slice in [frontend.inside, frontend.outside].map(Slice::unpack) {
                if slice.count == 0 || !is_plausible(slice) {
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
                    slices.insert(slice, content);
                }
            }
        }
        this
    }

    /// One above all service ids that were seen.
    pub(super) fn next_service(&self) -> u32 {
        self.next_service.max(1)
    }

    /// Hands a service over to the first port that asks.
    pub(super) fn claim(&mut self, service: u32) -> Option<(u32, Backends, Slices)> {
        let (backends, slices) = self.services.remove(&service)?;
        Some((service, backends, slices))
    }

    /// All that is left, to be removed.
    pub(super) fn take_rest(&mut self) -> (Vec<(u32, Backend)>, Vec<Slice>) {
        let mut backends = std::mem::take(&mut self.spare);
        let mut slices = Vec::new();
        for (_, (held, runs)) in std::mem::take(&mut self.services) {
            backends.extend(held.into_values());
            slices.extend(runs.into_keys());
        }
        (backends, slices)
    }
}

fn is_plausible(slice: Slice) -> bool {
    slice
        .base
        .checked_add(slice.count)
        .is_some_and(|end| end <= maps::SLOTS as u32)
}
