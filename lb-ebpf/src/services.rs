//! Frontend -> backend set -> one backend, at random.

use core::{hint, ptr};

use aya_ebpf::{
    btf_maps::{Array, HashMap},
    helpers::bpf_get_prandom_u32,
    macros::btf_map,
};
use lb_common::{Backend, Frontend, FrontendKey, Slice, Tuple, Verdict, maps};

use crate::{interfaces::NO_PREALLOC, packet::Step};

#[btf_map]
static FRONTENDS: HashMap<FrontendKey, Frontend, { maps::FRONTENDS }, NO_PREALLOC> = HashMap::new();

#[btf_map]
static SLOTS: Array<u32, { maps::SLOTS }> = Array::new();

#[btf_map]
static BACKENDS: Array<Backend, { maps::BACKENDS }> = Array::new();

/// Tries to read a frontend whose element is given away under our eyes.
const READS: u32 = 4;

pub(crate) struct Choice {
    pub(crate) id: u32,
    pub(crate) generation: u32,
    pub(crate) backend: &'static Backend,
}

pub(crate) enum Audience {
    Inside,
    Outside,
}

/// The backend set of the frontend that `tuple` is addressed to.
#[inline(always)]
pub(crate) fn find(tuple: &Tuple, audience: &Audience) -> Step<Slice> {
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
        // set before the check that lies below it.
        let (set, check) = unsafe {
            let set = match audience {
                Audience::Inside => ptr::read_volatile(&raw const (*frontend).inside),
                Audience::Outside => ptr::read_volatile(&raw const (*frontend).outside),
            };
            (set, ptr::read_volatile(&raw const (*frontend).check))
        };
        if check == key.check() {
            return Ok(Slice::unpack(set));
        }
        hint::spin_loop();
    }
    Err(Verdict::Unstable)
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
    let id = *SLOTS
        .get(set.base + index as u32)
        .ok_or(Verdict::NoBackend)?;
    let backend = BACKENDS.get(id).ok_or(Verdict::NoBackend)?;
    // SAFETY: the element is memory of the map. It may be retired meanwhile,
    // flags first: whoever saw it alive after the generation has the old one.
    let (generation, flags) = unsafe {
        let generation = ptr::read_volatile(&raw const backend.generation);
        (generation, ptr::read_volatile(&raw const backend.flags))
    };
    if flags & Backend::ALIVE == 0 {
        return Err(Verdict::NoBackend);
    }
    Ok(Choice {
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
