//! The connection table: two entries a connection, one a direction.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    btf_maps::LruHashMap,
    helpers::bpf_get_prandom_u32,
    macros::btf_map,
};
use lb_common::{Connection, Tuple, Verdict, maps};

use crate::{packet::Step, scratch::Scratch};

#[btf_map]
static CONNECTIONS: LruHashMap<Tuple, Connection, { maps::CONNECTIONS }> = LruHashMap::new();

const EEXIST: i32 = -17;

/// Source ports tried when the client's own is taken towards a backend.
const ATTEMPTS: u32 = 16;
/// Where they are drawn from: above nodePorts (30000-32767) and above Linux'
/// default range for the node's own sockets (32768-60999).
const FIRST_PORT: u32 = 61_000;
const PORTS: u32 = 4_536;

#[inline(always)]
pub(crate) fn get(tuple: &Tuple) -> Option<&'static mut Connection> {
    // SAFETY: the element is memory of the map for as long as the program runs.
    CONNECTIONS
        .get_ptr_mut(tuple)
        .map(|connection| unsafe { &mut *connection })
}

#[inline(always)]
pub(crate) fn remove(tuple: &Tuple) {
    // Already gone is as good.
    let _ = CONNECTIONS.remove(tuple);
}

/// Writes down that this direction is about to close.
#[inline(always)]
pub(crate) fn close(connection: &mut Connection) {
    // SAFETY: one aligned word of the map; the bit is only ever set.
    unsafe {
        ptr::write_volatile(
            &raw mut connection.flags,
            connection.flags | Connection::CLOSING,
        )
    };
}

/// Enters both directions. `forward.translated` may get another source port,
/// when another connection to the same backend uses the same one.
///
/// The reply goes in first, so a connection that answers a lookup is whole.
#[inline(always)]
pub(crate) fn open(key: &Tuple, scratch: &mut Scratch) -> Step<()> {
    scratch.reply_key = scratch.forward.translated.reverse();
    claim(key, &mut scratch.reply_key, &scratch.reply)?;
    scratch.forward.translated.source_port = scratch.reply_key.destination_port;
    if CONNECTIONS
        .insert(key, &scratch.forward, BPF_ANY.into())
        .is_err()
    {
        remove(&scratch.reply_key);
        return Err(Verdict::TableFull);
    }
    Ok(())
}

#[inline(always)]
fn claim(key: &Tuple, reply_key: &mut Tuple, reply: &Connection) -> Step<()> {
    for _ in 0..ATTEMPTS {
        let inserted = match CONNECTIONS.insert(&*reply_key, reply, BPF_NOEXIST.into()) {
            Err(EEXIST) if is_vacant(reply_key, key) => {
                CONNECTIONS.insert(&*reply_key, reply, BPF_ANY.into())
            }
            result => result,
        };
        match inserted {
            Ok(()) => return Ok(()),
            Err(EEXIST) => {}
            Err(_) => return Err(Verdict::TableFull),
        }
        // SAFETY: the helper has no precondition.
        let random = unsafe { bpf_get_prandom_u32() };
        let port = FIRST_PORT + ((u64::from(random) * u64::from(PORTS)) >> 32) as u32;
        reply_key.destination_port = (port as u16).to_be();
    }
    Err(Verdict::NoSourcePort)
}

/// Whether the reply entry is left over: from an earlier connection of the
/// same client, from one that closed, or from one whose other half is gone.
#[inline(always)]
fn is_vacant(reply_key: &Tuple, key: &Tuple) -> bool {
    let Some(reply) = get(reply_key) else {
        return true;
    };
    if reply.flags & Connection::CLOSING != 0 {
        return true;
    }
    let forward_key = reply.translated.reverse();
    if forward_key == *key {
        return true;
    }
    match get(&forward_key) {
        None => true,
        Some(forward) => {
            forward.flags & Connection::CLOSING != 0 || forward.translated.reverse() != *reply_key
        }
    }
}
