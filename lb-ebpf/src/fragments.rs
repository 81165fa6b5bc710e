//! Parts of packets. Only the first one has ports: they are remembered for the
//! others, and what comes before it waits.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_ANY,
    btf_maps::{Array, LruHashMap},
    macros::btf_map,
};
use lb_common::{Address, Fragment, FragmentKey, Hook, InterfaceKind, Tuple, Verdict, maps};

use crate::{
    atomic, clock,
    family::Layers,
    headers::{Headers, Shape},
    interfaces,
    packet::{Outcome, Packet, Step},
    scratch::{self, Scratch, hidden, lend},
    services,
    words::{copy, is_same, put},
};

#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, Fragment, { maps::FRAGMENTS }> = LruHashMap::new();

/// What waits, `PLACES` next to each other for packets of one hash.
#[btf_map]
static HELD: Array<Held, { (GROUPS * PLACES) as usize }> = Array::new();

const GROUPS: u32 = 64;
const PLACES: u32 = 4;

/// How long ports are remembered, in seconds: as long as Linux waits for missing
/// parts.
const LIFETIME: u32 = 30;
/// How long a part waits, in seconds, before another may take its place.
const PATIENCE: u32 = 2;

/// The longest frame that may wait, in bytes.
const LONGEST: u32 = 2048;

#[repr(C)]
struct Held {
    /// [`FREE`], [`BUSY`] or [`FULL`], and since when (jiffies, lower 32 bits).
    state: u64,
    key: FragmentKey,
    length: u32,
    reserved: u32,
    frame: [u64; LONGEST as usize / 8],
}

/// The index of no place.
const NOWHERE: u32 = u32::MAX;

const FREE: u64 = 0;
const BUSY: u64 = 1 << 32;
const FULL: u64 = 2 << 32;

/// Writes protocol and ports of a later part to the tuple in the scratch.
#[inline(always)]
pub(crate) fn recall<P: Packet>(
    packet: &P,
    scratch: &mut Scratch,
    layers: &Layers,
) -> Step<Option<Outcome>> {
    note_whole(scratch, layers);
    if lend(scratch, || lb_recall()) != 0 {
        // Others that had come before the first one, and after it by now.
        return Ok(match P::HOOK {
            Hook::Xdp => None,
            Hook::TcIngress | Hook::TcEgress => release(packet, scratch),
        });
    }
    if matches!(P::HOOK, Hook::Xdp) {
        return Err(Verdict::Deferred);
    }
    if !is_awaited(packet, &scratch.tuple) {
        return Err(Verdict::Fragment);
    }
    if !hold(packet, scratch) {
        return Err(match services::is_cluster_ip(&scratch.tuple.destination) {
            true => Verdict::FragmentLost,
            false => Verdict::Fragment,
        });
    }
    // The first one may have gone by on another CPU.
    if lend(scratch, || lb_recall()) != 0
        && let Some(held) = take_any(scratch)
    {
        free(held);
        return Ok(None);
    }
    Err(Verdict::Held)
}

/// Notes the ports of a first part. Parts that waited for it are sent to this
/// hook again, the first one before them: then nothing is left to do with it.
#[inline(always)]
pub(crate) fn remember<P: Packet>(
    packet: &P,
    scratch: &mut Scratch,
    layers: &Layers,
) -> Step<Option<Outcome>> {
    note_whole(scratch, layers);
    let is_xdp = matches!(P::HOOK, Hook::Xdp);
    if is_xdp && is_waiting(scratch) {
        return Err(Verdict::Deferred);
    }
    let Scratch { tuple, whole, .. } = &*scratch;
    let fragment = Fragment {
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        protocol: tuple.protocol.into(),
        seen: clock::now(),
    };
    // Without it, the others wait in vain.
    let _ = FRAGMENTS.insert(whole, fragment, BPF_ANY.into());
    if is_xdp {
        return Ok(None);
    }
    Ok(release(packet, scratch))
}

/// What becomes of a later part whose ports are known, but no connection.
///
/// The first one may still be on its way to open it: among what was put into
/// this hook again, or what XDP has left to this hook. All that has arrived
/// before.
#[inline(always)]
pub(crate) fn without_connection<P: Packet>(packet: &P, headers: &Headers<'_>) -> Verdict {
    let (tuple, shape) = (headers.tuple, &headers.shape);
    let has_ports = tuple.source_port != 0;
    if !has_ports || !matches!(P::HOOK, Hook::TcIngress) || !is_to_us(&tuple.destination) {
        return Verdict::Fragment;
    }
    if shape.is_later == Shape::LATER && packet.put_back().is_ok() {
        return Verdict::Held;
    }
    match services::is_cluster_ip(&tuple.destination) {
        true => Verdict::FragmentLost,
        false => Verdict::Fragment,
    }
}

