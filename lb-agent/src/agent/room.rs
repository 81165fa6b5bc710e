//! Whether there is room for connections, and what is said of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use lb_common::{Holdings, State};

use super::{
    Agent,
    status::{TableStatus, TablesStatus},
};
use crate::{
    compile::{PortId, PortName},
    connections::{Level, Limits},
    dataplane::{Census, DataplaneError, Tick},
    health::{Figures, ServiceFigures, TableFigures},
    watch::{Event, Subject},
};

/// What is counted for a Service that is gone is kept for so long, while late
/// packets may count.
const REST: Duration = Duration::from_secs(60);
/// A service port at its quota is so until it has less than this, in per cent.
const BELOW_QUOTA: i64 = 90;

pub(super) struct Room {
    limits: Limits,
    assured: Level,
    unassured: Level,
    /// By the number of the service port.
    holdings: BTreeMap<u32, Holdings>,
    at_quota: BTreeSet<u32>,
    /// Since when a service port holds nothing.
    empty: BTreeMap<u32, Duration>,
    collected: BTreeMap<(u8, State), u64>,
    error: Option<String>,
}

impl Room {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            assured: Level::new(limits.assured),
            unassured: Level::new(limits.unassured),
            holdings: BTreeMap::new(),
            at_quota: BTreeSet::new(),
            empty: BTreeMap::new(),
            collected: BTreeMap::new(),
            error: None,
        }
    }

    fn take(&mut self, tick: Tick, now: Duration) {
        if !tick.collected.is_empty() {
            tracing::trace!(collected = ?tick.collected, "connections were over");
        }
        for (kind, count) in tick.collected {
            *self.collected.entry(kind).or_default() += count;
        }
        if let Some(connections) = tick.unassured {
            self.unassured.note(now, connections);
        }
        self.holdings = tick.holdings.into_iter().collect();
        let held = self.holdings.values().map(connections);
        self.assured.note(now, held.sum::<i64>().cast_unsigned());
        let quota = i64::from(self.limits.of_service());
        let was_at_quota = std::mem::take(&mut self.at_quota);
        for (&service, holdings) in &self.holdings {
            let least = match was_at_quota.contains(&service) {
                true => quota * BELOW_QUOTA / 100,
                false => quota,
            };
            if connections(holdings) >= least.max(1) {
                self.at_quota.insert(service);
            }
        }
        let holdings = &self.holdings;
        let is_empty = |service: &u32| holdings.get(service).is_some_and(|h| h.connections == 0);
        self.empty.retain(|service, _| is_empty(service));
        for service in self.holdings.keys().filter(|service| is_empty(service)) {
            self.empty.entry(*service).or_insert(now);
        }
    }

    /// Service ports that have held nothing for a while.
    fn forgettable(&self, now: Duration) -> impl Iterator<Item = u32> {
        let rested = move |since: &Duration| now.saturating_sub(*since) >= REST;
        let empty = self.empty.iter();
        empty
            .filter(move |(_, since)| rested(since))
            .map(|(&service, _)| service)
    }

    fn tables(&self) -> [(&'static str, &Level); 2] {
        [("assured", &self.assured), ("unassured", &self.unassured)]
    }
}

impl Agent {
    pub(super) fn take_tick(&mut self, tick: Result<Tick, DataplaneError>) {
        let now = self.started.elapsed();
        let error = match tick {
            Ok(tick) => {
                self.room.take(tick, now);
                None
            }
            Err(error) => Some(format!("connections are not collected: {error}")),
        };
        if error != self.room.error
            && let Some(error) = &error
        {
            tracing::warn!("{error}");
        }
        self.room.error = error;
        if self.swept {
            self.forget_holdings(now);
        }
    }

    /// Removes what is counted for Services that are gone.
    fn forget_holdings(&mut self, now: Duration) {
        let mut rested: BTreeSet<u32> = self.room.forgettable(now).collect();
        if rested.is_empty() {
            return;
        }
        rested.remove(&Holdings::NO_SERVICE);
        for (service, _) in self.reconciler.services() {
            rested.remove(&service);
        }
        for service in rested {
            if let Err(error) = self.dataplane.forget_holdings(service) {
                tracing::warn!(%error, service, "will retry");
            }
        }
    }

    /// What is to be told beside the node, and beside Services.
    pub(super) fn warnings(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (table, level) in self.room.tables() {
            if !level.warns() {
                continue;
            }
            let (reason, consequence, option) = match table {
                "assured" => (
                    "ConnectionsNearLimit",
                    "connections beyond that can be evicted by new ones",
                    "--max-connections",
                ),
                _ => (
                    "NewConnectionsNearLimit",
                    "new connections evict those that were not answered yet",
                    "--max-unassured-connections",
                ),
            };
            events.push(Event {
                about: Subject::Node(self.node_name.clone()),
                reason,
                message: format!(
                    "the table of {table} connections takes {} and is, or soon will be, full: {consequence}; {option} makes room",
                    level.limit()
                ),
            });
        }
        let mut by_service: BTreeMap<_, String> = BTreeMap::new();
        for id in self.at_quota() {
            let text = by_service.entry(&id.service).or_default();
            let separator = if text.is_empty() { "" } else { "; " };
            text.push_str(&format!("{separator}{}", self.quota_text(id)));
        }
        events.extend(by_service.into_iter().map(|(service, message)| Event {
            about: Subject::Service(service.clone()),
            reason: "ConnectionQuotaReached",
            message,
        }));
        events
    }

