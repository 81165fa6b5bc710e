//! The connection table: a half for each direction.

use std::collections::BTreeMap;

use super::endpoints::Life;
use crate::fuzz::{flow::Flow, world::TCP};

/// Where a packet goes once it is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Stack,
    Route,
    Bounce,
    /// To a socket of the node.
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Forward,
    /// Replies, translated where they leave towards the client.
    ReplyAtEgress,
    /// Replies, translated where they enter.
    ReplyAtIngress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Half {
    pub(crate) translated: Flow,
    pub(crate) backend: Life,
    pub(crate) way: Way,
    pub(crate) path: Path,
    /// A FIN or RST went by.
    pub(crate) is_closing: bool,
}

impl Half {
    fn is_reply(&self) -> bool {
        self.way != Way::Forward
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(BTreeMap<Flow, Half>);

impl Connections {
    pub(crate) fn get(&self, flow: &Flow) -> Option<&Half> {
        self.0.get(flow)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Flow, &Half)> {
        self.0.iter()
    }

    pub(crate) fn close(&mut self, flow: &Flow) {
        if let Some(half) = self.0.get_mut(flow) {
            half.is_closing = true;
        }
    }

    pub(crate) fn enter(&mut self, flow: Flow, forward: Half, reply: Half) {
        self.0.insert(forward.translated.reverse(), reply);
        self.0.insert(flow, forward);
    }

    /// Whether one of the connection's ends has closed it, or one half is gone.
    pub(crate) fn is_over(&self, forward: &Half) -> bool {
        let reply = self.0.get(&forward.translated.reverse());
        forward.is_closing || reply.is_none_or(|reply| reply.is_closing)
    }

    /// Whether `flow` may get replies as `reply_key`: nobody else gets such.
    pub(crate) fn is_free(&self, reply_key: &Flow, flow: &Flow) -> bool {
        let Some(reply) = self.0.get(reply_key) else {
            return true;
        };
        let key = reply.translated.reverse();
        let other = self.0.get(&key);
        key == *flow || !other.is_some_and(|other| are_pair(other, reply, reply_key))
    }

    /// Forgets a connection whose replies look like those to `flow`, which is
    /// none of ours.
    pub(crate) fn yield_to(&mut self, flow: &Flow) {
        let reply_key = flow.reverse();
        let Some(reply) = self.0.get(&reply_key).filter(|reply| reply.is_reply()) else {
            return;
        };
        let key = reply.translated.reverse();
        let forward = self.0.get(&key);
        let forward = forward.filter(|forward| are_pair(forward, reply, &reply_key));
        let is_over = |half: &Half| flow.protocol != TCP || half.is_closing;
        if !is_over(reply) && !forward.is_some_and(is_over) {
            return;
        }
        if forward.is_some() {
            self.0.remove(&key);
        }
        self.0.remove(&reply_key);
    }
}

fn are_pair(forward: &Half, reply: &Half, reply_key: &Flow) -> bool {
    forward.backend == reply.backend
        && forward.translated.source.port() == reply_key.destination.port()
}
