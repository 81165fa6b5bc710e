//! What frontends refer to: backends, runs of slots, sets of sources. Written
//! before a frontend shows them, freed after none does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use lb_common::{Backend, Frontend, Slice, maps};

use super::{
    TableError, Tables,
    adopt::NOBODY,
    pool::{Ids, Slots},
    sources::Sources,
};
use crate::compile::{self, Port, Set};

/// Ids and records by endpoint.
pub(super) type Backends = BTreeMap<(IpAddr, u16), (u32, Backend)>;
/// Runs of slots, with the ids in them, sorted.
pub(super) type Slices = BTreeMap<Slice, Vec<u32>>;

/// What a port has in the maps, besides its frontends.
#[derive(Debug, Default)]
pub(super) struct Owned {
    pub(super) backends: Backends,
    pub(super) slices: Slices,
    /// Networks by the number of their set.
    pub(super) sources: BTreeMap<u32, BTreeSet<IpNet>>,
}

impl Owned {
    /// Whether a run of slots leads to the backend.
    pub(super) fn shows(&self, id: u32) -> bool {
        self.slices.values().any(|ids| ids.contains(&id))
    }

    /// Nothing that a frontend may still show; backends wait for slices only.
    pub(super) fn is_empty(&self) -> bool {
        self.slices.is_empty() && self.sources.is_empty()
    }
}

/// What a port's frontends are to refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    cluster: Slice,
    local: Slice,
    sources: u32,
}

impl References {
    /// A frontend's record as it is to be in the kernel, of service `service`.
    pub(super) fn frontend(
        &self,
        check: u32,
        service: u32,
        port: &Port,
        desired: &compile::Frontend,
    ) -> Frontend {
        let slice = |set| match set {
            Set::Nobody => Slice::REJECT,
            _ if port.cluster.is_empty() => Slice::REJECT,
            Set::Cluster => self.cluster,
            Set::Local if port.local.is_empty() => Slice::DROP,
            Set::Local => self.local,
        };
        let shared = !desired.kind.is_own();
        Frontend {
            check,
            service: if shared { NOBODY } else { service },
            inside: slice(desired.inside).pack(),
            outside: slice(desired.outside).pack(),
            affinity_seconds: if shared { 0 } else { port.affinity_seconds },
            sources: if desired.restricted { self.sources } else { 0 },
            flags: match desired.kind {
                compile::FrontendKind::Endpoint => Frontend::ENDPOINT,
                _ if desired.masquerade => Frontend::MASQUERADE,
                _ => 0,
            },
            reserved: 0,
        }
    }
}

/// What may not be freed.
#[derive(Clone, Debug, Default)]
pub(super) struct InUse {
    slices: BTreeSet<Slice>,
    sources: BTreeSet<u32>,
    members: BTreeSet<(IpAddr, u16)>,
}

impl InUse {
    /// What frontends show in the kernel.
    pub(super) fn shown<'a>(frontends: impl Iterator<Item = &'a Frontend>) -> Self {
        let mut this = Self::default();
        for frontend in frontends {
            let slices = [frontend.inside, frontend.outside].map(Slice::unpack);
            this.slices.extend(slices);
            this.sources.insert(frontend.sources);
        }
        this
    }

    /// What a port is to show.
    pub(super) fn wanted(port: &Port, references: &References) -> Self {
        let members = members(port).map(|member| (member.address, member.port));
        Self {
            slices: [references.cluster, references.local].into(),
            sources: [references.sources].into(),
            members: members.collect(),
        }
    }

    /// Whether nothing else is owned that a frontend may show.
    pub(super) fn holds_all(&self, owned: &Owned) -> bool {
        owned.slices.keys().all(|slice| self.slices.contains(slice))
            && owned.sources.keys().all(|set| self.sources.contains(set))
    }
}

/// Numbers to give, and what is still to be taken back.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) ids: Ids,
    pub(super) slots: Slots,
    pub(super) sources: Sources,
    unretired: BTreeMap<u32, Backend>,
}

impl Stock {
    pub(super) fn new(ids: Ids, slots: Slots, sources: Sources) -> Self {
        Self {
            ids,
            slots,
            sources,
            unretired: BTreeMap::new(),
        }
    }

