//! Desired state against what the kernel holds, and the writes in between.
//!
//! The order of writes is fixed: delete frontends, write backends, slots and
//! sources, swap frontends, retire what nothing refers to. A frontend is swapped
//! only when all that it will point to is written, and what it pointed to is
//! freed only when no frontend in the kernel does, so a failed write leaves that
//! Service on its old backends.
//!
//! Knows the maps only as [`Tables`]; pure but for what those do.

mod adopt;
mod claims;
mod inherit;
mod mirror;
mod pool;
mod sources;
mod stock;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use foldhash::{HashMap, HashSet};
use ipnet::IpNet;
use lb_common::{Backend, Frontend, FrontendKey, maps};

pub use self::adopt::Snapshot;
use self::{
    adopt::Adoptable,
    claims::Claims,
    inherit::Inheritance,
    mirror::Mirror,
    pool::{Ids, Slots},
    sources::Sources,
    stock::{Held, Owned, References, Shown, Stock, Wanted},
};
use crate::compile::{Port, PortId};

/// The kernel's maps, or something that behaves like them.
pub trait Tables {
    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), TableError>;
    fn write_backend(&mut self, id: u32, backend: &Backend) -> Result<(), TableError>;
    /// Writes `ids` to the slots from `base` on.
    fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<(), TableError>;
    /// Writes a set of networks under a number that is new, or was deleted.
    fn write_sources(&mut self, set: u32, networks: &BTreeSet<IpNet>) -> Result<(), TableError>;
    fn delete_sources(&mut self, set: u32, networks: &BTreeSet<IpNet>) -> Result<(), TableError>;
    fn write_frontend(&mut self, key: &FrontendKey, frontend: &Frontend) -> Result<(), TableError>;

    /// As [`Self::write_backend`], one after the other.
    fn write_backends(&mut self, backends: &[(u32, Backend)]) -> Refusals {
        refusals(backends, |(id, backend)| self.write_backend(*id, backend))
    }

    /// As [`Self::write_slots`], one after the other.
    fn write_runs(&mut self, runs: &[(u32, Box<[u32]>)]) -> Refusals {
        refusals(runs, |(base, ids)| self.write_slots(*base, ids))
    }

    /// As [`Self::write_frontend`], one after the other.
    fn write_frontends(&mut self, frontends: &[(FrontendKey, Frontend)]) -> Refusals {
        refusals(frontends, |(key, frontend)| {
            self.write_frontend(key, frontend)
        })
    }
}

/// What was refused of many writes, by its index, in order. All else is done.
pub type Refusals = Vec<(usize, TableError)>;

fn refusals<T>(writes: &[T], write: impl FnMut(&T) -> Result<(), TableError>) -> Refusals {
    let results = writes.iter().map(write).enumerate();
    results
        .filter_map(|(index, result)| Some((index, result.err()?)))
        .collect()
}

/// A write that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("map {map}: {reason}")]
pub struct TableError {
    pub map: &'static str,
    pub reason: String,
}

/// Mirrors the kernel's maps and brings them to the desired state.
#[derive(Debug)]
pub struct Reconciler {
    ports: HashMap<PortId, Box<Held>>,
    /// Those with an error.
    failed: BTreeSet<PortId>,
    claims: Claims,
    inheritance: Inheritance,
    frontends: Mirror,
    adoptable: Adoptable,
    stock: Stock,
    next_service: u32,
    /// Deletions that failed.
    undeleted: BTreeSet<FrontendKey>,
    /// Frontends that may show in the kernel what nobody wants any more.
    behind: BTreeSet<FrontendKey>,
    /// Ports that hold more than they want, because of such frontends.
    holding: HashSet<PortId>,
    /// The same of ports that are gone.
    leftovers: Vec<Owned>,
    /// Second backends of an endpoint, found in the kernel.
    spare: Vec<(u32, Backend)>,
}

/// A port for status: what it wants and what became of it.
#[derive(Debug)]
pub struct PortStatus<'a> {
    pub port: &'a Port,
    pub service: u32,
    pub error: Option<&'a TableError>,
    /// Id and generation by address and port.
    pub backend_ids: BTreeMap<(IpAddr, u16), (u32, u32)>,
}

