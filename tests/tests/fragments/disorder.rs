//! Parts in any order, from raw sockets.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use lb_tests::{
    lab::{Family, Host, Reply, Service, payload},
    packet::{
        fragments,
        frame::{Frame, Transport},
    },
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::stage::{PLAYED, SERVED, Stage};

/// The parts of a packet, in the order of their sending.
const ORDERS: [&[usize]; 8] = [
    &[0, 1],
    &[1, 0],
    &[2, 1, 0],
    &[2, 0, 1],
    &[1, 2, 0, 3],
    &[4, 3, 2, 1, 0],
    &[3, 1, 0, 4, 2],
    &[1, 0, 5, 6, 7, 4, 3, 2],
];

/// More wait than there is room for.
const TOO_MANY: &[usize] = &[5, 4, 3, 2, 1, 0];

/// Bytes of a part behind the headers that each has.
const SIZE: usize = 1_400;

const PATIENCE: Duration = Duration::from_secs(5);
const IN_VAIN: Duration = Duration::from_millis(300);

#[test]
fn requests_in_disorder_by_xdp() {
    let stage = Stage::new("native");
    check_requests(&stage);
    check_too_many(&stage);
}

#[test]
fn requests_in_disorder_by_tc() {
    let stage = Stage::new("off");
    check_requests(&stage);
    check_too_many(&stage);
}

#[test]
fn replies_in_disorder_by_xdp() {
    check_replies(&Stage::new("native"));
}

#[test]
fn replies_in_disorder_by_tc() {
    check_replies(&Stage::new("off"));
}

#[test]
fn both_in_disorder_behind_a_firewall() {
    for xdp in ["native", "off"] {
        let stage = Stage::tracked(xdp);
        check_requests(&stage);
        check_replies(&stage);
    }
}

fn check_requests(stage: &Stage) {
    for family in Family::ALL {
        for (service, server) in SERVED {
            stage.for_each_cut_path(service, family, |host, to| {
                for order in ORDERS {
                    let what = format!("{order:?} from {} to {to}", host.name);
                    let reply = request(host, to, order, PATIENCE);
                    let reply = reply.unwrap_or_else(|error| {
                        panic!("{what}: {error}; {}", stage.counts());
                    });
                    assert_eq!(reply.server, server, "{what}");
                }
            });
        }
    }
    assert!(stage.count("held") > 0);
}

/// What is lost is counted.
fn check_too_many(stage: &Stage) {
    let lost = || stage.count("fragment_lost") + stage.count("fragment");
    for family in Family::ALL {
        for (service, _) in SERVED {
            stage.for_each_cut_path(service, family, |host, to| {
                let before = lost();
                let error = request(host, to, TOO_MANY, IN_VAIN).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{to}: {error}");
                assert!(lost() > before, "from {} to {to}", host.name);
            });
        }
    }
}

fn check_replies(stage: &Stage) {
    for family in Family::ALL {
        for (service, server) in PLAYED {
            let pod = stage.scene.lab.pod(server).unwrap();
            let at = pod.socket(family, Service::TARGET_PORT);
            let socket = pod.netns.run(|| UdpSocket::bind(at)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            stage.for_each_cut_path(service, family, |host, to| {
                for order in ORDERS {
                    let what = format!("{order:?} to {} from {to}", host.name);
                    let reply = played_reply(host, to, &pod, &socket, order);
                    let reply = reply.unwrap_or_else(|error| {
                        panic!("{what}: {error}; {}", stage.counts());
                    });
                    assert_eq!(reply, payload(order.len() * SIZE - 8), "{what}");
                }
            });
        }
    }
    assert!(stage.count("held") > 0);
}

/// Sends a datagram in parts of its own making, and waits for the reply.
fn request(host: &Host, to: SocketAddr, order: &[usize], patience: Duration) -> io::Result<Reply> {
    let family = Family::of(to.ip());
    let socket = host.netns.run(|| UdpSocket::bind(host.socket(family, 0)))?;
    socket.set_read_timeout(Some(patience))?;
    let sent = payload(order.len() * SIZE - 8);
    send(host, socket.local_addr()?, to, &sent, order)?;
    let mut buffer = vec![0; 0x1_0000];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from, to);
    let reply = Reply::parse(&buffer[..length])?;
    assert!(sent.starts_with(&reply.echo), "damaged on its way to {to}");
    assert!(reply.echo.len() + 100 > sent.len(), "{}", reply.echo.len());
    Ok(reply)
}

/// Asks, and has the backend answer in parts.
fn played_reply(
    host: &Host,
    to: SocketAddr,
    pod: &Host,
    backend: &UdpSocket,
    order: &[usize],
) -> io::Result<Vec<u8>> {
    let family = Family::of(to.ip());
    let socket = host.netns.run(|| -> io::Result<_> {
        let socket = UdpSocket::bind(host.socket(family, 0))?;
        socket.connect(to)?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"?")?;
    let mut buffer = vec![0; 0x1_0000];
    let (_, asker) = backend.recv_from(&mut buffer)?;
    let reply = payload(order.len() * SIZE - 8);
    send(pod, backend.local_addr()?, asker, &reply, order)?;
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Sends a datagram's parts past the kernel's own cutting.
fn send(
    host: &Host,
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
    order: &[usize],
) -> io::Result<()> {
    const RAW: i32 = 255;
    /// No two datagrams have the same.
    static ID: AtomicU32 = AtomicU32::new(1);

    let frame = Frame {
        payload: payload.to_vec(),
        ..Frame::new(Transport::Udp, from, to)
    };
    let sizes = vec![SIZE; order.len() - 1];
    let parts = fragments(&frame, ID.fetch_add(1, Ordering::Relaxed), &sizes);
    let domain = match to.ip() {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    host.netns.run(|| {
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))?;
        for &index in order {
            let to = SocketAddr::new(to.ip(), 0);
            socket.send_to(&parts[index][frame.network()..], &to.into())?;
        }
        Ok(())
    })
}
