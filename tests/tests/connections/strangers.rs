//! SYNs from nowhere, as many as a machine can send.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use lb_tests::{
    lab::{Family, Host, Injector, Lab, mac},
    packet::frame::{Frame, SYN, Transport},
};

/// Sources are taken from here; whoever answers them is not heard.
pub(crate) const NOWHERE: [&str; 2] = ["100.64.0.0/10", "fdff::/16"];

/// Different in all but the last bits of the source address.
const STRANGERS: u32 = 1024;

pub(crate) struct Flood {
    injector: Injector,
    frames: Vec<Vec<u8>>,
    random: u32,
}

impl Flood {
    /// From the outside client to these frontends.
    pub(crate) fn new(lab: &Lab, to: &[SocketAddr]) -> Self {
        let client: &Host = lab.client();
        let macs = [
            mac(&lab.router().netns, "lan0").unwrap(),
            mac(&client.netns, "eth0").unwrap(),
        ];
        let mut random = 1;
        let frames = (0..STRANGERS).zip(to.iter().cycle()).map(|(_, &to)| {
            let source = stranger(Family::of(to.ip()), next(&mut random));
            let mut frame = Frame::new(Transport::Tcp(SYN), source, to);
            frame.macs = macs;
            frame.payload.clear();
            frame.bytes()
        });
        Self {
            frames: frames.collect(),
            injector: Injector::open(&client.netns, "eth0").unwrap(),
            random,
        }
    }

    /// Sends so many SYNs, each from another source.
    pub(crate) fn run(&mut self, count: u64) -> io::Result<Duration> {
        let start = Instant::now();
        let mut left = count;
        while left > 0 {
            let step = next(&mut self.random) as u16;
            for frame in &mut self.frames {
                shift(frame, step);
            }
            let part = left.min(self.frames.len() as u64);
            self.injector.send(&self.frames[..part as usize])?;
            left -= part;
        }
        Ok(start.elapsed())
    }
}

fn stranger(family: Family, random: u32) -> SocketAddr {
    let [a, b, c, d] = random.to_be_bytes();
    let port = 1024 + (random % 50_000) as u16;
    match family {
        Family::V4 => ([100, 64 | a & 0x3f, b, c ^ d], port).into(),
        Family::V6 => {
            let half = u16::from_be_bytes([a, b]);
            let other = u16::from_be_bytes([c, d]);
            ([0xfdff, half, other, 0, 0, 0, 0, 1], port).into()
        }
    }
}

/// Adds to the end of the source address what it takes from the source port and
/// from the IPv4 header's identification, so that all checksums stay right.
fn shift(frame: &mut [u8], step: u16) {
    let (address, port, identification) = match frame[12] {
        8 => (28, 34, Some(18)),
        _ => (36, 54, None),
    };
    add(frame, address, step);
    add(frame, port, !step);
    if let Some(identification) = identification {
        add(frame, identification, !step);
    }
}

/// In ones' complement (RFC 1071).
fn add(frame: &mut [u8], at: usize, step: u16) {
    let word = u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (sum, carry) = word.overflowing_add(step);
    let sum = sum + u16::from(carry);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Marsaglia's xorshift of 32 bits.
fn next(random: &mut u32) -> u32 {
    *random ^= *random << 13;
    *random ^= *random >> 17;
    *random ^= *random << 5;
    *random
}

#[test]
fn shifted_frames_have_right_checksums_and_many_sources() {
    let to: [SocketAddr; 2] = [([10, 0, 0, 1], 80).into(), ([1_u16; 8], 80).into()];
    let mut random = 1;
    let mut sources = std::collections::BTreeSet::new();
    for to in to {
        let source = stranger(Family::of(to.ip()), 7);
        let mut frame = Frame::new(Transport::Tcp(SYN), source, to).bytes();
        for _ in 0..1000 {
            shift(&mut frame, next(&mut random) as u16);
            assert_eq!(lb_tests::lab::inspect(&frame), lb_tests::lab::Verdict::Good);
            sources.insert(frame[..56].to_vec());
        }
    }
    assert!(sources.len() > 1900, "{}", sources.len());
}
