//! The connection table: two entries a connection, one a direction.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    btf_maps::LruHashMap,
    helpers::bpf_get_prandom_u32,
    macros::btf_map,
};
use lb_common::{Connection, Tuple, Verdict, maps};

use crate::{headers::TCP, packet::Step, scratch::Scratch};

#[btf_map]
static CONNECTIONS: LruHashMap<Tuple, Connection, { maps::CONNECTIONS }> = LruHashMap::new();

const EEXIST: i32 = -17;

/// Source ports tried when the client's own is taken towards a backend.
const ATTEMPTS: u32 = 16;
/// Where they are drawn from: above nodePorts (30000-32767) and above Linux'
/// default range for the node's own sockets (32768-60999).
const FIRST_PORT: u32 = 61_000;
const PORTS: u32 = 4_536;

/// The connection that a packet belongs to.
pub(crate) struct Found {
    pub(crate) connection: &'static Connection,
    pub(crate) verdict: Verdict,
    /// The scratch holds the route already.
    pub(crate) routed: bool,
}

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
    let forward: &Connection = &scratch.forward;
    if CONNECTIONS.insert(key, forward, BPF_ANY.into()).is_err() {
        remove(&scratch.reply_key);
        return Err(Verdict::TableFull);
    }
    Ok(())
}

#[inline(always)]
fn claim(key: &Tuple, reply_key: &mut Tuple, reply: &Connection) -> Step<()> {
    for attempt in 1..=ATTEMPTS {
        let at: &Tuple = reply_key;
        let inserted = match CONNECTIONS.insert(at, reply, BPF_NOEXIST.into()) {
            Err(EEXIST) if is_vacant(at, key, attempt == ATTEMPTS) => {
                CONNECTIONS.insert(at, reply, BPF_ANY.into())
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
/// same client to the same frontend, or from one whose other half is gone.
///
/// One that closed is vacant only if there is no other way: the backend may
/// hold it in TIME-WAIT, and takes a SYN of another connection on the same
/// ports for an old segment.
#[inline(always)]
fn is_vacant(reply_key: &Tuple, key: &Tuple, take_closed: bool) -> bool {
    let Some(reply) = get(reply_key) else {
        return true;
    };
    let forward_key = reply.translated.reverse();
    if forward_key == *key {
        return true;
    }
    get(&forward_key).is_none_or(|forward| {
        take_closed && forward.flags & Connection::CLOSING != 0
            || !is_pair(forward, reply, reply_key)
    })
}

/// Forgets a connection whose replies look like those to `tuple`, the packet
/// of a flow that is none of ours: a client uses the port it used towards a
/// frontend to reach the backend itself, or through another node. A TCP
/// connection is forgotten only once it has closed.
#[inline(always)]
pub(crate) fn yield_to(tuple: &Tuple) {
    let reply_key = tuple.reverse();
    let Some(reply) = get(&reply_key) else {
        return;
    };
    if reply.flags & Connection::REPLY == 0 {
        return;
    }
    let forward_key = reply.translated.reverse();
    let is_over = |connection: &Connection| {
        tuple.protocol != TCP || connection.flags & Connection::CLOSING != 0
    };
    let forward = get(&forward_key).filter(|forward| is_pair(forward, reply, &reply_key));
    let over = match &forward {
        Some(forward) => is_over(reply) || is_over(forward),
        None => is_over(reply),
    };
    if !over {
        return;
    }
    if forward.is_some() {
        remove(&forward_key);
    }
    remove(&reply_key);
}

/// Whether the two entries, found by each other, are of one connection: the
/// client may have opened another one to the same frontend since.
#[inline(always)]
fn is_pair(forward: &Connection, reply: &Connection, reply_key: &Tuple) -> bool {
    forward.backend == reply.backend
        && forward.generation == reply.generation
        && forward.translated.source_port == reply_key.destination_port
}
