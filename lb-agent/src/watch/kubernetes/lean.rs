//! Objects without what the agent has no use for, which is most of them: who
//! manages which field, owners, what endpoints stand for.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Node, Service, ServiceSpec, ServiceStatus},
        discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Deserialize;

/// A kind of object that is read field by field.
pub(super) trait Lean: Sized {
    fn read(text: &str) -> serde_json::Result<Self>;
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

/// Of an object of any kind, whatever else is in it.
pub(super) fn metadata(text: &str) -> serde_json::Result<ObjectMeta> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        metadata: Metadata,
    }
    let named: Named = serde_json::from_str(text)?;
    Ok(named.metadata.into())
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
