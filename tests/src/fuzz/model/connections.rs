//! The connection table: two elements a connection, one a direction.

use std::collections::BTreeMap;

use super::{
    endpoints::Life,
    life::{Signal, State},
};
use crate::fuzz::{flow::Flow, world::UDP};

/// Where a packet goes once it is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Stack,
    Route,
    Bounce,
    /// To a socket of the node.
    Local,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Forward,
    Reply,
}

/// Where replies are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Where they leave towards the client.
    Egress,
    /// Where they enter.
    Ingress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// What the client sends, and what the backend gets.
    pub(crate) asked: Flow,
    pub(crate) translated: Flow,
    /// `None` if the client talks to the backend itself.
    pub(crate) backend: Option<Life>,
    pub(crate) edge: Edge,
    pub(crate) path: Path,
    pub(crate) reply_path: Path,
    pub(crate) state: State,
    /// In seconds.
    pub(crate) seen: u64,
    /// When a reply was, or the backend's half was entered.
    pub(crate) replied: u64,
    pub(crate) is_assured: bool,
}

impl Connection {
    /// What a packet that goes this way becomes.
    pub(crate) fn becomes(&self, way: Way) -> Flow {
        match way {
            Way::Forward => self.translated,
            Way::Reply => self.asked.reverse(),
        }
    }

    pub(crate) fn path(&self, way: Way) -> Path {
        match way {
            Way::Forward => self.path,
            Way::Reply => self.reply_path,
        }
    }

    /// Flow of the packets that go this way.
    pub(crate) fn key(&self, way: Way) -> Flow {
        match way {
            Way::Forward => self.asked,
            Way::Reply => self.translated.reverse(),
        }
    }

    /// Neither expired for sure nor not.
    pub(crate) fn is_on_edge(&self, now: u64) -> bool {
        now - self.seen == self.state.timeout(self.asked.protocol)
    }

    pub(crate) fn is_expired(&self, now: u64) -> bool {
        now - self.seen > self.state.timeout(self.asked.protocol)
    }
}

/// Both elements of a connection have its number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections {
    elements: BTreeMap<Flow, (u32, Way)>,
    all: BTreeMap<u32, Connection>,
    entered: u32,
    /// Assured connections by service; those to no service under `None`.
    held: BTreeMap<Option<usize>, u64>,
    /// Assured connections that a service may have.
    quota: u64,
}

impl Connections {
    pub(crate) fn new(quota: u64) -> Self {
        Self {
            quota,
            ..Self::default()
        }
    }

    pub(crate) fn get(&self, flow: &Flow) -> Option<(u32, Way)> {
        self.elements.get(flow).copied()
    }

    pub(crate) fn by_number(&self, number: u32) -> Option<&Connection> {
        self.all.get(&number)
    }

