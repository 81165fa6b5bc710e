//! What a packet says of its ends.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use lb_common::{Address, Tuple};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// IP protocol number.
    pub(crate) protocol: u8,
}

impl Flow {
    pub(crate) fn reverse(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
        }
    }

    /// As the maps have it.
    pub(crate) fn key(&self) -> Tuple {
        Tuple {
            source: self.source.ip().into(),
            destination: self.destination.ip().into(),
            source_port: self.source.port().to_be(),
            destination_port: self.destination.port().to_be(),
            protocol: self.protocol,
            ..Tuple::default()
        }
    }
}

impl From<&Tuple> for Flow {
    fn from(key: &Tuple) -> Self {
        let socket =
            |address: Address, port| SocketAddr::new(IpAddr::from(address), u16::from_be(port));
        Self {
            source: socket(key.source, key.source_port),
            destination: socket(key.destination, key.destination_port),
            protocol: key.protocol,
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            destination,
            protocol,
        } = self;
        write!(f, "{source} > {destination} protocol {protocol}")
    }
}