impl Reconciler {
    /// Starts from what the kernel holds. Nothing of it is believed until a
    /// port claims it; [`Self::sweep`] removes the rest.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        let mut slots = Slots::new(maps::SLOTS as u32);
        let mut ids = Ids::new(maps::BACKENDS as u32, snapshot.first_generation.max(1));
        let mut sources = Sources::new(&snapshot.sources);
        let adoptable = Adoptable::new(&snapshot, &mut ids, &mut slots, &mut sources);
        let stock = Stock::new(ids, slots, sources);
        let behind = snapshot.frontends.iter().map(|(key, _)| *key).collect();
        Self {
            ports: HashMap::default(),
            failed: BTreeSet::new(),
            claims: Claims::default(),
            inheritance: Inheritance::default(),
            next_service: adoptable.next_service(),
            frontends: snapshot.frontends.into_iter().collect(),
            adoptable,
            stock,
            undeleted: BTreeSet::new(),
            behind,
            holding: HashSet::default(),
            leftovers: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Brings the named ports to their new state, `None` being gone. Failures
    /// stay with the port and are tried again by [`Self::retry`].
    pub fn apply(
        &mut self,
        changes: Vec<(PortId, Option<Port>)>,
        now: Duration,
        tables: &mut impl Tables,
    ) {
        let mut keys = Vec::new();
        for (id, desired) in &changes {
            self.claim(id, desired.as_ref(), &mut keys);
        }
        keys.sort_unstable();
        keys.dedup();
        self.delete_unclaimed(&keys, tables);

        let mut ports = Vec::new();
        for (id, desired) in changes {
            match desired {
                Some(desired) => ports.push(self.take(&id, desired)),
                None => {
                    self.inheritance.forget(&id);
                    self.failed.remove(&id);
                    let gone = self.ports.remove(&id);
                    self.leftovers.extend(gone.map(|held| held.owned));
                }
            }
        }
        let were_new: Vec<bool> = ports.iter().map(|held| held.owned.is_empty()).collect();
        self.stock.write(&mut ports, now, tables);
        for (held, was_new) in ports.into_iter().zip(were_new) {
            // It may hold more than it wants by now.
            if !was_new || held.error.is_some() {
                self.holding.insert(held.desired.id.clone());
            }
            self.put(held);
        }
        self.swap(&keys, tables);
        self.release(now, tables);
    }

    /// Until [`Self::sweep`], ports that are found in the kernel keep the
    /// members they have there: some of the truth cannot be read yet.
    pub fn inherit_until_sweep(&mut self) {
        self.inheritance.start();
    }

    /// Removes what the kernel held and nobody claimed. To be called once,
    /// after the first full state was applied.
    pub fn sweep(&mut self, now: Duration, tables: &mut impl Tables) {
        let inherited = self.inheritance.end();
        if !inherited.is_empty() {
            self.apply(inherited, now, tables);
        }
        let stale: Vec<FrontendKey> = self
            .frontends
            .keys()
            .filter(|key| !self.claims.contains(key))
            .copied()
            .collect();
        self.delete_unclaimed(&stale, tables);
        self.leftovers.extend(self.adoptable.take_services());
        self.release(now, tables);
        self.spare = self.adoptable.take_spare();
        self.retire_spare(now, tables);
        self.stock.sources.drop_unowned(now);
    }

    /// Tries again what failed, and takes back what has rested. To be called
    /// now and then.
    pub fn retry(&mut self, now: Duration, tables: &mut impl Tables) {
        let undeleted: Vec<_> = std::mem::take(&mut self.undeleted).into_iter().collect();
        self.delete_unclaimed(&undeleted, tables);
        self.release(now, tables);
        self.retire_spare(now, tables);
        self.stock.settle(now, tables);
        let failed = self.failed.iter().filter_map(|id| self.ports.get(id));
        let again: Vec<_> = failed
            .map(|held| {
                (
                    held.desired.id.clone(),
                    Some(self.inheritance.without(held)),
                )
            })
            .collect();
        if !again.is_empty() {
            self.apply(again, now, tables);
        }
    }

    /// Writes that are still to be done.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.failed.len() + self.undeleted.len() + self.stock.failures()
    }