/// Leaves in the scratch what all parts of the packet have in common.
#[inline(always)]
fn note_whole(scratch: &mut Scratch, layers: &Layers) {
    let Scratch { tuple, whole, .. } = scratch;
    copy(&tuple.source.words, &mut whole.source.words);
    copy(&tuple.destination.words, &mut whole.destination.words);
    put(&mut whole.id, layers.id);
    put(&mut whole.protocol, layers.kind.into());
}

/// Whether the first part of the packet in the scratch was seen; its tuple gets
/// what that has said.
///
/// A function of its own to the verifier, which looks at it once and not at
/// each call: hence the linkage.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_recall() -> u32 {
    scratch::get()
        .is_ok_and(|Scratch { tuple, whole, .. }| look_up(whole, tuple))
        .into()
}

#[inline(always)]
fn look_up(key: &FragmentKey, tuple: &mut Tuple) -> bool {
    let Some(fragment) = FRAGMENTS.get_ptr(key) else {
        return false;
    };
    // SAFETY: the element is memory of the map for as long as the program
    // runs. If it goes to another packet meanwhile, a part is sent to a wrong
    // port, as if its sender had reused the number.
    let fragment = unsafe { ptr::read_volatile(fragment) };
    if clock::now().wrapping_sub(fragment.seen) > LIFETIME * clock::second() {
        return false;
    }
    tuple.set_protocol(fragment.protocol as u8);
    tuple.source_port = fragment.source_port;
    tuple.destination_port = fragment.destination_port;
    true
}

/// Whether the first part must come by here as well, and nobody needs the others
/// before it: the packet is put together at its destination.
#[inline(always)]
fn is_awaited<P: Packet>(packet: &P, tuple: &Tuple) -> bool {
    let is_pods = interfaces::is_kind(packet.interface(), InterfaceKind::Pod);
    is_pods
        || match P::HOOK {
            Hook::TcEgress => services::is_cluster_ip(&tuple.destination),
            Hook::Xdp | Hook::TcIngress => is_to_us(&tuple.destination),
        }
}

#[inline(always)]
fn is_to_us(destination: &Address) -> bool {
    interfaces::owner(destination).is_some() || services::is_cluster_ip(destination)
}

/// `false` if there is no room.
#[inline(always)]
fn hold<P: Packet>(packet: &P, scratch: &mut Scratch) -> bool {
    let length = packet.length();
    if length > LONGEST {
        return false;
    }
    let now = clock::now();
    let place = lend(scratch, || lb_occupy(now));
    let Some(held) = HELD.get_ptr_mut(place) else {
        return false;
    };
    // SAFETY: the element is memory of the map; who has made it busy is
    // alone with the rest of it.
    unsafe {
        (*held).length = length;
        let frame = (&raw mut (*held).frame).cast();
        let is_whole = packet.load(0, frame, length, LONGEST).is_ok();
        let after = if is_whole {
            FULL | u64::from(now)
        } else {
            FREE
        };
        let busy = BUSY | u64::from(now);
        atomic::swap(&raw mut (*held).state, busy, after);
        is_whole
    }
}

/// A place for a part of the packet in the scratch, busy from `now` on; or
/// [`NOWHERE`].
///
/// A function of its own as above.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_occupy(now: u32) -> u32 {
    let Ok(Scratch { whole, .. }) = scratch::get() else {
        return NOWHERE;
    };
    let first = first_place(whole);
    let place = (first..first + PLACES).find(|&place| {
        // SAFETY: the element is memory of the map.
        HELD.get_ptr_mut(place)
            .is_some_and(|held| unsafe { occupy(held, whole, now) })
    });
    place.unwrap_or(NOWHERE)
}

/// # Safety
/// `held` is an element of the map.
#[inline(always)]
unsafe fn occupy(held: *mut Held, key: &FragmentKey, now: u32) -> bool {
    // SAFETY: what the caller says; who has made it busy is alone with the rest
    // of it.
    unsafe {
        let state = ptr::read_volatile(&raw const (*held).state);
        let busy = BUSY | u64::from(now);
        if (state != FREE && !is_stale(state)) || !atomic::swap(&raw mut (*held).state, state, busy)
        {
            return false;
        }
        let into = &mut (*held).key;
        copy(&key.source.words, &mut into.source.words);
        copy(&key.destination.words, &mut into.destination.words);
        put(&mut into.id, key.id);
        put(&mut into.protocol, key.protocol);
        true
    }
}

