//! Checks the checksums of captured frames.

use std::fmt;

use etherparse::{IpNumber, NetSlice, SlicedPacket, err::packet::SliceError};

use super::capture::Frame;
use crate::packet::sctp;

/// What is known of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All checksums that are there are right.
    Good,
    /// Nothing to check: no IP, or a fragment (only its IP header is checked).
    Nothing,
    /// The named checksum is wrong.
    Bad(&'static str),
    /// The headers contradict each other or the length.
    Malformed(String),
}

/// What is known of the frames of a recording.
#[derive(Clone, Debug, Default)]
pub struct ChecksumReport {
    /// Frames whose checksums were checked.
    pub checked: usize,
    /// Frames without an IP packet, and fragments.
    pub without: usize,
    /// Frames whose checksum a NIC would have finished, aggregates included.
    pub unfinished: usize,
    pub bad: Vec<BadFrame>,
}

/// A frame with a wrong checksum, or one that cannot be read.
#[derive(Clone, Debug)]
pub struct BadFrame {
    pub frame: Frame,
    pub verdict: Verdict,
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} on {}:", self.verdict, self.frame.interface)?;
        self.frame
            .bytes
            .iter()
            .take(128)
            .try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

impl ChecksumReport {
    pub(crate) fn of<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Self {
        let mut report = Self::default();
        for frame in frames {
            report.add(frame);
        }
        report
    }

    fn add(&mut self, frame: &Frame) {
        if !frame.finished {
            self.unfinished += 1;
            return;
        }
        match inspect(&frame.bytes) {
            Verdict::Good => self.checked += 1,
            Verdict::Nothing => self.without += 1,
            verdict => self.bad.push(BadFrame {
                frame: frame.clone(),
                verdict,
            }),
        }
    }
}

/// Checks the IPv4 header, TCP, UDP, ICMP and ICMPv6 checksums of an Ethernet
/// frame (RFC 1071; UDP over IPv4 may have none, RFC 768), and SCTP's CRC32c.
#[must_use]
pub fn inspect(frame: &[u8]) -> Verdict {
    let packet = match SlicedPacket::from_ethernet(frame) {
        Ok(packet) => packet,
        Err(error) => return Verdict::Malformed(describe(&error)),
    };
    let Some(net) = packet.net else {
        return Verdict::Nothing;
    };
    let (pseudo, header, payload) = match &net {
        NetSlice::Ipv4(ip) => (
            [ip.header().source(), ip.header().destination()].concat(),
            Some(ip.header().slice()),
            ip.payload(),
        ),
        NetSlice::Ipv6(ip) => (
            [ip.header().source(), ip.header().destination()].concat(),
            None,
            ip.payload(),
        ),
        NetSlice::Arp(_) => return Verdict::Nothing,
    };
    if header.is_some_and(|header| !is_right(&[header])) {
        return Verdict::Bad("IPv4 header");
    }
    if payload.fragmented {
        return Verdict::Nothing;
    }
    inspect_transport(payload.ip_number, &pseudo, payload.payload)
}

