//! The agent's loop without its sources and its dataplane.

use std::time::Duration;

use lb_agent::{model::Change, reconcile::Reconciler, store::Store};

use crate::{
    cluster::{Cluster, ThisNode},
    maps::Maps,
};

/// Longer than anything freed rests.
const REST: Duration = Duration::from_secs(90);

pub(crate) struct Agent {
    store: Store,
    reconciler: Reconciler,
    pub(crate) maps: Maps,
    now: Duration,
    swept: bool,
}

impl Agent {
    /// The first agent of a node, when it has read all of the cluster.
    pub(crate) fn fresh(cluster: &Cluster) -> Self {
        let mut agent = Self::on(Maps::default(), Duration::ZERO);
        agent.read(cluster, true);
        agent
    }

    /// An agent that takes over what another one left. It has read nothing yet.
    pub(crate) fn on(maps: Maps, now: Duration) -> Self {
        Self {
            store: Store::default(),
            reconciler: Reconciler::new(maps.snapshot()),
            maps,
            now,
            swept: false,
        }
    }

    pub(crate) fn restarted(self) -> Self {
        Self::on(self.maps, self.now)
    }

    /// The first full list; `whole` if nothing in it is unreadable.
    pub(crate) fn read(&mut self, cluster: &Cluster, whole: bool) {
        let mut changes = cluster.changes(&Cluster::default());
        changes.push(Change::Synced);
        changes.extend(whole.then_some(Change::Whole));
        self.take(changes, &cluster.node);
    }

    /// The last that could not be read can be.
    pub(crate) fn finish(&mut self, cluster: &Cluster) {
        self.take(vec![Change::Whole], &cluster.node);
    }

    pub(crate) fn take(&mut self, changes: Vec<Change>, node: &ThisNode) {
        changes
            .into_iter()
            .for_each(|change| self.store.take(change));
        self.store.set_node(node.context());
        self.maps.settings = node.settings();
        if !self.store.synced {
            return;
        }
        if !self.swept && !self.store.whole {
            self.reconciler.inherit_until_sweep();
        }
        if self.store.is_dirty() {
            let changes = self.store.compile();
            self.reconciler.apply(changes, self.now, &mut self.maps);
        }
        if !self.swept && self.store.whole {
            self.reconciler.sweep(self.now, &mut self.maps);
            self.swept = true;
        }
        assert_eq!(self.reconciler.failures(), 0);
    }

    pub(crate) fn pause(&mut self, time: Duration) {
        self.now += time;
        self.reconciler.retry(self.now, &mut self.maps);
    }

    /// Until all that was freed can be used again.
    pub(crate) fn rest(&mut self) {
        self.pause(REST);
    }
}
