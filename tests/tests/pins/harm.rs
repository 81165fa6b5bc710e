//! What others may have written, and what of it a packet would meet.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use lb_common::{Frontend, FrontendKey, Slice};

use super::kernel::Kernel;

/// What someone else may have done to the maps while no agent looked.
pub(crate) type Harm = fn(&mut Kernel, FrontendKey);

fn stray(kernel: &mut Kernel, key: FrontendKey, service: u32, inside: Slice) {
    let stray = FrontendKey {
        port: (1000 + service as u16).to_be(),
        ..key
    };
    let frontend = Frontend {
        check: stray.check(),
        service,
        inside: inside.pack(),
        outside: inside.pack(),
        ..Frontend::default()
    };
    kernel.frontends.insert(stray, frontend, 0).unwrap();
}

pub(crate) const HARMS: [(&str, Harm); 8] = [
    ("a frontend of nobody", |kernel, key| {
        stray(kernel, key, 77, Slice { base: 40, count: 3 });
    }),
    ("a frontend outside the slots", |kernel, key| {
        stray(
            kernel,
            key,
            78,
            Slice {
                base: u32::MAX - 1,
                count: 9,
            },
        );
    }),
    ("a frontend across others' slots", |kernel, key| {
        stray(kernel, key, 79, Slice { base: 0, count: 50 });
    }),
    ("a frontend that is missing", |kernel, key| {
        kernel.frontends.remove(&key).unwrap();
    }),
    ("a frontend that points elsewhere", |kernel, key| {
        let mut frontend = kernel.frontends.get(&key, 0).unwrap();
        frontend.inside = Slice { base: 60, count: 4 }.pack();
        kernel.frontends.insert(key, frontend, 0).unwrap();
    }),
    ("slots of dead backends", |kernel, key| {
        let frontend = kernel.frontends.get(&key, 0).unwrap();
        let slice = Slice::unpack(frontend.inside);
        for slot in slice.base..slice.base + slice.count {
            kernel.slots.set(slot, 5000 + slot, 0).unwrap();
        }
    }),
    ("slots that are one backend's", |kernel, key| {
        let frontend = kernel.frontends.get(&key, 0).unwrap();
        let slice = Slice::unpack(frontend.inside);
        let first = kernel.slots.get(&slice.base, 0).unwrap();
        for slot in slice.base..slice.base + slice.count {
            kernel.slots.set(slot, first, 0).unwrap();
        }
    }),
    ("a backend with another address", |kernel, key| {
        let frontend = kernel.frontends.get(&key, 0).unwrap();
        let slot = Slice::unpack(frontend.inside).base;
        let id = kernel.slots.get(&slot, 0).unwrap();
        let mut backend = kernel.backends.get(&id, 0).unwrap();
        backend.address = IpAddr::from([10, 244, 9, 9]).into();
        kernel.backends.set(id, backend, 0).unwrap();
    }),
];

/// Where each frontend leads.
pub(crate) fn meaning(pins: &Path) -> BTreeMap<FrontendKey, Vec<SocketAddr>> {
    let kernel = Kernel::open(pins);
    let keys: Vec<_> = kernel.frontends.keys().map(Result::unwrap).collect();
    keys.into_iter()
        .map(|key| {
            let chosen = kernel.chosen(&key);
            (key, chosen.into_iter().collect())
        })
        .collect()
}
