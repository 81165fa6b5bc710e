//! Base chains of nftables, read and followed over nfnetlink
//! (linux/netfilter/nf_tables.h).

use std::io;

use super::Filter;
use crate::netlink::{Message, Notification, Socket, attribute, text};

/// NETLINK_NETFILTER.
const PROTOCOL: isize = 12;
/// NFNLGRP_NFTABLES, 7, as a bit.
const CHANGES: u32 = 1 << 6;

/// NFNL_SUBSYS_NFTABLES, the upper byte of a message type.
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const GET_CHAIN: u8 = 4;
const DELETE_CHAIN: u8 = 5;
const NEW_RULE: u8 = 6;
const DELETE_RULE: u8 = 8;

/// struct nfgenmsg: family, version and resource.
const HEADER: usize = 4;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;
const HOOK_NUMBER: u16 = 1;
const ACCEPT: u32 = 1;

/// Two sockets: an overrun of notifications must not take answers along.
pub(super) struct Nftables {
    changes: Socket,
    reading: Socket,
}

impl Nftables {
    /// `None` if the kernel has no nfnetlink.
    pub(super) fn open() -> io::Result<Option<Self>> {
        match Socket::open(PROTOCOL, CHANGES) {
            Ok(changes) => Ok(Some(Self {
                changes,
                reading: Socket::open(PROTOCOL, 0)?,
            })),
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns when there may be something else to read; `false` if that is
    /// not to be known any more.
    pub(super) async fn changed(&mut self) -> bool {
        loop {
            match self.changes.notification().await {
                Some(Notification::Message(message)) if !matters(&message) => {}
                Some(_) => return true,
                None => return false,
            }
        }
    }

    /// Chains that are or may be passed by.
    pub(super) async fn read(&self) -> io::Result<Vec<Filter>> {
        let request = Message {
            kind: SUBSYSTEM << 8 | u16::from(GET_CHAIN),
            body: vec![0; HEADER],
        };
        match self.reading.dump(&request).await {
            Ok(chains) => Ok(chains.iter().filter_map(filter).collect()),
            // What nfnetlink says of a subsystem that it does not have.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn matters(message: &Message) -> bool {
    let [subsystem, kind] = message.kind.to_be_bytes();
    u16::from(subsystem) == SUBSYSTEM
        && matches!(
            kind,
            NEW_TABLE | DELETE_TABLE | NEW_CHAIN | DELETE_CHAIN | NEW_RULE | DELETE_RULE
        )
}

/// A base chain at a hook of forwarded traffic, unless it is empty and accepts
/// all. Whether its table is dormant is not looked at.
fn filter(message: &Message) -> Option<Filter> {
    let attributes = message.body.get(HEADER..)?;
    let number = |bytes, which| {
        let value = attribute(bytes, which)?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    };
    let hook = attribute(attributes, CHAIN_HOOK)?;
    let (family, hook) = place(*message.body.first()?, number(hook, HOOK_NUMBER)?)?;
    // Nothing can jump to a base chain: what uses it are its rules.
    let is_empty = number(attributes, CHAIN_USE) == Some(0);
    let accepts = matches!(number(attributes, CHAIN_POLICY), None | Some(ACCEPT));
    if is_empty && accepts {
        return None;
    }
    let name = |which| attribute(attributes, which).map(text).unwrap_or_default();
    Some(Filter::Nftables {
        family,
        table: name(CHAIN_TABLE),
        chain: name(CHAIN_NAME),
        hook,
    })
}

/// Family and hook by name, if a shortcut passes by it. A bridge gives what is
/// routed to its input hook first.
fn place(family: u8, hook: u32) -> Option<(&'static str, &'static str)> {
    const INET: u8 = 1;
    const IP: u8 = 2;
    const NETDEV: u8 = 5;
    const BRIDGE: u8 = 7;
    const IP6: u8 = 10;
    let family_name = match family {
        INET => "inet",
        IP => "ip",
        NETDEV => "netdev",
        BRIDGE => "bridge",
        IP6 => "ip6",
        _ => return None,
    };
    let hook = match (family, hook) {
        (NETDEV, 0) | (INET, 5) => "ingress",
        (NETDEV, 1) => "egress",
        (NETDEV, _) => return None,
        (_, 0) => "prerouting",
        (BRIDGE, 1) => "input",
        (_, 2) => "forward",
        (_, 4) => "postrouting",
        _ => return None,
    };
    Some((family_name, hook))
}

#[cfg(test)]
mod tests;
