//! Turns one tuple into another, checksums included.

use lb_common::{Tuple, checksum::Delta};

use crate::{
    family::Family,
    headers::{Headers, UDP},
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
    packet.fix_transport_checksum::<F>(transport, old.protocol == UDP, addresses, ports)
}
