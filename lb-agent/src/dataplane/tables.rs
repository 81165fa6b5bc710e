//! Reads and writes of the maps.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{SystemTime, UNIX_EPOCH},
};

use aya::maps::MapError;
use ipnet::IpNet;
use lb_common::{Address, Backend, Frontend, FrontendKey, Interface, NetworkKey, Slice, maps};

use super::{AttachmentError, Dataplane, DataplaneError};
use crate::{
    interfaces::{self, Device, Kind},
    model::Family,
    reconcile::{Refusals, Snapshot, TableError, Tables},
};

impl Tables for Dataplane {
    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), TableError> {
        match self.frontends.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(refused("FRONTENDS", &error)),
        }
    }

    fn write_backend(&mut self, id: u32, backend: &Backend) -> Result<(), TableError> {
        self.backends
            .set(id, backend, 0)
            .map_err(|error| refused("BACKENDS", &error))
    }

    fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<(), TableError> {
        for (slot, id) in (base..).zip(ids) {
            self.slots
                .set(slot, id, 0)
                .map_err(|error| refused("SLOTS", &error))?;
        }
        Ok(())
    }

    fn write_sources(&mut self, set: u32, networks: &BTreeSet<IpNet>) -> Result<(), TableError> {
        networks
            .iter()
            .try_for_each(|network| self.enter_network(set, network))
            .map_err(|error| refused("NETWORKS", &error))
    }

    fn delete_sources(&mut self, set: u32, networks: &BTreeSet<IpNet>) -> Result<(), TableError> {
        networks
            .iter()
            .try_for_each(|network| self.remove_network(set, network))
            .map_err(|error| refused("NETWORKS", &error))
    }

    fn write_frontend(&mut self, key: &FrontendKey, frontend: &Frontend) -> Result<(), TableError> {
        self.admit([key])
            .map_err(|(map, error)| refused(map, &error))?;
        self.frontends
            .insert(key, frontend, 0)
            .map_err(|error| refused("FRONTENDS", &error))
    }

    fn write_backends(&mut self, backends: &[(u32, Backend)]) -> Refusals {
        let (ids, backends): (Vec<_>, Vec<_>) = backends.iter().copied().unzip();
        self.batches.backends.write(&ids, &backends)
    }

    fn write_runs(&mut self, runs: &[(u32, Box<[u32]>)]) -> Refusals {
        let (mut slots, mut ids, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (base, run)) in runs.iter().enumerate() {
            slots.extend((*base..).take(run.len()));
            ids.extend(run);
            owners.extend(std::iter::repeat_n(index, run.len()));
        }
        let refused = self.batches.slots.write(&slots, &ids).into_iter();
        let mut refused: Refusals = refused.map(|(at, error)| (owners[at], error)).collect();
        refused.dedup_by_key(|(index, _)| *index);
        refused
    }

    fn write_frontends(&mut self, frontends: &[(FrontendKey, Frontend)]) -> Refusals {
        if let Err((map, error)) = self.admit(frontends.iter().map(|(key, _)| key)) {
            let all = 0..frontends.len();
            return all.map(|index| (index, refused(map, &error))).collect();
        }
        let (keys, frontends): (Vec<_>, Vec<_>) = frontends.iter().copied().unzip();
        self.batches.frontends.write(&keys, &frontends)
    }
}

impl Dataplane {
    /// What the maps hold: nothing, if they are new.
    pub fn snapshot(&self) -> Result<Snapshot, DataplaneError> {
        let mut snapshot = Snapshot::default();
        if !self.adopted {
            let age = SystemTime::now().duration_since(UNIX_EPOCH);
            snapshot.first_generation = age.map_or(1, |age| age.as_secs() as u32);
            return Ok(snapshot);
        }
        for entry in self.frontends.iter() {
            let (key, frontend) = entry.map_err(failed("FRONTENDS"))?;
            snapshot.frontends.push((key, frontend));
            for slice in [frontend.inside, frontend.outside].map(Slice::unpack) {
                if let Some(ids) = self.read_slots(slice)? {
                    snapshot.slots.insert(slice, ids);
                }
            }
        }
        for id in 0..maps::BACKENDS as u32 {
            let backend = self.backends.get(&id, 0).map_err(failed("BACKENDS"))?;
            if backend != Backend::default() {
                snapshot.backends.push((id, backend));
            }
        }
        for (set, network) in self.networks().map_err(failed("NETWORKS"))? {
            if set >= NetworkKey::FIRST_SOURCES {
                snapshot.sources.entry(set).or_default().insert(network);
            }
        }
        Ok(snapshot)
    }

