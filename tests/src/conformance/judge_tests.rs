use super::*;
use crate::packet::{
    Answer, Content, at,
    frame::{ACK, RST, SYN},
    sctp::kind::INIT,
};

const UPLINK: Place = at(Hook::Xdp, "up0");
const POD: Place = at(Hook::TcIngress, "pod0");
const LOOPBACK: Place = at(Hook::TcEgress, "lo");

const PAIRS: [[&str; 3]; 2] = [
    ["198.51.100.7:40000", "10.96.0.7:80", "10.20.1.11:8080"],
    [
        "[2001:db8:c::7]:40000",
        "[fd00:96::7]:80",
        "[fd00:20:1::11]:8080",
    ],
];

fn sockets() -> impl Iterator<Item = [SocketAddr; 3]> {
    PAIRS
        .into_iter()
        .map(|texts| texts.map(|text| text.parse().unwrap()))
}

fn judged(sent: &Frame, at: Place, action: i32, bytes: Vec<u8>) -> String {
    let returned = Returned { action, bytes };
    outcome(sent, at, &returned).to_string()
}

#[test]
fn only_a_whole_translation_is_one() {
    for [client, frontend, backend] in sockets() {
        for transport in [Transport::Tcp(SYN), Transport::Udp, Transport::Sctp(INIT)] {
            let sent = Frame::new(transport, client, frontend);
            let right = Frame {
                destination: backend,
                ..sent.clone()
            };
            let hop = |hops| Frame {
                hops,
                ..right.clone()
            };
            let damaged = |at: usize| {
                let mut bytes = right.bytes();
                let at = bytes.len() - at;
                bytes[at] ^= 1;
                bytes
            };
            let dnat = format!("dnat to {backend} from {client}");
            let table = [
                (UPLINK, XDP_PASS, right.bytes(), dnat.as_str()),
                (UPLINK, XDP_TX, hop(63).bytes(), &dnat),
                (UPLINK, XDP_REDIRECT, hop(63).bytes(), &dnat),
                (POD, TC_PASS, right.bytes(), &dnat),
                (POD, TC_REDIRECT, right.bytes(), &dnat),
                (POD, TC_PASS, hop(62).bytes(), "62 hops left of 64"),
                (POD, TC_PASS, damaged(1), "a damaged frame"),
                (POD, TC_PASS, damaged(5), "a damaged frame"),
                (POD, TC_DROP, right.bytes(), "drop"),
                (UPLINK, XDP_DROP, sent.bytes(), "drop"),
                (UPLINK, XDP_PASS, sent.bytes(), "pass"),
                (POD, TC_PASS, sent.bytes(), "pass"),
                (
                    POD,
                    TC_REDIRECT,
                    sent.bytes(),
                    "untouched and sent elsewhere",
                ),
                (POD, 77, sent.bytes(), "action 77"),
            ];
            for (at, action, bytes, expect) in table {
                let found = judged(&sent, at, action, bytes);
                assert!(
                    found.starts_with(expect),
                    "{transport:?} {at:?}: {found}, not {expect}"
                );
            }
        }
    }
}

#[test]
fn only_a_right_reset_is_an_answer() {
    for [client, frontend, backend] in sockets() {
        let mut sent = Frame::new(Transport::Tcp(SYN), client, frontend);
        sent.payload.clear();
        let right = Answer::to(&sent);
        let reset = |flags, sequence, acknowledgment| Answer {
            content: Content::Reset {
                flags,
                sequence,
                acknowledgment,
            },
            ..right.clone()
        };
        let to_other_port = Answer {
            destination: SocketAddr::new(client.ip(), 1),
            ..right.clone()
        };
        let from_another = Answer {
            source: SocketAddr::new(backend.ip(), frontend.port()),
            ..right.clone()
        };
        let next = sequence(&sent) + 1;
        let table = [
            (POD, TC_REDIRECT, right.clone(), "reject"),
            (UPLINK, XDP_TX, reset(RST | ACK, 0, next), "reject"),
            (LOOPBACK, TC_PASS, right.clone(), "reject"),
            (POD, TC_PASS, right.clone(), "an answer that goes on"),
            (POD, TC_REDIRECT, reset(RST | ACK, 0, 9), "a reset with"),
            (POD, TC_REDIRECT, reset(RST | ACK, 1, next), "a reset with"),
            (POD, TC_REDIRECT, reset(RST, 0, next), "a reset with"),
            (POD, TC_REDIRECT, to_other_port, "a reset of other ports"),
            (POD, TC_REDIRECT, from_another, "an answer from"),
        ];
        for (at, action, answer, expect) in table {
            let found = judged(&sent, at, action, answer.bytes(true));
            assert!(found.starts_with(expect), "{at:?} {answer:?}: {found}");
        }
        let mut damaged = right.bytes(true);
        damaged[sent.transport_offset() + 14] ^= 1;
        let found = judged(&sent, POD, TC_REDIRECT, damaged);
        assert_eq!(found, "an answer with checksums: Bad(\"TCP\")");
    }
}

#[test]
fn only_a_right_port_unreachable_is_an_answer() {
    for [client, frontend, _] in sockets() {
        let sent = Frame::new(Transport::Udp, client, frontend);
        let packet = sent.bytes()[sent.network()..].to_vec();
        let least = sent.transport_offset() - sent.network() + 8;
        let (kind, code) = if client.is_ipv4() { (3, 3) } else { (1, 4) };
        let another = [&packet[..least], b"x"].concat();
        let table = [
            (kind, code, &packet[..], "reject"),
            (kind, code, &packet[..least], "reject"),
            (kind, code, &packet[..least - 1], "ICMP about another"),
            (kind, code, &another, "ICMP about another"),
            (kind, 0, &packet, "ICMP type"),
            (5, code, &packet, "ICMP type"),
        ];
        for (kind, code, quote, expect) in table {
            let quote = quote.to_vec();
            let answer = Answer {
                content: Content::Error {
                    kind,
                    code,
                    rest: 0,
                    quote,
                },
                ..Answer::to(&sent)
            };
            let found = judged(&sent, UPLINK, XDP_TX, answer.bytes(true));
            assert!(found.starts_with(expect), "{answer:?}: {found}");
        }
    }
}

fn sequence(sent: &Frame) -> u32 {
    let bytes = sent.bytes();
    let segment = TcpSlice::from_slice(&bytes[sent.transport_offset()..]).unwrap();
    segment.sequence_number()
}
