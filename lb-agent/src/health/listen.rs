//! HTTP servers on TCP addresses that come and go.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    str::FromStr,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::errno::Errno;
use socket2::{Domain, Socket, Type};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
    time,
};

/// Where a server listens. 0.0.0.0 and `::` both mean all addresses of both
/// families; the empty string is nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddress(pub Option<SocketAddr>);

#[derive(Debug, thiserror::Error)]
#[error("found {found:?}, accepted: an IP address and a port such as {example}, or an empty string for no server", example = BindAddress::HEALTHZ)]
pub struct BindAddressError {
    found: String,
}

impl BindAddress {
    pub const HEALTHZ: &str = "0.0.0.0:10256";
    pub const METRICS: &str = "127.0.0.1:10249";
}

impl FromStr for BindAddress {
    type Err = BindAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let found = || BindAddressError {
            found: text.to_owned(),
        };
        text.parse().map(Some).map(Self).map_err(|_| found())
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |address| address.fmt(f))
    }
}

/// A server at work. Dropped, its port is free at once, and its connections
/// end.
#[derive(Debug)]
pub(super) struct Listening {
    socket: Socket,
    task: AbortHandle,
}

impl Listening {
    /// Needs a tokio runtime.
    pub(super) fn start(address: SocketAddr, router: Router) -> io::Result<Self> {
        let socket = bind(address)?;
        let listener = TcpListener::from_std(socket.try_clone()?.into())?;
        let task = tokio::spawn(serve(listener, router)).abort_handle();
        Ok(Self { socket, task })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // The task, and its half of the socket, may live on for a moment.
        if let Err(error) = self.socket.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "a socket was closed before its time");
        }
        self.task.abort();
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    const BACKLOG: i32 = 128;
    if !address.ip().is_unspecified() {
        return open(address, BACKLOG);
    }
    let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
    open(both, BACKLOG).or_else(|error| match error.raw_os_error().map(Errno::from_raw) {
        // There is no IPv6.
        Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => open(
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()),
            BACKLOG,
        ),
        _ => Err(error),
    })
}

fn open(address: SocketAddr, backlog: i32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn serve(listener: TcpListener, router: Router) {
    // Whoever can reach the port must not use up the descriptors of the agent.
    const CONNECTIONS: usize = 64;
    const IDLE: Duration = Duration::from_secs(10);
    const REST: Duration = Duration::from_millis(100);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let service = TowerToHyperService::new(router.clone());
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(IDLE)
                        .serve_connection(TokioIo::new(stream), service);
                    connections.spawn(connection);
                }
                // The client has gone already, or descriptors are used up.
                Err(_) => time::sleep(REST).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_addresses() {
        let accepted = |text: &str| text.parse::<BindAddress>().ok().map(|address| address.0);
        for (text, expect) in [
            ("", Some(None)),
            ("0.0.0.0:10256", Some(Some(([0, 0, 0, 0], 10256).into()))),
            ("[::1]:1", Some(Some((Ipv6Addr::LOCALHOST, 1).into()))),
            ("10256", None),
            ("localhost:1", None),
            ("0.0.0.0", None),
        ] {
            assert_eq!(accepted(text), expect, "{text}");
        }
    }

    #[tokio::test]
    async fn a_port_is_free_as_soon_as_its_server_is_dropped() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let first = Listening::start(any, Router::new()).unwrap();
        let address = first.socket.local_addr().unwrap().as_socket().unwrap();
        let taken = Listening::start(address, Router::new()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        Listening::start(address, Router::new()).unwrap();
    }
}
