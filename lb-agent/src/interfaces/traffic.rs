//! Filters of traffic control that others have put on interfaces, read and
//! followed over rtnetlink (linux/rtnetlink.h, linux/pkt_sched.h).

use std::{collections::BTreeSet, io};

use super::FILTER_PRIORITY;
use crate::netlink::{Message, Notification, Socket};

/// NETLINK_ROUTE.
const PROTOCOL: isize = 0;
/// RTNLGRP_TC, 4, as a bit.
const CHANGES: u32 = 1 << 3;

const NEW_QDISC: u16 = 36;
const DELETE_QDISC: u16 = 37;
const GET_QDISC: u16 = 38;
const NEW_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;

const ROOT: u32 = 0xffff_ffff;
/// Of an ingress or a clsact qdisc.
const INGRESS_QDISC: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// What a notification leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Root qdiscs, which are told with their link, and filters.
    Qdiscs,
    Filters,
}

/// Two sockets: an overrun of notifications must not take answers along.
pub(super) struct Traffic {
    changes: Socket,
    reading: Socket,
}

impl Traffic {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            changes: Socket::open(PROTOCOL, CHANGES)?,
            reading: Socket::open(PROTOCOL, 0)?,
        })
    }

    /// `None` when changes are not to be known any more.
    pub(super) async fn changed(&mut self) -> Option<Change> {
        loop {
            let change = match self.changes.notification().await? {
                Notification::Message(message) => change(&message),
                Notification::Lost => Some(Change::Qdiscs),
            };
            if change.is_some() {
                return change;
            }
        }
    }

    /// Indices of interfaces with a filter that is not the dataplane's.
    pub(super) async fn read(&self) -> io::Result<BTreeSet<u32>> {
        let qdiscs = match self.reading.dump(&Self::request(GET_QDISC, 0, 0)).await {
            Ok(qdiscs) => qdiscs,
            // A kernel without traffic control.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut found = BTreeSet::new();
        for qdisc in qdiscs.iter().filter_map(Header::of) {
            if qdisc.parent == INGRESS_QDISC && self.has_filters(qdisc.interface).await? {
                found.insert(qdisc.interface);
            }
        }
        Ok(found)
    }

    async fn has_filters(&self, interface: u32) -> io::Result<bool> {
        for parent in [INGRESS, EGRESS] {
            let request = Self::request(GET_FILTER, interface, parent);
            let filters = self.reading.dump(&request).await?;
            let mut filters = filters.iter().filter_map(Header::of);
            if filters.any(|filter| filter.priority != FILTER_PRIORITY) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn request(kind: u16, interface: u32, parent: u32) -> Message {
        let words = [0, interface, 0, parent, 0];
        let body = words.iter().flat_map(|word| word.to_ne_bytes());
        Message {
            kind,
            body: body.collect(),
        }
    }
}

fn change(message: &Message) -> Option<Change> {
    let header = Header::of(message)?;
    match message.kind {
        NEW_QDISC | DELETE_QDISC if header.parent == ROOT => Some(Change::Qdiscs),
        // A qdisc may come with filters, and takes them along.
        NEW_QDISC | DELETE_QDISC if header.parent == INGRESS_QDISC => Some(Change::Filters),
        NEW_FILTER | DELETE_FILTER if header.priority != FILTER_PRIORITY => Some(Change::Filters),
        _ => None,
    }
}

/// struct tcmsg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    interface: u32,
    parent: u32,
    /// Of a filter.
    priority: u16,
}

impl Header {
    fn of(message: &Message) -> Option<Self> {
        let word = |index: usize| {
            let bytes = message.body.get(4 * index..)?.get(..4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        Some(Self {
            interface: word(1)?,
            parent: word(3)?,
            priority: (word(4)? >> 16) as u16,
        })
    }
}
