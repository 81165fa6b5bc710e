//! Servers that answer with their own name and the client that they saw.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::{Builder, Handle, Runtime},
    task::{AbortHandle, JoinSet},
};

use super::{
    address::{Family, Protocol},
    host::Host,
};

const BACKLOG: i32 = 4096;
const DATAGRAM: usize = 64 * 1024;
/// A reply up to this long may be longer than its request; see [`answer_cut`].
pub(crate) const SHORT_REPLY: usize = 512;

/// All servers of a lab, run by one runtime. A socket stays in the namespace
/// in which it was opened, so no process is needed there.
#[derive(Debug)]
pub(crate) struct Servers {
    runtime: Option<Runtime>,
    tasks: Mutex<BTreeMap<String, Vec<AbortHandle>>>,
}

impl Servers {
    pub(crate) fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("lab-servers")
            .enable_all()
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
            tasks: Mutex::default(),
        })
    }

    pub(crate) fn serve(&self, host: &Host, ports: &[(Protocol, u16)]) -> Result<()> {
        let Some(runtime) = &self.runtime else {
            return Ok(());
        };
        let name: Arc<str> = host.name.as_str().into();
        let started = host
            .netns
            .run(|| start_all(runtime.handle(), &name, ports))?;
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.entry(host.name.clone()).or_default().extend(started);
        Ok(())
    }

    /// Ends the servers of a host and their connections.
    pub(crate) fn stop(&self, host: &str) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.remove(host).unwrap_or_default() {
            task.abort();
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn start_all(
    handle: &Handle,
    name: &Arc<str>,
    ports: &[(Protocol, u16)],
) -> io::Result<Vec<AbortHandle>> {
    let _entered = handle.enter();
    let mut started = Vec::new();
    for &(protocol, port) in ports {
        for family in Family::ALL {
            let socket = open(protocol, family, port)?;
            let name = Arc::clone(name);
            let task = match protocol {
                Protocol::Tcp => handle.spawn(accept(TcpListener::from_std(socket.into())?, name)),
                Protocol::Udp => handle.spawn(receive(UdpSocket::from_std(socket.into())?, name)),
            };
            started.push(task.abort_handle());
        }
    }
    Ok(started)
}

fn open(protocol: Protocol, family: Family, port: u16) -> io::Result<Socket> {
    let (domain, any) = match family {
        Family::V4 => (Domain::IPV4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        Family::V6 => (Domain::IPV6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
    };
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(domain, kind, None)?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    if protocol == Protocol::Tcp {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SocketAddr::new(any, port).into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, name: Arc<str>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    connections.spawn(converse(stream, client, Arc::clone(&name)));
                }
                // Out of descriptors, or the client has gone already.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One TCP connection: HTTP when the first line looks like it, else one answer
/// per line, until the client closes.
async fn converse(stream: TcpStream, client: SocketAddr, name: Arc<str>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).await? > 0 {
        if is_http(&line) {
            return answer_http(stream, client, &name, line.starts_with(b"HEAD")).await;
        }
        if let Some(size) = download_size(&line) {
            send_download(&mut stream, size).await?;
        } else {
            stream.write_all(&answer(&name, client, &line)).await?;
        }
        line.clear();
    }
    Ok(())
}

fn is_http(line: &[u8]) -> bool {
    (line.starts_with(b"GET ") || line.starts_with(b"HEAD ")) && line.ends_with(b"\r\n")
}

async fn answer_http(
    mut stream: BufReader<TcpStream>,
    client: SocketAddr,
    name: &str,
    head: bool,
) -> io::Result<()> {
    let mut header = String::new();
    while stream.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let body = format!("{name} {} {}\n", client.ip(), client.port());
    let mut response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if !head {
        response.push_str(&body);
    }
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

fn download_size(line: &[u8]) -> Option<usize> {
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix("DOWNLOAD ")?.trim_end().parse().ok()
}

async fn send_download(stream: &mut BufReader<TcpStream>, mut left: usize) -> io::Result<()> {
    let block = [b'd'; 16 * 1024];
    while left > 0 {
        let part = left.min(block.len());
        stream.write_all(&block[..part]).await?;
        left -= part;
    }
    stream.flush().await
}

async fn receive(socket: UdpSocket, name: Arc<str>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // An error here is an ICMP message about an earlier reply.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let reply = answer_cut(&name, client, &buffer[..length]);
        // A client that is gone is not waiting.
        let _ = socket.send_to(&reply, client).await;
    }
}

/// An [`answer`] cut to the length of its request (or 512 bytes), so that it
/// fits the path's MTU if the request did.
pub(super) fn answer_cut(name: &str, client: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut answer = answer(name, client, request);
    if answer.len() > SHORT_REPLY {
        answer.truncate(request.len().max(SHORT_REPLY));
    }
    answer
}

/// `<name> <client ip> <client port> <what came>`.
fn answer(name: &str, client: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut head = String::new();
    // Writing to a String cannot fail.
    let _ = write!(head, "{name} {} {} ", client.ip(), client.port());
    let mut answer = head.into_bytes();
    answer.extend_from_slice(request);
    answer
}
