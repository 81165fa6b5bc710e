//! What the floor program's maps hold.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap},
};
use lb_common::floor::{Backend, Flow, Frontend};

/// What it is called, and all else compared with.
pub(super) const NAME: &str = "floor program";

/// A flow of UDP that it translates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Established {
    pub(super) client: SocketAddrV4,
    pub(super) frontend: SocketAddrV4,
    pub(super) backend: SocketAddrV4,
    /// Hardware address of the next hop.
    pub(super) next_hop: [u8; 6],
}

const UDP: u8 = 17;
/// Which backend is that of the flow; any would do.
const BACKEND: u32 = 7;

/// Enters the flow, among as many other frontends as there are Services.
pub(super) fn enter(ebpf: &mut Ebpf, flow: &Established, services: u32) -> Result<()> {
    let map = ebpf.map_mut("FLOOR_FRONTENDS").context("FLOOR_FRONTENDS")?;
    let mut frontends: HashMap<_, Frontend, u32> = map.try_into()?;
    let frontend = |address: u32, port: u16| Frontend {
        address: address.to_be(),
        port: port.to_be(),
        protocol: UDP.into(),
    };
    for number in 0..services {
        frontends.insert(frontend((21 << 24) + number, 80), number, 0)?;
    }
    let own = frontend(flow.frontend.ip().to_bits(), flow.frontend.port());
    frontends.insert(own, 0, 0)?;
    let map = ebpf.map_mut("FLOOR_FLOWS").context("FLOOR_FLOWS")?;
    let key = Flow {
        source: flow.client.ip().to_bits().to_be(),
        destination: own.address,
        source_port: flow.client.port().to_be(),
        destination_port: own.port,
        protocol: UDP.into(),
    };
    HashMap::try_from(map)?.insert(key, BACKEND, 0)?;
    let map = ebpf.map_mut("FLOOR_BACKENDS").context("FLOOR_BACKENDS")?;
    let [a, b, c, d, e, f] = flow.next_hop;
    let backend = Backend {
        address: flow.backend.ip().to_bits().to_be(),
        port: flow.backend.port().to_be(),
        mac: [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes),
    };
    Array::try_from(map)?.set(BACKEND, backend, 0)?;
    Ok(())
}