    /// `None` for a slice that is empty or does not lie in the map.
    fn read_slots(&self, slice: Slice) -> Result<Option<Vec<u32>>, DataplaneError> {
        let Some(end) = slice.base.checked_add(slice.count) else {
            return Ok(None);
        };
        if slice.count == 0 || end > maps::SLOTS as u32 {
            return Ok(None);
        }
        let read = |slot| self.slots.get(&slot, 0);
        let ids: Result<_, _> = (slice.base..end).map(read).collect();
        ids.map(Some).map_err(failed("SLOTS"))
    }

    /// Brings the interface and address maps to `interfaces`.
    pub(super) fn write_interfaces(
        &mut self,
        interfaces: &[interfaces::Interface],
        xdp: impl Fn(&Self, &interfaces::Interface) -> bool,
        peer: impl Fn(&Self, &interfaces::Interface) -> bool,
    ) -> Vec<AttachmentError> {
        let node: HashMap<Family, Address> = node_addresses(interfaces);
        let mut records = HashMap::new();
        let mut owners = HashMap::new();
        let mut peers = BTreeSet::new();
        for interface in interfaces {
            let own = |family| -> Address {
                let first = interface.addresses.iter().copied();
                let mut first = first.filter(|&a| !a.is_loopback() && Family::of(a) == family);
                first
                    .next()
                    .map(Address::from)
                    .or_else(|| node.get(&family).copied())
                    .unwrap_or_default()
            };
            let mut flags = 0;
            if matches!(interface.device, Device::Veth { .. }) {
                flags |= Interface::REDIRECT;
            }
            if xdp(self, interface) {
                flags |= Interface::XDP;
            }
            if interface.is_port {
                flags |= Interface::PORT;
            }
            if peer(self, interface) {
                flags |= Interface::PEER;
                peers.insert(interface.index);
            }
            let record = Interface {
                kind: kind(interface.kind) as u32,
                flags,
                mac: interface.mac.map_or([0; 4], |mac| {
                    let [a, b, c, d, e, f] = mac;
                    [[a, b], [c, d], [e, f], [0, 0]].map(u16::from_ne_bytes)
                }),
                v4: own(Family::V4),
                v6: own(Family::V6),
            };
            records.insert(interface.index, record);
            for &address in &interface.addresses {
                owners.insert(Address::from(address), interface.index);
            }
        }
        self.peers = peers;
        let mut errors = Vec::new();
        let mut note = |what: String, result: Result<(), MapError>| {
            if let Err(error) = result
                && !matches!(error, MapError::KeyNotFound)
            {
                errors.push(AttachmentError {
                    interface: what,
                    reason: error_chain(&error),
                });
            }
        };
        let stale: Vec<u32> = self
            .interfaces
            .keys()
            .filter_map(Result::ok)
            .filter(|index| !records.contains_key(index))
            .collect();
        for index in stale {
            note(format!("{index}"), self.interfaces.remove(&index));
        }
        let stale: HashSet<Address> = self
            .local_addresses
            .keys()
            .filter_map(Result::ok)
            .filter(|address| !owners.contains_key(address))
            .collect();
        for address in stale {
            note(
                format!("{address:?}"),
                self.local_addresses.remove(&address),
            );
        }
        for (index, record) in records {
            if self.interfaces.get(&index, 0).ok() != Some(record) {
                note(format!("{index}"), self.interfaces.insert(index, record, 0));
            }
        }
        for (address, owner) in owners {
            if self.local_addresses.get(&address, 0).ok() != Some(owner) {
                let result = self.local_addresses.insert(address, owner, 0);
                note(format!("{address:?}"), result);
            }
        }
        errors
    }
}

/// The node's own address in each family: the first on an uplink.
fn node_addresses(interfaces: &[interfaces::Interface]) -> HashMap<Family, Address> {
    let mut addresses = HashMap::new();
    let uplinks = interfaces.iter().filter(|i| i.kind == Kind::Uplink);
    for &address in uplinks.flat_map(|uplink| &uplink.addresses) {
        addresses
            .entry(Family::of(address))
            .or_insert_with(|| address.into());
    }
    addresses
}

fn kind(kind: Kind) -> lb_common::InterfaceKind {
    match kind {
        Kind::Uplink => lb_common::InterfaceKind::Uplink,
        Kind::Pod => lb_common::InterfaceKind::Pod,
        Kind::Local => lb_common::InterfaceKind::Local,
    }
}

fn failed(map: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |source| DataplaneError::Map { map, source }
}

fn refused(map: &'static str, error: &MapError) -> TableError {
    TableError {
        map,
        reason: error_chain(error),
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
