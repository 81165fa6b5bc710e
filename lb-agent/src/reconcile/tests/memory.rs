//! Maps in memory that watch every write and can refuse it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use lb_common::{Backend, Frontend, FrontendKey, Slice};

use super::super::{Snapshot, TableError, Tables};

/// How long a slot that was shown must not be written.
const GRACE: Duration = Duration::from_secs(5);

/// Who a client may be led to, or why to nobody.
pub(super) type Members = Result<BTreeSet<(IpAddr, u16)>, Slice>;
/// What a frontend does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) inside: Members,
    pub(super) outside: Members,
    pub(super) sources: BTreeSet<IpNet>,
    pub(super) affinity_seconds: u32,
    pub(super) masquerade: bool,
}
pub(super) type Shown = BTreeMap<FrontendKey, Offer>;

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) frontends: BTreeMap<FrontendKey, Frontend>,
    pub(super) slots: BTreeMap<u32, u32>,
    pub(super) backends: BTreeMap<u32, Backend>,
    pub(super) sources: BTreeMap<u32, BTreeSet<IpNet>>,
    /// For so many networks, if there is a limit.
    pub(super) room: Option<usize>,
    /// Sets that were refused for want of room, in part written.
    halves: BTreeMap<u32, usize>,
    /// Every accepted write, as a line of text.
    pub(super) writes: Vec<String>,
    /// Attempts from now on that are refused, by their number.
    pub(super) refuse: BTreeSet<usize>,
    /// Whether what was refused stays so.
    pub(super) sticky: bool,
    pub(super) stuck: BTreeSet<String>,
    pub(super) attempts: usize,
    pub(super) now: Duration,
    /// Every write must leave each frontend with what it had when this was
    /// set, or with this.
    pub(super) rules: Option<(Shown, Shown)>,
    last_shown: HashMap<u32, Duration>,
    sources_last_shown: HashMap<u32, Duration>,
    /// Who an id and generation stood for.
    identities: HashMap<(u32, u32), (IpAddr, u16, u32)>,
}

