//! Objects as they were last told, and which Services they touch.

use std::{collections::BTreeSet, mem};

use foldhash::HashMap;

use crate::{
    compile::{NodeContext, Port, PortId, compile},
    model::{Change, Node, ObjectName, Problem, Service, Slice},
    sorted::SortedSet,
};

#[derive(Debug, Default)]
pub struct Store {
    services: HashMap<ObjectName, Box<Service>>,
    slices: HashMap<ObjectName, Box<Slice>>,
    slices_of: HashMap<ObjectName, SortedSet<ObjectName>>,
    /// Ports each Service was last compiled to.
    compiled: HashMap<ObjectName, SortedSet<PortId>>,
    dirty: BTreeSet<ObjectName>,
    node: NodeContext,
    pub node_object: Option<Node>,
    pub problems: Vec<Problem>,
    pub synced: bool,
    pub whole: bool,
}

impl Store {
    pub fn take(&mut self, change: Change) {
        match change {
            Change::Service(name, Some(mut service)) => {
                // Copies share their memory.
                let known = self.slices_of.get_key_value(&name);
                let name = known.map_or(name, |(known, _)| known.clone());
                service.name = name.clone();
                self.dirty.insert(name.clone());
                self.services.insert(name, service.into());
            }
            Change::Service(name, None) => {
                self.services.remove(&name);
                self.dirty.insert(name);
            }
            Change::Slice(name, slice) => self.take_slice(name, slice),
            Change::Node(node) => self.node_object = Some(node),
            Change::Problems(problems) => self.problems = problems,
            Change::Synced => self.synced = true,
            Change::Whole => self.whole = true,
        }
    }

    /// Takes what compile is to know of the node; a real change touches all.
    pub fn set_node(&mut self, context: NodeContext) {
        if self.node != context {
            self.node = context;
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What became of the ports of every touched Service.
    pub fn compile(&mut self) -> Vec<(PortId, Option<Port>)> {
        let mut changes = Vec::new();
        for name in mem::take(&mut self.dirty) {
            let ports = match self.services.get(&name) {
                Some(service) => compile(service, self.slices(&name), &self.node),
                None => Vec::new(),
            };
            let ids: SortedSet<PortId> = ports.iter().map(|port| port.id.clone()).collect();
            let before = self.compiled.remove(&name).unwrap_or_default();
            let gone = before.into_iter().filter(|id| !ids.contains(id));
            changes.extend(gone.map(|id| (id, None)));
            changes.extend(ports.into_iter().map(|port| (port.id.clone(), Some(port))));
            if !ids.is_empty() {
                self.compiled.insert(name, ids);
            }
        }
        changes
    }

    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name).map(Box::as_ref)
    }

    #[must_use]
    pub fn slice(&self, name: &ObjectName) -> Option<&Slice> {
        self.slices.get(name).map(Box::as_ref)
    }

    pub fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &Slice> + Clone {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.slice(name))
    }

    fn take_slice(&mut self, name: ObjectName, slice: Option<Slice>) {
        if let Some(old) = self.slices.remove(&name) {
            if let Some(names) = self.slices_of.get_mut(&old.service) {
                names.remove(&name);
                if names.is_empty() {
                    self.slices_of.remove(&old.service);
                }
            }
            self.dirty.insert(old.service);
        }
        if let Some(mut slice) = slice {
            slice.name = name.clone();
            if let Some(service) = self.services.get(&slice.service) {
                slice.service = service.name.clone();
            }
            let names = self.slices_of.entry(slice.service.clone()).or_default();
            names.insert(name.clone());
            self.dirty.insert(slice.service.clone());
            self.slices.insert(name, slice.into());
        }
    }
}
