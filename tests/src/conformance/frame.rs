//! First packets of connections, each from a source port of its own.

use std::net::SocketAddr;

use super::scenario::{Flow, Protocol};
use crate::packet::{
    frame::{Frame, SYN, Transport},
    sctp::kind::INIT,
};

/// Source ports that no connection of this scenario has used: below those that
/// source translation takes.
#[derive(Debug)]
pub(crate) struct Ports {
    next: u16,
}

impl Ports {
    const FIRST: u16 = 32_768;
    const END: u16 = 61_000;

    pub(crate) fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// `None` if all are used.
    pub(crate) fn take(&mut self) -> Option<u16> {
        let port = self.next;
        self.next += u16::from(port < Self::END);
        (port < Self::END).then_some(port)
    }
}

pub(crate) fn first(flow: &Flow, port: u16) -> Frame {
    let transport = match flow.proto {
        Protocol::Tcp => Transport::Tcp(SYN),
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp(INIT),
    };
    let source = SocketAddr::new(flow.src, port);
    let mut frame = Frame::new(transport, source, flow.destination());
    if flow.proto == Protocol::Tcp {
        frame.payload.clear();
    }
    frame
}
