//! Frontend -> backend set -> one backend.

use core::{hint, ptr};

use aya_ebpf::{
    btf_maps::{Array, HashMap},
    helpers::bpf_get_prandom_u32,
    macros::btf_map,
};
use lb_common::{Address, Backend, Frontend, FrontendKey, Slice, Tuple, Verdict, maps, ports};

use crate::{interfaces::NO_PREALLOC, packet::Step};

#[btf_map]
static FRONTENDS: HashMap<FrontendKey, Frontend, { maps::FRONTENDS }, NO_PREALLOC> = HashMap::new();

#[btf_map]
static PORTS: Array<u64, { ports::WORDS as usize }> = Array::new();

#[btf_map]
static SLOTS: Array<u32, { maps::SLOTS }> = Array::new();

#[btf_map]
static BACKENDS: Array<Backend, { maps::BACKENDS }> = Array::new();

/// Tries to read a frontend whose element is given away under our eyes.
const READS: u32 = 4;

/// Enough halvings for a set that fills all slots.
const HALVINGS: u32 = usize::BITS - maps::SLOTS.leading_zeros();

pub(crate) struct Choice {
    pub(crate) id: u32,
    pub(crate) generation: u32,
    pub(crate) backend: &'static Backend,
}

/// The frontend that `tuple` is addressed to; its `check` is of no use.
#[inline(always)]
pub(crate) fn find(tuple: &Tuple) -> Step<Frontend> {
    let key = FrontendKey {
        address: tuple.destination,
        port: tuple.destination_port,
        protocol: tuple.protocol,
        reserved: 0,
    };
    for _ in 0..READS {
        let Some(frontend) = FRONTENDS.get_ptr(key) else {
            return Err(Verdict::NoFrontend);
        };
        // SAFETY: the element is memory of the map for as long as the program
        // runs. Its content may change meanwhile, hence volatile reads, the
        // check last, for it lies below the rest but for the service, which
        // shares its word.
        let found = unsafe {
            Frontend {
                inside: ptr::read_volatile(&raw const (*frontend).inside),
                outside: ptr::read_volatile(&raw const (*frontend).outside),
                affinity_seconds: ptr::read_volatile(&raw const (*frontend).affinity_seconds),
                sources: ptr::read_volatile(&raw const (*frontend).sources),
                flags: ptr::read_volatile(&raw const (*frontend).flags),
                service: ptr::read_volatile(&raw const (*frontend).service),
                check: ptr::read_volatile(&raw const (*frontend).check),
                reserved: 0,
            }
        };
        if found.check == key.check() {
            return Ok(found);
        }
        hint::spin_loop();
    }
    Err(Verdict::Unstable)
}

/// Whether a Service has the address as its clusterIP.
#[inline(always)]
pub(crate) fn is_cluster_ip(address: &Address) -> bool {
    exists(FrontendKey::any_port(*address))
}

/// Whether packets to there are a Service's.
#[inline(always)]
pub(crate) fn is_frontend(destination: &Tuple) -> bool {
    let port = destination.destination_port;
    may_have(port)
        && exists(FrontendKey {
            address: destination.destination,
            port,
            protocol: destination.protocol,
            reserved: 0,
        })
}

/// Whether any frontend may have this port.
#[inline(always)]
fn may_have(port: u16) -> bool {
    let (word, bit) = ports::place(port);
    // SAFETY: one aligned word of the map.
    PORTS
        .get_ptr(word)
        .is_none_or(|word| unsafe { ptr::read_volatile(word) & bit != 0 })
}

#[inline(always)]
pub(crate) fn exists(key: FrontendKey) -> bool {
    FRONTENDS.get_ptr(key).is_some()
}

/// A backend of the set, each as likely as the next.
#[inline(always)]
pub(crate) fn select(set: Slice) -> Step<Choice> {
    if set.count == 0 {
        return Err(Verdict::NoBackend);
    }
    // SAFETY: the helper has no precondition.
    let random = unsafe { bpf_get_prandom_u32() };
    let index = (u64::from(random) * u64::from(set.count)) >> 32;
    let id = SLOTS.get(set.base + index as u32);
    id.and_then(|id| take(*id)).ok_or(Verdict::NoBackend)
}

/// Whether the id lies in the set.
#[inline(always)]
pub(crate) fn is_member(set: Slice, id: u32) -> bool {
    lb_is_member(set.base, set.count, id) != 0
}

/// A function of its own to the verifier too, which looks at it once and not at
/// each call: hence the linkage.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_is_member(base: u32, count: u32, id: u32) -> u32 {
    search(Slice { base, count }, id).into()
}

#[inline(always)]
fn search(set: Slice, id: u32) -> bool {
    let (mut low, mut high) = (0, set.count);
    for _ in 0..HALVINGS {
        if low >= high {
            break;
        }
        let middle = low + (high - low) / 2;
        match SLOTS.get(set.base + middle) {
            Some(&found) if found == id => return true,
            Some(&found) if found < id => low = middle + 1,
            Some(_) => high = middle,
            None => break,
        }
    }
    false
}

/// The backend of this id, if it is alive.
#[inline(always)]
pub(crate) fn take(id: u32) -> Option<Choice> {
    let backend = BACKENDS.get(id)?;
    // SAFETY: the element is memory of the map. It may be retired meanwhile,
    // flags first: whoever saw it alive after the generation has the old one.
    let (generation, flags) = unsafe {
        let generation = ptr::read_volatile(&raw const backend.generation);
        (generation, ptr::read_volatile(&raw const backend.flags))
    };
    (flags & Backend::ALIVE != 0).then_some(Choice {
        id,
        generation,
        backend,
    })
}

/// Whether the backend that a connection remembers is still in use.
#[inline(always)]
pub(crate) fn is_current(id: u32, generation: u32) -> bool {
    BACKENDS
        .get(id)
        .is_some_and(|backend| backend.generation == generation)
}

/// Whether the backend that a connection remembers is in use, and not on this
/// node.
#[inline(always)]
pub(crate) fn is_elsewhere(id: u32, generation: u32) -> bool {
    BACKENDS.get(id).is_some_and(|backend| {
        backend.generation == generation && backend.flags & Backend::LOCAL == 0
    })
}
