//! Changes to frames that were right.

use fastrand::Rng;

use super::{
    generate::one,
    sequence::{Base, Edit},
};

/// Words that mean something at a boundary.
const WORDS: [u16; 12] = [0, 1, 7, 8, 19, 20, 27, 28, 0x4000, 0x7fff, 0x8000, 0xffff];

/// One change, seldom two.
pub(crate) fn edits(rng: &mut Rng) -> Vec<Edit> {
    let mut edits = vec![edit(rng)];
    if rng.u8(..) < 60 {
        edits.push(edit(rng));
    }
    if rng.bool() {
        edits.push(Edit::Sum);
    }
    edits
}

/// A frame of random bytes, or of one that begins like IP.
pub(crate) fn noise(rng: &mut Rng) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..rng.usize(15..120)).map(|_| rng.u8(..)).collect();
    let start: &[u8] = match rng.u8(..) {
        0..100 => &[8, 0, 0x45],
        100..200 => &[0x86, 0xdd, 0x60],
        200..220 => &[0x81, 0, 0, 1, 8, 0, 0x45],
        220..230 => &[8, 6],
        _ => &[],
    };
    for (byte, wanted) in bytes.iter_mut().skip(12).zip(start) {
        *byte = *wanted;
    }
    bytes
}

fn edit(rng: &mut Rng) -> Edit {
    match rng.u8(..) {
        0..50 => Edit::Flip {
            base: base(rng),
            bit: rng.usize(..160),
        },
        50..70 => Edit::Flip {
            base: Base::Frame,
            bit: rng.usize(..900),
        },
        70..110 => Edit::Cut(rng.usize(15..110)),
        110..130 => Edit::Pad(rng.usize(1..60)),
        130..150 => Edit::Set {
            base: base(rng),
            at: rng.usize(..40),
            to: (0..rng.usize(1..5)).map(|_| rng.u8(..)).collect(),
        },
        _ => field(rng),
    }
}

/// A field that says something of the packet itself.
fn field(rng: &mut Rng) -> Edit {
    let word = match rng.bool() {
        true => one(rng, &WORDS),
        false => rng.u16(..),
    };
    let [_, low] = word.to_be_bytes();
    let (base, at, to) = match rng.u8(..13) {
        // Version, header length.
        0 => (Base::Network, 0, vec![rng.u8(..)]),
        1 => (Base::Network, 0, vec![0x40 | rng.u8(..16)]),
        // Lengths of IPv4, IPv6, UDP.
        2 => (Base::Network, 2, word.to_be_bytes().to_vec()),
        3 => (Base::Network, 4, word.to_be_bytes().to_vec()),
        4 => (Base::Transport, 4, word.to_be_bytes().to_vec()),
        // Fragments.
        5 => (Base::Network, 6, word.to_be_bytes().to_vec()),
        // Hops and protocol of IPv4; protocol and hops of IPv6.
        6 => (Base::Network, 8, vec![low]),
        7 => (Base::Network, 9, vec![protocol(rng)]),
        8 => (Base::Network, 6, vec![protocol(rng)]),
        // Checksums of IPv4, TCP, UDP.
        9 => (Base::Network, 10, word.to_be_bytes().to_vec()),
        10 => (Base::Transport, 16, word.to_be_bytes().to_vec()),
        11 => (Base::Transport, 6, word.to_be_bytes().to_vec()),
        // Header length of TCP.
        _ => (Base::Transport, 12, vec![rng.u8(..)]),
    };
    Edit::Set { base, at, to }
}

fn protocol(rng: &mut Rng) -> u8 {
    match rng.bool() {
        true => one(rng, &[0, 1, 6, 17, 43, 44, 50, 51, 58, 59, 60, 132]),
        false => rng.u8(..),
    }
}

fn base(rng: &mut Rng) -> Base {
    one(rng, &[Base::Frame, Base::Network, Base::Transport])
}
