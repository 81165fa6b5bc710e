//! A first packet of a client, and what may become of it.

use std::{collections::BTreeSet, net::IpAddr};

use lb_agent::model::Protocol;

#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) client: Client,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
}

/// Where the packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// A pod's interface on this node.
    Pod,
    Node,
    /// An uplink.
    Outside,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Pass,
    Drop,
    Reject,
    Dnat(Chosen),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) endpoints: BTreeSet<Endpoint>,
    /// 0 without affinity.
    pub(crate) affinity_seconds: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) local: bool,
}