impl Memory {
    pub(super) fn holding(snapshot: &Snapshot) -> Self {
        let mut memory = Self {
            frontends: snapshot.frontends.iter().copied().collect(),
            backends: snapshot.backends.iter().copied().collect(),
            sources: snapshot.sources.clone(),
            ..Self::default()
        };
        for (slice, ids) in &snapshot.slots {
            let run = slice.base..slice.base.saturating_add(slice.count);
            memory.slots.extend(run.zip(ids.iter().copied()));
        }
        memory
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            frontends: self.frontends.iter().map(|(k, v)| (*k, *v)).collect(),
            backends: self.backends.iter().map(|(k, v)| (*k, *v)).collect(),
            slots: HashMap::new(),
            sources: self.sources.clone(),
            first_generation: 0,
        };
        for slice in self.frontends.values().flat_map(slices) {
            let run = slice.base..slice.base.saturating_add(slice.count);
            if slice.count == 0 || run.len() > self.slots.len() {
                continue;
            }
            // An array map has zeros where nothing was written.
            let read = |slot| self.slots.get(&slot).copied().unwrap_or_default();
            snapshot.slots.insert(slice, run.map(read).collect());
        }
        snapshot
    }

    /// Where each frontend leads to now.
    pub(super) fn shown(&self) -> Shown {
        let frontends = self.frontends.iter();
        frontends
            .map(|(key, frontend)| {
                assert_eq!(frontend.check, key.check(), "{key:?}");
                let [inside, outside] = slices(frontend).map(|slice| self.members(slice));
                let offer = Offer {
                    inside,
                    outside,
                    sources: self.networks(frontend.sources),
                    affinity_seconds: frontend.affinity_seconds,
                    masquerade: frontend.flags & Frontend::MASQUERADE != 0,
                };
                (*key, offer)
            })
            .collect()
    }

    fn networks(&self, set: u32) -> BTreeSet<IpNet> {
        if set == 0 {
            return BTreeSet::new();
        }
        let networks = self.sources.get(&set);
        networks
            .unwrap_or_else(|| panic!("set {set} is shown and not written: {:#?}", self.writes))
            .clone()
    }

    /// Networks in all sets, whole or not.
    pub(super) fn networks_held(&self) -> usize {
        let whole = self.sources.values().map(BTreeSet::len).sum::<usize>();
        whole + self.halves.values().sum::<usize>()
    }

    fn members(&self, slice: Slice) -> Members {
        if slice.count == 0 {
            return Err(slice);
        }
        let slots = slice.base..slice.base + slice.count;
        let members: BTreeSet<(IpAddr, u16)> = slots
            .map(|slot| {
                let Some(id) = self.slots.get(&slot) else {
                    panic!("slot {slot} is shown and not written: {:#?}", self.writes);
                };
                let backend = self.backends.get(id).copied().unwrap_or_default();
                assert!(
                    backend.flags & Backend::ALIVE != 0,
                    "backend {id} is shown and dead: {:#?}",
                    self.writes
                );
                (backend.address.into(), u16::from_be(backend.port))
            })
            .collect();
        assert_eq!(members.len(), slice.count as usize, "a backend twice");
        Ok(members)
    }

    fn attempt(&mut self, map: &'static str, line: String) -> Result<(), TableError> {
        self.attempts += 1;
        let target: Vec<&str> = line.split(' ').take(2).collect();
        let target = target.join(" ");
        let refused = self.refuse.remove(&(self.attempts - 1));
        if refused && self.sticky {
            self.stuck.insert(target.clone());
        }
        if refused || self.stuck.contains(&target) {
            let reason = "refused by the test".to_owned();
            return Err(TableError { map, reason });
        }
        self.writes.push(line);
        Ok(())
    }

    fn note_shown(&mut self, key: &FrontendKey) {
        if self.rules.is_none() {
            return;
        }
        let frontend = self.frontends.get(key).copied().unwrap_or_default();
        for slice in slices(&frontend) {
            for slot in slice.base..slice.base.saturating_add(slice.count) {
                self.last_shown.insert(slot, self.now);
            }
        }
        self.sources_last_shown.insert(frontend.sources, self.now);
    }

    fn check_rules(&self) {
        let Some((before, wanted)) = &self.rules else {
            return;
        };
        let shown = self.shown();
        let keys: BTreeSet<_> = before
            .keys()
            .chain(wanted.keys())
            .chain(shown.keys())
            .collect();
        for key in keys {
            let (is, was, to_be) = (shown.get(key), before.get(key), wanted.get(key));
            assert!(
                is == was || is == to_be,
                "{key:?} leads to {is:?}, neither {was:?} nor {to_be:?}: {:#?}",
                self.writes
            );
        }
    }
}

