//! Neighbours of interfaces that run XDP. What it forwards does not tell the kernel
//! that they are in use, so one that answers from elsewhere by now, with the same
//! address, would never be asked again.

use std::{collections::BTreeSet, io, net::IpAddr};

use futures::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
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
    let (connection, handle, mut notifications) =
        new_multicast_connection(&[MulticastGroup::Neigh])?;
    let connection = tokio::spawn(connection);
    loop {
        tokio::select! {
            changed = interfaces.changed() => {
                if changed.is_err() {
                    break;
                }
                let of = interfaces.borrow_and_update().clone();
                confirm_all(&handle, &of).await?;
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
                    _ => confirm_all(&handle, &of).await?,
                }
            }
        }
    }
    connection.abort();
    Ok(())
}

async fn confirm_all(handle: &Handle, of: &BTreeSet<u32>) -> io::Result<()> {
    if of.is_empty() {
        return Ok(());
    }
    let mut all = handle.neighbours().get().execute();
    while let Some(neighbour) = all.try_next().await.map_err(io::Error::other)? {
        confirm(handle, of, &neighbour).await;
    }
    Ok(())
}

async fn confirm(handle: &Handle, of: &BTreeSet<u32>, neighbour: &NeighbourMessage) {
    let Some(address) = doubtful(neighbour).filter(|_| of.contains(&neighbour.header.ifindex))
    else {
        return;
    };
    let neighbours = handle.neighbours();
    let used = neighbours.add(neighbour.header.ifindex, address);
    let used = used.flags(NeighbourFlags::Use).replace();
    if let Err(error) = used.execute().await {
        tracing::debug!(%address, %error, "a neighbour is not asked for");
    }
}

/// The address of a neighbour that is believed in without having been heard.
fn doubtful(neighbour: &NeighbourMessage) -> Option<IpAddr> {
    if neighbour.header.state != NeighbourState::Stale {
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
