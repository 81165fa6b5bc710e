//! Those who hammer a frontend: programs run on made-up packets, and real
//! connections.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use aya::{TestRun, TestRunOptions, programs::SchedClassifier};
use etherparse::PacketBuilder;
use lb_agent::dataplane::{Dataplane, Options};
use lb_tests::lab::{Exchange, Protocol};

/// How often each answer came: an address or the name of a server, or what
/// went wrong.
pub(crate) type Answers = BTreeMap<String, u64>;

/// TC_ACT_UNSPEC and TC_ACT_SHOT of linux/pkt_cls.h.
const PASS: u32 = u32::MAX;
const DROP: u32 = 2;
/// Few enough not to crowd out real connections, and not seen again before
/// many swaps later.
const FLOWS: u16 = 8000;

/// Runs the ingress program on datagrams from `client`, as if they had come in
/// by interface `index`. Runs in the node's namespace.
pub(crate) fn run_program(
    options: &Options,
    index: u32,
    client: IpAddr,
    to: SocketAddr,
    stop: &AtomicBool,
) -> Answers {
    let mut dataplane = Dataplane::open(options).unwrap();
    let program = dataplane.ebpf_mut().program_mut("lb_ingress").unwrap();
    let program: &mut SchedClassifier = program.try_into().unwrap();
    let context = context(index);
    let mut answers = Answers::new();
    for flow in (0..FLOWS).cycle() {
        if flow % 64 == 0 && stop.load(Ordering::Relaxed) {
            break;
        }
        let packet = datagram(SocketAddr::new(client, 20_000 + flow), to);
        let mut sent = vec![0; packet.len()];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&packet),
                data_out: Some(&mut sent),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .unwrap();
        let answer = match result.return_value {
            PASS => destination(&sent).to_string(),
            DROP => "dropped".to_owned(),
            action => format!("action {action}"),
        };
        *answers.entry(answer).or_default() += 1;
    }
    answers
}

/// A new connection or flow each time. Runs in the client's namespace.
pub(crate) fn connect(protocol: Protocol, to: SocketAddr, stop: &AtomicBool) -> Answers {
    let mut answers = Answers::new();
    let exchange = Exchange::new(protocol, to).timeout(Duration::from_secs(10));
    while !stop.load(Ordering::Relaxed) {
        let answer = match exchange.run() {
            Ok(reply) => reply.server,
            Err(error) => error.to_string(),
        };
        *answers.entry(answer).or_default() += 1;
    }
    answers
}

/// A `struct __sk_buff` up to its `ifindex`.
fn context(index: u32) -> [u8; 44] {
    let mut context = [0; 44];
    context[40..].copy_from_slice(&index.to_ne_bytes());
    context
}

fn datagram(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        families => panic!("{families:?}"),
    };
    let mut packet = Vec::new();
    let builder = builder.udp(from.port(), to.port());
    builder.write(&mut packet, b"payload").unwrap();
    packet
}

fn destination(packet: &[u8]) -> IpAddr {
    match packet[12..14] {
        [8, 0] => <[u8; 4]>::try_from(&packet[30..34]).unwrap().into(),
        _ => <[u8; 16]>::try_from(&packet[38..54]).unwrap().into(),
    }
}
