//! HTTP servers on TCP addresses that come and go.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::errno::Errno;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time,
};

use super::places::{Place, Places, Share};

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

/// How a server treats its clients.
#[derive(Clone, Copy, Debug)]
pub(super) enum Clients {
    /// They get one answer.
    Probes,
    /// They may ask again on the same connection.
    Scrapers,
}

impl Clients {
    /// For all of a connection.
    const fn patience(self) -> Duration {
        match self {
            Self::Probes => Duration::from_secs(10),
            Self::Scrapers => Duration::from_secs(300),
        }
    }
}

/// A server at work. Dropped, its port is free at once, and its connections
/// end.
#[derive(Debug)]
pub(super) struct Listening {
    listener: Arc<TcpListener>,
    task: AbortHandle,
}

impl Listening {
    /// Needs a tokio runtime.
    pub(super) fn start(
        address: SocketAddr,
        router: Router,
        clients: Clients,
        places: &Places,
    ) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::from_std(bind(address)?.into())?);
        let serving = serve(Arc::clone(&listener), router, clients, places.share());
        let task = tokio::spawn(serving).abort_handle();
        Ok(Self { listener, task })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // The task, and with it the descriptor, may live on for a moment.
        if let Err(error) = SockRef::from(&*self.listener).shutdown(Shutdown::Both) {
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

async fn serve(listener: Arc<TcpListener>, router: Router, clients: Clients, share: Share) {
    const REST: Duration = Duration::from_millis(100);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (router, place) = (router.clone(), share.take());
                    connections.spawn(answer(stream, router, clients, clients.patience(), place));
                }
                // The client has gone already, or descriptors are used up.
                Err(_) => time::sleep(REST).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(
    stream: TcpStream,
    router: Router,
    clients: Clients,
    patience: Duration,
    mut place: Place,
) {
    const IDLE: Duration = Duration::from_secs(10);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .keep_alive(matches!(clients, Clients::Scrapers))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        // Whatever a client does wrong is its own affair.
        _ = time::timeout(patience, connection) => {}
        () = place.lost() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, future::pending, net::IpAddr, os::fd::AsRawFd};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    fn start(address: SocketAddr, clients: Clients) -> io::Result<Listening> {
        let router = Router::new().fallback(|| async { "ok" });
        Listening::start(address, router, clients, &Places::default())
    }

    fn address(server: &Listening) -> SocketAddr {
        server.listener.local_addr().unwrap()
    }

    const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[tokio::test]
    async fn a_port_is_free_as_soon_as_its_server_is_dropped() {
        let first = start(ANY, Clients::Probes).unwrap();
        let address = address(&first);
        let taken = start(address, Clients::Probes).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        start(address, Clients::Probes).unwrap();
    }

    #[tokio::test]
    async fn a_server_has_one_descriptor() {
        let server = start(ANY, Clients::Probes).unwrap();
        let own = format!("/proc/self/fd/{}", server.listener.as_raw_fd());
        let own = fs::read_link(own).unwrap();
        let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let same = all.filter(|entry| fs::read_link(entry.path()).is_ok_and(|link| link == own));
        assert_eq!(same.count(), 1);
    }

    #[tokio::test]
    async fn only_scrapers_ask_again() {
        for (clients, answers) in [(Clients::Probes, 1), (Clients::Scrapers, 3)] {
            let server = start(ANY, clients).unwrap();
            let mut stream = TcpStream::connect(address(&server)).await.unwrap();
            let mut found = 0;
            for _ in 0..3 {
                let request = b"GET / HTTP/1.1\r\nHost: lb\r\n\r\n";
                // A closed connection takes what nobody reads.
                let _ = stream.write_all(request).await;
                let mut buffer = [0; 4096];
                let Ok(length @ 1..) = stream.read(&mut buffer).await else {
                    break;
                };
                assert!(buffer[..length].starts_with(b"HTTP/1.1 200"));
                found += 1;
            }
            assert_eq!(found, answers, "{clients:?}");
        }
    }

    #[tokio::test]
    async fn no_client_outlasts_patience() {
        // It waits for the answer, and never has it.
        let router = Router::new().fallback(pending::<()>);
        for clients in [Clients::Probes, Clients::Scrapers] {
            let (mut client, stream) = pair().await;
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: lb\r\n\r\n")
                .await
                .unwrap();
            let share = Places::default().share();
            let patience = Duration::from_millis(50);
            let answering = answer(stream, router.clone(), clients, patience, share.take());
            time::timeout(Duration::from_secs(5), answering)
                .await
                .unwrap();
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (client, listener.accept().await.unwrap().0)
    }
}
