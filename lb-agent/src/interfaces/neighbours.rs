//! Neighbours of interfaces that run XDP. What it forwards does not tell the kernel
//! that they are in use, so one that answers from elsewhere by now, with the same
//! address, would never be asked again.

use std::{collections::BTreeSet, io, net::IpAddr};

use futures::StreamExt as _;
use rtnetlink::{
    Handle, MulticastGroup, new_connection, new_multicast_connection,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags,
            NeighbourMessage, NeighbourState,
        },
    },
};
use tokio::sync::watch::Receiver;

/// Has the kernel confirm each neighbour of these interfaces that it has not heard
/// of for a while, until nobody names any more of them.
///
/// # Errors
/// Netlink cannot be used.
pub async fn keep_neighbours(mut interfaces: Receiver<BTreeSet<u32>>) -> io::Result<()> {
    let (listening, _, mut notifications) = new_multicast_connection(&[MulticastGroup::Neigh])?;
    // A socket that is flooded with notifications loses answers, too.
    let (asking, handle, _) = new_connection()?;
    let connections = [tokio::spawn(listening), tokio::spawn(asking)];
    loop {
        tokio::select! {
            changed = interfaces.changed() => {
                if changed.is_err() {
                    break;
                }
                let of = interfaces.borrow_and_update().clone();
                confirm_all(&handle, &of).await;
            }
            notification = notifications.next() => {
                let Some((message, _)) = notification else {
                    return Err(io::ErrorKind::BrokenPipe.into());
                };
                let of = interfaces.borrow().clone();
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(told)) => {
                        confirm(&handle, &of, &told).await;
                    }
                    NetlinkPayload::InnerMessage(_) => {}
                    // Some were lost, at worst.
                    _ => confirm_all(&handle, &of).await,
                }
            }
        }
    }
    for connection in connections {
        connection.abort();
    }
    Ok(())
}

async fn confirm_all(handle: &Handle, of: &BTreeSet<u32>) {
    if of.is_empty() {
        return;
    }
    let mut all = handle.neighbours().get().execute();
    while let Some(neighbour) = all.next().await {
        match neighbour {
            Ok(neighbour) => confirm(handle, of, &neighbour).await,
            Err(error) => return tracing::debug!(%error, "neighbours are not all looked at"),
        }
    }
}

async fn confirm(handle: &Handle, of: &BTreeSet<u32>, neighbour: &NeighbourMessage) {
    let Some(address) = doubtful(neighbour).filter(|_| of.contains(&neighbour.header.ifindex))
    else {
        return;
    };
    let neighbours = handle.neighbours();
    let used = neighbours.add(neighbour.header.ifindex, address);
    let used = used.flags(NeighbourFlags::Use).replace();
    let used = used.state(NeighbourState::Stale);
    if let Err(error) = used.execute().await {
        tracing::debug!(%address, %error, "a neighbour is not asked for");
    }
}

/// The address of a neighbour that is believed in without having been heard, unless
/// somebody else looks after it.
fn doubtful(neighbour: &NeighbourMessage) -> Option<IpAddr> {
    let is_managed = neighbour.attributes.iter().any(|it| match it {
        NeighbourAttribute::ExtFlags(flags) => flags.contains(NeighbourExtFlags::Managed),
        _ => false,
    });
    let is_learned = neighbour.header.flags.contains(NeighbourFlags::ExtLearned);
    if neighbour.header.state != NeighbourState::Stale || is_managed || is_learned {
        return None;
    }
    let address = neighbour.attributes.iter().find_map(|it| match it {
        NeighbourAttribute::Destination(address) => Some(address),
        _ => None,
    })?;
    match *address {
        NeighbourAddress::Inet(v4) => Some(v4.into()),
        NeighbourAddress::Inet6(v6) => Some(v6.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn only_what_nobody_else_looks_after_is_doubtful() {
        use NeighbourState::{Failed, Permanent, Reachable, Stale};
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let none = NeighbourFlags::empty();
        let is_managed = NeighbourExtFlags::Managed;
        for (state, flags, extended, expect) in [
            (Stale, none, None, true),
            (Stale, none, Some(NeighbourExtFlags::Locked), true),
            (Stale, NeighbourFlags::Router, None, true),
            (Stale, NeighbourFlags::ExtLearned, None, false),
            (Stale, none, Some(is_managed), false),
            (Reachable, none, None, false),
            (Permanent, none, None, false),
            (Failed, none, None, false),
        ] {
            let mut message = NeighbourMessage::default();
            message.header.state = state;
            message.header.flags = flags;
            let address_attribute = NeighbourAddress::Inet(address);
            message.attributes = vec![NeighbourAttribute::Destination(address_attribute)];
            let extended = extended.map(NeighbourAttribute::ExtFlags);
            message.attributes.extend(extended);
            let found = doubtful(&message);
            let expected = expect.then_some(IpAddr::V4(address));
            assert_eq!(found, expected, "{message:?}");
        }
    }
}
