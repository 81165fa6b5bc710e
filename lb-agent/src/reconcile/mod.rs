//! Desired state against what the kernel holds, and the writes in between.
//!
//! The order of writes is fixed: delete frontends, write backends, write
//! slots, swap frontends, retire what nothing refers to. A frontend is swapped
//! only when all that it will point to is written, and a run of slots is freed
//! only when no frontend in the kernel points to it, so a failed write leaves
//! that Service on its old backends.
//!
//! Knows the maps only as [`Tables`]; pure but for what those do.

mod adopt;
mod inherit;
mod pool;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use lb_common::{Backend, Frontend, FrontendKey, Slice, maps};

pub use self::adopt::Snapshot;
use self::{
    adopt::{Adoptable, Backends, Slices},
    inherit::Inheritance,
    pool::{Ids, Slots},
};
use crate::compile::{self, FrontendKind, Port, PortId, Set};

/// The kernel's maps, or something that behaves like them.
pub trait Tables {
    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), TableError>;
    fn write_backend(&mut self, id: u32, backend: &Backend) -> Result<(), TableError>;
    /// Writes `ids` to the slots from `base` on.
    fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<(), TableError>;
    fn write_frontend(&mut self, key: &FrontendKey, frontend: &Frontend) -> Result<(), TableError>;
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
    ports: BTreeMap<PortId, Held>,
    /// Every port that wants a frontend. Who has it as clusterIP goes first, so
    /// that nobody takes it by an external IP; then the first by name.
    claims: HashMap<FrontendKey, BTreeSet<(FrontendKind, PortId)>>,
    inheritance: Inheritance,
    /// What the kernel holds.
    frontends: HashMap<FrontendKey, Frontend>,
    adoptable: Adoptable,
    ids: Ids,
    slots: Slots,
    next_service: u32,
    /// Writes that failed and belong to no port any more.
    undeleted: BTreeSet<FrontendKey>,
    unretired: BTreeMap<u32, Backend>,
    /// Frontends that may show in the kernel what nobody wants any more.
    behind: BTreeSet<FrontendKey>,
    /// Ports that hold more than they want, because of such frontends.
    holding: BTreeSet<PortId>,
    /// The same of ports that are gone.
    leftovers: Vec<(Backends, Slices)>,
}

/// A port as it is in the kernel, or is to be.
#[derive(Debug)]
struct Held {
    desired: Port,
    service: u32,
    backends: Backends,
    /// Runs of slots it owns, with the ids in them, sorted.
    slices: Slices,
    cluster: Slice,
    local: Slice,
    error: Option<TableError>,
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
        let adoptable = Adoptable::new(&snapshot, &mut ids, &mut slots);
        let behind = snapshot.frontends.iter().map(|(key, _)| *key).collect();
        Self {
            ports: BTreeMap::new(),
            claims: HashMap::new(),
            inheritance: Inheritance::default(),
            next_service: adoptable.next_service(),
            frontends: snapshot.frontends.into_iter().collect(),
            adoptable,
            ids,
            slots,
            undeleted: BTreeSet::new(),
            unretired: BTreeMap::new(),
            behind,
            holding: BTreeSet::new(),
            leftovers: Vec::new(),
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
        let mut keys = BTreeSet::new();
        let mut changed = Vec::new();
        for (id, desired) in changes {
            self.claim(&id, desired.as_ref(), &mut keys);
            changed.push((id, desired));
        }
        self.delete_unclaimed(&keys, tables);

        for (id, desired) in changed {
            match desired {
                Some(desired) => {
                    self.prepare(&id, desired, now, tables);
                    self.holding.insert(id);
                }
                None => {
                    self.inheritance.forget(&id);
                    let gone = self.ports.remove(&id);
                    self.leftovers
                        .extend(gone.map(|held| (held.backends, held.slices)));
                }
            }
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
        let stale: BTreeSet<FrontendKey> = self
            .frontends
            .keys()
            .filter(|key| !self.claims.contains_key(*key))
            .copied()
            .collect();
        self.delete_unclaimed(&stale, tables);
        self.leftovers.extend(self.adoptable.take_services());
        self.release(now, tables);
        for (id, backend) in self.adoptable.take_spare() {
            self.retire(id, backend, now, tables);
        }
    }

    /// Tries again what failed. Does nothing when nothing has.
    pub fn retry(&mut self, now: Duration, tables: &mut impl Tables) {
        for key in std::mem::take(&mut self.undeleted) {
            self.delete_unclaimed(&BTreeSet::from([key]), tables);
        }
        self.release(now, tables);
        for (id, backend) in std::mem::take(&mut self.unretired) {
            self.retire(id, backend, now, tables);
        }
        let failed = self.ports.values().filter(|held| held.error.is_some());
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
        let ports = self.ports.values().filter(|held| held.error.is_some());
        ports.count() + self.undeleted.len() + self.unretired.len()
    }

    /// All ports, by name.
    pub fn ports(&self) -> impl Iterator<Item = PortStatus<'_>> {
        self.ports.values().map(|held| PortStatus {
            port: &held.desired,
            service: held.service,
            error: held.error.as_ref(),
            backend_ids: held
                .backends
                .iter()
                .map(|(&endpoint, &(id, backend))| (endpoint, (id, backend.generation)))
                .collect(),
        })
    }

