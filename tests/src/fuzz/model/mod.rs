//! What the node is to do with a frame, written down from what is specified.
//!
//! The programs' random choices are inputs: which backend was drawn and which
//! source port was taken is read from what they did, and must be allowed.

mod connections;
mod endpoints;
mod fragments;
mod life;
mod open;
mod parse;
mod parts;
mod plan;
mod refuse;
mod relate;
mod rewrite;
mod routes;
mod send;
mod sum;

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{Hook, Verdict};

use self::{
    connections::Connections,
    endpoints::Endpoints,
    fragments::Fragments,
    life::Signal,
    open::Opened,
    parse::Parsed,
    plan::Opening,
    send::{bounce, send},
};
pub(crate) use self::{
    connections::{Connection, Edge, Way},
    endpoints::{Change, Endpoint, Life},
    fragments::Key,
    parse::{parse, quoted},
};
use super::{
    flow::Flow,
    node::Outcome,
    world::{Backend, UDP, World},
};
use crate::packet::{
    Place,
    action::{TC_DROP, TC_PASS, XDP_DROP, XDP_PASS},
};

pub(crate) struct Model<'a> {
    world: &'a World,
    /// Whether XDP runs on the uplinks.
    has_xdp: bool,
    endpoints: Endpoints<'a>,
    connections: Connections,
    /// Backend that a client of a service had last; `None` if it was drawn
    /// where nobody saw it.
    clients: BTreeMap<(IpAddr, usize), Option<Life>>,
    refused: u32,
    fragments: Fragments,
    /// Frames that were sent to the last one's place after it.
    again: Vec<Vec<u8>>,
    /// In seconds.
    now: u64,
    /// Whether what happens next depends on how long the packets took.
    is_unsure: bool,
}

/// What the programs are seen to have chosen.
pub(crate) struct Seen<'a> {
    /// How it was counted.
    pub(crate) verdict: &'a dyn Fn() -> Option<Verdict>,
    /// What a flow becomes by now, as the connection table has it.
    pub(crate) translated: &'a dyn Fn(&Flow) -> Option<Flow>,
}

/// How a frame leaves: changed or not, and by which return code.
type Step<T> = Result<T, Verdict>;

impl<'a> Model<'a> {
    pub(crate) fn new(world: &'a World, has_xdp: bool, quota: u64) -> Self {
        Self {
            world,
            has_xdp,
            endpoints: Endpoints::new(world),
            connections: Connections::new(quota),
            clients: BTreeMap::new(),
            refused: 0,
            fragments: Fragments::default(),
            again: Vec::new(),
            now: 0,
            is_unsure: false,
        }
    }

    /// What is to become of a frame.
    ///
    /// # Errors
    /// The programs chose what they may not.
    pub(crate) fn run(
        &mut self,
        place: Place,
        frame: &[u8],
        seen: &Seen<'_>,
    ) -> Result<Outcome, String> {
        let result = match parse(frame) {
            Ok(parsed) => self.run_parsed(place, frame, parsed, seen)?,
            Err(verdict) => Err(verdict),
        };
        let (pass, drop) = match place.hook {
            Hook::Xdp => (XDP_PASS, XDP_DROP),
            Hook::TcIngress | Hook::TcEgress => (TC_PASS, TC_DROP),
        };
        Ok(result.unwrap_or_else(|verdict| Outcome {
            verdict,
            action: if is_loss(verdict) { drop } else { pass },
            bytes: if is_loss(verdict) {
                Vec::new()
            } else {
                frame.to_vec()
            },
        }))
    }

    /// Elements of the table.
    pub(crate) fn elements(&self) -> impl Iterator<Item = (&Flow, Way, &Connection)> {
        self.connections.elements()
    }

    /// Assured connections by service.
    pub(crate) fn held(&self) -> impl Iterator<Item = (Option<usize>, u64)> {
        self.connections.held()
    }

    pub(crate) fn connection(&self, flow: &Flow) -> Option<(&Connection, Way)> {
        let (number, way) = self.connections.get(flow)?;
        Some((self.connections.by_number(number)?, way))
    }

