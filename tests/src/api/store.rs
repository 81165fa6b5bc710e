//! Objects and their history, in versions as etcd counts them.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::query::Selectors;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Services,
    EndpointSlices,
    Nodes,
}

impl Resource {
    pub(super) fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/api/v1/services" => Self::Services,
            "/apis/discovery.k8s.io/v1/endpointslices" => Self::EndpointSlices,
            "/api/v1/nodes" => Self::Nodes,
            _ => return None,
        })
    }

    /// Of a namespaced object: `<list's path>` with the namespace, then a name.
    pub(super) fn of_object(path: &str) -> Option<(Self, Name)> {
        let (api, rest) = path.split_once("/namespaces/")?;
        let [namespace, plural, name] = rest.split('/').collect::<Vec<_>>()[..] else {
            return None;
        };
        let resource = Self::at(&format!("{api}/{plural}"))?;
        Some((resource, (namespace.to_owned(), name.to_owned())))
    }

    pub(super) fn types(self) -> (&'static str, &'static str) {
        match self {
            Self::Services => ("v1", "Service"),
            Self::EndpointSlices => ("discovery.k8s.io/v1", "EndpointSlice"),
            Self::Nodes => ("v1", "Node"),
        }
    }
}

/// Namespace and name.
pub(super) type Name = (String, String);

#[derive(Default)]
pub(super) struct Store {
    version: u64,
    /// Watches can start from here on.
    oldest: u64,
    objects: BTreeMap<(Resource, Name), Arc<Object>>,
    /// By ascending version.
    history: Vec<Step>,
}

/// An object, and as lists have it.
pub(super) struct Object {
    value: Value,
    pub(super) text: String,
}

struct Step {
    version: u64,
    resource: Resource,
    before: Option<Arc<Object>>,
    after: Option<Arc<Object>>,
}

/// A page of a list.
pub(super) struct Page {
    pub(super) items: Vec<Arc<Object>>,
    pub(super) version: u64,
    /// The first name that is not in the page any more.
    pub(super) next: Option<Name>,
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn is_gone(&self, version: u64) -> bool {
        version < self.oldest
    }

    pub(super) fn put(&mut self, resource: Resource, mut object: Value) {
        let name = name(&object);
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(Object {
            text: object.to_string(),
            value: object,
        });
        let before = self.objects.insert((resource, name), Arc::clone(&object));
        self.history.push(Step {
            version: self.version,
            resource,
            before,
            after: Some(object),
        });
    }

    pub(super) fn delete(&mut self, resource: Resource, namespace: &str, name: &str) -> bool {
        let key = (resource, (namespace.to_owned(), name.to_owned()));
        let Some(before) = self.objects.remove(&key) else {
            return false;
        };
        self.version += 1;
        self.history.push(Step {
            version: self.version,
            resource,
            before: Some(before),
            after: None,
        });
        true
    }

    pub(super) fn compact(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.history.clear();
    }

    pub(super) fn get(&self, resource: Resource, name: Name) -> Option<Value> {
        let (api_version, kind) = resource.types();
        let mut object = self.objects.get(&(resource, name))?.value.clone();
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        Some(object)
    }

    pub(super) fn list(
        &self,
        resource: Resource,
        selectors: &Selectors,
        start: Option<&Name>,
        limit: usize,
    ) -> Page {
        let start = start.cloned().unwrap_or_default();
        let mut rest = self
            .objects
            .range((resource, start)..)
            .take_while(|((other, _), _)| *other == resource)
            .filter(|(_, object)| selectors.match_object(&object.value));
        let items: Vec<Arc<Object>> = rest
            .by_ref()
            .take(limit)
            .map(|(_, object)| Arc::clone(object))
            .collect();
        Page {
            items,
            version: self.version,
            next: rest.next().map(|((_, name), _)| name.clone()),
        }
    }

    /// The events after `version`, as a watch with `selectors` sees them.
    pub(super) fn events(
        &self,
        resource: Resource,
        selectors: &Selectors,
        version: u64,
    ) -> Vec<String> {
        let (api_version, kind) = resource.types();
        let seen = |object: &Option<Arc<Object>>| {
            let value = object.as_ref().map(|object| &object.value);
            value.filter(|value| selectors.match_object(value)).cloned()
        };
        let known = self.history.partition_point(|step| step.version <= version);
        let steps = self.history[known..]
            .iter()
            .filter(|step| step.resource == resource);
        let events = steps.filter_map(|step| {
            let (kind_of_event, mut object) = match (seen(&step.before), seen(&step.after)) {
                (None, None) => return None,
                (None, Some(after)) => ("ADDED", after),
                (Some(_), Some(after)) => ("MODIFIED", after),
                (Some(before), None) => ("DELETED", before),
            };
            object["apiVersion"] = api_version.into();
            object["kind"] = kind.into();
            object["metadata"]["resourceVersion"] = step.version.to_string().into();
            Some(event(kind_of_event, &object))
        });
        events.collect()
    }
}

/// A line of a watch, with its type first as real servers write it.
pub(super) fn event(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn name(object: &Value) -> Name {
    let text = |field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    (text("namespace"), text("name"))
}
