//! Blocking clients, and the replies of the lab's servers.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    str,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::{address::Protocol, netns::Entrance, server::SHORT_REPLY};

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Name of the host that answered.
    pub server: String,
    /// The client's address as the server saw it.
    pub client: IpAddr,
    /// The client's port as the server saw it.
    pub port: u16,
    /// The payload that came back.
    pub echo: Vec<u8>,
}

impl Reply {
    /// Reads `<server> <client ip> <client port> <echo>`.
    ///
    /// # Errors
    /// `InvalidData` when the bytes are not such a reply.
    pub fn parse(bytes: &[u8]) -> io::Result<Self> {
        let bad = || invalid(format!("no reply: {:?}", String::from_utf8_lossy(bytes)));
        let mut fields = bytes.splitn(4, |byte| *byte == b' ');
        let mut text = || str::from_utf8(fields.next()?).ok();
        Ok(Self {
            server: text().ok_or_else(bad)?.to_owned(),
            client: text().and_then(|ip| ip.parse().ok()).ok_or_else(bad)?,
            port: text().and_then(|port| port.parse().ok()).ok_or_else(bad)?,
            echo: fields.next().ok_or_else(bad)?.to_vec(),
        })
    }

    /// Reads a reply to `payload` that may be cut to its length, and checks what
    /// came back.
    pub(crate) fn parse_cut(bytes: &[u8], payload: &[u8]) -> io::Result<Self> {
        let reply = Self::parse(bytes)?;
        let (length, sent) = (bytes.len(), payload.len());
        let was_cut = length >= SHORT_REPLY && length == sent.max(SHORT_REPLY);
        let expect = if was_cut {
            reply.echo.len().min(sent)
        } else {
            sent
        };
        reply.verify(&payload[..expect])
    }

    /// Checks that all of `payload` came back.
    pub(crate) fn verify(self, payload: &[u8]) -> io::Result<Self> {
        if self.echo != payload {
            let (got, sent) = (self.echo.len(), payload.len());
            return Err(invalid(format!("payload damaged: {got} of {sent} bytes")));
        }
        Ok(self)
    }
}

/// `length` bytes of readable text that differ at each place; no line end.
#[must_use]
pub fn payload(length: usize) -> Vec<u8> {
    (0..length)
        .map(|place| b'a' + u8::try_from((place + place / 26) % 26).unwrap_or(0))
        .collect()
}

/// One request to a lab server: a TCP connection that is opened, used and
/// closed, or one UDP datagram.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub protocol: Protocol,
    pub to: SocketAddr,
    /// Source address and port; 0 lets the kernel choose.
    pub from: Option<SocketAddr>,
    /// TCP: no line end within.
    pub payload: Vec<u8>,
    /// For the connection and for the reply, each.
    pub timeout: Duration,
}

impl Exchange {
    #[must_use]
    pub fn new(protocol: Protocol, to: SocketAddr) -> Self {
        Self {
            protocol,
            to,
            from: None,
            payload: payload(32),
            timeout: Duration::from_secs(2),
        }
    }

    #[must_use]
    pub fn from(mut self, from: SocketAddr) -> Self {
        self.from = Some(from);
        self
    }

    #[must_use]
    pub fn payload(mut self, length: usize) -> Self {
        self.payload = payload(length);
        self
    }

    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs in the calling thread's namespace.
    ///
    /// # Errors
    /// Those of the sockets, such as `ConnectionRefused` and `TimedOut` or
    /// `WouldBlock` (no reply in time); `InvalidData` for a damaged payload.
    pub fn run(&self) -> io::Result<Reply> {
        match self.protocol {
            Protocol::Tcp => {
                TcpClient::connect(self.to, self.from, self.timeout)?.exchange(&self.payload)
            }
            Protocol::Udp => self.run_udp(),
        }
    }

    /// Runs in `netns`.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_in(&self, netns: &Entrance) -> io::Result<Reply> {
        netns.run(|| self.run())
    }

    fn run_udp(&self) -> io::Result<Reply> {
        let socket = open(self.to, Type::DGRAM, self.from)?;
        // Connected, so that ICMP errors are reported.
        socket.connect(&self.to.into())?;
        socket.set_read_timeout(Some(self.timeout))?;
        let socket = UdpSocket::from(socket);
        socket.send(&self.payload)?;
        let mut buffer = vec![0; 64 * 1024];
        let length = socket.recv(&mut buffer)?;
        Reply::parse_cut(&buffer[..length], &self.payload)
    }
}

/// A TCP connection that is kept for several exchanges.
#[derive(Debug)]
pub struct TcpClient {
    stream: BufReader<TcpStream>,
}

impl TcpClient {
    /// Connects from the calling thread's namespace; see [`Entrance::run`].
    ///
    /// # Errors
    /// As [`Exchange::run`].
    pub fn connect(
        to: SocketAddr,
        from: Option<SocketAddr>,
        timeout: Duration,
    ) -> io::Result<Self> {
        let socket = open(to, Type::STREAM, from)?;
        socket.connect_timeout(&to.into(), timeout)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        socket.set_tcp_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(socket.into()),
        })
    }

    /// # Errors
    /// The socket is closed.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    /// Sends a line and checks that it comes back.
    ///
    /// # Errors
    /// As [`Exchange::run`]; `UnexpectedEof` when the server closed.
    pub fn exchange(&mut self, payload: &[u8]) -> io::Result<Reply> {
        let line = [payload, b"\n"].concat();
        self.stream.get_mut().write_all(&line)?;
        let mut reply = Vec::new();
        self.stream.read_until(b'\n', &mut reply)?;
        if reply.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Reply::parse(&reply)?.verify(payload)
    }

    /// Has the server send `length` bytes and checks them.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub fn download(&mut self, length: usize) -> io::Result<()> {
        writeln!(self.stream.get_mut(), "DOWNLOAD {length}")?;
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        if bytes.iter().any(|byte| *byte != b'd') {
            return Err(invalid("download damaged"));
        }
        Ok(())
    }
}

pub(crate) fn open(to: SocketAddr, kind: Type, from: Option<SocketAddr>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), kind, None)?;
    if let Some(from) = from {
        socket.set_reuse_address(kind == Type::STREAM)?;
        socket.bind(&from.into())?;
    }
    Ok(socket)
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_parsed_or_refused() {
        let reply = |server: &str, client: &str, port, echo: &[u8]| {
            Some(Reply {
                server: server.into(),
                client: client.parse().unwrap(),
                port,
                echo: echo.into(),
            })
        };
        let table: [(&[u8], Option<Reply>); 6] = [
            (
                b"quiz-0 10.244.1.2 4711 a b",
                reply("quiz-0", "10.244.1.2", 4711, b"a b"),
            ),
            (b"n fd00:244:1::2 1 ", reply("n", "fd00:244:1::2", 1, b"")),
            (b"quiz-0 10.244.1.2 4711", None),
            (b"quiz-0 10.244.1 4711 x", None),
            (b"quiz-0 10.244.1.2 70000 x", None),
            (b"", None),
        ];
        for (bytes, expect) in table {
            assert_eq!(Reply::parse(bytes).ok(), expect, "{bytes:?}");
        }
    }
}
