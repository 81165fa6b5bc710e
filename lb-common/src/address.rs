//! Addresses in map form.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::layout::layout;

layout! {
    /// An IPv6 or IPv4-mapped address: four words, network byte order.
    pub struct Address: 16 {
        pub words: [u32; 4],
    }
}

impl Address {
    /// `::ffff:0:0/96`, third word.
    const MAPPED: u32 = 0x0000_ffff_u32.to_be();

    /// From one word in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(word: u32) -> Self {
        Self {
            words: [0, 0, Self::MAPPED, word],
        }
    }

    /// Becomes `other`, word by word.
    #[inline(always)]
    pub const fn set(&mut self, other: &Self) {
        self.words[0] = other.words[0];
        self.words[1] = other.words[1];
        self.words[2] = other.words[2];
        self.words[3] = other.words[3];
    }

    /// Whether it stands for an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.words[0] | self.words[1] == 0 && self.words[2] == Self::MAPPED
    }

    /// Whether the words equal those of `cover` wherever `mask` has ones.
    #[inline(always)]
    #[must_use]
    pub const fn is_within(&self, cover: &Self, mask: &Self) -> bool {
        let ([a, b, c, d], [i, j, k, l], [w, x, y, z]) = (self.words, cover.words, mask.words);
        (a ^ i) & w | (b ^ j) & x | (c ^ k) & y | (d ^ l) & z == 0
    }

    /// Fit to be answered: neither unspecified, nor a group, nor broadcast
    /// (255.255.255.255, the end of what used to be class E).
    #[inline(always)]
    #[must_use]
    pub const fn is_unicast(&self) -> bool {
        let [a, _, _, d] = self.words;
        if self.is_v4() {
            let first = u32::from_be(d) >> 24;
            return first != 0 && first < 224;
        }
        u32::from_be(a) >> 24 != 0xff && !self.is_zero()
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.words[0] | self.words[1] | self.words[2] | self.words[3] == 0
    }

    /// 127.0.0.0/8 or ::1.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.words;
        if a | b != 0 {
            return false;
        }
        (c == Self::MAPPED && u32::from_be(d) >> 24 == 127) || (c == 0 && d == 1_u32.to_be())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => Self {
                words: bytemuck::cast(v6.octets()),
            },
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let [a, b, c, d] = address.words;
        if a | b == 0 && c == Address::MAPPED {
            return Self::V4(Ipv4Addr::from(d.to_ne_bytes()));
        }
        Self::V6(Ipv6Addr::from(bytemuck::cast::<_, [u8; 16]>(address.words)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_both_ways_and_knows_its_kind() {
        for (text, loopback, unicast) in [
            ("10.96.0.1", false, true),
            ("127.0.0.1", true, true),
            ("127.8.9.10", true, true),
            ("128.0.0.1", false, true),
            ("223.255.255.255", false, true),
            ("224.0.0.1", false, false),
            ("255.255.255.255", false, false),
            ("0.0.0.0", false, false),
            ("::1", true, true),
            ("::2", false, true),
            ("::7f00:1", false, true),
            ("2001:db8::1", false, true),
            ("::", false, false),
            ("ff02::1", false, false),
        ] {
            let ip: IpAddr = text.parse().unwrap();
            let address = Address::from(ip);
            assert_eq!(IpAddr::from(address), ip, "{text}");
            assert_eq!(address.is_loopback(), loopback, "{text}");
            assert_eq!(address.is_unicast(), unicast, "{text}");
        }
    }
}
