//! Objects that are converted while their list is read: what was read of one is
//! gone before the next, and all that stays lies together.

use std::{borrow::Cow, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::value::RawValue;

use super::{
    events::{Object, Watched, object},
    lean,
};

/// An object of kind `K`. One that cannot be read does not spoil its list.
///
/// Only `serde_json` can read it, and in a watch event only after the event's
/// type, as API servers write it.
#[derive(Clone, Debug)]
pub(super) struct Decoded<K> {
    /// Name, namespace and version.
    metadata: ObjectMeta,
    pub(super) object: Object,
    of: PhantomData<fn() -> K>,
}

impl<'de, K: Watched> Deserialize<'de> for Decoded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let read = K::read(text.get());
        let metadata = match &read {
            Ok(object) => object.meta().clone(),
            Err(_) => lean::metadata(text.get()).map_err(D::Error::custom)?,
        };
        let object = object(&metadata, read);
        Ok(Self {
            metadata: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                resource_version: metadata.resource_version,
                ..ObjectMeta::default()
            },
            object,
            of: PhantomData,
        })
    }
}

impl<K: Resource> Resource for Decoded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &K::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &K::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &K::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &K::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
    use kube::core::{ObjectList, WatchEvent};

    use super::{super::events::Use, *};
    use crate::model::{Change, ObjectName};

    const LIST: &str = r#"{
        "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": "7"},
        "items": [
            {"metadata": {"name": "a", "namespace": "ns", "managedFields": [{"f": {}}],
                          "labels": {"kubernetes.io/service-name": "web"}},
             "addressType": "IPv4", "ports": [{"name": "http", "port": 80}],
             "endpoints": [
                 {"addresses": ["10.0.0.1"], "nodeName": "n1", "targetRef": {"kind": 7},
                  "conditions": {"ready": false}, "hints": {"forZones": [{"name": "z"}]}},
                 {"addresses": null}
             ]},
            {"metadata": {"name": "b", "resourceVersion": "6"}, "endpoints": {}},
            {"metadata": {"name": "c"}, "endpoints": null}
        ]}"#;

    #[test]
    fn an_unreadable_object_does_not_spoil_its_list() {
        let list: ObjectList<Decoded<EndpointSlice>> = serde_json::from_str(LIST).unwrap();
        let [slice, unreadable, skipped] = list.items.as_slice() else {
            panic!("{list:?}");
        };
        let Use::Send(change) = &slice.object.use_ else {
            panic!("{slice:?}");
        };
        let Change::Slice(name, Some(slice)) = &**change else {
            panic!("{change:?}");
        };
        assert_eq!(*name, ObjectName::new("ns", "a"));
        assert_eq!(slice.ports[0].port.get(), 80);
        let [endpoint] = slice.endpoints.as_slice() else {
            panic!("{slice:?}");
        };
        assert_eq!(endpoint.address.to_string(), "10.0.0.1");
        assert_eq!(endpoint.node.as_deref(), Some("n1"));
        assert!(!endpoint.ready && endpoint.for_zones.contains("z"));

        assert_eq!(unreadable.meta().resource_version.as_deref(), Some("6"));
        assert!(matches!(unreadable.object.use_, Use::Unreadable));
        let problem = unreadable.object.problems[0].to_string();
        let expect = "API: EndpointSlice b: found invalid type: map";
        assert!(problem.starts_with(expect), "{problem}");
        assert!(matches!(skipped.object.use_, Use::Skip));
    }

    #[test]
    fn events_as_servers_write_them() {
        let event = r#"{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"9"},
            "spec":{"clusterIP":"10.96.0.1"}}}"#;
        let WatchEvent::Modified(service) =
            serde_json::from_str::<WatchEvent<Decoded<Service>>>(event).unwrap()
        else {
            panic!("{event}");
        };
        assert!(matches!(service.object.use_, Use::Send(_)));
        assert_eq!(service.meta().resource_version.as_deref(), Some("9"));
    }
}
