//! Sequences of packets, drawn from a seed.

use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;

use super::{
    model::{Change, Way},
    place::PLACES,
    sequence::{Content, Fault, Piece, Sequence, Step, Talk, What, Where},
    world::{BALANCER, PROTOCOLS, SCTP, TCP, UDP, UNUSED, VIP, World},
};
use crate::{
    fuzz::mutate,
    lab::{Family, Pair},
    packet::{
        Place, at,
        frame::{ACK, FIN, RST, SYN},
        wiring::{
            CLIENT, CLIENT1, GATEWAY_MAC, LOOPBACK, NODE, NODE1, POD, POD1, REMOTE, REMOTE1, inner,
        },
    },
};
use lb_common::Hook;

/// Steps of a sequence.
const STEPS: std::ops::Range<usize> = 20..80;
const TALKS: std::ops::Range<usize> = 1..8;

/// Sequences for each one in which an agent takes over, which takes seconds.
const RESTARTS: u32 = 4096;
/// And in which connections are collected, which takes milliseconds.
const COLLECTIONS: u32 = 16;

/// Pauses between packets, in seconds: on both sides of every timeout.
const WAITS: [u64; 10] = [2, 5, 13, 35, 66, 97, 130, 260, 500, 432_100];

/// Ports of clients: few, so that they meet.
const PORTS: [u16; 6] = [40_000, 40_001, 61_000, 61_001, 65_535, 1];

pub(crate) fn sequence(world: &World, seed: u64) -> Sequence {
    let mut rng = Rng::with_seed(seed);
    let has_xdp = rng.bool();
    let mut talks = vec![talk(&mut rng, world, has_xdp)];
    for _ in 1..rng.usize(TALKS) {
        let talk = match rng.u8(..) {
            0..100 => like(&mut rng, world, &talks),
            _ => talk(&mut rng, world, has_xdp),
        };
        talks.push(talk);
    }
    let mut steps: Vec<Step> = (0..rng.usize(STEPS))
        .map(|_| step(&mut rng, &talks))
        .collect();
    if rng.u32(..COLLECTIONS) == 0 {
        let at = rng.usize(..steps.len());
        steps[at].what = What::Collect;
    }
    if rng.u32(..RESTARTS) == 0 {
        let at = rng.usize(..steps.len());
        steps[at].what = What::Restart;
    }
    Sequence {
        has_xdp,
        quota: one(&mut rng, &[1, 2, 1000]),
        talks,
        steps,
    }
}

/// What comes up in most worlds, and rarely what does not.
fn talk(rng: &mut Rng, world: &World, has_xdp: bool) -> Talk {
    let family = one(rng, &Family::ALL);
    let protocol = one(rng, &PROTOCOLS);
    let (who, entrance) = client(rng, has_xdp);
    let mut source = who.get(family);
    if rng.u8(..) < 6 {
        source = strange(rng, family);
    }
    let frontend = match rng.u8(..) {
        0..12 => SocketAddr::new(UNUSED.get(family), 80),
        12..24 => SocketAddr::new(VIP.get(family), 12_345),
        24..36 => SocketAddr::new(REMOTE.get(family), 8080),
        36..42 => SocketAddr::new(strange(rng, family), 80),
        _ => frontend(rng, world, family, protocol),
    };
    Talk {
        client: SocketAddr::new(source, one(rng, &PORTS)),
        frontend,
        protocol,
        entrance,
        tags: match rng.u8(..) {
            0..12 => vec![[0x8100, rng.u16(..)]],
            12..18 => vec![[0x88a8, rng.u16(..)], [0x8100, rng.u16(..)]],
            18..20 => vec![[0x88a8, 1], [0x88a8, 2], [0x8100, 3]],
            _ => Vec::new(),
        },
        options: match rng.u8(..) {
            0..20 if family == Family::V4 => 4 * rng.usize(1..=10),
            _ => 0,
        },
        extensions: match rng.u8(..) {
            0..40 if family == Family::V6 => (0..rng.usize(1..8)).map(|_| extension(rng)).collect(),
            _ => Vec::new(),
        },
        is_unsummed: protocol != TCP && rng.u8(..) < 40,
    }
}

