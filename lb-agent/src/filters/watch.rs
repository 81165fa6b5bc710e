//! Follows what filters forwarded traffic.

use std::time::Duration;

use tokio::{
    sync::watch::Sender,
    time::{Instant, sleep_until, timeout_at},
};

use super::{Filter, Filters, ebtables, iptables, nftables::Nftables, xfrm};

/// What tells nothing of its changes is read this often.
const TICK: Duration = Duration::from_secs(1);
/// What does is read this often whatever it told: a transaction that fails
/// shows for a moment what it is about to undo.
const RESYNC: Duration = Duration::from_secs(10);
/// How long notifications are gathered before they are acted upon.
const GATHER: Duration = Duration::from_millis(5);

/// Sends what filters forwarded traffic, the first time at once, until nobody
/// receives it any more. What cannot be read is said, and tried again.
///
/// The network namespace is the one of the thread that polls this.
pub async fn watch(filters: Sender<Option<Filters>>) {
    let mut nftables = Follower::new();
    loop {
        nftables.refresh().await;
        send(&filters, gather(&nftables).await);
        let tick = Instant::now() + TICK;
        tokio::select! {
            () = nftables.changed() => {}
            () = sleep_until(tick) => {}
            () = filters.closed() => return,
        }
    }
}

struct Follower {
    /// None while the kernel has no nfnetlink, or refuses it.
    nftables: Option<Nftables>,
    found: Result<Vec<Filter>, String>,
    stale_at: Instant,
}

impl Follower {
    fn new() -> Self {
        Self {
            nftables: None,
            found: Ok(Vec::new()),
            stale_at: Instant::now(),
        }
    }

    async fn refresh(&mut self) {
        if self.nftables.is_none() {
            match Nftables::open() {
                Ok(nftables) => self.nftables = nftables,
                Err(error) => self.found = Err(error.to_string()),
            }
        }
        let Some(nftables) = &self.nftables else {
            return;
        };
        let now = Instant::now();
        if now < self.stale_at {
            return;
        }
        let found = nftables.read().await;
        let rest = if found.is_ok() { RESYNC } else { TICK };
        self.stale_at = now + rest;
        self.found = found.map_err(|error| error.to_string());
    }

    /// Returns when there may be something else to read.
    async fn changed(&mut self) {
        let Some(nftables) = &mut self.nftables else {
            return std::future::pending().await;
        };
        let mut follows = nftables.changed().await;
        self.stale_at = Instant::now();
        let end = Instant::now() + GATHER;
        while follows && let Ok(more) = timeout_at(end, nftables.changed()).await {
            follows = more;
        }
        if !follows {
            self.nftables = None;
            self.found = Err("the netlink socket closed".to_owned());
        }
    }
}

async fn gather(nftables: &Follower) -> Filters {
    let mut filters = Filters::default();
    let text = |error: std::io::Error| error.to_string();
    for (source, result) in [
        ("nftables", nftables.found.clone()),
        ("iptables-legacy", iptables::read().map_err(text)),
        ("ebtables-legacy", ebtables::read().map_err(text)),
        ("xfrm", xfrm::read().await.map_err(text)),
    ] {
        match result {
            Ok(found) => filters.found.extend(found),
            Err(error) => filters.error = Some(format!("{source}: {error}")),
        }
    }
    filters.found.sort();
    filters
}

fn send(filters: &Sender<Option<Filters>>, next: Filters) {
    filters.send_if_modified(|current| {
        let modified = current.as_ref() != Some(&next);
        *current = Some(next);
        modified
    });
}

#[cfg(test)]
mod tests;
