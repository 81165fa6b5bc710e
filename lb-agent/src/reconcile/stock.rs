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
use crate::{
    compile::{self, Port, Set},
    sorted::{SortedMap, SortedSet},
};

/// Ids and records by endpoint.
pub(super) type Backends = SortedMap<(IpAddr, u16), (u32, Backend)>;
/// Runs of slots, with the ids in them, sorted.
pub(super) type Slices = SortedMap<Slice, Box<[u32]>>;

/// A port as it is in the kernel, or is to be.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) desired: Port,
    pub(super) service: u32,
    pub(super) owned: Owned,
    pub(super) references: References,
    pub(super) error: Option<TableError>,
}

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

    pub(super) fn is_empty(&self) -> bool {
        self.shows_nothing() && self.backends.is_empty()
    }

    /// Nothing that a frontend may still show; backends wait for slices only.
    pub(super) fn shows_nothing(&self) -> bool {
        self.slices.is_empty() && self.sources.is_empty()
    }

    fn shrink(&mut self) {
        self.backends.shrink();
        self.slices.shrink();
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

/// What frontends show in the kernel, and may not be freed.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    slices: BTreeSet<Slice>,
    sources: BTreeSet<u32>,
}

impl FromIterator<Frontend> for Shown {
    fn from_iter<I: IntoIterator<Item = Frontend>>(frontends: I) -> Self {
        let mut this = Self::default();
        for frontend in frontends {
            let slices = [frontend.inside, frontend.outside].map(Slice::unpack);
            this.slices.extend(slices);
            this.sources.insert(frontend.sources);
        }
        this
    }
}

/// What a port is to show.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    references: References,
    members: SortedSet<(IpAddr, u16)>,
}

impl Wanted {
    pub(super) fn of(held: &Held) -> Self {
        let members = members(&held.desired).map(|member| (member.address, member.port));
        Self {
            references: held.references,
            members: members.collect(),
        }
    }

    /// Whether nothing else is owned that a frontend may show.
    pub(super) fn holds_all(&self, owned: &Owned) -> bool {
        owned.slices.keys().all(|slice| self.slice(slice))
            && owned
                .sources
                .keys()
                .all(|set| *set == self.references.sources)
    }