impl Tables for Memory {
    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), TableError> {
        self.attempt("FRONTENDS", format!("delete {}", address(key)))?;
        self.note_shown(key);
        self.frontends.remove(key);
        self.check_rules();
        Ok(())
    }

    fn write_backend(&mut self, id: u32, backend: &Backend) -> Result<(), TableError> {
        let (ip, port) = (IpAddr::from(backend.address), u16::from_be(backend.port));
        let alive = backend.flags & Backend::ALIVE != 0;
        let local = if backend.flags & Backend::LOCAL != 0 {
            " local"
        } else {
            ""
        };
        let generation = backend.generation;
        let line = if alive {
            format!("backend {id}.{generation} {ip}:{port}{local}")
        } else {
            format!("retire {id}.{generation}")
        };
        self.attempt("BACKENDS", line)?;
        if self.rules.is_some() {
            let identity = (ip, port, backend.service);
            if alive {
                let first = self.identities.entry((id, generation)).or_insert(identity);
                assert_eq!(
                    *first, identity,
                    "{id}.{generation} is two: {:#?}",
                    self.writes
                );
            } else {
                let reused = self.identities.contains_key(&(id, generation));
                assert!(!reused, "{id}.{generation} retired as itself");
            }
            let held = self
                .backends
                .get(&id)
                .filter(|held| held.flags & Backend::ALIVE != 0);
            if let Some(held) = held.filter(|_| alive) {
                let kept = (held.address, held.port, held.service, held.generation);
                let new = (backend.address, backend.port, backend.service, generation);
                assert_eq!(kept, new, "{id} was in use: {:#?}", self.writes);
            }
        }
        self.backends.insert(id, *backend);
        self.check_rules();
        Ok(())
    }

    fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<(), TableError> {
        let list: Vec<String> = ids.iter().map(ToString::to_string).collect();
        self.attempt("SLOTS", format!("slots {base}: {}", list.join(" ")))?;
        let shown: Vec<Slice> = self.frontends.values().flat_map(slices).collect();
        for (slot, id) in (base..).zip(ids) {
            if self.rules.is_some() {
                let is_shown = |s: &Slice| slot >= s.base && slot - s.base < s.count;
                assert!(
                    !shown.iter().any(is_shown),
                    "slot {slot}: {:#?}",
                    self.writes
                );
                if let Some(&last) = self.last_shown.get(&slot) {
                    let rested = self.now - last;
                    assert!(
                        rested >= GRACE,
                        "slot {slot} rested {rested:?}: {:#?}",
                        self.writes
                    );
                }
            }
            self.slots.insert(slot, *id);
        }
        self.check_rules();
        Ok(())
    }

    fn write_sources(&mut self, set: u32, networks: &BTreeSet<IpNet>) -> Result<(), TableError> {
        let list: Vec<String> = networks.iter().map(ToString::to_string).collect();
        if let Some(room) = self.room
            && networks.len() > room - self.networks_held()
        {
            self.halves.insert(set, room - self.networks_held());
            return Err(TableError {
                map: "NETWORKS",
                reason: "full".to_owned(),
            });
        }
        self.attempt("NETWORKS", format!("sources {set}: {}", list.join(" ")))?;
        if self.rules.is_some() {
            let shown = self.frontends.values().any(|f| f.sources == set);
            assert!(
                !shown && !self.sources.contains_key(&set),
                "set {set} in use"
            );
        }
        self.sources.insert(set, networks.clone());
        self.check_rules();
        Ok(())
    }

    fn delete_sources(&mut self, set: u32, networks: &BTreeSet<IpNet>) -> Result<(), TableError> {
        if self.halves.remove(&set).is_some() {
            return Ok(());
        }
        self.attempt("NETWORKS", format!("delete-sources {set}"))?;
        if let Some(held) = self.sources.remove(&set) {
            assert_eq!(held, *networks, "set {set}");
        }
        if self.rules.is_some() {
            let shown = self.frontends.values().any(|f| f.sources == set);
            assert!(!shown, "set {set} is shown: {:#?}", self.writes);
            if let Some(&last) = self.sources_last_shown.get(&set) {
                assert!(self.now - last >= GRACE, "set {set}: {:#?}", self.writes);
            }
        }
        self.check_rules();
        Ok(())
    }

    fn write_frontend(&mut self, key: &FrontendKey, frontend: &Frontend) -> Result<(), TableError> {
        let [inside, outside] = slices(frontend);
        let (a, b, c, d) = (inside.base, inside.count, outside.base, outside.count);
        let line = format!("frontend {} {a}+{b} {c}+{d}", address(key));
        self.attempt("FRONTENDS", line)?;
        self.note_shown(key);
        self.frontends.insert(*key, *frontend);
        self.check_rules();
        Ok(())
    }
}

fn slices(frontend: &Frontend) -> [Slice; 2] {
    [frontend.inside, frontend.outside].map(Slice::unpack)
}

fn address(key: &FrontendKey) -> String {
    let port = u16::from_be(key.port);
    format!("{}:{port}", IpAddr::from(key.address))
}
