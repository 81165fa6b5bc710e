//! What the programs remember, read and changed behind their back.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::maps::{Array, PerCpuArray, PerCpuValues};
use lb_common::{ClientKey, Connection, FragmentKey, Interface};

use super::{flow::Flow, model::Key, node::Node};
use crate::packet::found;

/// Buckets of clients that refusals are limited by.
const BUCKETS: u32 = 256;
/// Words of a place where a fragment waits.
const HELD: usize = (8 + 40 + 8 + 2048) / 8;

impl Node {
    /// The table's element for a flow, and whether it is assured.
    pub(crate) fn connection(&self, flow: &Flow) -> Result<Option<(Connection, bool)>> {
        let key = flow.key();
        for (table, is_assured) in [(&self.assured, true), (&self.unassured, false)] {
            if let Some(connection) = table.get(&key)? {
                return Ok(Some((connection, is_assured)));
            }
        }
        Ok(None)
    }

    /// Every flow in the tables.
    pub(crate) fn flows(&self) -> Result<Vec<Flow>> {
        let keys = [self.assured.keys()?, self.unassured.keys()?];
        Ok(keys.iter().flatten().map(Flow::from).collect())
    }

    pub(crate) fn forget(&mut self, flow: &Flow) -> Result<()> {
        self.assured.remove(&flow.key())?;
        self.evict(flow)
    }

    /// Does what the programs do when they need room.
    pub(crate) fn evict(&mut self, flow: &Flow) -> Result<()> {
        self.unassured.remove(&flow.key())?;
        Ok(())
    }

    /// Lets seconds go by for an element.
    pub(crate) fn age(&mut self, flow: &Flow, seconds: u64) -> Result<()> {
        let second = self.settings.get(&0, 0)?.second;
        let key = flow.key();
        for table in [&mut self.assured, &mut self.unassured] {
            if let Some(mut connection) = table.get(&key)? {
                let (state, seen) = (connection.life >> 32, connection.life as u32);
                let seen = seen.wrapping_sub((seconds as u32).wrapping_mul(second));
                connection.life = state << 32 | u64::from(seen);
                table.insert(&key, &connection)?;
            }
        }
        Ok(())
    }

    /// Lets seconds go by for what is known of a packet's parts.
    pub(crate) fn age_fragment(&mut self, key: &Key, seconds: u64) -> Result<()> {
        let second = self.settings.get(&0, 0)?.second;
        let key = told_key(key);
        if let Some(mut fragment) = found(self.fragments.get(&key, 0))? {
            fragment.seen = fragment
                .seen
                .wrapping_sub((seconds as u32).wrapping_mul(second));
            self.fragments.insert(key, fragment, 0)?;
        }
        Ok(())
    }

    pub(crate) fn forget_fragment(&mut self, key: &Key) -> Result<()> {
        found(self.fragments.remove(&told_key(key)))?;
        Ok(())
    }

    /// Forgets parts that wait for their first one.
    pub(crate) fn forget_held(&mut self) -> Result<()> {
        let map = self.dataplane.ebpf_mut().map_mut("HELD").context("HELD")?;
        let mut held: Array<_, [u64; HELD]> = map.try_into()?;
        for index in 0..held.len() {
            held.set(index, [0; HELD], 0)?;
        }
        Ok(())
    }

    /// Assured connections of a service; of those to none, `None`.
    pub(crate) fn held(&self, service: Option<usize>) -> Result<u64> {
        let held = found(self.holdings.get(&self.number(service), 0))?;
        Ok(held.map_or(0, |held| held.connections))
    }

    pub(crate) fn forget_holdings(&mut self, service: Option<usize>) -> Result<()> {
        let number = self.number(service);
        found(self.holdings.remove(&number))?;
        Ok(())
    }

    fn number(&self, service: Option<usize>) -> u32 {
        service.map_or(u32::MAX, |service| self.services[&service])
    }

    /// Limits the assured connections of each service.
    pub(crate) fn set_quota(&mut self, quota: u32) -> Result<()> {
        let mut settings = self.settings.get(&0, 0)?;
        settings.connection_quota = quota;
        Ok(self.settings.set(0, settings, 0)?)
    }

    /// Forgets which backend a client of a service had last.
    pub(crate) fn forget_client(&mut self, client: IpAddr, service: usize) -> Result<()> {
        let key = ClientKey {
            client: client.into(),
            service: self.services[&service],
        };
        found(self.clients.remove(&key))?;
        Ok(())
    }

    pub(crate) fn forget_all_clients(&mut self) -> Result<()> {
        Ok(self.dataplane.forget_clients()?)
    }

    /// Lets every client be refused as often as one that never was.
    pub(crate) fn forget_refusals(&mut self) -> Result<()> {
        let map = self.dataplane.ebpf_mut().map_mut("REFUSALS");
        let mut buckets: PerCpuArray<_, u64> = map.context("REFUSALS")?.try_into()?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        for bucket in 0..BUCKETS {
            buckets.set(bucket, PerCpuValues::try_from(vec![0; cpus])?, 0)?;
        }
        Ok(())
    }

    /// Whether XDP runs on the uplinks, as far as the programs know.
    pub(crate) fn say_xdp(&mut self, runs: bool) -> Result<()> {
        for name in ["up0", "up1"] {
            let index = self.indices[name];
            let mut record = self.interfaces.get(&index, 0)?;
            record.flags = match runs {
                true => record.flags | Interface::XDP,
                false => record.flags & !Interface::XDP,
            };
            self.interfaces.insert(index, record, 0)?;
        }
        Ok(())
    }
}

/// The number lies in the map as it does in the header.
fn told_key((source, destination, id, protocol): &Key) -> FragmentKey {
    FragmentKey {
        source: (*source).into(),
        destination: (*destination).into(),
        id: match source.is_ipv4() {
            true => u32::from((*id as u16).to_be()),
            false => id.to_be(),
        },
        protocol: (*protocol).into(),
    }
}