    fn slice(&self, slice: &Slice) -> bool {
        [self.references.cluster, self.references.local].contains(slice)
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

    /// Writes what the ports' frontends are to refer to, and all their backends:
    /// connections remember those. What is refused stays with its port.
    pub(super) fn write(&mut self, ports: &mut [Held], now: Duration, tables: &mut impl Tables) {
        ports.iter_mut().for_each(|held| held.error = None);
        self.write_backends(ports, now, tables);
        let mut wanted = self.write_runs(ports, now, tables);
        for (held, wanted) in ports.iter_mut().zip(&mut wanted) {
            if held.error.is_some() {
                continue;
            }
            match self.write_sources(held, now, tables) {
                Ok(sources) => {
                    wanted.sources = sources;
                    held.references = *wanted;
                }
                Err(error) => held.error = Some(error),
            }
        }
        for held in ports {
            held.owned.shrink();
            if let Some(error) = &held.error {
                let port = &held.desired.id;
                tracing::warn!(%error, ?port, "backends not written, will retry");
            }
        }
    }

    /// Frees what is neither shown nor wanted.
    pub(super) fn trim(
        &mut self,
        owned: &mut Owned,
        shown: &Shown,
        wanted: &Wanted,
        now: Duration,
        tables: &mut impl Tables,
    ) {
        let mut in_use = Vec::new();
        let freed = owned.slices.extract(|slice, ids| {
            let shows = shown.slices.contains(slice) || wanted.slice(slice);
            if shows {
                in_use.extend(ids.iter().copied());
            }
            !shows
        });
        for (slice, _) in freed {
            self.slots.free(slice, now);
        }
        let unused = |set: &u32, _: &mut _| {
            !shown.sources.contains(set) && *set != wanted.references.sources
        };
        for (set, _) in owned.sources.extract_if(.., unused) {
            self.sources.free(set, now);
        }
        let retired = owned.backends.extract(|endpoint, (id, _)| {
            !wanted.members.contains(endpoint) && !in_use.contains(id)
        });
        for (_, (id, backend)) in retired {
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

    fn write_backends(&mut self, ports: &mut [Held], now: Duration, tables: &mut impl Tables) {
        let mut writes = Vec::new();
        let mut targets = Vec::new();
        for (index, held) in ports.iter_mut().enumerate() {
            for member in members(&held.desired) {
                let endpoint = (member.address, member.port);
                let known = held.owned.backends.get(&endpoint).copied();
                let Some((id, generation)) = known
                    .map(|(id, backend)| (id, backend.generation))
                    .or_else(|| self.ids.take(now))
                else {
                    held.error = Some(TableError {
                        map: "BACKENDS",
                        reason: format!("all {} ids are in use", maps::BACKENDS),
                    });
                    break;
                };
                let backend = record(member, generation, held.service);
                if known != Some((id, backend)) {
                    held.owned.backends.insert(endpoint, (id, backend));
                    writes.push((id, backend));
                    targets.push((index, endpoint, known));
                }
            }
        }
        for (refused, error) in tables.write_backends(&writes) {
            let (index, endpoint, known) = targets[refused];
            let held = &mut ports[index];
            match known {
                Some(before) => {
                    held.owned.backends.insert(endpoint, before);
                }
                None => {
                    let (id, backend) = writes[refused];
                    held.owned.backends.remove(&endpoint);
                    self.ids.free(id, backend.generation, now);
                }
            }
            held.error.get_or_insert(error);
        }
    }

    /// What the frontends of each port are to refer to, but for sources.
    fn write_runs(
        &mut self,
        ports: &mut [Held],
        now: Duration,
        tables: &mut impl Tables,
    ) -> Vec<References> {
        let mut writes = Vec::new();
        let mut targets = Vec::new();
        let mut all = vec![References::default(); ports.len()];
        let ports_to_write = ports.iter_mut().enumerate();
        for (index, held) in ports_to_write.filter(|(_, held)| held.error.is_none()) {
            let mut place = |set, members| -> Result<Slice, TableError> {
                let ids = ids(&held.desired, &held.owned, set, members);
                let (slice, fresh) = self.slots.place(&mut held.owned.slices, ids, now)?;
                if let Some(ids) = fresh {
                    writes.push((slice.base, ids));
                    targets.push((index, slice));
                }
                Ok(slice)
            };
            let placed = place(Set::Cluster, &held.desired.cluster)
                .and_then(|cluster| Ok((cluster, place(Set::Local, &held.desired.local)?)));
            match placed {
                Ok((cluster, local)) => (all[index].cluster, all[index].local) = (cluster, local),
                Err(error) => held.error = Some(error),
            }
        }
        for (refused, error) in tables.write_runs(&writes) {
            let (index, slice) = targets[refused];
            ports[index].owned.slices.remove(&slice);
            self.slots.free(slice, now);
            ports[index].error.get_or_insert(error);
        }
        all
    }

    fn write_sources(
        &mut self,
        held: &mut Held,
        now: Duration,
        tables: &mut impl Tables,
    ) -> Result<u32, TableError> {
        let networks = &held.desired.sources;
        let mut frontends = held.desired.frontends.values();
        if networks.is_empty() || !frontends.any(|frontend| frontend.restricted) {
            return Ok(0);
        }
        let owned = &mut held.owned.sources;
        if let Some((&set, _)) = owned.iter().find(|(_, held)| *held == networks) {
            return Ok(set);
        }
        let set = self.sources.take(networks, now, tables)?;
        owned.insert(set, networks.clone());
        Ok(set)
    }
}

/// A run of slots, and what is still to be written there.
type Placed = (Slice, Option<Box<[u32]>>);

impl Slots {
    /// A run of slots that holds `ids`: one there is, else a new one, which is
    /// still to be written with the ids that are returned then.
    fn place(
        &mut self,
        slices: &mut Slices,
        ids: Box<[u32]>,
        now: Duration,
    ) -> Result<Placed, TableError> {
        if ids.is_empty() {
            return Ok((Slice::default(), None));
        }
        if let Some((&slice, _)) = slices.iter().find(|(_, held)| **held == ids) {
            return Ok((slice, None));
        }
        let slice = self.take(ids.len() as u32, now).ok_or_else(|| TableError {
            map: "SLOTS",
            reason: format!(
                "no {} contiguous slots of {} are free",
                ids.len(),
                maps::SLOTS
            ),
        })?;
        slices.insert(slice, ids.clone());
        Ok((slice, Some(ids)))
    }
}

/// What is to be in the slots of a set: nothing, if no frontend leads to it.
fn ids(port: &Port, owned: &Owned, set: Set, members: &SortedSet<compile::Backend>) -> Box<[u32]> {
    let mut frontends = port.frontends.values();
    if !frontends.any(|frontend| [frontend.inside, frontend.outside].contains(&set)) {
        return Box::default();
    }
    let mut ids: Box<[u32]> = members
        .iter()
        .filter_map(|member| owned.backends.get(&(member.address, member.port)))
        .map(|&(id, _)| id)
        .collect();
    ids.sort_unstable();
    ids
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
