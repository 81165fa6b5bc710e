//! The objects of the folder that the agent uses.

use std::{fmt, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Endpoints, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};

use crate::model::{ObjectName, Origin};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    Node,
}

impl Kind {
    pub(super) fn named(kind: &str) -> Option<Self> {
        Some(match kind {
            "Service" => Self::Service,
            "EndpointSlice" => Self::EndpointSlice,
            "Endpoints" => Self::Endpoints,
            "Pod" => Self::Pod,
            "Node" => Self::Node,
            _ => return None,
        })
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::Service | Self::Endpoints | Self::Pod | Self::Node => "v1",
        }
    }
}

/// What makes two documents the same object. The namespace of a Node is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) name: ObjectName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Node => write!(f, "Node {}", self.name.name),
            kind => write!(f, "{kind:?} {}", self.name),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Endpoints(Arc<Endpoints>),
    Pod(Arc<Pod>),
    Node(Arc<Node>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Located<T> {
    pub(super) origin: Origin,
    pub(super) object: T,
}
