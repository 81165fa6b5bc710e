//! Sets of networks, and what goes for all Services.

use std::{collections::BTreeSet, net::IpAddr};

use aya::maps::{Array, MapData, MapError, lpm_trie::Key};
use ipnet::IpNet;
use lb_common::{Address, FrontendKey, NetworkKey, PodDetection, Settings};
use nix::time::{ClockId, clock_getres};

use super::{Dataplane, DataplaneError};
use crate::{connections, model::Family, node};

/// Writes what is the same for as long as the agent runs. The rest stays, if
/// the map was `configured` before.
pub(super) fn write(
    map: &mut Array<MapData, Settings>,
    configured: bool,
    connections: &connections::Settings,
) -> Result<(), MapError> {
    let second = jiffies_per_second();
    let before = match configured {
        true => map.get(&0, 0)?,
        false => initial(),
    };
    let record = Settings {
        connection_quota: connections.limits.of_service(),
        timeouts: connections.timeouts.jiffies(second),
        second,
        // Until it is known again what filters there are.
        shortcut: 0,
        ..before
    };
    map.set(0, record, 0)
}

/// What a new map begins with: no address may be a clusterIP.
fn initial() -> Settings {
    let (cover, mask) = NOTHING;
    Settings {
        covers: [address(cover); 2],
        masks: [address(mask); 2],
        ..Settings::default()
    }
}

/// Has the cover hold `network` too.
fn widen(record: &mut Settings, network: &IpNet) {
    let index = match Family::of(network.addr()) {
        Family::V4 => 0,
        Family::V6 => 1,
    };
    let (cover, mask) = (&mut record.covers[index], &mut record.masks[index]);
    let old = Some((bits(*cover), bits(*mask))).filter(|old| *old != NOTHING);
    let (base, prefix) = (bits(network.network().into()), mask_of(network));
    let common = match old {
        Some((held, held_mask)) => {
            let same = u128::MAX
                .checked_shl(128 - (held ^ base).leading_zeros())
                .unwrap_or(0);
            held_mask & prefix & same
        }
        None => prefix,
    };
    (*cover, *mask) = (address(base & common), address(common));
}

/// The coarse clocks of the kernel advance with its jiffies.
pub(super) fn jiffies_per_second() -> u32 {
    const NANOSECONDS: i64 = 1_000_000_000;
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE);
    let nanoseconds = resolution.map_or(NANOSECONDS / 250, |time| time.tv_nsec().max(1));
    (NANOSECONDS / nanoseconds) as u32
}

impl Dataplane {
    /// Tells the programs what goes for all Services.
    pub fn configure(&mut self, settings: &node::Settings) -> Result<(), DataplaneError> {
        let failed = |source| DataplaneError::Map {
            map: "SETTINGS",
            source,
        };
        let networks = |source| DataplaneError::Map {
            map: "NETWORKS",
            source,
        };
        self.cover(settings.service_networks.iter().copied())
            .map_err(failed)?;
        self.replace_networks(NetworkKey::PODS, &settings.pod_networks)
            .and_then(|()| self.replace_networks(NetworkKey::SERVICES, &settings.service_networks))
            .map_err(networks)?;

        let mut record = self.settings.get(&0, 0).map_err(failed)?;
        let detection = match settings.pods_by_interface {
            true => PodDetection::Interface,
            false if settings.pod_networks.is_empty() => PodDetection::None,
            false => PodDetection::Network,
        };
        record.pods = detection as u32;
        self.settings.set(0, record, 0).map_err(failed)
    }

    /// Says whether new connections take shortcuts.
    pub fn set_shortcut(&mut self, taken: bool) -> Result<(), DataplaneError> {
        self.change_settings(|record| record.shortcut = taken.into())
    }

    /// Outdates what connections remember of the routing table.
    pub fn forget_routes(&mut self) -> Result<(), DataplaneError> {
        self.change_settings(|record| record.routes = record.routes.wrapping_add(1))
    }

    fn change_settings(
        &mut self,
        change: impl FnOnce(&mut Settings),
    ) -> Result<(), DataplaneError> {
        let failed = |source| DataplaneError::Map {
            map: "SETTINGS",
            source,
        };
        let mut record = self.settings.get(&0, 0).map_err(failed)?;
        change(&mut record);
        self.settings.set(0, record, 0).map_err(failed)
    }

    /// [`Self::admit`] for every frontend that an earlier agent has entered, whose
    /// version may have known of none of this.
    pub(super) fn admit_entered(&mut self) -> Result<(), DataplaneError> {
        let mut keys = Vec::new();
        self.batches.frontends.for_each(|key, _| keys.push(*key))?;
        self.admit(&keys)
            .map_err(|(map, source)| DataplaneError::Map { map, source })
    }

