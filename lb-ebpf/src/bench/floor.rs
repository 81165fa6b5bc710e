//! The least that a program does which translates packets of connections: what
//! the product is measured by. IPv4 and UDP, no options, nothing is counted,
//! nothing expires, and the connection must be there.

use aya_ebpf::{
    bindings::xdp_action::{XDP_PASS, XDP_TX},
    btf_maps::{Array, HashMap, LruHashMap},
    helpers::bpf_redirect,
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::{
    checksum::Delta,
    floor::{Backend, Flow, Frontend},
};

#[btf_map]
static FLOOR_FRONTENDS: HashMap<Frontend, u32, 16_384> = HashMap::new();

#[btf_map]
static FLOOR_FLOWS: LruHashMap<Flow, u32, 262_144> = LruHashMap::new();

#[btf_map]
static FLOOR_BACKENDS: Array<Backend, 16_384> = Array::new();

/// Ethernet, IPv4 (RFC 791) and UDP (RFC 768).
#[repr(C, packed)]
struct Headers {
    destination_mac: [u16; 3],
    source_mac: [u16; 3],
    kind: u16,
    version_and_length: u8,
    tos: u8,
    total_length: u16,
    id: u16,
    fragment: u16,
    time_to_live: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
    length: u16,
    udp_checksum: u16,
}

const IPV4: u16 = 0x0800;
const UDP: u8 = 17;

#[inline(always)]
pub(crate) fn floor(context: &XdpContext) -> u32 {
    translate(context).map_or(XDP_PASS, |()| XDP_TX)
}

#[inline(always)]
pub(crate) fn redirect(context: &XdpContext) -> u32 {
    let Some(()) = translate(context) else {
        return XDP_PASS;
    };
    // SAFETY: the helper takes any index.
    unsafe { bpf_redirect(context.ingress_ifindex() as u32, 0) as u32 }
}

#[inline(always)]
fn translate(context: &XdpContext) -> Option<()> {
    let (start, end) = (context.data(), context.data_end());
    if start + size_of::<Headers>() > end {
        return None;
    }
    // SAFETY: the bounds are checked, and the layout has no alignment.
    let headers = unsafe { &mut *(start as *mut Headers) };
    if headers.kind != IPV4.to_be() || headers.version_and_length != 0x45 || headers.protocol != UDP
    {
        return None;
    }
    let frontend = Frontend {
        address: headers.destination,
        port: headers.destination_port,
        protocol: UDP.into(),
    };
    // SAFETY: nobody writes the map while the programs are measured.
    unsafe { FLOOR_FRONTENDS.get(frontend) }?;
    let flow = Flow {
        source: headers.source,
        destination: headers.destination,
        source_port: headers.source_port,
        destination_port: headers.destination_port,
        protocol: UDP.into(),
    };
    // SAFETY: as above.
    let backend = FLOOR_BACKENDS.get(*unsafe { FLOOR_FLOWS.get(flow) }?)?;
    let address = Delta::new().long(headers.destination, backend.address);
    headers.checksum = address.apply(headers.checksum);
    headers.udp_checksum = address
        .word(headers.destination_port, backend.port)
        .apply(headers.udp_checksum);
    headers.destination = backend.address;
    headers.destination_port = backend.port;
    headers.source_mac = headers.destination_mac;
    headers.destination_mac = backend.mac;
    Some(())
}
