//! Turns one tuple into another, checksums included.

use lb_common::{Tuple, Verdict, checksum::Delta, crc32c};

use crate::{
    family::Family,
    headers::{Headers, SCTP, UDP},
    packet::{Packet, Step, at},
    scratch::settled,
};

#[inline(always)]
pub(crate) fn rewrite<F: Family>(
    packet: &impl Packet,
    headers: &Headers<'_>,
    new: &Tuple,
) -> Step<()> {
    let old = headers.tuple;
    let changes_ports =
        old.source_port != new.source_port || old.destination_port != new.destination_port;
    // The checksum is over what this part does not hold, nor says how long it is.
    if headers.shape.is_first != 0 && old.protocol == SCTP && changes_ports {
        return Err(Verdict::FragmentLost);
    }
    let source = Delta::new().longs(&old.source.words, &new.source.words);
    let source = Delta::new().sum(settled(source.wsum()));
    let addresses = source.longs(&old.destination.words, &new.destination.words);
    let addresses = Delta::new().sum(settled(addresses.wsum()));
    let ports = Delta::new()
        .word(old.source_port, new.source_port)
        .word(old.destination_port, new.destination_port);

    F::write(packet, headers.shape.network as usize, old, new)?;
    if headers.shape.is_later != 0 {
        return Ok(());
    }
    let transport = headers.shape.transport as usize;
    // SAFETY: `at` has checked the bounds.
    let written = unsafe { &mut *at::<[u16; 2]>(packet, transport)? };
    *written = [new.source_port, new.destination_port];
    if old.protocol == SCTP {
        return fix_sctp::<F>(packet, headers, new);
    }
    packet.fix_transport_checksum::<F>(transport, old.protocol == UDP, addresses, ports)
}

/// Corrects the checksum over ports and whatever follows them.
#[inline(always)]
fn fix_sctp<F: Family>(packet: &impl Packet, headers: &Headers<'_>, new: &Tuple) -> Step<()> {
    let (old, shape) = (headers.tuple, &headers.shape);
    let before = [old.source_port, old.destination_port];
    let after = [new.source_port, new.destination_port];
    let end = F::length(packet, shape.network as usize)? as u32 + shape.network;
    let behind = end.wrapping_sub(shape.transport + size_of_val(&before) as u32);
    // SAFETY: `at` has checked the bounds; the field is aligned to 2 only.
    let [.., low, high] = unsafe { &mut *at::<[u16; 6]>(packet, shape.transport as usize)? };
    // What a checksum is while a device is still to work it out.
    let is_unfinished = *low == 0 && *high == 0;
    if !is_unfinished {
        let [a, b, c, d] = crc32c::change(before, after, behind as u16).to_ne_bytes();
        *low ^= u16::from_ne_bytes([a, b]);
        *high ^= u16::from_ne_bytes([c, d]);
    }
    Ok(())
}
