use std::net::SocketAddr;

use super::{
    extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING},
    frame::{Frame, SYN, Transport},
    sctp::kind,
    *,
};
use crate::lab::{Verdict, inspect};

const ENDS: [[&str; 2]; 2] = [
    ["198.51.100.7:40000", "192.0.2.11:30080"],
    ["[2001:db8:c::7]:40000", "[2001:db8::11]:30080"],
];

const TRANSPORTS: [Transport; 8] = [
    Transport::Tcp(SYN),
    Transport::Udp,
    Transport::Sctp(kind::INIT),
    Transport::Sctp(kind::INIT_ACK),
    Transport::Sctp(kind::COOKIE_ECHO),
    Transport::Sctp(kind::DATA),
    Transport::Sctp(kind::SHUTDOWN),
    Transport::Sctp(kind::ABORT),
];

fn ends() -> impl Iterator<Item = [SocketAddr; 2]> {
    ENDS.into_iter()
        .map(|texts| texts.map(|text| text.parse().unwrap()))
}

fn plain() -> impl Iterator<Item = Frame> {
    ends().flat_map(|[source, destination]| {
        TRANSPORTS.map(|transport| Frame::new(transport, source, destination))
    })
}

/// Every shape of the headers before the transport header.
fn shapes(frame: &Frame) -> Vec<Frame> {
    let mut shapes = vec![frame.clone()];
    if frame.source.is_ipv4() {
        shapes.extend([4, 20, 40].map(|options| Frame {
            options,
            ..frame.clone()
        }));
    } else {
        let all = [
            (HOP_BY_HOP, 8),
            (DESTINATION, 264),
            (ROUTING, 24),
            (AUTHENTICATION, 24),
            (DESTINATION, 16),
        ];
        let chains: [&[_]; 5] = [&all[..1], &all[3..4], &[(FRAGMENT, 8)], &all, &all[2..]];
        shapes.extend(chains.map(|chain| Frame {
            extensions: chain.to_vec(),
            ..frame.clone()
        }));
    }
    let tagged = |frame: &Frame| Frame {
        tags: vec![[0x88a8, 7], [0x8100, 0x2005]],
        ..frame.clone()
    };
    let tagged: Vec<Frame> = shapes.iter().map(tagged).collect();
    shapes.extend(tagged);
    shapes
}

#[test]
fn frames_and_their_answers_are_right_in_every_shape() {
    for frame in plain().flat_map(|frame| shapes(&frame)) {
        for payload in [&b""[..], b"odd", &[0xff; 1300]] {
            let asked = Frame {
                payload: payload.to_vec(),
                ..frame.clone()
            };
            for frame in [asked.answer(), asked] {
                let bytes = frame.bytes();
                assert_eq!(inspect(&bytes), Verdict::Good, "{frame:?}");
                let port = [frame.source.port() >> 8, frame.source.port() & 0xff];
                let at = frame.transport_offset();
                assert_eq!(bytes[at..at + 2], port.map(|byte| byte as u8), "{frame:?}");
            }
        }
    }
}

/// What an IP packet says of itself as a fragment, and where its data begins.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    id: u32,
    offset: usize,
    more: bool,
    /// Type of what comes behind the headers that all fragments have.
    next: u8,
    data: usize,
}

fn cut(packet: &[u8]) -> Cut {
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if packet[0] >> 4 == 4 {
        return Cut {
            id: word(4).into(),
            offset: usize::from(word(6) & 0x1fff) * 8,
            more: word(6) & 0x2000 != 0,
            next: packet[9],
            data: usize::from(packet[0] & 0xf) * 4,
        };
    }
    let (mut kind, mut at) = (packet[6], 40);
    while kind != FRAGMENT {
        kind = packet[at];
        at += 8 + usize::from(packet[at + 1]) * 8;
    }
    Cut {
        id: u32::from(word(at + 4)) << 16 | u32::from(word(at + 6)),
        offset: usize::from(word(at + 2) & !7),
        more: word(at + 2) & 1 != 0,
        next: packet[at],
        data: at + 8,
    }
}