    /// One line each.
    pub(super) fn room_problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.room.error.iter().cloned().collect();
        for (table, level) in self.room.tables() {
            if !level.warns() {
                continue;
            }
            let when = match level.full_in() {
                Some(Duration::ZERO) => ", full".to_owned(),
                Some(left) => format!(", full in {} s if it goes on like this", left.as_secs()),
                None if level.has_calmed() => ", with room again for less than a minute".to_owned(),
                None => String::new(),
            };
            let (count, limit) = (level.count(), level.limit());
            problems.push(format!(
                "Node {}: {count} of {limit} {table} connections{when}",
                self.node_name
            ));
        }
        for id in self.at_quota() {
            let text = self.quota_text(id);
            problems.push(format!("Service {}: {text}", id.service));
        }
        problems
    }

    pub(super) fn figures(&self) -> Figures {
        let packets = self.dataplane.counters();
        let packets = packets.inspect_err(|error| tracing::warn!(%error, "packets not counted"));
        let ids: HashMap<u32, &PortId> = self.reconciler.services().collect();
        let held = self.room.holdings.iter();
        let services = held.filter_map(|(service, holdings)| {
            Some(ServiceFigures {
                id: (*ids.get(service)?).clone(),
                connections: connections(holdings).cast_unsigned(),
                refused: holdings.refused,
            })
        });
        let collected = self.room.collected.iter();
        Figures {
            packets: packets.unwrap_or_default(),
            shortcut: self.shortcut.taken,
            tables: self.room.tables().map(table_figures).into(),
            services: services.collect(),
            collected: collected
                .map(|(&(protocol, state), &count)| (protocol, state, count))
                .collect(),
        }
    }

    /// Service ports that have all connections that they may.
    fn at_quota(&self) -> Vec<&PortId> {
        let at_quota = &self.room.at_quota;
        if at_quota.is_empty() {
            return Vec::new();
        }
        let services = self.reconciler.services();
        let full = services.filter(|(service, _)| at_quota.contains(service));
        full.map(|(_, id)| id).collect()
    }

    fn quota_text(&self, id: &PortId) -> String {
        let PortName {
            port,
            protocol,
            family,
            ..
        } = &**id;
        format!(
            "port {port:?} {protocol} {family} is at its quota of {} connections (--service-connection-quota): its further ones can be evicted",
            self.room.limits.of_service()
        )
    }
}

impl TablesStatus {
    /// `room` knows what is not in the census.
    pub(super) fn new(room: &Room) -> Self {
        let [assured, unassured] = room.tables().map(|(_, level)| TableStatus {
            connections: 0,
            limit: level.limit(),
            full_in_seconds: level.full_in().map(|left| left.as_secs()),
        });
        Self {
            assured,
            unassured,
            service_quota: room.limits.of_service(),
        }
    }

    pub(super) fn fill(&mut self, census: &Census) {
        self.assured.connections = census.assured;
        self.unassured.connections = census.unassured;
    }
}

fn table_figures((name, level): (&'static str, &Level)) -> TableFigures {
    TableFigures {
        name,
        connections: level.count(),
        limit: level.limit(),
        full_in: level.full_in(),
    }
}

/// Not below zero, where a recount may have put it for a moment.
fn connections(holdings: &Holdings) -> i64 {
    holdings.connections.cast_signed().max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        assured: 1000,
        unassured: 500,
        quota: crate::connections::Quota::Connections(100),
    };

    fn tick(holdings: &[(u32, u64)]) -> Tick {
        let record = |connections| Holdings {
            connections,
            refused: 0,
        };
        let holdings = holdings.iter();
        Tick {
            holdings: holdings.map(|&(s, count)| (s, record(count))).collect(),
            ..Tick::default()
        }
    }

    #[test]
    fn a_service_is_at_its_quota_until_it_is_well_below() {
        let mut room = Room::new(LIMITS);
        for (second, (held, expect)) in [
            (99, false),
            (100, true),
            (101, true),
            (95, true),
            (90, true),
            (89, false),
            (99, false),
            (100, true),
        ]
        .into_iter()
        .enumerate()
        {
            room.take(tick(&[(7, held)]), Duration::from_secs(second as u64));
            assert_eq!(room.at_quota.contains(&7), expect, "{held}");
        }
    }

    #[test]
    fn what_all_services_hold_is_summed() {
        let mut room = Room::new(LIMITS);
        room.take(tick(&[(1, 20), (2, 30), (3, u64::MAX)]), Duration::ZERO);
        assert_eq!(room.assured.count(), 50);
    }

    #[test]
    fn what_holds_nothing_for_a_while_may_be_forgotten() {
        let mut room = Room::new(LIMITS);
        let none: [u32; 0] = [];
        let mut after = |second, holdings: &[(u32, u64)]| {
            let now = Duration::from_secs(second);
            room.take(tick(holdings), now);
            room.forgettable(now).collect::<Vec<_>>()
        };
        assert_eq!(after(0, &[(1, 0), (2, 5), (3, 0)]), none);
        assert_eq!(after(59, &[(1, 0), (2, 0), (3, 1)]), none);
        assert_eq!(after(60, &[(1, 0), (2, 0), (3, 0)]), [1]);
        assert_eq!(after(119, &[(2, 0), (3, 0)]), [2]);
        assert_eq!(after(120, &[(2, 0), (3, 0)]), [2, 3]);
    }
}
