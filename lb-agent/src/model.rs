//! What the control path knows of the cluster: Services, EndpointSlices and
//! this node, already checked and in the smallest form that compile needs.
//!
//! Architecture Invariant: no Kubernetes type and no aya type appears here.
//! The watch module turns objects into [`Change`]s; nothing else does.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    num::{NonZeroU16, NonZeroU32},
    ops::Deref,
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use ipnet::IpNet;
use serde::Serialize;

/// IP family of an address, a frontend or a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Namespace and name of an object. Copies share them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(Arc<NameParts>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameParts {
    pub namespace: String,
    pub name: String,
}

impl ObjectName {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self(Arc::new(NameParts {
            namespace: namespace.into(),
            name: name.into(),
        }))
    }
}

impl Deref for ObjectName {
    type Target = NameParts;

    fn deref(&self) -> &NameParts {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `spec.type`. `ExternalName` Services never become a [`Service`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ServiceType {
    ClusterIP,
    NodePort,
    LoadBalancer,
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TrafficPolicy {
    Cluster,
    Local,
}

/// A Service that is proxied. What SEMANTICS says to skip (headless,
/// `ExternalName`, no clusterIP, the service-proxy-name label) never gets here.
///
/// At most one `cluster_ips` entry per [`Family`]; a family without one is not
/// proxied at all, whatever the other address lists hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: ObjectName,
    pub service_type: ServiceType,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: BTreeSet<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with ipMode nil or `VIP`.
    pub load_balancer_ips: BTreeSet<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; empty means unrestricted.
    pub source_ranges: BTreeSet<IpNet>,
    pub ports: Vec<ServicePort>,
    pub internal_traffic_policy: TrafficPolicy,
    pub external_traffic_policy: TrafficPolicy,
    /// `ClientIP` affinity and its timeout in seconds.
    pub affinity_seconds: Option<NonZeroU32>,
    pub health_check_node_port: Option<NonZeroU16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty when the Service has a single unnamed port.
    pub name: String,
    pub protocol: Protocol,
    pub port: NonZeroU16,
    /// Honoured whatever the Service's type says.
    pub node_port: Option<NonZeroU16>,
}

/// An EndpointSlice that belongs to a Service. FQDN slices, slices with the
/// headless label and slices without a service name never get here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Only identifies the slice for updates.
    pub name: ObjectName,
    /// Label `kubernetes.io/service-name`, in the slice's namespace.
    pub service: ObjectName,
    pub family: Family,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Endpoint>,
    /// When the change began that made the slice what it is, by the clock of
    /// the control plane.
    pub trigger_time: Option<SystemTime>,
}

/// Joined with a [`ServicePort`] by (name, protocol). Nil and 0 ports never
/// get here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: NonZeroU16,
}

/// One endpoint; defaults of absent conditions are filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`, of the slice's family.
    pub address: IpAddr,
    pub node: Option<String>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// `hints.forZones[].name`; empty when there is no such hint.
    pub for_zones: BTreeSet<String>,
    /// `hints.forNodes[].name`; empty when there is no such hint.
    pub for_nodes: BTreeSet<String>,
}

/// This node as the API (or the command line) describes it. Its addresses are
/// read from the kernel, not from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// `status.addresses` of type InternalIP, in order: the node's own
    /// addresses per family.
    pub internal_ips: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    pub pod_cidrs: Vec<IpNet>,
    /// Whether load balancers may send new connections here: it is neither
    /// being deleted nor about to be.
    pub eligible: bool,
}

/// What a source tells the agent. A source sends every object it has, then
/// [`Change::Synced`] once, then changes as they come. It never sends the
/// removal of an object because it lost its server. Changes that belong
/// together come in one vector: nothing in between is to be acted upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A Service appeared or changed (`Some`), or went away or is no longer
    /// proxied (`None`).
    Service(ObjectName, Option<Service>),
    /// The same for a slice, by its own name.
    Slice(ObjectName, Option<Slice>),
    Node(Node),
    /// The first full list of everything is in.
    Synced,
    /// Nothing hides behind a problem: each object there is has been told of.
    /// Sent once, after [`Change::Synced`]; what the kernel holds from before
    /// and nobody has claimed by then may go.
    Whole,
    /// Everything that this source cannot use at the moment, sorted; sent
    /// whenever the list changes.
    Problems(Vec<Problem>),
}

/// Where an object comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum Origin {
    Api,
    File {
        path: PathBuf,
        /// Counted from 1; `None` when the file as a whole is meant.
        document: Option<usize>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("API"),
            Self::File { path, document } => {
                write!(f, "{}", one_line(&path.to_string_lossy()))?;
                document.map_or(Ok(()), |number| write!(f, ", document {number}"))
            }
        }
    }
}

/// An object, or a part of one, that cannot be used. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    pub origin: Origin,
    /// Kind, namespace and name, such as `Service default/kiada`; empty when
    /// they are not known.
    pub object: String,
    /// Path of the field, such as `spec.ports[0].port`; empty when the whole
    /// object or file is meant.
    pub field: String,
    pub found: String,
    pub accepted: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{}: ", one_line(part))?;
            }
        }
        let (found, accepted) = (one_line(&self.found), one_line(&self.accepted));
        write!(f, "found {found}, accepted: {accepted}")
    }
}

/// `text` without control characters, and cut where it gets too long to read.
fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 240;
    let line: Vec<&str> = text.split(|c: char| c.is_control()).collect();
    let line = line.join(" ");
    match line.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        let file = |document| Origin::File {
            path: "svc/a.yaml".into(),
            document,
        };
        let long = "x".repeat(500);
        let cut = format!("{}...", "x".repeat(240));
        let cases = [
            (
                (file(Some(2)), "Service default/kiada", "spec.type", "\"clusterIP\""),
                "svc/a.yaml, document 2: Service default/kiada: spec.type: found \"clusterIP\", accepted: a type".to_owned(),
            ),
            (
                (file(None), "", "", "a\nb\u{0}c"),
                "svc/a.yaml: found a b c, accepted: a type".to_owned(),
            ),
            (
                (Origin::Api, "Node n", "spec", long.as_str()),
                format!("API: Node n: spec: found {cut}, accepted: a type"),
            ),
        ];
        for ((origin, object, field, found), expect) in cases {
            let problem = Problem {
                origin,
                object: object.to_owned(),
                field: field.to_owned(),
                found: found.to_owned(),
                accepted: "a type".to_owned(),
            };
            assert_eq!(problem.to_string(), expect);
        }
    }
}
