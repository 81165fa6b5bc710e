//! Parts that no stack makes.

use lb_common::Verdict;
use lb_tests::{
    lab::Family,
    packet::{fragments, sctp::kind},
};

use crate::{
    fragments::{PORT, SIZES, long, outcome, rig, to_pod, udp},
    frame::{SYN, Transport, checksum},
    rig::action::TC_DROP,
    ways::{FROM_POD, IN0, OUT0, TO_POD, XDP0},
    wiring::{CLIENT, NODE},
};

/// Too short for what the programs must read: all of the packet is left alone.
#[test]
fn a_first_part_without_its_header() {
    let mut rig = rig();
    let table = [
        (Transport::Tcp(SYN), 8),
        (Transport::Tcp(SYN), 16),
        (Transport::Sctp(kind::INIT), 8),
    ];
    let mut id = 7;
    for family in Family::ALL {
        for (transport, size) in table {
            for place in [XDP0, IN0, FROM_POD, OUT0, TO_POD] {
                id += 1;
                let frame = long(transport, (CLIENT, 30_000), (NODE, PORT), family);
                let parts = fragments(&frame, id, &[size, 16, 160]);
                for (index, part) in parts.iter().enumerate() {
                    let verdict = match index {
                        0 => Verdict::Malformed,
                        _ => Verdict::Fragment,
                    };
                    let expected = outcome(place, verdict, part.clone());
                    let what = format!("{family} {transport:?} {size}, part {index}");
                    assert_eq!(rig.run(place, part), expected, "{what} at {place:?}");
                }
            }
        }
    }
    assert_eq!(rig.connections(), 0);
}

#[test]
fn parts_of_other_protocols_are_left_alone() {
    let mut rig = rig();
    for family in Family::ALL {
        let protocol = if family == Family::V4 { 1 } else { 58 };
        for (id, place) in (7..).zip([XDP0, IN0, FROM_POD, OUT0, TO_POD]) {
            let frame = long(Transport::Raw(protocol), (CLIENT, 0), (NODE, 0), family);
            for (index, part) in fragments(&frame, id, &SIZES).iter().enumerate() {
                let verdict = match index {
                    0 => Verdict::OtherProtocol,
                    _ => Verdict::Fragment,
                };
                let expected = outcome(place, verdict, part.clone());
                assert_eq!(rig.run(place, part), expected, "{family} at {place:?}");
            }
        }
    }
}

/// Where the parts lie in the packet, the receiver judges.
#[test]
fn parts_that_overlap_or_reach_too_far() {
    let mut rig = rig();
    // Offset in bytes, whether more follow, and bytes.
    let table = [
        (8, true, 160),
        (8, true, 0),
        (64, false, 160),
        (65_528, false, 160),
        (65_528, true, 8),
        (560, true, 13),
    ];
    for family in Family::ALL {
        for place in [XDP0, IN0] {
            let frame = udp(30_000, family);
            let parts = fragments(&frame, 7, &SIZES);
            rig.run(place, &parts[0]);
            for (offset, more, length) in table {
                let [part, out] = [&frame, &to_pod(&frame)].map(|frame| {
                    let parts = fragments(frame, 7, &SIZES);
                    moved(&parts[3], family, offset, more, length)
                });
                let expected = outcome(place, Verdict::Forward, out);
                let what = format!("{family} {offset} {more} {length}");
                assert_eq!(rig.run(place, &part), expected, "{what} at {place:?}");
            }
        }
    }
}

/// The part at another place of its packet, and cut to `length` bytes.
fn moved(part: &[u8], family: Family, offset: u16, more: bool, length: usize) -> Vec<u8> {
    let mut part = part.to_vec();
    if family == Family::V6 {
        part.truncate(14 + 48 + length);
        part[18..20].copy_from_slice(&(8 + length as u16).to_be_bytes());
        let field = offset | u16::from(more);
        part[14 + 42..14 + 44].copy_from_slice(&field.to_be_bytes());
        return part;
    }
    part.truncate(14 + 20 + length);
    part[16..18].copy_from_slice(&(20 + length as u16).to_be_bytes());
    let field = (offset / 8) | (u16::from(more) << 13);
    part[20..22].copy_from_slice(&field.to_be_bytes());
    part[24..26].fill(0);
    let sum = checksum(&part[14..34]);
    part[24..26].copy_from_slice(&sum.to_be_bytes());
    part
}

/// The checksum is over all of the packet, so a part cannot be given another.
#[test]
fn sctp_in_parts_keeps_its_ports_or_is_dropped() {
    let mut rig = rig();
    for family in Family::ALL {
        let init = Transport::Sctp(kind::INIT);
        let frame = long(init, (CLIENT, 30_000), (NODE, PORT), family);
        let outcome = rig.run(IN0, &fragments(&frame, 7, &SIZES)[0]);
        let got = (outcome.verdict, outcome.action);
        assert_eq!(got, (Verdict::FragmentLost, TC_DROP), "{family}");
    }
}
