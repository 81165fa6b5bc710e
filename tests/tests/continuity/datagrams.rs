//! Datagrams whose every single loss is noticed.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use lb_tests::lab::{Entrance, Reply};

/// Far longer than any path takes: who is later is lost.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);
/// A flow is given up for a new one after this many datagrams.
const FLOW: u64 = 50;

/// Sends from one place, one datagram at a time, over one flow that stays and
/// others that come and go.
pub(crate) struct Datagrams {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<Vec<String>>,
}

impl Datagrams {
    pub(crate) fn start(netns: &Entrance, to: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (netns, watched, counter) = (netns.clone(), Arc::clone(&stop), Arc::clone(&answered));
        let thread = thread::spawn(move || netns.run(|| send(to, &watched, &counter)));
        Self {
            stop,
            answered,
            thread,
        }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// One line for each datagram that was not answered.
    pub(crate) fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn send(to: SocketAddr, stop: &AtomicBool, answered: &AtomicU64) -> Vec<String> {
    let mut lost = Vec::new();
    let kept = flow(to).unwrap();
    let mut passing = flow(to).unwrap();
    for number in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if number % FLOW == 0 {
            passing = flow(to).unwrap();
        }
        for socket in [&kept, &passing] {
            match exchange(socket, number) {
                Ok(()) => {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => lost.push(format!("datagram {number} to {to}: {error}")),
            }
        }
        thread::sleep(PAUSE);
    }
    lost
}

fn flow(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

fn exchange(socket: &UdpSocket, number: u64) -> io::Result<()> {
    let text = format!("datagram {number}");
    socket.send(text.as_bytes())?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    let reply = Reply::parse(&buffer[..length])?;
    if reply.echo != text.as_bytes() {
        let found = String::from_utf8_lossy(&reply.echo).into_owned();
        return Err(io::Error::new(io::ErrorKind::InvalidData, found));
    }
    Ok(())
}
