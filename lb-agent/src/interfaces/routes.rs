//! When the answers of the routing table may have become other ones: what
//! connections remember of them is outdated then.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    time::Duration,
};

use futures::{StreamExt as _, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    },
    sys::SocketAddr,
};
use tokio::{sync::watch::Sender, time::sleep};

/// How long notifications are gathered: a table that is read in comes as
/// thousands.
const GATHER: Duration = Duration::from_millis(2);

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// Sends another number whenever routes, rules, next hops, links or the
/// link-layer addresses of neighbours have changed, until nobody receives them
/// any more.
///
/// # Errors
/// Netlink cannot be used.
pub async fn watch_routes(changes: Sender<u64>) -> io::Result<()> {
    let (connection, _, mut notifications) = new_multicast_connection(&GROUPS)?;
    let connection = tokio::spawn(connection);
    let mut neighbours = Neighbours::default();
    loop {
        tokio::select! {
            notification = notifications.next() => {
                let Some((message, _)) = notification else {
                    return Err(io::ErrorKind::BrokenPipe.into());
                };
                let mut is_change = neighbours.is_change(message);
                sleep(GATHER).await;
                is_change |= drain(&mut notifications, &mut neighbours);
                if is_change {
                    changes.send_modify(|number| *number += 1);
                }
            }
            () = changes.closed() => break,
        }
    }
    connection.abort();
    Ok(())
}

type Notifications = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

fn drain(notifications: &mut Notifications, neighbours: &mut Neighbours) -> bool {
    let mut is_change = false;
    while let Ok((message, _)) = notifications.try_recv() {
        is_change |= neighbours.is_change(message);
    }
    is_change
}

/// Link-layer addresses as last told, by interface and network address. The
/// kernel tells of every change of state, of which most change nothing.
#[derive(Default)]
struct Neighbours(BTreeMap<(u32, Vec<u8>), Vec<u8>>);

impl Neighbours {
    fn is_change(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> bool {
        let NetlinkPayload::InnerMessage(message) = message.payload else {
            // Some were lost, at worst.
            return true;
        };
        match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => self.told(&neighbour),
            RouteNetlinkMessage::DelNeighbour(neighbour) => self.forget(&neighbour),
            _ => true,
        }
    }

    fn told(&mut self, neighbour: &NeighbourMessage) -> bool {
        const UNKNOWN: [NeighbourState; 2] = [NeighbourState::Failed, NeighbourState::Incomplete];
        let link = neighbour
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(address) => Some(address.clone()),
                _ => None,
            });
        let (Some(link), false) = (link, UNKNOWN.contains(&neighbour.header.state)) else {
            return self.forget(neighbour);
        };
        let Some(key) = key(neighbour) else {
            return true;
        };
        match self.0.entry(key) {
            Entry::Occupied(held) if *held.get() == link => false,
            Entry::Occupied(mut held) => {
                held.insert(link);
                true
            }
            // Nobody has remembered what was not known; or it was known before
            // anyone listened.
            Entry::Vacant(place) => {
                place.insert(link);
                true
            }
        }
    }

    fn forget(&mut self, neighbour: &NeighbourMessage) -> bool {
        key(neighbour).is_none_or(|key| self.0.remove(&key).is_some())
    }
}

/// `None` without an address of a family that is routed.
fn key(neighbour: &NeighbourMessage) -> Option<(u32, Vec<u8>)> {
    let address = neighbour
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                Some(v4.octets().to_vec())
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                Some(v6.octets().to_vec())
            }
            _ => None,
        })?;
    Some((neighbour.header.ifindex, address))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn neighbour(state: NeighbourState, link: Option<[u8; 6]>) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 2;
        message.header.state = state;
        let address = NeighbourAddress::Inet(Ipv4Addr::new(192, 0, 2, 1));
        message.attributes = vec![NeighbourAttribute::Destination(address)];
        let link = link.map(|link| NeighbourAttribute::LinkLayerAddress(link.to_vec()));
        message.attributes.extend(link);
        message
    }

    #[test]
    fn only_other_addresses_of_neighbours_count() {
        use NeighbourState::{Delay, Failed, Reachable, Stale};
        const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
        const B: [u8; 6] = [2, 0, 0, 0, 0, 2];
        let mut neighbours = Neighbours::default();
        for (state, link, expect) in [
            (Failed, None, false),
            (Reachable, Some(A), true),
            (Stale, Some(A), false),
            (Delay, Some(A), false),
            (Reachable, Some(B), true),
            (Failed, Some(B), true),
            (Failed, Some(B), false),
            (Reachable, Some(B), true),
        ] {
            let message = RouteNetlinkMessage::NewNeighbour(neighbour(state, link));
            let found = neighbours.is_change(message.into());
            assert_eq!(found, expect, "{state:?} {link:?}");
        }
        let gone = RouteNetlinkMessage::DelNeighbour(neighbour(Stale, Some(B)));
        assert!(neighbours.is_change(gone.clone().into()));
        assert!(!neighbours.is_change(gone.into()));
        let link = RouteNetlinkMessage::NewLink(Default::default());
        assert!(neighbours.is_change(link.into()));
    }
}