fn inspect_transport(protocol: IpNumber, addresses: &[u8], segment: &[u8]) -> Verdict {
    let name = match protocol {
        IpNumber::TCP => "TCP",
        IpNumber::UDP => "UDP",
        IpNumber::ICMP => "ICMP",
        IpNumber::IPV6_ICMP => "ICMPv6",
        IpNumber::SCTP => return inspect_sctp(segment),
        _ => return Verdict::Nothing,
    };
    let is_v4 = addresses.len() == 8;
    if protocol == IpNumber::UDP && segment.get(6..8) == Some(&[0, 0]) {
        return if is_v4 {
            Verdict::Nothing
        } else {
            Verdict::Bad("UDP over IPv6 without checksum")
        };
    }
    // Both pseudo headers sum alike: addresses, length, protocol.
    let length = u32::try_from(segment.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let tail = [0, 0, 0, protocol.0];
    let right = match protocol {
        IpNumber::ICMP => is_right(&[segment]),
        _ => is_right(&[addresses, &length, &tail, segment]),
    };
    if right {
        Verdict::Good
    } else {
        Verdict::Bad(name)
    }
}

fn inspect_sctp(segment: &[u8]) -> Verdict {
    match sctp::Packet::read(segment) {
        Ok(_) => Verdict::Good,
        Err(sctp::Flaw::Checksum { .. }) => Verdict::Bad("SCTP"),
        Err(flaw) => Verdict::Malformed(flaw.to_string()),
    }
}

/// Whether the parts, checksum included, sum to all ones. Only the last part
/// may have an odd length.
fn is_right(parts: &[&[u8]]) -> bool {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum = words
        .map(|word| u64::from(word[0]) << 8 | word.get(1).copied().map_or(0, u64::from))
        .sum::<u64>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

fn describe(error: &SliceError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const V4: ([u8; 4], [u8; 4]) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    const V6: ([u8; 16], [u8; 16]) = ([0xfd; 16], [0xfe; 16]);

    #[derive(Clone, Copy)]
    enum Transport {
        Tcp,
        Udp,
        Icmp,
    }

    fn frame(v6: bool, transport: Transport, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 {
            ethernet.ipv6(V6.0, V6.1, 64)
        } else {
            ethernet.ipv4(V4.0, V4.1, 64)
        };
        let mut bytes = Vec::new();
        match transport {
            Transport::Tcp => ip.tcp(1, 2, 3, 4).write(&mut bytes, payload),
            Transport::Udp => ip.udp(1, 2).write(&mut bytes, payload),
            Transport::Icmp if v6 => ip.icmpv6_echo_request(1, 2).write(&mut bytes, payload),
            Transport::Icmp => ip.icmpv4_echo_request(1, 2).write(&mut bytes, payload),
        }
        .unwrap();
        bytes
    }

    #[test]
    fn good_frames_pass_and_one_flipped_byte_is_found() {
        let table = [
            (false, Transport::Tcp, "TCP"),
            (false, Transport::Udp, "UDP"),
            (false, Transport::Icmp, "ICMP"),
            (true, Transport::Tcp, "TCP"),
            (true, Transport::Udp, "UDP"),
            (true, Transport::Icmp, "ICMPv6"),
        ];
        for (v6, transport, name) in table {
            for payload in [&b"odd"[..], b"even", b""] {
                let good = frame(v6, transport, payload);
                assert_eq!(inspect(&good), Verdict::Good, "{name}");
                let mut padded = good.clone();
                padded.extend([0xaa; 9]);
                assert_eq!(inspect(&padded), Verdict::Good, "{name} with padding");
                let mut bad = good;
                *bad.last_mut().unwrap() ^= 0x10;
                assert_eq!(inspect(&bad), Verdict::Bad(name));
            }
        }
    }

    #[test]
    fn what_is_odd_is_named() {
        let tcp = frame(false, Transport::Tcp, b"x");
        let edit = |mut bytes: Vec<u8>, at: usize, new: &[u8]| {
            bytes[at..at + new.len()].copy_from_slice(new);
            bytes
        };
        let arp = [&[0xff; 12][..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 20]].concat();
        let table = [
            (edit(tcp.clone(), 14 + 8, &[9]), Verdict::Bad("IPv4 header")),
            (
                edit(frame(false, Transport::Udp, b"x"), 14 + 20 + 6, &[0, 0]),
                Verdict::Nothing,
            ),
            (
                edit(frame(true, Transport::Udp, b"x"), 14 + 40 + 6, &[0, 0]),
                Verdict::Bad("UDP over IPv6 without checksum"),
            ),
            (arp, Verdict::Nothing),
        ];
        for (bytes, expect) in table {
            assert_eq!(inspect(&bytes), expect, "{bytes:02x?}");
        }
        assert!(matches!(inspect(&tcp[..40]), Verdict::Malformed(_)));
    }

    #[test]
    fn unfinished_frames_are_counted_apart() {
        let mut bytes = frame(false, Transport::Tcp, b"x");
        *bytes.last_mut().unwrap() ^= 1;
        let frame = |finished| Frame {
            interface: "eth0".into(),
            outgoing: false,
            finished,
            bytes: bytes.clone(),
        };
        let report = ChecksumReport::of(&[frame(true), frame(false)]);
        let seen = (
            report.checked,
            report.without,
            report.unfinished,
            report.bad.len(),
        );
        assert_eq!(seen, (0, 0, 1, 1));
    }
}