/// One that is easily taken for an earlier one: the same client's to another
/// frontend, or to the backend itself.
fn like(rng: &mut Rng, world: &World, talks: &[Talk]) -> Talk {
    let mut talk = talks[rng.usize(..talks.len())].clone();
    let asked = world.frontends.get(&(talk.frontend, talk.protocol));
    let backends = asked.map_or(&[][..], |asked| &world.services[asked.service].backends);
    let family = Family::of(talk.client.ip());
    talk.frontend = match rng.bool() {
        true if !backends.is_empty() => one(rng, backends).at,
        _ => frontend(rng, world, family, talk.protocol),
    };
    talk
}

/// A client, and where its packets enter the node.
fn client(rng: &mut Rng, has_xdp: bool) -> (Pair, Place) {
    let uplink = |name| match has_xdp {
        true => at(Hook::Xdp, name),
        false => at(Hook::TcIngress, name),
    };
    match rng.u8(..) {
        0..80 => (CLIENT, uplink("up0")),
        80..110 => (CLIENT1, uplink("up1")),
        110..150 => (POD, at(Hook::TcIngress, "pod0")),
        150..170 => (POD1, at(Hook::TcIngress, "pod1")),
        170..195 => (NODE, at(Hook::TcEgress, "up0")),
        195..210 => (NODE1, at(Hook::TcEgress, "up1")),
        210..220 => (NODE, at(Hook::TcEgress, "lo")),
        220..235 => (LOOPBACK, at(Hook::TcEgress, "lo")),
        235..245 => (REMOTE, uplink("up0")),
        _ => (REMOTE1, uplink("up1")),
    }
}

/// Addresses that nobody should have, or should not use here.
fn strange(rng: &mut Rng, family: Family) -> IpAddr {
    match family {
        Family::V4 => {
            let all = [
                "0.0.0.0",
                "255.255.255.255",
                "224.0.0.1",
                "127.0.0.1",
                "198.18.0.255",
                "198.18.0.1",
                "10.96.0.10",
                "240.0.0.1",
            ];
            parsed(one(rng, &all))
        }
        Family::V6 => {
            let all = [
                "::",
                "::1",
                "ff02::1",
                "fe80::1",
                "::10.96.0.10",
                "2001:db8::",
                "2001:db8::77",
                "2001:db8:0:1::1",
            ];
            parsed(one(rng, &all))
        }
    }
}

fn parsed(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::V6(inner(0, 1).v6))
}

fn frontend(rng: &mut Rng, world: &World, family: Family, protocol: u8) -> SocketAddr {
    let all = world.frontends.keys();
    let mut fitting =
        all.filter(|(at, number)| Family::of(at.ip()) == family && *number == protocol);
    let count = fitting.clone().count();
    let chosen = fitting.nth(rng.usize(..count.max(1)));
    chosen.map_or(SocketAddr::new(BALANCER.get(family), 81), |(at, _)| *at)
}

fn step(rng: &mut Rng, talks: &[Talk]) -> Step {
    let index = rng.usize(..talks.len());
    let talk = &talks[index];
    let (place, what) = match rng.u8(..) {
        0..125 => (Where::Entrance, What::Request(content(rng, talk, SYN))),
        125..210 => (Where::Next, What::Reply(content(rng, talk, SYN | ACK))),
        210..228 => (Where::Next, What::Onward),
        228..241 => (Where::Next, What::Error(fault(rng, talk))),
        241..243 => (
            Where::Next,
            What::Evict(one(rng, &[Way::Forward, Way::Reply])),
        ),
        243..247 => (Where::Next, What::Wait(one(rng, &WAITS))),
        247..250 => (Where::Next, What::Change(rng.usize(..4), change(rng))),
        _ => (Where::Entrance, What::Raw(mutate::noise(rng))),
    };
    let place = match rng.u8(..) {
        0..24 => Where::At(one(rng, &PLACES)),
        _ => place,
    };
    let edits = match rng.u8(..) {
        0..100 => mutate::edits(rng),
        _ => Vec::new(),
    };
    Step {
        talk: index,
        place,
        what,
        edits,
    }
}

