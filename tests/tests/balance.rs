//! New connections spread over the backends as chance has it.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    ops::Range,
    thread,
    time::Duration,
};

use lb_tests::lab::{Exchange, Family, Host, LabOptions, Protocol, Reply, Scene, Service};
use socket2::{Domain, Socket, Type};

const CONNECTIONS: u16 = 30_000;
const CLIENTS: u16 = 8;
const SERVICE: Service = Service(1);
const BACKENDS: [(u8, &str); 3] = [(1, "one"), (2, "two"), (2, "three")];

/// The machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(10);

/// Source ports of the two attempts, so that each opens connections of its own.
const ATTEMPTS: [Range<u16>; 2] = [2_000..32_000, 34_000..64_000];

/// Of the chi-square distribution with 2 degrees of freedom, at 0.001.
const LIMIT: f64 = 13.816;

#[test]
fn each_backend_gets_its_third() {
    let mut scene = Scene::new(&LabOptions::default()).unwrap();
    let pods = BACKENDS.map(|(node, name)| scene.add_backend(node, name).unwrap());
    scene
        .publish(SERVICE, &pods.each_ref().map(|pod| &**pod))
        .unwrap();
    let asker = scene.lab.add_pod(1, "asker").unwrap();
    scene.start_agents(1, &["--xdp", "native"]).unwrap();
    let node_port = |family| scene.lab.node(1).socket(family, SERVICE.node_port());
    let table = [
        (&asker.host, Protocol::Tcp, SERVICE.cluster_ip(Family::V4)),
        (&asker.host, Protocol::Udp, SERVICE.cluster_ip(Family::V6)),
        (scene.lab.client(), Protocol::Udp, node_port(Family::V4)),
        (scene.lab.client(), Protocol::Tcp, node_port(Family::V6)),
    ];
    for (from, protocol, to) in table {
        check(from, protocol, to);
    }
}

/// Even a fair choice exceeds the limit once in a thousand times, but hardly
/// twice in a row.
fn check(from: &Host, protocol: Protocol, to: SocketAddr) {
    let mut seen = Vec::new();
    for ports in ATTEMPTS {
        let counts = spread(from, protocol, to, ports);
        eprintln!("{} to {to} {protocol}: {counts:?}", from.name);
        assert_eq!(counts.values().sum::<u64>(), u64::from(CONNECTIONS));
        let names: Vec<_> = counts.keys().map(String::as_str).collect();
        assert_eq!(names, ["one", "three", "two"]);
        let counts: Vec<_> = counts.into_values().collect();
        if chi_square(&counts) < LIMIT {
            return;
        }
        seen.push(counts);
    }
    panic!("{} to {to} {protocol}: {seen:?}", from.name);
}

/// Opens a connection from each port and counts who answers.
fn spread(
    from: &Host,
    protocol: Protocol,
    to: SocketAddr,
    ports: Range<u16>,
) -> BTreeMap<String, u64> {
    let address = from.address(Family::of(to.ip()));
    let client = |first: u16| {
        let mut counts = BTreeMap::<String, u64>::new();
        for port in (first..ports.end).step_by(CLIENTS.into()) {
            let reply = ask(protocol, SocketAddr::new(address, port), to);
            let reply = reply.unwrap_or_else(|error| panic!("port {port}: {error}"));
            // To what the node sends on as itself, its nodePort would look
            // like a client's port.
            let is_kept = reply.port == port || port == SERVICE.node_port();
            assert!(is_kept, "{port} became {}", reply.port);
            *counts.entry(reply.server).or_default() += 1;
        }
        counts
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (ports.start..ports.start + CLIENTS)
            .map(|first| scope.spawn(move || from.netns.run(|| client(first))))
            .collect();
        let mut all = BTreeMap::new();
        for counts in clients
            .into_iter()
            .map(|client| client.join().expect("its clients panic as the test does"))
        {
            for (name, count) in counts {
                *all.entry(name).or_default() += count;
            }
        }
        all
    })
}

fn ask(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> io::Result<Reply> {
    match protocol {
        Protocol::Tcp => ask_tcp(from, to),
        Protocol::Udp => Exchange::new(protocol, to)
            .from(from)
            .timeout(PATIENCE)
            .run(),
    }
}

/// The handshake's last ACK travels with the request. Where it goes ahead on
/// its own, a busy machine answers about one request in 400,000 with a reset,
/// on plain routing without any agent too.
fn ask_tcp(from: SocketAddr, to: SocketAddr) -> io::Result<Reply> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_tcp_quickack(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut stream = BufReader::new(TcpStream::from(socket));
    stream.get_mut().write_all(b"which one\n")?;
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    Reply::parse(&line)
}

/// Pearson's, against equal shares.
fn chi_square(counts: &[u64]) -> f64 {
    let expect = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    let square = |&count: &u64| (count as f64 - expect).powi(2) / expect;
    counts.iter().map(square).sum()
}

#[test]
fn unfair_shares_are_told_from_chance() {
    let table = [
        ([10_000, 10_000, 10_000], true),
        ([10_100, 9_950, 9_950], true),
        ([10_200, 9_900, 9_900], true),
        ([10_300, 9_900, 9_800], false),
        ([15_000, 15_000, 0], false),
        ([30_000, 0, 0], false),
    ];
    for (counts, fair) in table {
        assert_eq!(chi_square(&counts) < LIMIT, fair, "{counts:?}");
    }
}
