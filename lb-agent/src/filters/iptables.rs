//! Tables of iptables-legacy (linux/netfilter_ipv4/ip_tables.h and its like
//! for IPv6), by the socket options that iptables itself uses.

use std::{
    ffi::c_int,
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Filter;
use crate::model::Family;

/// Hooks that forwarded traffic passes, by number, with their chains.
const CHAINS: [(usize, &str); 3] = [(0, "PREROUTING"), (2, "FORWARD"), (4, "POSTROUTING")];
const HOOKS: usize = 5;
const NAME: usize = 32;
/// {IP,IP6}T_SO_GET_INFO and _ENTRIES.
const GET_INFO: c_int = 64;
const GET_ENTRIES: c_int = 65;
/// What the verdict NF_ACCEPT is in a rule.
const ACCEPT: i32 = -2;

/// struct ipt_getinfo, but for the name before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Info {
    valid_hooks: u32,
    /// Where the rules of each hook begin, and where its policy is.
    entry: [u32; HOOKS],
    policy: [u32; HOOKS],
    size: u32,
}

/// Chains that are not empty, or do not accept all.
pub(super) fn read() -> io::Result<Vec<Filter>> {
    let mut found = Vec::new();
    for family in Family::ALL {
        let names = match family {
            Family::V4 => "/proc/thread-self/net/ip_tables_names",
            Family::V6 => "/proc/thread-self/net/ip6_tables_names",
        };
        let names = match fs::read_to_string(names) {
            Ok(names) => names,
            // The kernel has no such tables.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for table in names.lines() {
            let chains = match Table::open(family, table)?.chains() {
                Ok(chains) => chains,
                // It went away meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(error) => return Err(error),
            };
            found.extend(chains.into_iter().map(|chain| Filter::Iptables {
                family,
                table: table.to_owned(),
                chain,
            }));
        }
    }
    Ok(found)
}

struct Table {
    socket: OwnedFd,
    family: Family,
    name: [u8; NAME],
}

impl Table {
    fn open(family: Family, table: &str) -> io::Result<Self> {
        let of = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let mut name = [0; NAME];
        let room = name[..NAME - 1].get_mut(..table.len());
        let room = room.ok_or(io::ErrorKind::InvalidData)?;
        room.copy_from_slice(table.as_bytes());
        Ok(Self {
            socket: socket(of, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?,
            family,
            name,
        })
    }

    fn chains(&self) -> io::Result<Vec<&'static str>> {
        let info = self.info()?;
        let valid = CHAINS.into_iter();
        let valid = valid.filter(|(hook, _)| info.valid_hooks & (1 << hook) != 0);
        let (empty, with_rules): (Vec<_>, Vec<_>) =
            valid.partition(|(hook, _)| info.entry[*hook] == info.policy[*hook]);
        // Reading entries is dear where there are many.
        if !with_rules.is_empty() || empty.is_empty() {
            return Ok(names(with_rules));
        }
        let entries = self.entries(info.size)?;
        let verdict = |hook: usize| verdict(self.family, &entries, info.policy[hook]);
        let refusing = empty.into_iter();
        Ok(names(
            refusing.filter(|(hook, _)| verdict(*hook) != Some(ACCEPT)),
        ))
    }

    fn info(&self) -> io::Result<Info> {
        let mut answer = [0; NAME + 13 * size_of::<u32>()];
        self.ask(GET_INFO, &mut answer)?;
        let words: Vec<u32> = answer[NAME..].chunks_exact(4).map(word).collect();
        Ok(Info {
            valid_hooks: words[0],
            entry: std::array::from_fn(|hook| words[1 + hook]),
            policy: std::array::from_fn(|hook| words[1 + HOOKS + hook]),
            size: words[12],
        })
    }

    fn entries(&self, size: u32) -> io::Result<Vec<u8>> {
        /// struct ipt_get_entries: name, size, and a gap before the entries.
        const HEADER: usize = NAME + 8;
        let mut answer = vec![0; HEADER + size as usize];
        answer[NAME..][..4].copy_from_slice(&size.to_ne_bytes());
        self.ask(GET_ENTRIES, &mut answer)?;
        Ok(answer.split_off(HEADER))
    }

    /// Gets a socket option about this table.
    fn ask(&self, option: c_int, answer: &mut [u8]) -> io::Result<()> {
        answer[..NAME].copy_from_slice(&self.name);
        let level = match self.family {
            Family::V4 => libc::IPPROTO_IP,
            Family::V6 => libc::IPPROTO_IPV6,
        };
        let mut length = answer.len() as libc::socklen_t;
        // SAFETY: the kernel reads and writes `length` bytes at most, which is
        // how many there are.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                level,
                option,
                answer.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn names(chains: impl IntoIterator<Item = (usize, &'static str)>) -> Vec<&'static str> {
    chains.into_iter().map(|(_, name)| name).collect()
}

/// The verdict of the rule at `offset`, if it has no more than that.
fn verdict(family: Family, entries: &[u8], offset: u32) -> Option<i32> {
    /// struct xt_entry_target.
    const TARGET: usize = 32;
    // struct ipt_entry and ip6t_entry: behind what is matched, and a word.
    let target_offset = match family {
        Family::V4 => 88,
        Family::V6 => 140,
    };
    let rule = entries.get(offset as usize..)?;
    let target = rule.get(target_offset..)?.get(..2)?;
    let target = u16::from_ne_bytes(target.try_into().ok()?);
    let target = rule.get(usize::from(target)..)?;
    // The standard target has no name.
    if *target.get(2)? != 0 {
        return None;
    }
    Some(word(target.get(TARGET..)?.get(..4)?).cast_signed())
}

/// Of four bytes.
fn word(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule with a target of this name behind `matched` bytes, after another.
    fn entries(family: Family, matched: u16, target: &[u8], verdict: i32) -> Vec<u8> {
        const BEFORE: usize = 8;
        let at = match family {
            Family::V4 => 88,
            Family::V6 => 140,
        };
        let target_at = BEFORE + usize::from(matched);
        let mut entries = vec![0; target_at + 40];
        entries[BEFORE + at..][..2].copy_from_slice(&matched.to_ne_bytes());
        entries[target_at..][..2].copy_from_slice(&40_u16.to_ne_bytes());
        entries[target_at + 2..][..target.len()].copy_from_slice(target);
        entries[target_at + 32..][..4].copy_from_slice(&verdict.to_ne_bytes());
        entries
    }

    #[test]
    fn a_policy_is_the_verdict_of_its_rule() {
        for (family, matched) in [(Family::V4, 112), (Family::V6, 168)] {
            for (target, value, expect) in [
                (&b""[..], -2, Some(-2)),
                (b"", -1, Some(-1)),
                (b"ERROR", -2, None),
            ] {
                let entries = entries(family, matched, target, value);
                assert_eq!(verdict(family, &entries, 8), expect, "{family} {value}");
                for length in 0..entries.len() - 4 {
                    assert_eq!(verdict(family, &entries[..length], 8), None, "{length}");
                }
            }
        }
    }
}
