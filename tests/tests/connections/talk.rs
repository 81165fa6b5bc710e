//! A connection or a flow that is kept.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use lb_tests::lab::{Entrance, Protocol, Reply, TcpClient};
use socket2::{Domain, Socket, Type};

const LIMIT: Duration = Duration::from_secs(5);

pub(crate) enum Talk {
    Tcp(TcpClient),
    Udp(UdpSocket),
}

impl Talk {
    /// From an address and port that others may use as well.
    pub(crate) fn open(
        netns: &Entrance,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<Self> {
        netns.run(|| match protocol {
            Protocol::Tcp => TcpClient::connect(to, Some(from), LIMIT).map(Self::Tcp),
            Protocol::Udp => {
                let socket = Socket::new(Domain::for_address(from), Type::DGRAM, None)?;
                socket.set_reuse_port(true)?;
                socket.bind(&from.into())?;
                socket.connect(&to.into())?;
                socket.set_read_timeout(Some(LIMIT))?;
                Ok(Self::Udp(socket.into()))
            }
        })
    }

    /// Says something that is to come back.
    pub(crate) fn say(&mut self, payload: &[u8]) -> io::Result<Reply> {
        match self {
            Self::Tcp(client) => client.exchange(payload),
            Self::Udp(socket) => {
                socket.send(payload)?;
                let mut buffer = [0; 2048];
                let length = socket.recv(&mut buffer)?;
                let reply = Reply::parse(&buffer[..length])?;
                assert_eq!(reply.echo, payload);
                Ok(reply)
            }
        }
    }
}
