//! Connections from a socket: opened and reset, or kept for many exchanges. One
//! thread holds both ends, so the scheduler has no part in it: the kernel has
//! delivered what was sent when the call that sent it returns.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    clock::{Clock, thread_time},
    services::TARGET_PORT,
};
use crate::lab::Entrance;

const TIMEOUT: Duration = Duration::from_secs(2);
/// Kept connections, which take turns.
const KEPT: usize = 8;

/// Longer ones count as this, in nanoseconds.
const LONGEST: u64 = 10_000_000_000;

/// How many times it was done, how long each took, and the CPU time of all.
pub(super) struct Done {
    pub(super) count: u64,
    pub(super) cpu: Duration,
    /// Of wall time, in nanoseconds.
    pub(super) latencies: Histogram<u64>,
}

struct Listeners(Vec<TcpListener>);

impl Listeners {
    fn open(at: &[&Entrance]) -> Result<Self> {
        let open = |netns: &&Entrance| -> Result<TcpListener> {
            let open = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, TARGET_PORT));
            let listener = netns.run(open)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        Ok(Self(at.iter().map(open).collect::<Result<_>>()?))
    }

    /// The connection that was just made to one of them.
    fn accept(&self) -> Result<TcpStream> {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            for listener in &self.0 {
                match listener.accept() {
                    Ok((stream, _)) => return Ok(stream),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        bail!("no listener got the connection")
    }
}

/// Connects and resets, until the CPU time is used up. What is counted is the
/// client's: socket(), connect() and close().
pub(super) fn connects(
    from: &Entrance,
    to: SocketAddr,
    at: &[&Entrance],
    budget: Duration,
) -> Result<Done> {
    let listeners = Listeners::open(at)?;
    from.run(|| {
        let clock = Clock::start()?;
        let mut done = Done::new()?;
        while done.cpu < budget {
            let start = thread_time()?;
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            let opened = Instant::now();
            socket
                .connect(&to.into())
                .with_context(|| format!("connecting to {to}"))?;
            done.record(opened.elapsed());
            let middle = thread_time()?;
            let accepted = listeners.accept()?;
            let resume = thread_time()?;
            // Neither end stays in TIME_WAIT and keeps its port.
            socket.set_linger(Some(Duration::ZERO))?;
            drop(socket);
            done.cpu += thread_time()? - resume + middle - start;
            drop(accepted);
        }
        done.cpu += clock.of_ksoftirqd_since();
        Ok(done)
    })
}

/// Sends one byte and has one sent back, until the CPU time, of both ends, is
/// used up.
pub(super) fn exchanges(
    from: &Entrance,
    to: SocketAddr,
    at: &[&Entrance],
    budget: Duration,
) -> Result<Done> {
    let listeners = Listeners::open(at)?;
    from.run(|| {
        let mut kept = (0..KEPT)
            .map(|_| pair(to, &listeners))
            .collect::<Result<Vec<_>>>()?;
        let clock = Clock::start()?;
        let mut done = Done::new()?;
        while clock.of_thread()? < budget {
            for (client, server) in &mut kept {
                let mut byte = [1];
                let start = Instant::now();
                client.write_all(&byte)?;
                server.read_exact(&mut byte)?;
                server.write_all(&byte)?;
                client.read_exact(&mut byte)?;
                done.record(start.elapsed());
            }
        }
        done.cpu = clock.total()?;
        for (client, _) in &kept {
            SockRef::from(client).set_linger(Some(Duration::ZERO))?;
        }
        Ok(done)
    })
}

fn pair(to: SocketAddr, listeners: &Listeners) -> Result<(TcpStream, TcpStream)> {
    let client =
        TcpStream::connect_timeout(&to, TIMEOUT).with_context(|| format!("connecting to {to}"))?;
    let server = listeners.accept()?;
    server.set_nonblocking(false)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
    }
    Ok((client, server))
}

impl Done {
    fn new() -> Result<Self> {
        Ok(Self {
            count: 0,
            cpu: Duration::ZERO,
            latencies: Histogram::new_with_bounds(1, LONGEST, 3)?,
        })
    }

    fn record(&mut self, elapsed: Duration) {
        self.count += 1;
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanoseconds);
    }
}
