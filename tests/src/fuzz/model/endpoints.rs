//! Backends of services as they are by now.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::fuzz::world::{Backend, World};

/// What becomes of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is gone.
    Remove,
    /// It gets no new connections; those it has go on.
    Drain,
    Return,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) backend: Backend,
    pub(crate) is_usable: bool,
}

/// A backend from when it came until it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) service: usize,
    pub(crate) backend: Backend,
    /// How often it was removed before.
    removed: u32,
}

pub(crate) struct Endpoints<'a> {
    world: &'a World,
    changed: BTreeMap<usize, Vec<Endpoint>>,
    removed: BTreeMap<(usize, SocketAddr), u32>,
}

impl<'a> Endpoints<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        Self {
            world,
            changed: BTreeMap::new(),
            removed: BTreeMap::new(),
        }
    }

    /// Changes a backend of the world's, and returns what the service has then.
    pub(crate) fn change(
        &mut self,
        service: usize,
        backend: Backend,
        change: Change,
    ) -> Vec<Endpoint> {
        let mut endpoints = self.of(service);
        let at = endpoints.iter().position(|one| one.backend == backend);
        let new = |is_usable| Endpoint { backend, is_usable };
        match (at, change) {
            (Some(at), Change::Remove) => {
                endpoints.remove(at);
                *self.removed.entry((service, backend.at)).or_default() += 1;
            }
            (Some(at), Change::Drain) => endpoints[at] = new(false),
            (Some(at), Change::Return) => endpoints[at] = new(true),
            (None, Change::Return) => endpoints.push(new(true)),
            (None, Change::Remove | Change::Drain) => {}
        }
        self.changed.insert(service, endpoints.clone());
        endpoints
    }

    pub(crate) fn changed(&self) -> impl Iterator<Item = usize> {
        self.changed.keys().copied()
    }

    /// Those that new connections may go to.
    pub(crate) fn usable(&self, service: usize) -> Vec<Life> {
        let all = self.of(service).into_iter();
        let usable = all.filter(|endpoint| endpoint.is_usable);
        usable
            .map(|endpoint| self.life(service, endpoint.backend))
            .collect()
    }

    /// Whether a service has such a backend, for new connections or not.
    pub(crate) fn has(&self, at: SocketAddr, protocol: u8) -> bool {
        let users = self.world.users.get(&(at, protocol)).into_iter().flatten();
        users
            .flat_map(|service| self.of(*service))
            .any(|endpoint| endpoint.backend.at == at)
    }

    /// Whether the backend has been there ever since.
    pub(crate) fn is_current(&self, life: &Life) -> bool {
        self.life(life.service, life.backend) == *life
    }

    fn life(&self, service: usize, backend: Backend) -> Life {
        let removed = self.removed.get(&(service, backend.at));
        Life {
            service,
            backend,
            removed: removed.copied().unwrap_or_default(),
        }
    }

    /// What a service has by now.
    pub(crate) fn of(&self, service: usize) -> Vec<Endpoint> {
        if let Some(endpoints) = self.changed.get(&service) {
            return endpoints.clone();
        }
        let backends = self.world.services[service].backends.iter();
        let usable = |backend: &Backend| Endpoint {
            backend: *backend,
            is_usable: true,
        };
        backends.map(usable).collect()
    }
}