#[test]
fn fragments_make_up_their_packet() {
    let whole = |frame: &Frame| frame.extensions.iter().all(|x| x.0 != FRAGMENT);
    for frame in plain().flat_map(|frame| shapes(&frame)).filter(whole) {
        let frame = Frame {
            payload: (0..1300).map(|n| (n * 7) as u8).collect(),
            ..frame
        };
        for sizes in [&[8][..], &[1232], &[560, 8, 16], &[4000], &[]] {
            check_fragments(&frame, sizes);
        }
    }
}

fn check_fragments(frame: &Frame, sizes: &[usize]) {
    let is_v4 = frame.source.is_ipv4();
    let packet = quote(frame, usize::MAX);
    let fragments = fragments(frame, 0xa_1234, sizes);
    let count = match sizes {
        [] | [4000] => 1,
        sizes => sizes.len() + 1,
    };
    assert_eq!(fragments.len(), count);
    let mut offset = 0;
    let mut data = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        let expect = if count == 1 {
            Verdict::Good
        } else {
            Verdict::Nothing
        };
        if is_v4 {
            assert_eq!(inspect(fragment), expect, "{frame:?} {sizes:?}");
        }
        let fragment = &fragment[frame.network()..];
        let said = cut(fragment);
        let expect = Cut {
            id: if is_v4 { 0x1234 } else { 0xa_1234 },
            offset,
            more: index + 1 < count,
            ..cut(fragment)
        };
        assert_eq!(said, expect, "{frame:?} {sizes:?}");
        data.extend(&fragment[said.data..]);
        offset = data.len();
    }
    assert!(packet.ends_with(&data), "{frame:?} {sizes:?}");
    let mut headers = 40;
    if is_v4 {
        headers = 20 + frame.options;
    }
    let chain = frame.extensions.iter();
    let end = chain
        .clone()
        .rposition(|x| [HOP_BY_HOP, ROUTING].contains(&x.0));
    let kept: usize = chain.take(end.map_or(0, |end| end + 1)).map(|x| x.1).sum();
    assert_eq!(data.len(), packet.len() - headers - kept, "{frame:?}");
}

#[test]
fn icmp_messages_are_right_and_quote_what_was_sent() {
    let [v4, v6]: [&[u8]; 2] = [&[3, 4, 11, 12], &[1, 2, 3, 4]];
    for frame in plain().flat_map(|frame| shapes(&frame)) {
        let kinds = if frame.source.is_ipv4() { v4 } else { v6 };
        for &kind in kinds {
            let error = Icmp {
                tags: frame.tags.clone(),
                rest: [0, 0, 5, 0xdc],
                ..Icmp::error(kind, 1, frame.destination.ip(), &frame)
            };
            let bytes = error.bytes();
            assert_eq!(inspect(&bytes), Verdict::Good, "{error:?}");
            let message = if frame.source.is_ipv4() { 20 } else { 40 } + frame.network();
            assert_eq!(bytes[message..message + 2], [kind, 1]);
            assert_eq!(bytes[message + 4..message + 8], [0, 0, 5, 0xdc]);
            assert_eq!(bytes[message + 8..], frame.bytes()[frame.network()..]);
        }
    }
}

#[test]
fn a_quote_is_no_longer_than_may_be() {
    for [source, destination] in ends() {
        let frame = Frame {
            payload: vec![7; 1400],
            ..Frame::new(Transport::Udp, source, destination)
        };
        let error = Icmp::error(3, 0, destination.ip(), &frame).bytes();
        let longest = if source.is_ipv4() { 576 } else { 1280 };
        assert_eq!(error.len(), 14 + longest);
        let short = Icmp {
            body: quote(&frame, 28),
            ..Icmp::error(3, 0, destination.ip(), &frame)
        };
        assert_eq!(inspect(&short.bytes()), Verdict::Good);
    }
}

#[test]
fn echoes_are_right_both_ways() {
    for [source, destination] in ends() {
        let request = Icmp::request(source.ip(), destination.ip());
        for message in [request.answer(), request] {
            assert_eq!(inspect(&message.bytes()), Verdict::Good, "{message:?}");
        }
    }
}
