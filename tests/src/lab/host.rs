//! A place of the lab: the client, the router, a node or a pod.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::Deref,
};

use super::{
    address::{Family, Pair, Protocol},
    client::{Exchange, Reply},
    netns::Netns,
};

/// A namespace with its main address in both families.
#[derive(Debug)]
pub struct Host {
    pub name: String,
    pub addresses: Pair,
    pub netns: Netns,
}

impl Host {
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        self.addresses.get(family)
    }

    #[must_use]
    pub fn socket(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }

    /// Sends one request from here and waits for its reply.
    ///
    /// # Errors
    /// As [`Exchange::run`].
    pub fn exchange(&self, protocol: Protocol, to: SocketAddr) -> io::Result<Reply> {
        Exchange::new(protocol, to).run_in(&self.netns)
    }
}

/// A pod: a host behind a veth of its node.
#[derive(Debug)]
pub struct Pod {
    pub host: Host,
    /// Name of the node, such as `node1`.
    pub node: String,
    /// The host end of the pod's veth, in the node.
    pub interface: String,
    pub(crate) node_number: u8,
    pub(crate) number: u8,
}

impl Deref for Pod {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}
