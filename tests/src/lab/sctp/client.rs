//! The end that opens an association.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use super::{
    chunks::{self, Opening},
    wire::Wire,
};
use crate::{
    lab::{Family, Reply},
    packet::sctp::{Chunk, Packet, kind},
};

/// An association that is kept for several exchanges.
#[derive(Debug)]
pub struct SctpClient {
    wire: Wire,
    to: SocketAddr,
    port: u16,
    patience: Duration,
    own: Opening,
    /// As the server told in its INIT-ACK.
    server: Opening,
    /// Of the next message.
    number: u32,
    /// Of the newest message that came.
    received: u32,
}

impl SctpClient {
    /// Connects from the calling thread's namespace, from a port of its own.
    ///
    /// # Errors
    /// Those of the socket, such as `ConnectionRefused`; `TimedOut` when a packet
    /// does not come within `patience`; `InvalidData` for one that is damaged or
    /// that nobody asked for.
    pub fn connect(to: SocketAddr, patience: Duration) -> io::Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let port = 40_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000;
        Self::connect_from(port, to, patience)
    }

    /// As [`Self::connect`], from this port.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_from(port: u16, to: SocketAddr, patience: Duration) -> io::Result<Self> {
        let wire = Wire::open(Family::of(to.ip()), patience)?;
        wire.connect(to.ip())?;
        let own = Opening {
            tag: 0xc0de_0000 | u32::from(port),
            // The first of the numbers to wrap around.
            first: u32::MAX,
            cookie: Vec::new(),
        };
        let none = Opening {
            tag: 0,
            first: 0,
            cookie: Vec::new(),
        };
        let mut client = Self {
            wire,
            to,
            port,
            patience,
            number: own.first,
            own,
            server: none,
            received: 0,
        };
        client.open()?;
        Ok(client)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends a message and checks that it comes back.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn exchange(&mut self, message: &[u8]) -> io::Result<Reply> {
        self.send(vec![chunks::data(self.number, message)])?;
        let sack = self.await_chunk(kind::SACK)?;
        if chunks::word(&sack.value, 0) != Some(self.number) {
            return Err(invalid(format!(
                "{} is not what {sack:?} is about",
                self.number
            )));
        }
        self.number = self.number.wrapping_add(1);
        let data = self.await_chunk(kind::DATA)?;
        let expect = self.received.wrapping_add(1);
        let reply = match chunks::read_data(&data.value) {
            Some((number, reply)) if number == expect => reply,
            _ => return Err(invalid(format!("{data:?} is not message {expect}"))),
        };
        self.received = expect;
        self.send(vec![chunks::sack(expect)])?;
        Reply::parse_cut(reply, message)
    }

    /// Shuts the association down in order.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn shut_down(self) -> io::Result<()> {
        self.send(vec![chunks::shutdown(self.received)])?;
        self.await_chunk(kind::SHUTDOWN_ACK)?;
        self.send(vec![chunks::empty(kind::SHUTDOWN_COMPLETE)])
    }

    /// Ends the association at once.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn abort(self) -> io::Result<()> {
        self.send(vec![chunks::empty(kind::ABORT)])
    }

    fn open(&mut self) -> io::Result<()> {
        self.send(vec![self.own.init()])?;
        let answer = self.await_chunk(kind::INIT_ACK)?;
        self.server = Opening::read(&answer.value)
            .ok_or_else(|| invalid(format!("no opening: {answer:?}")))?;
        self.received = self.server.first.wrapping_sub(1);
        let cookie = self.server.cookie.clone();
        self.send(vec![Chunk::new(kind::COOKIE_ECHO, cookie)])?;
        self.await_chunk(kind::COOKIE_ACK).map(|_| ())
    }

    fn send(&self, chunks: Vec<Chunk>) -> io::Result<()> {
        let packet = Packet {
            ports: [self.port, self.to.port()],
            tag: self.server.tag,
            chunks,
        };
        self.wire.send(&packet, self.to.ip())
    }

    /// The next packet of this association, which is to have one chunk, of this
    /// type.
    fn await_chunk(&self, kind: u8) -> io::Result<Chunk> {
        let deadline = Instant::now() + self.patience;
        while Instant::now() < deadline {
            let packet = match self.wire.receive() {
                Ok((_, packet)) => packet.map_err(invalid)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            if packet.ports != [self.to.port(), self.port] {
                continue;
            }
            return match &packet.chunks[..] {
                [chunk] if chunk.kind == kind && packet.tag == self.own.tag => Ok(chunk.clone()),
                _ => Err(invalid(format!("{packet:?} in place of type {kind}"))),
            };
        }
        let what = format!("no chunk of type {kind} from {}", self.to);
        Err(io::Error::new(io::ErrorKind::TimedOut, what))
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
