//! A frame of UDP over IPv4, without options, written anew every time: the page
//! of a frame that was sent comes back as its receivers left it.

use core::ptr;

use aya_ebpf::{
    btf_maps::PerCpuArray, helpers::bpf_redirect, macros::btf_map, programs::XdpContext,
};

/// Words of the head of the frame: Ethernet, IPv4, UDP and six bytes of payload.
const WORDS: usize = 12;

/// Where the fields that make a new flow are.
const IP_CHECKSUM: usize = 24;
const SOURCE_END: usize = 28;
const SOURCE_PORT: usize = 34;
const UDP_CHECKSUM: usize = 40;

/// The lowest source port of a new flow.
const LEAST_PORT: u32 = 1024;
const PORTS: u32 = 65_536 - LEAST_PORT;

/// The head of every frame, in the order of the wire. For new flows the last
/// two bytes of the source address and the source port are 0.
#[unsafe(no_mangle)]
static FRAME: [u32; WORDS] = [0; WORDS];

/// Interface index that frames are sent out of.
#[unsafe(no_mangle)]
static TARGET: u32 = 0;

/// 1 if every frame begins a flow, else 0.
#[unsafe(no_mangle)]
static NEW_FLOWS: u32 = 0;

/// Flows that were begun.
#[btf_map]
static FLOWS: PerCpuArray<u32, 1> = PerCpuArray::new();

#[inline(always)]
pub(crate) fn send(context: &XdpContext) -> Option<u32> {
    let start = context.data();
    if start + WORDS * 4 > context.data_end() {
        return None;
    }
    let to = start as *mut u32;
    for word in 0..WORDS {
        // SAFETY: the frame is long enough. What userspace set before the load
        // is not what the compiler sees, so the read is volatile.
        unsafe { *to.add(word) = ptr::read_volatile((&raw const FRAME).cast::<u32>().add(word)) };
    }
    // SAFETY: as above.
    if unsafe { ptr::read_volatile(&raw const NEW_FLOWS) } == 1 {
        begin_flow(start)?;
    }
    // SAFETY: as above; the helper takes any index.
    let action = unsafe { bpf_redirect(ptr::read_volatile(&raw const TARGET), 0) };
    u32::try_from(action).ok()
}

/// Each port once before any comes again, with another address.
#[inline(always)]
fn begin_flow(start: usize) -> Option<()> {
    let flows = FLOWS.get_ptr_mut(0)?;
    // SAFETY: the element belongs to this CPU.
    let number = unsafe {
        *flows = (*flows).wrapping_add(1);
        *flows
    };
    let port = ((LEAST_PORT + number % PORTS) as u16).to_be();
    let source = ((number / PORTS) as u16).to_be();
    let [ip_checksum, source_end, source_port, udp_checksum] =
        [IP_CHECKSUM, SOURCE_END, SOURCE_PORT, UDP_CHECKSUM]
            .map(|offset| (start + offset) as *mut u16);
    // SAFETY: the caller has checked that the frame is long enough for all.
    unsafe {
        *source_end = source;
        *source_port = port;
        *ip_checksum = add(*ip_checksum, source.into());
        *udp_checksum = add(*udp_checksum, u32::from(source) + u32::from(port));
    }
    Some(())
}

/// The checksum after something was added to what it sums (RFC 1624).
#[inline(always)]
fn add(checksum: u16, more: u32) -> u16 {
    let sum = u32::from(!checksum) + more;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}
