//! What the node is to do with a frame, written down from what is specified.
//!
//! The programs' random choices are inputs: which backend was drawn and which
//! source port was taken is read from what they did, and must be allowed.

mod connections;
mod endpoints;
mod open;
mod parse;
mod plan;
mod refuse;
mod rewrite;
mod routes;
mod sum;

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{Hook, Verdict};

use self::{
    connections::{Connections, Half, Path, Way},
    endpoints::{Endpoints, Life},
    open::Opened,
    parse::Parsed,
    plan::Opening,
    rewrite::rewrite,
    routes::Route,
};
pub(crate) use self::{
    connections::{Half as Known, Way as KnownWay},
    endpoints::{Change, Endpoint},
    parse::parse,
};
use super::{
    flow::Flow,
    node::Outcome,
    world::{Backend, TCP, World},
};
use crate::packet::{
    Place,
    action::{TC_DROP, TC_PASS, TC_REDIRECT, XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX},
};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

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
    pub(crate) fn new(world: &'a World, has_xdp: bool) -> Self {
        Self {
            world,
            has_xdp,
            endpoints: Endpoints::new(world),
            connections: Connections::default(),
            clients: BTreeMap::new(),
            refused: 0,
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
            Ok(parsed) => {
                let has_xdp = self.has_xdp;
                let at = Opening {
                    place,
                    frame,
                    parsed: &parsed,
                    has_xdp,
                };
                self.process(&at, seen)?
            }
            Err(verdict) => Err(verdict),
        };
        let (pass, drop) = match place.hook {
            Hook::Xdp => (XDP_PASS, XDP_DROP),
            Hook::TcIngress | Hook::TcEgress => (TC_PASS, TC_DROP),
        };
        Ok(result.unwrap_or_else(|verdict| Outcome {
            verdict,
            action: if is_loss(verdict) { drop } else { pass },
            bytes: frame.to_vec(),
        }))
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = (&Flow, &Half)> {
        self.connections.iter()
    }

    pub(crate) fn connection(&self, flow: &Flow) -> Option<&Half> {
        self.connections.get(flow)
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
        let flow = &at.parsed.flow;
        let known = self.connections.get(flow).copied();
        let (half, verdict) = match known {
            Some(half) if half.way != Way::Forward || !self.starts_anew(at.parsed, &half) => {
                match self.follow(at, &half) {
                    Ok(verdict) => (half, verdict),
                    Err(verdict) => return Ok(Err(verdict)),
                }
            }
            _ => match self.open(at, seen)? {
                Opened::Entered(half) => (half, Verdict::Opened),
                Opened::Not(Verdict::Rejected) => match known {
                    // A flow keeps its old backend as long as there is no other.
                    Some(half) if flow.protocol != TCP => (half, Verdict::Forward),
                    _ => return Ok(self.refuse(at)),
                },
                Opened::Not(verdict) => return Ok(Err(verdict)),
            },
        };
        Ok(send(at, &half, verdict))
    }

    /// One more packet of a connection.
    fn follow(&mut self, at: &Opening<'_>, half: &Half) -> Step<Verdict> {
        let verdict = match half.way {
            Way::Forward => Verdict::Forward,
            Way::ReplyAtEgress | Way::ReplyAtIngress => {
                let at_egress = half.way == Way::ReplyAtEgress;
                if at_egress != (at.place.hook == Hook::TcEgress) {
                    return Err(Verdict::OtherHook);
                }
                let from_pod = at.place.hook == Hook::TcIngress && is_pod(at.place.interface);
                let is_current = self.endpoints.is_current(&half.backend);
                if from_pod && is_current && !half.backend.backend.local {
                    return Err(Verdict::ForgedReply);
                }
                Verdict::Reply
            }
        };
        if at.parsed.flags & (FIN | RST) != 0 {
            self.connections.close(&at.parsed.flow);
        }
        Ok(verdict)
    }

    /// Whether the client's packet opens a connection in an old one's place.
    fn starts_anew(&self, parsed: &Parsed, half: &Half) -> bool {
        let is_over = parsed.flow.protocol == TCP && self.connections.is_over(half);
        starts_flow(parsed) && (is_over || !self.endpoints.is_current(&half.backend))
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

/// Translates a packet and sends it the way its connection goes.
fn send(at: &Opening<'_>, half: &Half, verdict: Verdict) -> Step<Outcome> {
    let is_xdp = at.place.hook == Hook::Xdp;
    let mut macs = None;
    let mut hop = false;
    match half.path {
        Path::Bounce | Path::Local if is_xdp => return Err(Verdict::Deferred),
        Path::Stack | Path::Bounce | Path::Local => {}
        Path::Route => {
            let Route::Out {
                interface,
                macs: known,
            } = at.route(&half.translated)
            else {
                return Err(Verdict::NoRoute);
            };
            if !at.can_send(interface, known.is_some()) {
                return Err(Verdict::Deferred);
            }
            hop = at.place.hook != Hook::TcEgress;
            if hop && at.parsed.hops <= 1 {
                return Err(Verdict::HopLimit);
            }
            macs = known.map(|macs| (interface, macs));
        }
    }
    let bytes = rewrite(at.frame, at.parsed, &half.translated, hop);
    let (action, bytes) = match (half.path, macs) {
        (Path::Stack, _) if is_xdp => (XDP_PASS, bytes),
        (Path::Stack, _) => (TC_PASS, bytes),
        (Path::Bounce, _) => bounce(at, bytes),
        (Path::Route, Some((interface, macs))) if is_xdp => transmit(at, interface, macs, bytes),
        (Path::Route | Path::Local, _) => (TC_REDIRECT, bytes),
    };
    Ok(Outcome {
        verdict,
        action,
        bytes,
    })
}

fn transmit(
    at: &Opening<'_>,
    interface: &str,
    macs: [[u8; 6]; 2],
    mut bytes: Vec<u8>,
) -> (i32, Vec<u8>) {
    bytes[..12].copy_from_slice(macs.as_flattened());
    (leave(at, interface), bytes)
}

/// Back to where it came from.
fn bounce(at: &Opening<'_>, mut bytes: Vec<u8>) -> (i32, Vec<u8>) {
    if at.place.hook == Hook::TcEgress && at.place.interface == "lo" {
        return (TC_PASS, bytes);
    }
    let (to, from) = bytes[..12].split_at_mut(6);
    to.swap_with_slice(from);
    match at.place.hook {
        Hook::Xdp => (leave(at, at.place.interface), bytes),
        Hook::TcIngress | Hook::TcEgress => (TC_REDIRECT, bytes),
    }
}

/// A veth takes frames by redirect, even back; `up0` is one.
fn leave(at: &Opening<'_>, interface: &str) -> i32 {
    match interface == at.place.interface && interface != "up0" {
        true => XDP_TX,
        false => XDP_REDIRECT,
    }
}

fn is_loss(verdict: Verdict) -> bool {
    use Verdict::{
        ForgedReply, HopLimit, NoBackend, NoLocalBackend, NoRoute, NoService, NoSourceAddress,
        NoSourcePort, Refused, SourceRange, TableFull, Unanswered, Unstable,
    };
    matches!(
        verdict,
        ForgedReply
            | HopLimit
            | NoBackend
            | NoLocalBackend
            | NoRoute
            | NoService
            | NoSourceAddress
            | NoSourcePort
            | Refused
            | SourceRange
            | TableFull
            | Unanswered
            | Unstable
    )
}

/// Whether the packet may be the first of its flow.
fn starts_flow(parsed: &Parsed) -> bool {
    parsed.flow.protocol != TCP || parsed.flags & (SYN | ACK | RST | FIN) == SYN
}

fn is_pod(interface: &str) -> bool {
    interface.starts_with("pod")
}
