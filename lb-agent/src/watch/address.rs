//! Addresses and CIDRs as the API server reads them: IPv4 octets with leading
//! zeros are decimal, and an IPv4-mapped IPv6 address is the IPv4 one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

pub(super) fn parse_ip(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return parse_v4(text).map(IpAddr::V4);
    }
    let address = match text.rsplit_once(':') {
        Some((head, tail)) if tail.contains('.') => {
            let tail = parse_v4(tail)?;
            format!("{head}:{tail}").parse::<Ipv6Addr>().ok()?
        }
        _ => text.parse().ok()?,
    };
    Some(IpAddr::V6(address).to_canonical())
}

/// The network of a CIDR, without host bits; surrounding whitespace is
/// ignored.
pub(super) fn parse_cidr(text: &str) -> Option<IpNet> {
    const MAPPED_BITS: u8 = 96;
    let (address, prefix) = text.trim().split_once('/')?;
    let mapped = address.contains(':');
    let prefix = decimal(prefix).and_then(|prefix| u8::try_from(prefix).ok())?;
    let net = match parse_ip(address)? {
        IpAddr::V4(v4) if mapped => {
            Ipv4Net::new(v4, prefix.checked_sub(MAPPED_BITS)?).map(IpNet::V4)
        }
        address => IpNet::new(address, prefix),
    };
    net.ok().map(|net| net.trunc())
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = decimal(parts.next()?).and_then(|value| u8::try_from(value).ok())?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// Digits only: `str::parse` would take a sign too.
fn decimal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        fn check(text: &str, expect: Option<&str>) {
            let found = parse_ip(text).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expect, "{text:?}");
        }
        check("10.96.0.1", Some("10.96.0.1"));
        check("010.096.000.001", Some("10.96.0.1"));
        check("00010.0.0.08", Some("10.0.0.8"));
        check("fd00::1", Some("fd00::1"));
        check("FD00:0::0001", Some("fd00::1"));
        check("::ffff:10.0.0.1", Some("10.0.0.1"));
        check("::ffff:010.0.0.1", Some("10.0.0.1"));
        check("64:ff9b::10.0.0.1", Some("64:ff9b::a00:1"));
        for bad in [
            "",
            "10.0.0",
            "10.0.0.0.1",
            "10.0.0.256",
            "10.0.0.+1",
            " 10.0.0.1",
            "10.0.0.1/32",
            "fe80::1%eth0",
            "1:2:3",
            "::ffff:10.0.0.999",
            "example.org",
            "0x0a.0.0.1",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn cidrs() {
        fn check(text: &str, expect: Option<&str>) {
            let found = parse_cidr(text).map(|net| net.to_string());
            assert_eq!(found.as_deref(), expect, "{text:?}");
        }
        check("10.0.0.0/8", Some("10.0.0.0/8"));
        check("  10.1.2.3/8\t", Some("10.0.0.0/8"));
        check("010.000.0.0/08", Some("10.0.0.0/8"));
        check("0.0.0.0/0", Some("0.0.0.0/0"));
        check("::/0", Some("::/0"));
        check("fd00::1/64", Some("fd00::/64"));
        check("::ffff:10.0.0.0/104", Some("10.0.0.0/8"));
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "x/8",
            "::ffff:10.0.0.0/8",
            "10.0.0.0 /8",
        ] {
            check(bad, None);
        }
    }
}