    /// The kernel gives an element to another key, if it may.
    pub(crate) fn evict(&mut self, flow: &Flow) -> bool {
        self.connections.evict(flow)
    }

    /// Seconds go by without a packet.
    pub(crate) fn wait(&mut self, seconds: u64) {
        self.now += seconds;
        self.fragments.drop_held();
    }

    /// What is over is removed.
    pub(crate) fn collect(&mut self) {
        let endpoints = &self.endpoints;
        let is_current = |life: &Life| endpoints.is_current(life);
        self.is_unsure |= !self.connections.collect(self.now, is_current);
    }

    /// Fragments that wait are lost.
    pub(crate) fn lose_held(&mut self) {
        self.fragments.drop_held();
    }

    /// What a service has by now.
    pub(crate) fn endpoints(&self, service: usize) -> Vec<Endpoint> {
        self.endpoints.of(service)
    }

    pub(crate) fn fragments(&self) -> &Fragments {
        &self.fragments
    }

    /// Frames that go to the last one's place after it.
    pub(crate) fn take_again(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.again)
    }

    /// Whether nobody can say what happens next: it depends on milliseconds.
    pub(crate) fn is_unsure(&self) -> bool {
        self.is_unsure
    }

    /// Answers given so far.
    pub(crate) fn refused(&self) -> u32 {
        self.refused
    }

    /// Changes one of the world's backends, and returns what its service has
    /// then.
    pub(crate) fn change(
        &mut self,
        service: usize,
        backend: Backend,
        change: Change,
    ) -> Vec<Endpoint> {
        self.endpoints.change(service, backend, change)
    }

    /// Services with other backends than the world's.
    pub(crate) fn changed(&self) -> impl Iterator<Item = usize> {
        self.endpoints.changed()
    }

    /// Clients that keep their backend of a service.
    pub(crate) fn clients(&self) -> impl Iterator<Item = (IpAddr, usize)> {
        self.clients.keys().copied()
    }

    fn process(&mut self, at: &Opening<'_>, seen: &Seen<'_>) -> Result<Step<Outcome>, String> {
        let known = self.connections.get(&at.parsed.flow);
        match known {
            Some((number, Way::Reply)) => {
                let result = self.reply(at, number).and_then(|verdict| {
                    let found = self.follow(at, number, Way::Reply, verdict);
                    // Its client has another connection by now.
                    found.unwrap_or(Err(Verdict::NoFrontend))
                });
                return Ok(result);
            }
            Some((number, Way::Forward)) if self.is_elsewhere(at, number) => {
                return Ok(Err(Verdict::OtherHook));
            }
            Some((number, Way::Forward)) if !self.is_outdated(at.parsed, number) => {
                if let Some(result) = self.follow(at, number, Way::Forward, Verdict::Forward) {
                    return Ok(result);
                }
            }
            Some((_, Way::Forward)) | None => {}
        }
        match self.open(at, seen, known.map(|known| known.0))? {
            Opened::Entered(number) => {
                let connection = self.connections.by_number(number);
                let connection = connection.ok_or("a connection without a number")?;
                Ok(send(at, connection, Way::Forward, Verdict::Opened))
            }
            Opened::Not(Verdict::Rejected) => Ok(self.reject(at, known)),
            Opened::Not(verdict) => Ok(Err(verdict)),
        }
    }

    /// A UDP flow keeps its old backend as long as there is no other; the rest
    /// is told that there is none.
    fn reject(&mut self, at: &Opening<'_>, known: Option<(u32, Way)>) -> Step<Outcome> {
        if at.parsed.flow.protocol == UDP
            && let Some((number, way)) = known
            && let Some(result) = self.follow(at, number, way, Verdict::Forward)
        {
            return result;
        }
        self.refuse(at)
    }

    /// Sends one more packet of a connection; `None` if another connection has
    /// what this one lost.
    fn follow(
        &mut self,
        at: &Opening<'_>,
        number: u32,
        way: Way,
        verdict: Verdict,
    ) -> Option<Step<Outcome>> {
        let signal = Signal::of(at.parsed.flow.protocol, at.parsed.mark);
        if !self.connections.heard(number, way, signal, self.now) {
            return None;
        }
        let connection = self.connections.by_number(number)?;
        Some(send(at, connection, way, verdict))
    }

    /// Whether a reply is to be translated here.
    fn reply(&self, at: &Opening<'_>, number: u32) -> Step<Verdict> {
        let Some(connection) = self.connections.by_number(number) else {
            return Err(Verdict::NoFrontend);
        };
        let is_leaving = at.place.hook == Hook::TcEgress;
        if (connection.edge == Edge::Egress) != is_leaving {
            return Err(Verdict::OtherHook);
        }
        // Once translated it looks like one through a frontend.
        if at.place.hook == Hook::Xdp && connection.backend.is_none() {
            return Err(Verdict::Deferred);
        }
        let from_pod = at.place.hook == Hook::TcIngress && is_pod(at.place.interface);
        let is_elsewhere = |life: &Life| self.endpoints.is_current(life) && !life.backend.local;
        if from_pod && connection.backend.as_ref().is_some_and(is_elsewhere) {
            return Err(Verdict::Forged);
        }
        Ok(Verdict::Reply)
    }

    /// Whether a packet to a backend itself is beyond its client's edge: there,
    /// those that came through a frontend look the same.
    fn is_elsewhere(&self, at: &Opening<'_>, number: u32) -> bool {
        let connection = self.connections.by_number(number);
        let is_direct = connection.is_some_and(|connection| connection.backend.is_none());
        is_direct && !self.enters_here(at)
    }

    /// Whether the client's packet is not one more of its old connection.
    fn is_outdated(&mut self, parsed: &Parsed, number: u32) -> bool {
        let Some(connection) = self.connections.by_number(number) else {
            return true;
        };
        let is_current = |life: &Life| self.endpoints.is_current(life);
        let is_retired = !connection.backend.as_ref().is_none_or(is_current);
        self.is_unsure |= connection.is_on_edge(self.now);
        if connection.is_expired(self.now) {
            return true;
        }
        match parsed.flow.protocol {
            UDP => is_retired,
            _ => starts_flow(parsed) && (connection.state.is_over() || is_retired),
        }
    }

    /// Tells the sender of a packet that can go no further.
    fn tell(&mut self, at: &Opening<'_>, result: Step<Outcome>) -> Step<Outcome> {
        let Err(why @ (Verdict::TimeExceeded | Verdict::TooBig)) = result else {
            return result;
        };
        let answer = refuse::tell(at.place, at.frame, at.parsed, why)?;
        self.refused += 1;
        let (action, bytes) = bounce(at, answer);
        Ok(Outcome {
            verdict: why,
            action,
            bytes,
        })
    }

    fn refuse(&mut self, at: &Opening<'_>) -> Step<Outcome> {
        let answer = refuse::refuse(at.place, at.frame, at.parsed)?;
        self.refused += 1;
        let (action, bytes) = bounce(at, answer);
        Ok(Outcome {
            verdict: Verdict::Rejected,
            action,
            bytes,
        })
    }
}

fn is_loss(verdict: Verdict) -> bool {
    use Verdict::{
        Forged, FragmentLost, Held, NoBackend, NoLocalBackend, NoRoute, NoService, NoSourceAddress,
        NoSourcePort, Refused, SourceRange, TableFull, TimeExceeded, Unanswered, Unstable,
    };
    matches!(
        verdict,
        Forged
            | FragmentLost
            | Held
            | NoBackend
            | NoLocalBackend
            | NoRoute
            | NoService
            | NoSourceAddress
            | NoSourcePort
            | Refused
            | SourceRange
            | TableFull
            | TimeExceeded
            | Unanswered
            | Unstable
    )
}

/// Whether the packet may be the first of its flow.
fn starts_flow(parsed: &Parsed) -> bool {
    let signal = Signal::of(parsed.flow.protocol, parsed.mark);
    parsed.flow.protocol == UDP || signal == Signal::Open
}

fn is_pod(interface: &str) -> bool {
    interface.starts_with("pod")
}