    /// All ports, by name.
    pub fn ports(&self) -> impl Iterator<Item = PortStatus<'_>> {
        let ports: BTreeMap<_, _> = self.ports.iter().collect();
        ports.into_values().map(|held| PortStatus {
            port: &held.desired,
            service: held.service,
            error: held.error.as_ref(),
            backend_ids: held
                .owned
                .backends
                .iter()
                .map(|(&endpoint, &(id, backend))| (endpoint, (id, backend.generation)))
                .collect(),
        })
    }

    /// All ports by the number that the maps know them by, in no order.
    pub fn services(&self) -> impl Iterator<Item = (u32, &PortId)> {
        self.ports.iter().map(|(id, held)| (held.service, id))
    }

    /// The port that has a frontend which several want.
    #[must_use]
    pub fn owner(&self, key: &FrontendKey) -> Option<&PortId> {
        self.claims.owner(key)
    }

    /// Moves a port's claims to its new frontends; `keys` collects all that
    /// may have to change in the kernel.
    fn claim(&mut self, id: &PortId, desired: Option<&Port>, keys: &mut Vec<FrontendKey>) {
        let held = self.ports.get(id);
        let old = held.into_iter().flat_map(|held| &held.desired.frontends);
        for (key, frontend) in old {
            keys.push(*key);
            self.claims.remove(key, frontend.kind, id);
        }
        for (key, frontend) in desired.into_iter().flat_map(|port| &port.frontends) {
            keys.push(*key);
            self.claims.add(*key, frontend.kind, id);
        }
    }

    fn delete_unclaimed(&mut self, keys: &[FrontendKey], tables: &mut impl Tables) {
        for key in keys {
            if !self.frontends.contains(key) || self.claims.contains(key) {
                self.undeleted.remove(key);
                continue;
            }
            match tables.delete_frontend(key) {
                Ok(()) => {
                    self.frontends.remove(key);
                    self.undeleted.remove(key);
                    self.behind.remove(key);
                }
                Err(error) => {
                    tracing::warn!(%error, ?key, "frontend not deleted, will retry");
                    self.undeleted.insert(*key);
                    self.behind.insert(*key);
                }
            }
        }
    }

    /// A port that is to be as `desired`, until [`Self::put`]. One that appears
    /// has the ids that the kernel knows it by, if it does.
    fn take(&mut self, id: &PortId, desired: Port) -> Held {
        if let Some(mut held) = self.ports.remove(id) {
            held.desired = self.inheritance.extend(desired);
            return *held;
        }
        let (service, owned) = self.adopt(&desired);
        self.inheritance.note(&desired, &owned);
        Held {
            desired: self.inheritance.extend(desired),
            service,
            owned,
            references: References::default(),
            error: None,
        }
    }

    fn adopt(&mut self, desired: &Port) -> (u32, Owned) {
        let claimed = desired
            .frontends
            .keys()
            .filter_map(|key| self.frontends.get(key))
            .find_map(|frontend| self.adoptable.claim(frontend.service));
        claimed.unwrap_or_else(|| {
            self.next_service += 1;
            (self.next_service - 1, Owned::default())
        })
    }

    fn put(&mut self, held: Held) {
        let id = held.desired.id.clone();
        match held.error {
            Some(_) => self.failed.insert(id.clone()),
            None => self.failed.remove(&id),
        };
        self.ports.insert(id, Box::new(held));
    }

    /// Points frontends to what their owners have prepared.
    fn swap(&mut self, keys: &[FrontendKey], tables: &mut impl Tables) {
        let mut writes = Vec::new();
        for key in keys {
            let owner = self.claims.owner(key);
            let Some(held) = owner.and_then(|owner| self.ports.get(owner)) else {
                continue;
            };
            let Some(desired) = held.desired.frontends.get(key) else {
                continue;
            };
            if held.error.is_some() {
                self.behind.insert(*key);
                continue;
            }
            let (references, service) = (&held.references, held.service);
            let frontend = references.frontend(key.check(), service, &held.desired, desired);
            if self.frontends.get(key) == Some(frontend) {
                self.behind.remove(key);
                continue;
            }
            writes.push((*key, frontend));
        }
        let refused: BTreeMap<usize, TableError> =
            tables.write_frontends(&writes).into_iter().collect();
        for (index, (key, frontend)) in writes.into_iter().enumerate() {
            match refused.get(&index) {
                None => {
                    self.frontends.insert(key, frontend);
                    self.behind.remove(&key);
                }
                Some(error) => {
                    tracing::warn!(%error, ?key, "frontend not written, will retry");
                    self.behind.insert(key);
                    self.fail(&key, error);
                }
            }
        }
    }

    /// Notes that a frontend's owner does not have it as it is to be.
    fn fail(&mut self, key: &FrontendKey, error: &TableError) {
        let Some(owner) = self.claims.owner(key) else {
            return;
        };
        if let Some(held) = self.ports.get_mut(owner) {
            held.error = Some(error.clone());
            self.failed.insert(owner.clone());
        }
    }

    /// Retires second backends that no frontend may still show.
    fn retire_spare(&mut self, now: Duration, tables: &mut impl Tables) {
        for (id, backend) in std::mem::take(&mut self.spare) {
            let owned = self.ports.values().map(|held| &held.owned);
            let mut owned = owned.chain(&self.leftovers);
            if owned.any(|owned| owned.shows(id)) {
                self.spare.push((id, backend));
            } else {
                self.stock.retire(id, backend, now, tables);
            }
        }
    }

    /// Frees what ports hold and neither want nor the kernel shows.
    fn release(&mut self, now: Duration, tables: &mut impl Tables) {
        let behind = self.behind.iter();
        let shown: Shown = behind.filter_map(|key| self.frontends.get(key)).collect();
        for id in std::mem::take(&mut self.holding) {
            let Some(held) = self.ports.get_mut(&id) else {
                continue;
            };
            let wanted = Wanted::of(held);
            self.stock
                .trim(&mut held.owned, &shown, &wanted, now, tables);
            if !wanted.holds_all(&held.owned) {
                self.holding.insert(id);
            }
        }
        for mut owned in std::mem::take(&mut self.leftovers) {
            let nothing = Wanted::default();
            self.stock.trim(&mut owned, &shown, &nothing, now, tables);
            if !owned.shows_nothing() {
                self.leftovers.push(owned);
            }
        }
    }
}

#[cfg(test)]
mod tests;
