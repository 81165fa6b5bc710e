//! Objects without what the agent has no use for, which is most of them: who
//! manages which field, owners, what endpoints stand for.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    api::{
        core::v1::{Node, Service, ServiceSpec, ServiceStatus},
        discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A kind of object that is read field by field.
pub(super) trait Lean: Sized {
    fn read(text: &str) -> serde_json::Result<Self>;
}

/// An object, or what can be told of one that cannot be read. One such object
/// does not spoil its list.
///
/// Only serde_json can read it, and in a watch event only after the event's
/// type, as API servers write it.
#[derive(Clone, Debug)]
pub(super) enum Guard<K> {
    Read(K),
    Unreadable { metadata: ObjectMeta, error: String },
}

impl<'de, K: Lean> Deserialize<'de> for Guard<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        K::read(text.get()).map(Self::Read).or_else(|error| {
            let named: Named =
                serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
            Ok(Self::Unreadable {
                metadata: named.metadata.into(),
                error: error.to_string(),
            })
        })
    }
}

impl<K: Resource> Resource for Guard<K> {
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
        match self {
            Self::Read(object) => object.meta(),
            Self::Unreadable { metadata, .. } => metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Read(object) => object.meta_mut(),
            Self::Unreadable { metadata, .. } => metadata,
        }
    }
}

impl Lean for Service {
    fn read(text: &str) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Object {
            #[serde(default)]
            metadata: Metadata,
            spec: Option<ServiceSpec>,
            status: Option<ServiceStatus>,
        }
        let Object {
            metadata,
            spec,
            status,
        } = serde_json::from_str(text)?;
        Ok(Self {
            metadata: metadata.into(),
            spec,
            status,
        })
    }
}

impl Lean for EndpointSlice {
    fn read(text: &str) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Object {
            #[serde(default)]
            metadata: Metadata,
            address_type: Option<String>,
            endpoints: Option<Vec<Member>>,
            ports: Option<Vec<EndpointPort>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Member {
            addresses: Option<Vec<String>>,
            conditions: Option<EndpointConditions>,
            hints: Option<EndpointHints>,
            node_name: Option<String>,
        }
        let object: Object = serde_json::from_str(text)?;
        let endpoint = |member: Member| Endpoint {
            addresses: member.addresses.unwrap_or_default(),
            conditions: member.conditions,
            hints: member.hints,
            node_name: member.node_name,
            ..Endpoint::default()
        };
        Ok(Self {
            metadata: object.metadata.into(),
            address_type: object.address_type.unwrap_or_default(),
            endpoints: object
                .endpoints
                .map(|members| members.into_iter().map(endpoint).collect()),
            ports: object.ports,
        })
    }
}

/// There is one only.
impl Lean for Node {
    fn read(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl From<Metadata> for ObjectMeta {
    fn from(metadata: Metadata) -> Self {
        Self {
            name: metadata.name,
            namespace: metadata.namespace,
            resource_version: metadata.resource_version,
            labels: metadata.labels,
            annotations: metadata.annotations,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectList, WatchEvent};

    use super::*;

    const LIST: &str = r#"{
        "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": "7"},
        "items": [
            {"metadata": {"name": "a", "namespace": "ns", "labels": null, "managedFields": [{"f": {}}]},
             "addressType": "IPv4", "ports": [{"name": "http", "port": 80}],
             "endpoints": [
                 {"addresses": ["10.0.0.1"], "nodeName": "n1", "targetRef": {"kind": 7},
                  "conditions": {"ready": true}, "hints": {"forZones": [{"name": "z"}]}},
                 {"addresses": null}
             ]},
            {"metadata": {"name": "b", "resourceVersion": "6"}, "endpoints": {}},
            {"metadata": {"name": "c"}, "endpoints": null}
        ]}"#;

    fn text(guard: &Guard<EndpointSlice>) -> String {
        let name = guard.meta().name.clone().unwrap_or_default();
        match guard {
            Guard::Read(slice) => {
                let endpoints = slice.endpoints.iter().flatten();
                let addresses: Vec<_> = endpoints.map(|endpoint| &endpoint.addresses).collect();
                format!("{name} {} {addresses:?}", slice.address_type)
            }
            Guard::Unreadable { metadata, error } => {
                let version = metadata.resource_version.as_deref();
                format!("{name} {version:?} {error}")
            }
        }
    }

    #[test]
    fn an_unreadable_object_does_not_spoil_its_list() {
        let list: ObjectList<Guard<EndpointSlice>> = serde_json::from_str(LIST).unwrap();
        let found: Vec<String> = list.items.iter().map(text).collect();
        assert_eq!(found[0], r#"a IPv4 [["10.0.0.1"], []]"#);
        assert!(found[1].starts_with(r#"b Some("6") invalid type: map"#));
        assert_eq!(found[2], "c  []");
        let Guard::Read(slice) = &list.items[0] else {
            panic!("{}", found[0]);
        };
        let endpoint = &slice.endpoints.as_ref().unwrap()[0];
        assert_eq!(endpoint.node_name.as_deref(), Some("n1"));
        assert_eq!(endpoint.conditions.as_ref().unwrap().ready, Some(true));
        let zones = endpoint.hints.as_ref().unwrap().for_zones.as_ref();
        assert_eq!(zones.unwrap()[0].name, "z");
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(80));
    }

    #[test]
    fn events_as_servers_write_them() {
        let event = r#"{"type":"MODIFIED","object":{"metadata":{"name":"a"},"spec":{"clusterIP":"10.96.0.1"}}}"#;
        let WatchEvent::Modified(Guard::Read(service)) =
            serde_json::from_str::<WatchEvent<Guard<Service>>>(event).unwrap()
        else {
            panic!("not read");
        };
        let address = service.spec.and_then(|spec| spec.cluster_ip);
        assert_eq!(address.as_deref(), Some("10.96.0.1"));
    }
}