#[inline(always)]
fn is_waiting(scratch: &mut Scratch) -> bool {
    let first = first_place(&scratch.whole);
    (first..first + PLACES).any(|place| lend(scratch, || lb_waits(place)) != 0)
}

/// Whether a part of the packet in the scratch waits there.
///
/// A function of its own as above.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_waits(place: u32) -> u32 {
    scratch::get()
        .ok()
        .zip(HELD.get_ptr_mut(place))
        // SAFETY: the element is memory of the map.
        .is_some_and(|(scratch, held)| unsafe { is_of(held, &scratch.whole) }.is_some())
        .into()
}

/// Sends all parts that wait to this hook again, behind the packet itself.
#[inline(always)]
fn release<P: Packet>(packet: &P, scratch: &mut Scratch) -> Option<Outcome> {
    // At egress, what is sent again uses the scratch before this goes on.
    let first = hidden(first_place(&scratch.whole).into()) as u32;
    let mut taken = 0;
    for place in 0..PLACES {
        taken |= take(scratch, first + place) << place;
    }
    if taken == 0 {
        return None;
    }
    let is_repeated = packet.repeat().is_ok();
    for place in 0..PLACES {
        if taken & 1 << place != 0
            && let Some(held) = HELD.get_ptr_mut(first + place)
        {
            if is_repeated {
                // A lost part is lost with its packet.
                let _ = send(packet, held);
            }
            free(held);
        }
    }
    is_repeated.then(|| Outcome::new(Verdict::Passing, P::DROP))
}

#[inline(always)]
fn take_any(scratch: &mut Scratch) -> Option<*mut Held> {
    let first = first_place(&scratch.whole);
    let place = (first..first + PLACES).find(|&place| take(scratch, place) != 0)?;
    HELD.get_ptr_mut(place)
}

/// 1 if a part of the packet waits there no more: nobody else has its place now.
#[inline(always)]
fn take(scratch: &mut Scratch, place: u32) -> u32 {
    lend(scratch, || lb_take(place))
}

/// A function of its own as above.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_take(place: u32) -> u32 {
    let (Ok(scratch), Some(held)) = (scratch::get(), HELD.get_ptr_mut(place)) else {
        return 0;
    };
    // SAFETY: the element is memory of the map.
    unsafe {
        is_of(held, &scratch.whole).is_some_and(|state| {
            let busy = BUSY | state & 0xffff_ffff;
            atomic::swap(&raw mut (*held).state, state, busy)
        })
    }
    .into()
}

/// Its state, if a part of the packet waits there, and not in vain by now: its
/// sender may have given another packet the same number.
///
/// # Safety
/// `held` is an element of the map.
#[inline(always)]
unsafe fn is_of(held: *mut Held, key: &FragmentKey) -> Option<u64> {
    // SAFETY: what the caller says; the content may change, hence volatile. If
    // the place changes hands meanwhile, so does its state, which is compared
    // when the part is taken.
    unsafe {
        let state = ptr::read_volatile(&raw const (*held).state);
        let has_key = is_same(&raw const (*held).key, key);
        (state & FULL != 0 && !is_stale(state) && has_key).then_some(state)
    }
}

#[inline(always)]
fn is_stale(state: u64) -> bool {
    clock::now().wrapping_sub(state as u32) > PATIENCE * clock::second()
}

/// Puts a part in the packet's place, and that into this hook again.
#[inline(always)]
fn send<P: Packet>(packet: &P, held: *mut Held) -> Step<()> {
    // SAFETY: the element is memory of the map, and its place this program's.
    let (length, frame) = unsafe { ((*held).length, (&raw const (*held).frame).cast()) };
    packet.resize(length)?;
    packet.store(0, frame, length, LONGEST)?;
    packet.repeat()
}

#[inline(always)]
fn free(held: *mut Held) {
    // SAFETY: as above; one aligned word.
    unsafe { ptr::write_volatile(&raw mut (*held).state, FREE) };
}

#[inline(always)]
fn first_place(key: &FragmentKey) -> u32 {
    let [a, b, c, d] = key.source.words;
    let [e, f, g, h] = key.destination.words;
    let mixed = a ^ b ^ c ^ d ^ (e ^ f ^ g ^ h).rotate_left(7) ^ key.id.rotate_left(13);
    (mixed.wrapping_mul(0x9e37_79b1) >> (u32::BITS - GROUPS.ilog2())) * PLACES
}
