//! Datagrams from a socket.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use socket2::SockRef;

use super::{clock::Clock, services::TARGET_PORT};
use crate::lab::Entrance;

const PAYLOAD: [u8; 18] = [7; 18];
/// How often the clock is looked at.
const AT_ONCE: u64 = 64;

/// Receivers that nobody reads from while datagrams come: what does not fit into
/// the buffer is counted by the kernel and dropped.
pub(super) struct Receivers(Vec<UdpSocket>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) datagrams: u64,
    pub(super) arrived: u64,
    pub(super) cpu: Duration,
}

impl Receivers {
    pub(super) fn open(at: &[&Entrance]) -> Result<Self> {
        let open = |netns: &&Entrance| -> Result<UdpSocket> {
            let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, TARGET_PORT)))?;
            socket.set_nonblocking(true)?;
            SockRef::from(&socket).set_recv_buffer_size(16 * 1024)?;
            Ok(socket)
        };
        Ok(Self(at.iter().map(open).collect::<Result<_>>()?))
    }

    /// Sends one datagram to a frontend and answers it, so that the connection
    /// is one that both sides were heard of. The socket is connected: it takes
    /// an answer from the frontend only. Also returns which receiver it was.
    pub(super) fn greet(&self, socket: &UdpSocket) -> Result<usize> {
        socket.send(b"hello")?;
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut buffer = [0; 64];
        while Instant::now() < deadline {
            for (index, receiver) in self.0.iter().enumerate() {
                if let Ok((_, from)) = receiver.recv_from(&mut buffer) {
                    receiver.send_to(b"hello", from)?;
                    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
                    socket.recv(&mut buffer).context("no answer")?;
                    return Ok(index);
                }
            }
            std::thread::yield_now();
        }
        bail!("no receiver got the first datagram")
    }

    /// Reads what one has, and adds what the kernel dropped since `dropped`.
    fn drain(&self, index: usize) -> u64 {
        let mut buffer = [0; 64];
        let mut read = || self.0[index].recv(&mut buffer).is_ok();
        let mut count = 0;
        while read() {
            count += 1;
        }
        count
    }
}

/// Sends from `from` until the CPU time is used up; `at` is where the receivers
/// are.
pub(super) fn measure(
    from: &Entrance,
    to: SocketAddr,
    at: &[&Entrance],
    budget: Duration,
) -> Result<Sent> {
    let receivers = Receivers::open(at)?;
    let socket = from.run(|| connected(to, 0))?;
    let index = receivers
        .greet(&socket)
        .with_context(|| format!("to {to}"))?;
    let dropped = dropped(at[index])?;
    let mut sent = from.run(|| send(&socket, budget))?;
    sent.arrived = receivers.drain(index) + self::dropped(at[index])? - dropped;
    Ok(sent)
}

/// In the namespace of the calling thread.
pub(super) fn connected(to: SocketAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    socket.connect(to)?;
    Ok(socket)
}

fn send(socket: &UdpSocket, budget: Duration) -> Result<Sent> {
    let clock = Clock::start()?;
    let mut datagrams = 0;
    while clock.of_thread()? < budget {
        for _ in 0..AT_ONCE {
            socket.send(&PAYLOAD)?;
        }
        datagrams += AT_ONCE;
    }
    Ok(Sent {
        datagrams,
        arrived: 0,
        cpu: clock.total()?,
    })
}

/// Datagrams that found a full buffer in a namespace (RFC 4113, and Linux).
fn dropped(netns: &Entrance) -> Result<u64> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no line of UDP")?;
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs
        .find(|(name, _)| *name == "RcvbufErrors")
        .context("no count of full buffers")?;
    Ok(value.parse()?)
}
