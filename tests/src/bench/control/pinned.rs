//! What the kernel's maps lead a client to.

use std::{net::Ipv4Addr, path::Path};

use anyhow::Result;
use aya::maps::{Array, HashMap, MapData};
use lb_agent::{compile::frontend_key, model::Protocol};
use lb_common::{Address, Backend, Frontend, FrontendKey, Slice};

use super::cluster::{PORT, TARGET_PORT, cluster_ip};
use crate::packet::pinned;

/// The maps of one agent.
pub(super) struct Pinned {
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    slots: Array<MapData, u32>,
    backends: Array<MapData, Backend>,
}

impl Pinned {
    pub(super) fn open(pins: &Path) -> Result<Self> {
        let open = |name| -> Result<MapData> { pinned(pins, name) };
        Ok(Self {
            frontends: HashMap::try_from(aya::maps::Map::HashMap(open("FRONTENDS")?))?,
            slots: Array::try_from(aya::maps::Map::Array(open("SLOTS")?))?,
            backends: Array::try_from(aya::maps::Map::Array(open("BACKENDS")?))?,
        })
    }

    /// Whether a connection to the Service may come to the endpoint. Costs one
    /// lookup as long as the endpoint is new.
    pub(super) fn shows(&self, service: u32, endpoint: Ipv4Addr) -> bool {
        let key = |address: Ipv4Addr, port| frontend_key(address.into(), port, Protocol::Tcp);
        let frontend = |key| self.frontends.get(&key, 0);
        if frontend(key(endpoint, TARGET_PORT)).is_err() {
            return false;
        }
        let Ok(frontend) = frontend(key(cluster_ip(service), PORT)) else {
            return false;
        };
        let Slice { base, count } = Slice::unpack(frontend.inside);
        let wanted = Address::from(std::net::IpAddr::from(endpoint));
        (base..base + count).any(|slot| {
            let backend = self.slots.get(&slot, 0);
            let backend = backend.and_then(|id| self.backends.get(&id, 0));
            backend.is_ok_and(|backend| backend.address == wanted)
        })
    }
}
