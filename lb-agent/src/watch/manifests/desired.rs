//! What the folder says should be there, and the changes that lead to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};

use super::{
    allocate::Services,
    endpoints::{PodIndex, has_selector, of_endpoints, of_pods},
    objects::{Key, Kind, Located, Object},
};
use crate::{
    model::{Change, Node, ObjectName, Origin, Problem, Service, Slice},
    watch::{convert, problems::Reporter},
};

#[derive(Default)]
pub(super) struct Desired {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, Slice>,
    node: Option<Node>,
}

/// The objects of a folder by kind.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) services: Services,
    slices: Vec<(Key, Located<Arc<EndpointSlice>>)>,
    endpoints: BTreeMap<ObjectName, Located<Arc<core::Endpoints>>>,
    pods: BTreeMap<ObjectName, Arc<core::Pod>>,
    nodes: BTreeMap<String, (Key, Located<Arc<core::Node>>)>,
}

impl Sorted {
    pub(super) fn new(objects: BTreeMap<Key, Located<Object>>) -> Self {
        let mut sorted = Self::default();
        for (key, Located { origin, object }) in objects {
            let name = key.name.clone();
            match object {
                Object::Service(object) => {
                    sorted.services.insert(name, Located { origin, object });
                }
                Object::EndpointSlice(object) => {
                    sorted.slices.push((key, Located { origin, object }));
                }
                Object::Endpoints(object) => {
                    sorted.endpoints.insert(name, Located { origin, object });
                }
                Object::Pod(object) => {
                    sorted.pods.insert(name, object);
                }
                Object::Node(object) => {
                    sorted
                        .nodes
                        .insert(name.name.clone(), (key, Located { origin, object }));
                }
            }
        }
        sorted
    }
}

impl Desired {
    /// `services` are those of `sorted`, with all that is allocated; `node`
    /// counts if the folder has no Node of that name.
    pub(super) fn new(
        sorted: &Sorted,
        services: &Services,
        node: &Node,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut desired = Self::default();
        let pods = PodIndex::new(sorted.pods.iter());
        for (name, located) in services {
            let key = Key {
                kind: Kind::Service,
                name: name.clone(),
            };
            let reporter = &mut Reporter::new(&located.origin, key.to_string(), problems);
            let Some(service) = convert::service(&located.object, reporter) else {
                continue;
            };
            desired.services.insert(name.clone(), service);
            for slice in of_pods(name, &located.object, &pods) {
                desired.slice(&slice, &located.origin, &key, problems);
            }
            let endpoints = sorted.endpoints.get(name);
            let Some(endpoints) = endpoints.filter(|_| !has_selector(&located.object)) else {
                continue;
            };
            for slice in of_endpoints(name, &endpoints.object) {
                desired.slice(&slice, &endpoints.origin, &key, problems);
            }
        }
        for (key, located) in &sorted.slices {
            desired.slice(&located.object, &located.origin, key, problems);
        }

        let node = match sorted.nodes.get(&node.name) {
            Some((key, located)) => {
                let title = key.to_string();
                convert::node(
                    &located.object,
                    &mut Reporter::new(&located.origin, title, problems),
                )
            }
            None => node.clone(),
        };
        desired.node = Some(node);
        desired
    }

    /// What makes `before` into this.
    pub(super) fn changes(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(node) = self.node.as_ref().filter(|_| self.node != before.node) {
            changes.push(Change::Node(node.clone()));
        }
        for (name, slice) in difference(&before.slices, &self.slices) {
            changes.push(Change::Slice(name, slice));
        }
        for (name, service) in difference(&before.services, &self.services) {
            changes.push(Change::Service(name, service));
        }
        changes
    }

    fn slice(
        &mut self,
        slice: &EndpointSlice,
        origin: &Origin,
        key: &Key,
        problems: &mut Vec<Problem>,
    ) {
        let reporter = &mut Reporter::new(origin, key.to_string(), problems);
        if let Some(slice) = convert::slice(slice, reporter) {
            self.slices.insert(slice.name.clone(), slice);
        }
    }
}

fn difference<V: Clone + PartialEq>(
    before: &BTreeMap<ObjectName, V>,
    after: &BTreeMap<ObjectName, V>,
) -> Vec<(ObjectName, Option<V>)> {
    let names: BTreeSet<&ObjectName> = before.keys().chain(after.keys()).collect();
    let changed = names
        .into_iter()
        .filter(|name| before.get(name) != after.get(name));
    changed
        .map(|name| (name.clone(), after.get(name).cloned()))
        .collect()
}