    /// Has programs ask for these frontends, before they are entered: for one of a
    /// port only if PORTS says so, and for a clusterIP where the cover does.
    pub(super) fn admit<'a>(
        &mut self,
        keys: impl IntoIterator<Item = &'a FrontendKey> + Clone,
    ) -> Result<(), (&'static str, MapError)> {
        self.ports
            .admit(keys.clone())
            .map_err(|error| ("PORTS", error))?;
        let cluster_ips = keys.into_iter().filter(|key| is_cluster_ip(key));
        let mut networks = cluster_ips
            .map(|key| IpNet::from(IpAddr::from(key.address)))
            .peekable();
        if networks.peek().is_none() {
            return Ok(());
        }
        self.cover(networks).map_err(|error| ("SETTINGS", error))
    }

    /// Widens the cover of addresses that may be a clusterIP. It never gets
    /// narrower: that would cost a look at all of them, and saves nothing but
    /// a lookup for packets to nowhere.
    fn cover(&mut self, networks: impl IntoIterator<Item = IpNet>) -> Result<(), MapError> {
        let before = self.settings.get(&0, 0)?;
        let mut record = before;
        networks
            .into_iter()
            .for_each(|network| widen(&mut record, &network));
        if (record.covers, record.masks) == (before.covers, before.masks) {
            return Ok(());
        }
        self.settings.set(0, record, 0)
    }

    pub(super) fn enter_network(&mut self, set: u32, network: &IpNet) -> Result<(), MapError> {
        self.networks.insert(&key(set, network), 1, 0)
    }

    /// Already gone is as good.
    pub(super) fn remove_network(&mut self, set: u32, network: &IpNet) -> Result<(), MapError> {
        match self.networks.remove(&key(set, network)) {
            Err(MapError::KeyNotFound) => Ok(()),
            result => result,
        }
    }

    /// Every network with the number of its set.
    pub(super) fn networks(&self) -> Result<Vec<(u32, IpNet)>, MapError> {
        let mut networks = Vec::new();
        for key in self.networks.keys() {
            let key = key?;
            let NetworkKey { set, address } = key.data();
            // What is shorter than a set's number is none of ours.
            let length = key.prefix_len().checked_sub(32);
            if let Some(network) = length.and_then(|length| network(address.into(), length)) {
                networks.push((set, network));
            }
        }
        Ok(networks)
    }

    fn replace_networks(&mut self, set: u32, wanted: &BTreeSet<IpNet>) -> Result<(), MapError> {
        let held = self.networks()?.into_iter();
        let held: BTreeSet<IpNet> = held
            .filter(|held| held.0 == set)
            .map(|held| held.1)
            .collect();
        for network in wanted.difference(&held) {
            self.enter_network(set, network)?;
        }
        for network in held.difference(wanted) {
            self.remove_network(set, network)?;
        }
        Ok(())
    }
}

/// Whether the frontend is what stands for all ports of a clusterIP.
pub(super) fn is_cluster_ip(key: &FrontendKey) -> bool {
    *key == FrontendKey::any_port(key.address)
}

/// Cover and mask of the unspecified address, to which no packet goes.
const NOTHING: (u128, u128) = (0, u128::MAX);
/// Bits of an IPv4-mapped address before the IPv4 part.
const MAPPED: u32 = 96;

fn key(set: u32, network: &IpNet) -> Key<NetworkKey> {
    let before = match Family::of(network.addr()) {
        Family::V4 => MAPPED,
        Family::V6 => 0,
    };
    let data = NetworkKey {
        set,
        address: network.network().into(),
    };
    Key::new(32 + before + u32::from(network.prefix_len()), data)
}

fn network(address: IpAddr, length: u32) -> Option<IpNet> {
    let length = match Family::of(address) {
        Family::V4 => length.checked_sub(MAPPED)?,
        Family::V6 => length,
    };
    IpNet::new(address, u8::try_from(length).ok()?).ok()
}

fn mask_of(network: &IpNet) -> u128 {
    let length = key(0, network).prefix_len() - 32;
    u128::MAX.checked_shl(128 - length).unwrap_or(0)
}

fn bits(address: Address) -> u128 {
    u128::from_be_bytes(bytemuck::cast(address.words))
}

fn address(bits: u128) -> Address {
    Address {
        words: bytemuck::cast(bits.to_be_bytes()),
    }
}