fn content(rng: &mut Rng, talk: &Talk, opens: u8) -> Content {
    let (part, least) = match rng.u8(..) {
        0..50 => (Some(piece(rng)), 64),
        _ => (None, 0),
    };
    let mark = match rng.u8(..) {
        _ if talk.protocol == UDP => 0,
        _ if talk.protocol == SCTP => chunk(rng, opens),
        0..110 => opens,
        110..190 => ACK,
        190..220 => FIN | ACK,
        220..236 => RST,
        236..244 => SYN | ACK,
        _ => rng.u8(..),
    };
    Content {
        mark,
        part,
        hops: match rng.u8(..) {
            0..8 => rng.u8(..3),
            8..16 => 255,
            _ => 64,
        },
        mac: match rng.u8(..) {
            0..4 => Some([2, 9, 9, 9, 9, 9]),
            4..8 => Some([0xff; 6]),
            8..10 => Some(GATEWAY_MAC),
            _ => None,
        },
        payload: least
            + match rng.u8(..) {
                0..100 => 0,
                100..200 => rng.usize(..32),
                200..246 => rng.usize(..200),
                246..254 => rng.usize(..1460),
                _ => rng.usize(1400..3000),
            },
    }
}

/// Errors that are translated, seldom another one.
fn fault(rng: &mut Rng, talk: &Talk) -> Fault {
    let kinds: [u8; 4] = match talk.client.is_ipv4() {
        true => [3, 3, 11, 12],
        false => [1, 2, 3, 4],
    };
    Fault {
        kind: match rng.u8(..) {
            0..240 => one(rng, &kinds),
            _ => rng.u8(..),
        },
        code: rng.u8(..5),
        hops: if rng.u8(..) < 8 { 1 } else { 64 },
        is_by_router: rng.bool(),
        quote: one(rng, &[28, 36, 48, 60, 68, 90, 548, 1232]),
    }
}

fn piece(rng: &mut Rng) -> Piece {
    Piece {
        id: rng.u32(1..4),
        size: one(rng, &[8, 16, 24, 32, 48]),
        number: rng.usize(..5),
    }
}

/// The type of an SCTP packet's first chunk.
fn chunk(rng: &mut Rng, opens: u8) -> u8 {
    use crate::packet::sctp::kind::{
        ABORT, COOKIE_ACK, COOKIE_ECHO, DATA, INIT, INIT_ACK, SACK, SHUTDOWN, SHUTDOWN_ACK,
        SHUTDOWN_COMPLETE,
    };
    let all = match opens {
        SYN => [
            INIT,
            INIT,
            COOKIE_ECHO,
            DATA,
            SHUTDOWN,
            SHUTDOWN_COMPLETE,
            ABORT,
        ],
        _ => [
            INIT_ACK,
            COOKIE_ACK,
            COOKIE_ACK,
            SACK,
            SHUTDOWN_ACK,
            INIT,
            ABORT,
        ],
    };
    match rng.u8(..) {
        0..250 => one(rng, &all),
        _ => rng.u8(..),
    }
}

/// Type and length of an IPv6 extension header.
fn extension(rng: &mut Rng) -> (u8, usize) {
    use crate::packet::extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};
    match rng.u8(..) {
        0..80 => (DESTINATION, 8 * rng.usize(1..6)),
        80..150 => (HOP_BY_HOP, 8 * rng.usize(1..4)),
        150..200 => (ROUTING, 8),
        200..240 => (FRAGMENT, 8),
        240..250 => (AUTHENTICATION, 16),
        _ => (DESTINATION, 8 * rng.usize(1..40)),
    }
}

fn change(rng: &mut Rng) -> Change {
    one(rng, &[Change::Remove, Change::Drain, Change::Return])
}

pub(crate) fn one<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}