    /// Elements that the table holds.
    pub(crate) fn elements(&self) -> impl Iterator<Item = (&Flow, Way, &Connection)> {
        let elements = self.elements.iter();
        elements.map(|(flow, (number, way))| (flow, *way, &self.all[number]))
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = (Option<usize>, u64)> {
        self.held.iter().map(|(service, count)| (*service, *count))
    }

    pub(crate) fn enter(&mut self, connection: Connection) -> u32 {
        self.entered += 1;
        let number = self.entered;
        for way in [Way::Forward, Way::Reply] {
            self.elements.insert(connection.key(way), (number, way));
        }
        self.all.insert(number, connection);
        number
    }

    /// What is left of a connection is no more.
    pub(crate) fn remove(&mut self, number: u32) {
        let Some(connection) = self.all.remove(&number) else {
            return;
        };
        for way in [Way::Forward, Way::Reply] {
            self.lose(number, &connection.key(way));
        }
        if connection.is_assured {
            let service = connection.backend.map(|backend| backend.service);
            *self.held.entry(service).or_default() -= 1;
        }
    }

    /// The kernel gives an element of what is not assured to another key.
    pub(crate) fn evict(&mut self, flow: &Flow) -> bool {
        let Some((number, _)) = self.get(flow) else {
            return false;
        };
        if self.all[&number].is_assured {
            return false;
        }
        self.lose(number, flow);
        true
    }

    /// A packet of the connection went by. `false` if another connection has the
    /// place of a half that it lost.
    pub(crate) fn heard(&mut self, number: u32, way: Way, signal: Signal, now: u64) -> bool {
        if !self.restore(number, signal, now) {
            return false;
        }
        let Some(connection) = self.all.get_mut(&number) else {
            return false;
        };
        let protocol = connection.asked.protocol;
        let before = *connection;
        connection.state = before.state.after(protocol, signal, way == Way::Reply);
        connection.seen = now;
        if way == Way::Reply {
            connection.replied = now;
        }
        let is_news = connection.state != before.state || now > before.seen;
        if !before.is_assured && connection.state.is_assured() && is_news {
            let service = connection.backend.map(|backend| backend.service);
            let held = self.held.entry(service).or_default();
            if *held < self.quota {
                *held += 1;
                connection.is_assured = true;
                connection.replied = now;
            }
        }
        true
    }

    /// Removes what is over. `false` if that depends on milliseconds.
    pub(crate) fn collect(&mut self, now: u64, is_current: impl Fn(&Life) -> bool) -> bool {
        let mut is_sure = true;
        let mut over = Vec::new();
        for (number, connection) in &self.all {
            let unanswered = State::Opening.timeout(connection.asked.protocol);
            let is_retired = !connection.backend.as_ref().is_none_or(&is_current);
            let (idle, timeout) = match self.has(*number, Way::Forward) {
                false => (now - connection.replied, unanswered),
                true if connection.asked.protocol == UDP && is_retired => {
                    let timeout = connection.state.timeout(UDP);
                    (now - connection.seen, timeout.min(unanswered))
                }
                true => {
                    let timeout = connection.state.timeout(connection.asked.protocol);
                    (now - connection.seen, timeout)
                }
            };
            is_sure &= idle != timeout;
            if idle > timeout {
                over.push(*number);
            }
        }
        for number in over {
            self.remove(number);
        }
        is_sure
    }

    /// Whether no living connection gets such replies; removes one that does not
    /// live.
    pub(crate) fn make_free(&mut self, reply_key: &Flow, now: u64, take_closed: bool) -> bool {
        let Some((number, way)) = self.get(reply_key) else {
            return true;
        };
        let connection = &self.all[&number];
        if way == Way::Forward {
            return false;
        }
        let is_whole = self.has(number, Way::Forward);
        let is_over = take_closed && connection.state.is_over() || connection.is_expired(now);
        if is_whole && !is_over {
            return false;
        }
        self.remove(number);
        true
    }

    fn has(&self, number: u32, way: Way) -> bool {
        let key = self.all[&number].key(way);
        self.elements.get(&key) == Some(&(number, way))
    }

    /// Enters the half that was evicted. `false` if another connection has
    /// taken its place.
    fn restore(&mut self, number: u32, signal: Signal, now: u64) -> bool {
        for way in [Way::Forward, Way::Reply] {
            if self.has(number, way) {
                continue;
            }
            let Some(connection) = self.all.get_mut(&number) else {
                return false;
            };
            let key = connection.key(way);
            if self.elements.contains_key(&key) {
                return false;
            }
            match way {
                // The state went with the element; a backend that goes on has
                // answered before.
                Way::Forward => {
                    let goes_on = matches!(signal, Signal::Data | Signal::Finish);
                    connection.state = match goes_on && connection.asked.protocol != UDP {
                        true => State::Answered,
                        false => State::Opening,
                    };
                    connection.seen = now;
                }
                Way::Reply => connection.replied = now,
            }
            self.elements.insert(key, (number, way));
        }
        true
    }

    fn lose(&mut self, number: u32, flow: &Flow) {
        if self.elements.get(flow).is_some_and(|(of, _)| *of == number) {
            self.elements.remove(flow);
        }
    }
}
