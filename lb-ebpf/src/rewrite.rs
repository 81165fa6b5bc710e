//! Turns one tuple into another, checksums included.

use lb_common::{Tuple, checksum::Delta};

use crate::{
    family::Family,
    headers::{Headers, UDP},
    packet::{Packet, Step, at},
};

#[inline(always)]
pub(crate) fn rewrite<F: Family>(packet: &impl Packet, headers: &Headers, new: &Tuple) -> Step<()> {
    let old = &headers.tuple;
    let addresses = Delta::new()
        .longs(&old.source.words, &new.source.words)
        .longs(&old.destination.words, &new.destination.words);
    let ports = Delta::new()
        .word(old.source_port, new.source_port)
        .word(old.destination_port, new.destination_port);

    F::write(packet, headers.network, old, new)?;
    // SAFETY: `at` has checked the bounds.
    let written = unsafe { &mut *at::<[u16; 2]>(packet, headers.transport)? };
    *written = [new.source_port, new.destination_port];
    packet.fix_transport_checksum::<F>(headers.transport, old.protocol == UDP, addresses, ports)
}