    /// The port that has a frontend which several want.
    #[must_use]
    pub fn owner(&self, key: &FrontendKey) -> Option<&PortId> {
        self.claims.get(key)?.first().map(|(_, id)| id)
    }

    /// Moves a port's claims to its new frontends; `keys` collects all that
    /// may have to change in the kernel.
    fn claim(&mut self, id: &PortId, desired: Option<&Port>, keys: &mut BTreeSet<FrontendKey>) {
        let old = self.ports.get(id).map(|held| &held.desired.frontends);
        for (key, frontend) in old.into_iter().flatten() {
            keys.insert(*key);
            if let Some(claimants) = self.claims.get_mut(key) {
                claimants.remove(&(frontend.kind, id.clone()));
                if claimants.is_empty() {
                    self.claims.remove(key);
                }
            }
        }
        for (key, frontend) in desired.into_iter().flat_map(|port| &port.frontends) {
            keys.insert(*key);
            let claimants = self.claims.entry(*key).or_default();
            claimants.insert((frontend.kind, id.clone()));
        }
    }

    fn delete_unclaimed(&mut self, keys: &BTreeSet<FrontendKey>, tables: &mut impl Tables) {
        for key in keys {
            if self.claims.contains_key(key) || !self.frontends.contains_key(key) {
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

    /// Writes a port's backends and slots; its frontends still point to the
    /// old ones.
    fn prepare(&mut self, id: &PortId, desired: Port, now: Duration, tables: &mut impl Tables) {
        let mut held = match self.ports.remove(id) {
            Some(held) => held,
            None => {
                let held = self.adopt(&desired);
                self.inheritance.note(id, &held);
                held
            }
        };
        held.desired = self.inheritance.extend(desired);
        held.error = self.write_sets(&mut held, now, tables).err();
        if let Some(error) = &held.error {
            tracing::warn!(%error, port = ?id, "backends not written, will retry");
        }
        self.ports.insert(id.clone(), held);
    }

    /// A port that appears: with the ids the kernel knows it by, if it does.
    fn adopt(&mut self, desired: &Port) -> Held {
        let claimed = desired
            .frontends
            .keys()
            .filter_map(|key| self.frontends.get(key))
            .find_map(|frontend| self.adoptable.claim(frontend.service));
        let (service, backends, slices) = claimed.unwrap_or_else(|| {
            self.next_service += 1;
            (self.next_service - 1, BTreeMap::new(), BTreeMap::new())
        });
        Held {
            desired: desired.clone(),
            service,
            backends,
            slices,
            cluster: Slice::default(),
            local: Slice::default(),
            error: None,
        }
    }

    fn write_sets(
        &mut self,
        held: &mut Held,
        now: Duration,
        tables: &mut impl Tables,
    ) -> Result<(), TableError> {
        let Port {
            cluster,
            local,
            serving,
            ..
        } = &held.desired;
        for member in cluster.iter().chain(local).chain(serving) {
            let endpoint = (member.address, member.port);
            let (id, generation) = match held.backends.get(&endpoint) {
                Some(&(id, backend)) => (id, backend.generation),
                None => self.ids.take(now).ok_or_else(|| TableError {
                    map: "BACKENDS",
                    reason: format!("all {} ids are in use", maps::BACKENDS),
                })?,
            };
            let backend = record(member, generation, held.service);
            if held.backends.get(&endpoint) == Some(&(id, backend)) {
                continue;
            }
            if let Err(error) = tables.write_backend(id, &backend) {
                if !held.backends.contains_key(&endpoint) {
                    self.ids.free(id, generation, now);
                }
                return Err(error);
            }
            held.backends.insert(endpoint, (id, backend));
        }
        let ids = |set: &BTreeSet<compile::Backend>| -> Vec<u32> {
            let mut ids: Vec<u32> = set
                .iter()
                .filter_map(|member| held.backends.get(&(member.address, member.port)))
                .map(|&(id, _)| id)
                .collect();
            ids.sort_unstable();
            ids
        };
        let (cluster, local) = (ids(cluster), ids(local));
        held.cluster = self.write_slice(&mut held.slices, cluster, now, tables)?;
        held.local = self.write_slice(&mut held.slices, local, now, tables)?;
        Ok(())
    }

    /// A run of slots that holds `ids`: one there is, else a new one.
    fn write_slice(
        &mut self,
        slices: &mut Slices,
        ids: Vec<u32>,
        now: Duration,
        tables: &mut impl Tables,
    ) -> Result<Slice, TableError> {
        if ids.is_empty() {
            return Ok(Slice::default());
        }
        if let Some((&slice, _)) = slices.iter().find(|(_, held)| **held == ids) {
            return Ok(slice);
        }
        let slice = self
            .slots
            .take(ids.len() as u32, now)
            .ok_or_else(|| TableError {
                map: "SLOTS",
                reason: format!(
                    "no {} contiguous slots of {} are free",
                    ids.len(),
                    maps::SLOTS
                ),
            })?;
        if let Err(error) = tables.write_slots(slice.base, &ids) {
            self.slots.free(slice, now);
            return Err(error);
        }
        slices.insert(slice, ids);
        Ok(slice)
    }

    /// Points frontends to what their owners have prepared.
    fn swap(&mut self, keys: &BTreeSet<FrontendKey>, tables: &mut impl Tables) {
        for key in keys {
            let Some(held) = self
                .claims
                .get(key)
                .and_then(BTreeSet::first)
                .and_then(|(_, owner)| self.ports.get_mut(owner))
            else {
                continue;
            };
            let Some(desired) = held.desired.frontends.get(key) else {
                continue;
            };
            if held.error.is_some() {
                self.behind.insert(*key);
                continue;
            }
            let slice = |set| match set {
                Set::Cluster => held.cluster.pack(),
                Set::Local => held.local.pack(),
            };
            let frontend = Frontend {
                check: key.check(),
                service: held.service,
                inside: slice(desired.inside),
                outside: slice(desired.outside),
                reserved: 0,
            };
            if self.frontends.get(key) == Some(&frontend) {
                self.behind.remove(key);
                continue;
            }
            match tables.write_frontend(key, &frontend) {
                Ok(()) => {
                    self.frontends.insert(*key, frontend);
                    self.behind.remove(key);
                }
                Err(error) => {
                    self.behind.insert(*key);
                    tracing::warn!(%error, ?key, "frontend not written, will retry");
                    held.error = Some(error);
                }
            }
        }
    }

    /// Frees what ports hold and neither want nor the kernel shows.
    fn release(&mut self, now: Duration, tables: &mut impl Tables) {
        let behind = self.behind.iter();
        let shown: BTreeSet<Slice> = behind
            .filter_map(|key| self.frontends.get(key))
            .flat_map(|frontend| [frontend.inside, frontend.outside].map(Slice::unpack))
            .collect();
        for id in std::mem::take(&mut self.holding) {
            let Some(mut held) = self.ports.remove(&id) else {
                continue;
            };
            let wanted = [held.cluster, held.local];
            let Port {
                cluster,
                local,
                serving,
                ..
            } = &held.desired;
            let members = cluster.iter().chain(local).chain(serving);
            let members = members.map(|member| (member.address, member.port));
            let (backends, slices) = (&mut held.backends, &mut held.slices);
            let used = |slice: &Slice| wanted.contains(slice) || shown.contains(slice);
            self.trim(backends, slices, used, &members.collect(), now, tables);
            if held.slices.keys().any(|slice| !wanted.contains(slice)) {
                self.holding.insert(id.clone());
            }
            self.ports.insert(id, held);
        }
        for (mut backends, mut slices) in std::mem::take(&mut self.leftovers) {
            let (held, used) = (&mut backends, |slice: &Slice| shown.contains(slice));
            self.trim(held, &mut slices, used, &BTreeSet::new(), now, tables);
            if !slices.is_empty() {
                self.leftovers.push((backends, slices));
            }
        }
    }

    /// Frees slices that are not used, and backends that are neither in one
    /// that is nor a member.
    fn trim(
        &mut self,
        backends: &mut Backends,
        slices: &mut Slices,
        used: impl Fn(&Slice) -> bool,
        members: &BTreeSet<(IpAddr, u16)>,
        now: Duration,
        tables: &mut impl Tables,
    ) {
        let mut in_use = BTreeSet::new();
        slices.retain(|slice, ids| {
            if used(slice) {
                in_use.extend(ids.iter().copied());
                return true;
            }
            self.slots.free(*slice, now);
            false
        });
        let retired = backends.extract_if(.., |endpoint, (id, _)| {
            !members.contains(endpoint) && !in_use.contains(id)
        });
        for (_, (id, backend)) in retired.collect::<Vec<_>>() {
            self.retire(id, backend, now, tables);
        }
    }

    /// Ends a backend: connections that remember it see another generation.
    fn retire(&mut self, id: u32, backend: Backend, now: Duration, tables: &mut impl Tables) {
        let generation = backend.generation.wrapping_add(1).max(1);
        // The rest stays: a program may be reading it.
        let dead = Backend {
            flags: 0,
            generation,
            ..backend
        };
        match tables.write_backend(id, &dead) {
            Ok(()) => self.ids.free(id, generation, now),
            Err(error) => {
                tracing::warn!(%error, id, "backend not retired, will retry");
                self.unretired.insert(id, backend);
            }
        }
    }
}

fn record(member: &compile::Backend, generation: u32, service: u32) -> Backend {
    let local = if member.local { Backend::LOCAL } else { 0 };
    Backend {
        address: member.address.into(),
        port: member.port.to_be(),
        flags: Backend::ALIVE | local,
        generation,
        service,
        ..Backend::default()
    }
}

#[cfg(test)]
mod tests;
