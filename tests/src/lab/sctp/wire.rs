//! A raw socket for SCTP packets.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    lab::Family,
    packet::sctp::{Flaw, Packet},
};

const SCTP: i32 = 132;

/// It gets a copy of every SCTP packet to its host.
#[derive(Debug)]
pub(super) struct Wire {
    // Any datagram socket is read and written alike.
    socket: UdpSocket,
    family: Family,
}

impl Wire {
    /// Opens it in the calling thread's namespace. Waiting for a packet takes no
    /// longer than `patience`.
    pub(super) fn open(family: Family, patience: Duration) -> io::Result<Self> {
        let domain = match family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP)))?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self {
            socket: socket.into(),
            family,
        })
    }

    /// From now on the socket gets what comes from this address only.
    pub(super) fn connect(&self, to: IpAddr) -> io::Result<()> {
        self.socket.connect(SocketAddr::new(to, 0))
    }

    pub(super) fn send(&self, packet: &Packet, to: IpAddr) -> io::Result<()> {
        let to = SocketAddr::new(to, 0);
        self.socket.send_to(&packet.bytes(), to).map(|_| ())
    }

    /// The next packet, and where it comes from.
    pub(super) fn receive(&self) -> io::Result<(IpAddr, Result<Packet, Flaw>)> {
        let mut buffer = vec![0; 0x1_0000];
        let (length, from) = self.socket.recv_from(&mut buffer)?;
        let header = match self.family {
            Family::V4 => usize::from(buffer[0] & 0xf) * 4,
            Family::V6 => 0,
        };
        Ok((from.ip(), Packet::read(&buffer[header..length])))
    }
}
