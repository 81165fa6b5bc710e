//! Everything at once, and every frame looked at wherever one leaves.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use etherparse::{IpNumber, NetSlice, SlicedPacket};
use lb_tests::lab::{
    Capture, Exchange, Family, Frame, Host, LabOptions, Protocol, Recording, Scene, Service,
};

/// How long traffic goes on.
const TIME: Duration = Duration::from_secs(3);
/// The machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(10);

/// The backend of the first is on node 1, that of the second on node 2, and that
/// of the third does not listen.
const SERVICES: [Service; 3] = [Service(1), Service(2), Service(3)];

#[test]
fn every_checksum_is_right() {
    for xdp in ["native", "off"] {
        check(xdp);
    }
}

fn check(xdp: &str) {
    let mut scene = Scene::new(&LabOptions::default()).unwrap();
    let backends = [1, 2].map(|node| scene.add_backend(node, &format!("backend{node}")).unwrap());
    let askers = [1, 2].map(|node| scene.lab.add_pod(node, &format!("asker{node}")).unwrap());
    for (service, pod) in SERVICES
        .into_iter()
        .zip([&backends[0], &backends[1], &askers[1]])
    {
        scene.publish(service, &[&**pod]).unwrap();
    }
    scene.start_agents(SERVICES.len(), &["--xdp", xdp]).unwrap();

    let lab = &scene.lab;
    let hosts: [&Host; 7] = [
        lab.client(),
        lab.node(1),
        lab.node(2),
        &askers[0],
        &askers[1],
        &backends[0],
        &backends[1],
    ];
    let mut captures = vec![(
        "router",
        Capture::start(&lab.router().netns, &["lan0", "node1", "node2"]).unwrap(),
    )];
    for host in hosts {
        let capture = Capture::start(&host.netns, &["eth0"]).unwrap();
        captures.push((host.name.as_str(), capture));
    }
    let counts = thread::scope(|scope| {
        let scene = &scene;
        let works = hosts.map(|host| scope.spawn(move || host.netns.run(|| talk(scene, host))));
        works.map(|work| work.join().unwrap())
    });
    let mut kinds = BTreeMap::new();
    for (place, capture) in captures {
        inspect(xdp, place, &capture.stop().unwrap(), &mut kinds);
    }
    let exchanges: usize = counts.iter().sum();
    eprintln!("xdp {xdp}: {exchanges} exchanges, frames of {kinds:?}");
    assert!(exchanges > 7 * 10, "{counts:?}");
    for kind in ["TCP", "UDP", "ICMP", "ICMPv6"] {
        assert!(kinds.get(kind) > Some(&0), "{kind}: {kinds:?}");
    }
}

/// Asks for everything in turn; returns how many answers came.
fn talk(scene: &Scene, host: &Host) -> usize {
    let deadline = Instant::now() + TIME;
    let mut answers = 0;
    for length in [1, 100, 1001, 1400].into_iter().cycle() {
        for (to, protocol) in addressees(scene, host) {
            if Instant::now() > deadline {
                return answers;
            }
            let exchange = Exchange::new(protocol, to)
                .payload(length)
                .timeout(PATIENCE);
            let result = exchange.run();
            result.unwrap_or_else(|error| {
                panic!("{} to {to} {protocol}, {length} bytes: {error}", host.name)
            });
            answers += 1;
        }
        for family in Family::ALL {
            // Nobody listens: the answer is an error, and checked as a frame.
            let to = node_ports(scene, SERVICES[2], family)[1];
            let exchange = Exchange::new(Protocol::Udp, to);
            let _ = exchange.timeout(Duration::from_millis(50)).run();
        }
    }
    answers
}

/// Frontends that the host can reach and that are served, with their protocols.
fn addressees(scene: &Scene, host: &Host) -> Vec<(SocketAddr, Protocol)> {
    let is_outside = host.name == scene.lab.client().name;
    let mut addressees = Vec::new();
    for service in &SERVICES[..2] {
        for family in Family::ALL {
            let mut to = node_ports(scene, *service, family).to_vec();
            if !is_outside {
                to.push(service.cluster_ip(family));
            }
            let pairs = to.into_iter();
            addressees.extend(pairs.flat_map(|to| Protocol::ALL.map(|protocol| (to, protocol))));
        }
    }
    addressees
}

fn node_ports(scene: &Scene, service: Service, family: Family) -> [SocketAddr; 2] {
    [1, 2].map(|node| scene.lab.node(node).socket(family, service.node_port()))
}

fn inspect(
    xdp: &str,
    place: &str,
    recording: &Recording,
    kinds: &mut BTreeMap<&'static str, usize>,
) {
    let what = format!("xdp {xdp}, {place}");
    assert_eq!(recording.lost, 0, "{what}: the capture was too slow");
    let report = recording.checksums();
    for bad in &report.bad {
        eprintln!("{what}: {bad}");
    }
    assert!(report.bad.is_empty(), "{what}: {} bad", report.bad.len());
    let unfinished = recording.frames.iter().filter(|frame| !frame.finished);
    for frame in unfinished {
        assert!(is_begun(frame), "{what}: {frame:02x?}");
    }
    eprintln!(
        "{what}: {} right, {} to be finished, {} without",
        report.checked, report.unfinished, report.without
    );
    for frame in &recording.frames {
        if let Some(kind) = kind(frame) {
            *kinds.entry(kind).or_default() += 1;
        }
    }
}

fn kind(frame: &Frame) -> Option<&'static str> {
    let packet = SlicedPacket::from_ethernet(&frame.bytes).ok()?;
    match payload(packet.net.as_ref()?)?.1 {
        IpNumber::TCP => Some("TCP"),
        IpNumber::UDP => Some("UDP"),
        IpNumber::ICMP => Some("ICMP"),
        // Neighbours are not translated: errors only.
        IpNumber::IPV6_ICMP => (frame.bytes.get(54)? < &128).then_some("ICMPv6"),
        _ => None,
    }
}

/// Addresses, protocol and what is behind the IP header.
fn payload<'a>(net: &'a NetSlice<'_>) -> Option<(Vec<u8>, IpNumber, &'a [u8])> {
    let (addresses, payload) = match net {
        NetSlice::Ipv4(ip) => (
            [ip.header().source(), ip.header().destination()].concat(),
            ip.payload(),
        ),
        NetSlice::Ipv6(ip) => (
            [ip.header().source(), ip.header().destination()].concat(),
            ip.payload(),
        ),
        NetSlice::Arp(_) => return None,
    };
    Some((addresses, payload.ip_number, payload.payload))
}

/// Whether an offload that finishes the checksum finds the sum of the pseudo
/// header in its place.
fn is_begun(frame: &Frame) -> bool {
    let packet = SlicedPacket::from_ethernet(&frame.bytes).unwrap();
    let Some((addresses, protocol, segment)) = packet.net.as_ref().and_then(payload) else {
        return false;
    };
    let field = match protocol {
        IpNumber::TCP => 16,
        IpNumber::UDP => 6,
        _ => return false,
    };
    let mut sum = segment.len() as u64 + u64::from(protocol.0);
    for word in addresses.chunks(2) {
        sum += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u64::from(u16::from_be_bytes([segment[field], segment[field + 1]])) == sum
}
