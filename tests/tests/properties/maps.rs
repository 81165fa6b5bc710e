//! The maps in memory, with a line of text for every write.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_agent::{
    node::Settings,
    reconcile::{Snapshot, TableError, Tables},
};
use lb_common::{Backend, Frontend, FrontendKey, Slice};

#[derive(Debug, Default)]
pub(crate) struct Maps {
    pub(crate) frontends: BTreeMap<FrontendKey, Frontend>,
    pub(crate) slots: BTreeMap<u32, u32>,
    pub(crate) backends: BTreeMap<u32, Backend>,
    pub(crate) sources: BTreeMap<u32, BTreeSet<IpNet>>,
    pub(crate) settings: Settings,
    /// Those of backends' own addresses left out.
    pub(crate) writes: Vec<String>,
}

/// The members of a run of slots by id, or what an empty one says.
pub(crate) type Members = Result<BTreeMap<u32, Backend>, Slice>;

impl Maps {
    pub(crate) fn members(&self, packed: u64) -> Members {
        let slice = Slice::unpack(packed);
        if slice.count == 0 {
            return Err(slice);
        }
        let slots = slice.base..slice.base + slice.count;
        let ids: Vec<u32> = slots.map(|slot| self.slots[&slot]).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "slots not in order {ids:?}");
        let members = ids.into_iter().map(|id| (id, self.alive(id)));
        Ok(members.collect())
    }

    /// Empty where everyone is let in.
    pub(crate) fn networks(&self, frontend: &Frontend) -> BTreeSet<IpNet> {
        match frontend.sources {
            0 => BTreeSet::new(),
            set => self.sources[&set].clone(),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let slices = self.frontends.values().flat_map(|frontend| {
            [frontend.inside, frontend.outside]
                .map(Slice::unpack)
                .into_iter()
                .filter(|slice| slice.count > 0)
        });
        let slots: HashMap<Slice, Vec<u32>> = slices
            .map(|slice| {
                let slots = slice.base..slice.base + slice.count;
                (slice, slots.map(|slot| self.slots[&slot]).collect())
            })
            .collect();
        Snapshot {
            frontends: self.frontends.clone().into_iter().collect(),
            backends: self.backends.clone().into_iter().collect(),
            slots,
            sources: self.sources.clone(),
            first_generation: 0,
        }
    }

    /// Fails unless every backend's own address is there, and no other.
    pub(crate) fn check_endpoints(&self) {
        let is_endpoint = |frontend: &Frontend| frontend.flags & Frontend::ENDPOINT != 0;
        let at = |key: &FrontendKey| (IpAddr::from(key.address), u16::from_be(key.port));
        let all: BTreeSet<_> = self.frontends.keys().map(at).collect();
        let endpoints = self.frontends.iter().filter(|(_, f)| is_endpoint(f));
        let endpoints: BTreeSet<_> = endpoints.map(|(key, _)| at(key)).collect();
        let alive = self.backends.values();
        let alive = alive.filter(|backend| backend.flags & Backend::ALIVE != 0);
        let backends: BTreeSet<_> = alive.map(endpoint).collect();
        assert!(backends.is_subset(&all), "{backends:?} {all:?}");
        assert!(endpoints.is_subset(&backends), "{endpoints:?} {backends:?}");
    }

    fn alive(&self, id: u32) -> Backend {
        let backend = self.backends[&id];
        assert!(backend.flags & Backend::ALIVE != 0, "backend {id} is dead");
        backend
    }

    fn show(&self, packed: u64) -> String {
        match self.members(packed) {
            Ok(members) => words(members.keys()),
            Err(Slice::DROP) => "drop".to_owned(),
            Err(_) => "reject".to_owned(),
        }
    }
}

impl Tables for Maps {
    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), TableError> {
        let gone = self.frontends.remove(key);
        if gone.is_none_or(|frontend| frontend.flags & Frontend::ENDPOINT == 0) {
            self.writes.push(format!("delete {}", readable(key)));
        }
        Ok(())
    }

    fn write_backend(&mut self, id: u32, backend: &Backend) -> Result<(), TableError> {
        let local = match backend.flags & Backend::LOCAL {
            0 => "",
            _ => " local",
        };
        let (address, port) = endpoint(backend);
        self.writes.push(match backend.flags & Backend::ALIVE {
            0 => format!("retire {id}"),
            _ => format!("backend {id} {address} {port}{local}"),
        });
        self.backends.insert(id, *backend);
        Ok(())
    }

    fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<(), TableError> {
        self.writes.push(format!("slots {}", words(ids)));
        self.slots.extend((base..).zip(ids.iter().copied()));
        Ok(())
    }

    fn write_sources(&mut self, set: u32, networks: &BTreeSet<IpNet>) -> Result<(), TableError> {
        self.writes
            .push(format!("sources {set} {}", words(networks)));
        self.sources.insert(set, networks.clone());
        Ok(())
    }

    fn delete_sources(&mut self, set: u32, networks: &BTreeSet<IpNet>) -> Result<(), TableError> {
        self.writes.push(format!("delete sources {set}"));
        assert_eq!(self.sources.remove(&set).as_ref(), Some(networks));
        Ok(())
    }

    fn write_frontend(&mut self, key: &FrontendKey, frontend: &Frontend) -> Result<(), TableError> {
        assert_eq!(frontend.check, key.check());
        if frontend.flags & Frontend::ENDPOINT != 0 {
            self.frontends.insert(*key, *frontend);
            return Ok(());
        }
        let mut line = format!(
            "frontend {} -> {}",
            readable(key),
            self.show(frontend.inside)
        );
        if frontend.outside != frontend.inside {
            line += &format!(", outside {}", self.show(frontend.outside));
        }
        for (name, value) in [
            ("sources", frontend.sources),
            ("affinity", frontend.affinity_seconds),
            ("flags", frontend.flags),
        ] {
            if value != 0 {
                line += &format!(", {name} {value}");
            }
        }
        self.writes.push(line);
        self.frontends.insert(*key, *frontend);
        Ok(())
    }
}

pub(crate) fn endpoint(backend: &Backend) -> (IpAddr, u16) {
    (backend.address.into(), u16::from_be(backend.port))
}

fn readable(key: &FrontendKey) -> String {
    let (address, port) = (IpAddr::from(key.address), u16::from_be(key.port));
    match key.protocol {
        0 => format!("{address} any"),
        6 => format!("{address} {port}/TCP"),
        17 => format!("{address} {port}/UDP"),
        132 => format!("{address} {port}/SCTP"),
        other => format!("{address} {port}/{other}"),
    }
}

fn words(items: impl IntoIterator<Item: ToString>) -> String {
    let words: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    words.join(" ")
}
