//! Source ports: no two connections to a backend may look alike to it.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use lb_common::{Life, State, Verdict};

use crate::{
    clock,
    connections::{self, Entered},
    known,
    packet::{Outcome, Packet, Step},
    scratch::{self, Halves, Work, lend},
    services,
};

/// Source ports tried when the client's own is taken towards a backend.
const ATTEMPTS: u64 = 16;
/// Where they are drawn from: above nodePorts (30000-32767) and above Linux'
/// default range for the node's own sockets (32768-60999).
const FIRST_PORT: u32 = 61_000;
const PORTS: u32 = 4_536;

/// Enters both directions of the connection in `work.halves.one`, which may get
/// another source port.
#[inline(always)]
pub(crate) fn claim<P: Packet>(packet: &P) -> Step<Outcome> {
    const DONE: u32 = Entered::Done as u32;
    const REFUSED: u32 = Entered::Refused as u32;

    let work = &mut scratch::get()?.work;
    let now = clock::now();
    let is_ours = work.halves.one.translated.source != work.halves.one_key.source;
    for attempt in 0..ATTEMPTS {
        work.halves.one.life = connections::cached(now);
        work.halves.complete();
        work.halves.other.hop.set(&work.hop_back);
        if is_free(work, is_ours, attempt + 1 == ATTEMPTS)
            && !(is_ours && packet.has_socket(&work.halves.other_key))
        {
            match lend(work, || lb_claim()) {
                DONE => return Ok(Outcome::new(Verdict::Opened, P::PASS)),
                REFUSED => return Err(Verdict::TableFull),
                _ => {}
            }
        }
        // SAFETY: the helper has no precondition.
        let random = unsafe { bpf_get_prandom_u32() };
        let port = FIRST_PORT + ((u64::from(random) * u64::from(PORTS)) >> 32) as u32;
        work.halves.one.translated.source_port = (port as u16).to_be();
    }
    Err(Verdict::NoSourcePort)
}

/// Whether a connection's replies look like answers to the packet in the scratch: a
/// living one's, or with `take_closed` one's that did not close.
#[inline(always)]
pub(crate) fn is_claimed(work: &mut Work, take_closed: bool) -> bool {
    lend(work, || lb_claimant(take_closed.into())) == Holder::Reply as u32
}

/// Whether nobody has the tuple of the connection's replies; a frontend only
/// matters where they come to this node itself.
#[inline(always)]
fn is_free(work: &mut Work, is_ours: bool, take_closed: bool) -> bool {
    if !is_ours && !known::may_hold(work.halves.other.check) {
        return true;
    }
    work.rival.one_key.set(&work.halves.other_key);
    holder(work, is_ours, take_closed) == Holder::Nobody as u32
}

#[inline(always)]
fn holder(work: &mut Work, is_ours: bool, take_closed: bool) -> u32 {
    lend(work, || lb_holder(is_ours.into(), take_closed.into()))
}

/// Enters both directions of the connection in the scratch; returns an [`Entered`].
///
/// A function of its own to the verifier, which looks at it once and not at
/// each call: hence the linkage.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_claim() -> u32 {
    let entered = scratch::get().map_or(Entered::Refused, |scratch| {
        connections::open(&mut scratch.work.halves)
    });
    entered as u32
}

/// Who has a tuple.
#[repr(u32)]
enum Holder {
    Nobody,
    /// The replies of a living connection.
    Reply,
    /// A living connection's client, or a frontend.
    Other,
}

/// As above.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_holder(is_ours: u32, take_closed: u32) -> u32 {
    let Ok(scratch) = scratch::get() else {
        return Holder::Other as u32;
    };
    let rival = &mut scratch.work.rival;
    if is_ours != 0 && services::is_frontend(&rival.one_key) {
        return Holder::Other as u32;
    }
    holding(rival, take_closed != 0) as u32
}

/// As above.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_claimant(take_closed: u32) -> u32 {
    let Ok(scratch) = scratch::get() else {
        return Holder::Other as u32;
    };
    let rival = &mut scratch.work.rival;
    rival.one_key.reverse_of(&scratch.tuple);
    holding(rival, take_closed != 0) as u32
}

/// Which connection has `rival.one_key`. What is over goes.
///
/// One that closed gives its port away only if it must: the backend may hold it
/// in TIME-WAIT, and takes a SYN of another connection on the same ports for an
/// old segment.
#[inline(always)]
fn holding(rival: &mut Halves, take_closed: bool) -> Holder {
    let Some(table) = connections::find(&rival.one_key, &mut rival.one) else {
        return Holder::Nobody;
    };
    if !rival.is_reply() {
        return Holder::Other;
    }
    let Some(word) = connections::life_of(table, rival) else {
        return match connections::remove_orphan(table, rival) {
            true => Holder::Nobody,
            false => Holder::Reply,
        };
    };
    let life = Life::unpack(word);
    let protocol = rival.one_key.protocol;
    let is_over =
        take_closed && life.state.is_over() || clock::is_expired(protocol, life, clock::now());
    // Who has made it dying removes it.
    match is_over && life.state != State::Dying && connections::take_away(table, rival, word) {
        true => Holder::Nobody,
        false => Holder::Reply,
    }
}
