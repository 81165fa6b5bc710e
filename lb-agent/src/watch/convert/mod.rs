//! Kubernetes objects to the model, by the rules that kube-proxy follows.
//!
//! What cannot be used is reported and left out; the rest of the object works.

mod node;
mod service;
mod slice;

use std::num::NonZeroU16;

pub(super) use node::node;
pub(super) use service::service;
pub(super) use slice::{SERVICE_NAME, slice};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{ObjectName, Protocol};

const PROTOCOLS: &str = "TCP, UDP or SCTP";
const PORTS: &str = "a port from 1 to 65535";

pub(super) fn object_name(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// `None` for a protocol that does not exist; nil is TCP.
fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn port(number: i32) -> Option<NonZeroU16> {
    u16::try_from(number).ok().and_then(NonZeroU16::new)
}
