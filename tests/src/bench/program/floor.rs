//! What the floor program's maps hold.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap};
use bytemuck::{Pod, Zeroable};

use super::{node::Node, ways};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Frontend {
    address: u32,
    port: u16,
    protocol: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Flow {
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
    protocol: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backend {
    address: u32,
    port: u16,
    mac: [u8; 6],
}

// SAFETY: plain numbers without padding.
unsafe impl aya::Pod for Frontend {}
// SAFETY: as above.
unsafe impl aya::Pod for Flow {}
// SAFETY: as above.
unsafe impl aya::Pod for Backend {}

const UDP: u8 = 17;

/// Enters the flow of [`ways::floor`], among as many frontends as there are
/// Services.
pub(super) fn prepare(node: &mut Node, services: u32) -> Result<()> {
    let head = ways::floor().head;
    let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
    let replay = node.own();
    let map = replay
        .map_mut("FLOOR_FRONTENDS")
        .context("FLOOR_FRONTENDS")?;
    let mut frontends: HashMap<_, Frontend, u32> = map.try_into()?;
    for number in 0..services {
        let frontend = Frontend {
            address: ((21 << 24) + number).to_be(),
            port: 80_u16.to_be(),
            protocol: UDP.into(),
        };
        frontends.insert(frontend, number, 0)?;
    }
    let frontend = Frontend {
        address: word(30),
        port: half(36),
        protocol: UDP.into(),
    };
    frontends.insert(frontend, 0, 0)?;
    let map = replay.map_mut("FLOOR_FLOWS").context("FLOOR_FLOWS")?;
    let flow = Flow {
        source: word(26),
        destination: word(30),
        source_port: half(34),
        destination_port: half(36),
        protocol: UDP.into(),
    };
    HashMap::try_from(map)?.insert(flow, 7_u32, 0)?;
    let map = replay.map_mut("FLOOR_BACKENDS").context("FLOOR_BACKENDS")?;
    let backend = Backend {
        address: u32::from(Ipv4Addr::new(10, 9, 0, 10)).to_be(),
        port: 8080_u16.to_be(),
        mac: [2, 0, 0, 0, 1, 2],
    };
    Array::try_from(map)?.set(7, backend, 0)?;
    Ok(())
}
