//! Where frames end.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map, programs::XdpContext};

/// The first payload bytes of a generated frame, which nobody translates.
const MARK: [u8; 4] = *b"lb!?";
const MARK_OFFSET: usize = 42;
const DESTINATION: usize = 30;

/// How many frames there were, and where the last one went to.
#[repr(C)]
struct Sunk {
    frames: u64,
    /// IPv4 address, in network order.
    destination: u32,
    padding: u32,
}

#[btf_map]
static SUNK: PerCpuArray<Sunk, 1> = PerCpuArray::new();

#[inline(always)]
pub(crate) fn count(context: &XdpContext) -> Option<()> {
    let start = context.data();
    if start + MARK_OFFSET + MARK.len() > context.data_end() {
        return None;
    }
    let mark = (start + MARK_OFFSET) as *const [u16; 2];
    // SAFETY: the frame is long enough.
    if unsafe { *mark }.map(u16::to_ne_bytes).as_flattened() != MARK {
        return None;
    }
    let sunk = SUNK.get_ptr_mut(0)?;
    // SAFETY: the element belongs to this CPU; the frame is long enough.
    unsafe {
        (*sunk).frames += 1;
        let [high, low] = *((start + DESTINATION) as *const [u16; 2]);
        (*sunk).destination = u32::from_ne_bytes(
            [high, low]
                .map(u16::to_ne_bytes)
                .as_flattened()
                .try_into()
                .ok()?,
        );
    }
    Some(())
}
