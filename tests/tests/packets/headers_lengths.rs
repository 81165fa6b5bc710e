//! What lies behind the headers, of every length.

use lb_common::Verdict;
use lb_tests::lab::Family;

use crate::{
    frame::{Frame, SYN, Transport},
    headers::{TO_LOCAL, XDP, check, check_request, expect, requests, rig, sent},
};

#[test]
fn tcp_options_and_payloads_of_every_length() {
    let mut rig = rig();
    for family in Family::ALL {
        for frame in requests(family).filter(|frame| frame.transport == Transport::Tcp(SYN)) {
            for options in (0..=40).step_by(4) {
                for payload in [0, 1, 2, 3, 7, 1399] {
                    let payload = (0..options + payload).map(|n| (n * 7) as u8).collect();
                    let frame = Frame {
                        payload,
                        ..frame.clone()
                    };
                    let encode = |frame: &Frame| with_tcp_options(frame, options);
                    let what = format!("{options} bytes of TCP options");
                    check(&mut rig, &what, &frame, &encode);
                }
            }
        }
    }
}

/// The frame with as many bytes of the payload said to be options.
fn with_tcp_options(frame: &Frame, options: usize) -> Vec<u8> {
    let mut frame = frame.clone();
    // The answer has a payload of its own.
    frame.payload.resize(frame.payload.len().max(options), 1);
    let mut bytes = frame.bytes();
    let at = frame.transport_offset();
    let word = |bytes: &[u8], at| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let before = word(&bytes, at + 12);
    bytes[at + 12] += ((options / 4) << 4) as u8;
    // RFC 1624, equation 3.
    let mut sum = (!word(&bytes, at + 16) & 0xffff) + (!before & 0xffff) + word(&bytes, at + 12);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[at + 16..at + 18].copy_from_slice(&(!sum as u16).to_be_bytes());
    bytes
}

/// Whatever follows the packet is none of it, the SCTP checksum's length
/// included.
#[test]
fn what_pads_a_frame_is_kept() {
    let mut rig = rig();
    for family in Family::ALL {
        for frame in requests(family) {
            for payload in [0, 1, 3] {
                let payload = vec![0xee; payload];
                let frame = Frame {
                    payload,
                    ..frame.clone()
                };
                let zeros = |frame: &Frame| {
                    let mut bytes = frame.bytes();
                    bytes.resize(bytes.len().max(60), 0);
                    bytes
                };
                let noise = |frame: &Frame| [&frame.bytes()[..], b"\xa5 is no part"].concat();
                check(&mut rig, "zeros to 60 bytes", &frame, &zeros);
                check(&mut rig, "noise", &frame, &noise);
            }
        }
    }
}

/// Those above a page come to XDP in several buffers.
#[test]
fn jumbo_frames() {
    let mut rig = rig();
    for family in Family::ALL {
        for frame in requests(family) {
            for length in [1_460, 3_000, 3_400, 8_900, 20_000, 60_000] {
                let payload = (0..length).map(|n| (n * 7) as u8).collect();
                let frame = Frame {
                    payload,
                    ..frame.clone()
                };
                let what = format!("{length} bytes, {:?}", frame.transport);
                let is_local = frame.destination.port() == TO_LOCAL;
                let arrived = check_request(&mut rig, &what, XDP, &frame, &Frame::bytes);
                if is_local {
                    continue;
                }
                let reply = Frame {
                    payload: frame.payload.clone(),
                    ..arrived.answer()
                };
                let returned = Frame {
                    source: frame.destination,
                    destination: frame.source,
                    ..sent(false, &reply)
                };
                let expected = [(Verdict::Reply, returned)];
                expect(
                    &mut rig,
                    &what,
                    XDP,
                    false,
                    &reply,
                    &expected,
                    &Frame::bytes,
                );
            }
        }
    }
}
