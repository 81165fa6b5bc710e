//! The end that answers every message with its host's name, the client it saw,
//! and the message.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    chunks::{self, Opening},
    wire::Wire,
};
use crate::{
    lab::{Family, Host, server::answer_cut},
    packet::sctp::{Chunk, Packet, kind},
};

/// How soon a dropped server ends.
const TURN: Duration = Duration::from_millis(20);

/// A port of a host, served in both families until this is dropped.
#[derive(Debug)]
pub struct SctpServer {
    is_over: Arc<AtomicBool>,
    flaws: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl SctpServer {
    /// # Errors
    /// Those of the sockets.
    pub fn start(host: &Host, port: u16) -> io::Result<Self> {
        let mut server = Self {
            is_over: Arc::default(),
            flaws: Arc::default(),
            threads: Vec::new(),
        };
        for family in Family::ALL {
            let endpoint = Endpoint {
                wire: host.netns.run(|| Wire::open(family, TURN))?,
                name: host.name.clone(),
                port,
                associations: BTreeMap::new(),
                flaws: Arc::clone(&server.flaws),
            };
            let is_over = Arc::clone(&server.is_over);
            let work = move || endpoint.serve(&is_over);
            server.threads.push(thread::spawn(work));
        }
        Ok(server)
    }

    /// What was wrong with packets that came: none is answered.
    #[must_use]
    pub fn flaws(&self) -> Vec<String> {
        let flaws = self.flaws.lock();
        flaws.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for SctpServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}

struct Endpoint {
    wire: Wire,
    name: String,
    port: u16,
    associations: BTreeMap<SocketAddr, Association>,
    flaws: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Copy)]
struct Association {
    own_tag: u32,
    client_tag: u32,
    /// Of the next message from the client.
    expected: u32,
    /// Of the next message to it.
    number: u32,
}

impl Endpoint {
    fn serve(mut self, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            let (from, packet) = match self.wire.receive() {
                Ok((from, Ok(packet))) => (from, packet),
                Ok((from, Err(flaw))) => {
                    self.report(format!("from {from}: {flaw}"));
                    continue;
                }
                // Nothing came, or an ICMP message about an earlier answer.
                Err(_) => continue,
            };
            if packet.ports[1] != self.port {
                continue;
            }
            let client = SocketAddr::new(from, packet.ports[0]);
            for chunk in &packet.chunks {
                if let Err(flaw) = self.hear(client, packet.tag, chunk) {
                    self.report(format!("from {client}: {flaw}: {packet:?}"));
                }
            }
        }
    }

    fn hear(&mut self, client: SocketAddr, tag: u32, chunk: &Chunk) -> Result<(), &'static str> {
        match chunk.kind {
            kind::INIT => return self.propose(client, tag, chunk),
            kind::COOKIE_ECHO => return self.accept(client, tag, chunk),
            _ => {}
        }
        let association = self.associations.get_mut(&client).ok_or("no association")?;
        if association.own_tag != tag {
            return Err("another verification tag");
        }
        let answers = match chunk.kind {
            kind::DATA => {
                let (number, message) = chunks::read_data(&chunk.value).ok_or("no message")?;
                if number != association.expected {
                    return Err("another message");
                }
                association.expected = number.wrapping_add(1);
                let reply =
                    chunks::data(association.number, &answer_cut(&self.name, client, message));
                association.number = association.number.wrapping_add(1);
                vec![chunks::sack(number), reply]
            }
            kind::SACK => return Ok(()),
            kind::SHUTDOWN => vec![chunks::empty(kind::SHUTDOWN_ACK)],
            kind::SHUTDOWN_COMPLETE | kind::ABORT => {
                self.associations.remove(&client);
                return Ok(());
            }
            _ => return Err("another chunk"),
        };
        let tag = association.client_tag;
        for answer in answers {
            self.send(client, tag, answer);
        }
        Ok(())
    }

    /// Keeps nothing: all there is to know comes back in the cookie.
    fn propose(&self, client: SocketAddr, tag: u32, chunk: &Chunk) -> Result<(), &'static str> {
        let opening = Opening::read(&chunk.value).ok_or("no opening")?;
        if tag != 0 {
            return Err("a verification tag before there is one");
        }
        let own_tag = opening.tag ^ 0x5e1f_5e1f;
        let cookie = [own_tag, opening.tag, opening.first].map(u32::to_be_bytes);
        let answer = Opening {
            tag: own_tag,
            first: FIRST,
            cookie: cookie.concat(),
        };
        self.send(client, opening.tag, answer.init_ack());
        Ok(())
    }

    fn accept(&mut self, client: SocketAddr, tag: u32, chunk: &Chunk) -> Result<(), &'static str> {
        let word = |at| chunks::word(&chunk.value, at).ok_or("half a cookie");
        let association = Association {
            own_tag: word(0)?,
            client_tag: word(4)?,
            expected: word(8)?,
            number: FIRST,
        };
        if association.own_tag != tag {
            return Err("another verification tag");
        }
        self.associations.insert(client, association);
        self.send(
            client,
            association.client_tag,
            chunks::empty(kind::COOKIE_ACK),
        );
        Ok(())
    }

    fn send(&self, client: SocketAddr, tag: u32, chunk: Chunk) {
        let packet = Packet {
            ports: [self.port, client.port()],
            tag,
            chunks: vec![chunk],
        };
        // A client that is gone is not waiting.
        let _ = self.wire.send(&packet, client.ip());
    }

    fn report(&self, flaw: String) {
        let flaws = self.flaws.lock();
        flaws.unwrap_or_else(PoisonError::into_inner).push(flaw);
    }
}

/// Number of the first message of every association.
const FIRST: u32 = 1;
