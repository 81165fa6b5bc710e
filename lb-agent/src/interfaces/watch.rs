//! Follows links, addresses and default routes of this network namespace.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_connection, new_multicast_connection,
    packet_core::NetlinkMessage,
    packet_route::{RouteNetlinkMessage, route::RouteMessage},
    sys::SocketAddr,
};
use tokio::{
    sync::watch::{Receiver, Sender},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tracing::warn;

use super::{
    Error, Interface,
    classify::{Refusal, classify, refusals},
    facts::{Facts, Stale},
    pattern::Patterns,
    traffic::{Change, Traffic},
};

/// How long notifications are gathered before they are acted upon.
const GATHER: Duration = Duration::from_millis(2);
/// Everything is read again this often, whatever was notified.
const RESYNC: Duration = Duration::from_secs(60);
/// After a reading that failed.
const RETRY: Duration = Duration::from_secs(1);
const DUMP_TIMEOUT: Duration = Duration::from_secs(10);

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

pub struct Options {
    pub patterns: Patterns,
    /// The addresses that the cluster knows this node by; what changes there
    /// changes the uplinks. The last value stays when its sender goes.
    pub node_ips: Receiver<Vec<IpAddr>>,
}

/// The interfaces, and the node's addresses by which they were told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub node_ips: Vec<IpAddr>,
    pub interfaces: Vec<Interface>,
}

/// Sends every state of the interfaces, the first one at once and even if it
/// is empty, until nobody receives them any more.
///
/// The network namespace is the one of the thread that first polls this.
///
/// # Errors
/// When netlink cannot be used or the first reading fails. A later reading
/// that fails is repeated.
pub async fn watch(options: Options, interfaces: Sender<Snapshot>) -> Result<(), Error> {
    let mut watcher = Watcher::start(options, interfaces)?;
    watcher.refresh().await?;
    watcher.send(true);
    watcher.follow().await
}

type Notifications = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

struct Watcher {
    options: Options,
    interfaces: Sender<Snapshot>,
    facts: Facts,
    stale: Stale,
    refused: BTreeMap<String, Refusal>,
    notifications: Notifications,
    handle: Handle,
    traffic: Traffic,
    connections: [JoinHandle<()>; 2],
}

impl Drop for Watcher {
    fn drop(&mut self) {
        for connection in &self.connections {
            connection.abort();
        }
    }
}

impl Watcher {
    /// Subscribes before anything is read, so that no change falls between.
    /// Readings have a socket of their own: an overrun of notifications does
    /// not lose a part of them.
    fn start(options: Options, interfaces: Sender<Snapshot>) -> Result<Self, Error> {
        let (subscription, _, notifications) =
            new_multicast_connection(&GROUPS).map_err(Error::Socket)?;
        let (connection, handle, _) = new_connection().map_err(Error::Socket)?;
        Ok(Self {
            options,
            interfaces,
            facts: Facts::default(),
            stale: Stale::ALL,
            refused: BTreeMap::new(),
            notifications,
            handle,
            traffic: Traffic::open().map_err(Error::Socket)?,
            connections: [tokio::spawn(subscription), tokio::spawn(connection)],
        })
    }

    async fn follow(&mut self) -> Result<(), Error> {
        let mut resync = Instant::now() + RESYNC;
        let mut node_ips_end = false;
        loop {
            tokio::select! {
                notification = self.notifications.next() => {
                    let (message, _) = notification.ok_or(Error::Closed)?;
                    self.facts.absorb(message, &mut self.stale);
                    self.gather().await?;
                }
                change = self.traffic.changed() => {
                    self.absorb(change)?;
                    self.gather().await?;
                }
                changed = self.options.node_ips.changed(), if !node_ips_end => {
                    node_ips_end = changed.is_err();
                }
                () = sleep_until(resync) => {
                    self.stale = Stale::ALL;
                    resync = Instant::now() + RESYNC;
                }
                () = self.interfaces.closed() => return Ok(()),
            }
            if let Err(error) = self.refresh().await {
                warn!(%error, "interfaces: reading failed, trying again");
                resync = Instant::now() + RETRY;
            }
            self.send(false);
        }
    }

    async fn gather(&mut self) -> Result<(), Error> {
        let end = Instant::now() + GATHER;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(end) => return Ok(()),
                notification = self.notifications.next() => {
                    let (message, _) = notification.ok_or(Error::Closed)?;
                    self.facts.absorb(message, &mut self.stale);
                }
                change = self.traffic.changed() => self.absorb(change)?,
            }
        }
    }

    fn absorb(&mut self, change: Option<Change>) -> Result<(), Error> {
        self.stale.filters = true;
        self.stale.links |= change.ok_or(Error::Closed)? == Change::Qdiscs;
        Ok(())
    }

    /// Reads again what is stale. What fails stays stale.
    async fn refresh(&mut self) -> Result<(), Error> {
        if self.stale == Stale::default() {
            return Ok(());
        }
        if self.stale.filters {
            self.facts.filtered = self.traffic.read().await.map_err(Error::TrafficControl)?;
            self.stale.filters = false;
        }
        let facts = timeout(
            DUMP_TIMEOUT,
            read(&self.handle, self.facts.clone(), self.stale),
        )
        .await
        .map_err(|_| Error::Timeout(DUMP_TIMEOUT))?
        .map_err(Error::Dump)?;
        self.facts = facts;
        self.stale = Stale::default();
        Ok(())
    }

    fn send(&mut self, first: bool) {
        let node_ips = self.options.node_ips.borrow_and_update().clone();
        let refused = refusals(&self.facts, &node_ips, &self.options.patterns);
        for (name, reason) in &refused {
            if self.refused.get(name) != Some(reason) {
                warn!(interface = name, %reason, "interface is not used as an uplink");
            }
        }
        self.refused = refused;

        let interfaces = classify(&self.facts, &node_ips, &self.options.patterns);
        let next = Snapshot {
            node_ips,
            interfaces,
        };
        self.interfaces.send_if_modified(|current| {
            let modified = first || *current != next;
            *current = next;
            modified
        });
    }
}

async fn read(handle: &Handle, mut facts: Facts, stale: Stale) -> Result<Facts, rtnetlink::Error> {
    if stale.links {
        facts.links.clear();
        let mut links = std::pin::pin!(handle.link().get().execute());
        while let Some(link) = links.try_next().await? {
            facts.insert_link(&link);
        }
    }
    if stale.addresses {
        facts.addresses.clear();
        let mut addresses = std::pin::pin!(handle.address().get().execute());
        while let Some(address) = addresses.try_next().await? {
            facts.insert_address(&address);
        }
    }
    if stale.routes {
        facts.default_routes.clear();
        let requests: [RouteMessage; 2] = [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ];
        for request in requests {
            let mut routes = std::pin::pin!(handle.route().get(request).execute());
            while let Some(route) = routes.try_next().await? {
                facts.insert_route(&route);
            }
        }
    }
    Ok(facts)
}

#[cfg(test)]
mod tests;