    /// Writes what a port's frontends are to refer to, and all its backends:
    /// connections remember those.
    pub(super) fn write(
        &mut self,
        owned: &mut Owned,
        port: &Port,
        service: u32,
        now: Duration,
        tables: &mut impl Tables,
    ) -> Result<References, TableError> {
        for member in members(port) {
            self.write_backend(&mut owned.backends, member, service, now, tables)?;
        }
        let frontends = || port.frontends.values();
        let ids = |set: Set, members: &BTreeSet<compile::Backend>| -> Vec<u32> {
            if !frontends().any(|frontend| [frontend.inside, frontend.outside].contains(&set)) {
                return Vec::new();
            }
            let mut ids: Vec<u32> = members
                .iter()
                .filter_map(|member| owned.backends.get(&(member.address, member.port)))
                .map(|&(id, _)| id)
                .collect();
            ids.sort_unstable();
            ids
        };
        let cluster = ids(Set::Cluster, &port.cluster);
        let local = ids(Set::Local, &port.local);
        let cluster = self.write_slice(&mut owned.slices, cluster, now, tables)?;
        let local = self.write_slice(&mut owned.slices, local, now, tables)?;
        let restricted = frontends().any(|frontend| frontend.restricted);
        let sources = match restricted && !port.sources.is_empty() {
            true => self.write_sources(owned, &port.sources, now, tables)?,
            false => 0,
        };
        Ok(References {
            cluster,
            local,
            sources,
        })
    }

    /// Frees what is neither shown nor wanted.
    pub(super) fn trim(
        &mut self,
        owned: &mut Owned,
        shown: &InUse,
        wanted: &InUse,
        now: Duration,
        tables: &mut impl Tables,
    ) {
        let mut in_use = BTreeSet::new();
        owned.slices.retain(|slice, ids| {
            if shown.slices.contains(slice) || wanted.slices.contains(slice) {
                in_use.extend(ids.iter().copied());
                return true;
            }
            self.slots.free(*slice, now);
            false
        });
        let unused =
            |set: &u32, _: &mut _| !shown.sources.contains(set) && !wanted.sources.contains(set);
        for (set, _) in owned.sources.extract_if(.., unused) {
            self.sources.free(set, now);
        }
        let retired = owned.backends.extract_if(.., |endpoint, (id, _)| {
            !wanted.members.contains(endpoint) && !in_use.contains(id)
        });
        for (_, (id, backend)) in retired.collect::<Vec<_>>() {
            self.retire(id, backend, now, tables);
        }
    }

    /// Ends a backend: connections that remember it see another generation.
    pub(super) fn retire(
        &mut self,
        id: u32,
        backend: Backend,
        now: Duration,
        tables: &mut impl Tables,
    ) {
        let generation = backend.generation.wrapping_add(1).max(1);
        // The rest stays: a program may be reading it.
        let dead = Backend {
            flags: backend.flags & !Backend::ALIVE,
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

    /// Takes back what has rested, and tries again what failed.
    pub(super) fn settle(&mut self, now: Duration, tables: &mut impl Tables) {
        for (id, backend) in std::mem::take(&mut self.unretired) {
            self.retire(id, backend, now, tables);
        }
        self.sources.settle(now, tables);
    }

    pub(super) fn failures(&self) -> usize {
        self.unretired.len()
    }

    fn write_sources(
        &mut self,
        owned: &mut Owned,
        networks: &BTreeSet<IpNet>,
        now: Duration,
        tables: &mut impl Tables,
    ) -> Result<u32, TableError> {
        if let Some((&set, _)) = owned.sources.iter().find(|(_, held)| *held == networks) {
            return Ok(set);
        }
        let set = self.sources.take(networks, now, tables)?;
        owned.sources.insert(set, networks.clone());
        Ok(set)
    }

    fn write_backend(
        &mut self,
        backends: &mut Backends,
        member: &compile::Backend,
        service: u32,
        now: Duration,
        tables: &mut impl Tables,
    ) -> Result<(), TableError> {
        let endpoint = (member.address, member.port);
        let (id, generation) = match backends.get(&endpoint) {
            Some(&(id, backend)) => (id, backend.generation),
            None => self.ids.take(now).ok_or_else(|| TableError {
                map: "BACKENDS",
                reason: format!("all {} ids are in use", maps::BACKENDS),
            })?,
        };
        let backend = record(member, generation, service);
        if backends.get(&endpoint) == Some(&(id, backend)) {
            return Ok(());
        }
        if let Err(error) = tables.write_backend(id, &backend) {
            if !backends.contains_key(&endpoint) {
                self.ids.free(id, generation, now);
            }
            return Err(error);
        }
        backends.insert(endpoint, (id, backend));
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
}

/// Every endpoint that a port has a backend for; some come several times.
fn members(port: &Port) -> impl Iterator<Item = &compile::Backend> {
    port.cluster.iter().chain(&port.local).chain(&port.serving)
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
