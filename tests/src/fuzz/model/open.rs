//! The first packet of a connection.

use lb_common::{Hook, Verdict};

use super::{
    Model, Seen,
    connections::{Connection, Edge, Path, Way},
    endpoints::Life,
    life::State,
    plan::{Client, Opening, Plan},
    routes::owner,
    starts_flow,
};
use crate::{
    fuzz::{
        flow::Flow,
        world::{Frontend, Policy, UDP},
    },
    packet::wiring::UP0_MAC,
};

/// Source ports that are drawn when the client's own is taken.
const DRAWN: std::ops::RangeInclusive<u16> = 61_000..=65_535;

pub(super) enum Opened {
    /// The number of the connection.
    Entered(u32),
    Not(Verdict),
}

impl Model<'_> {
    /// `known` is the client's connection that is over.
    pub(super) fn open(
        &mut self,
        at: &Opening<'_>,
        seen: &Seen<'_>,
        known: Option<u32>,
    ) -> Result<Opened, String> {
        let parsed = at.parsed;
        let flow = parsed.flow;
        let Some(frontend) = self.world.frontends.get(&(flow.destination, flow.protocol)) else {
            return match self.endpoints.has(flow.destination, flow.protocol) {
                true => self.meet(at, seen, known),
                false => self.miss(at, seen, known),
            };
        };
        let client = at.client();
        // XDP has seen the packet, and the backend is a frontend as well.
        let is_in = at.place.hook == Hook::TcIngress && client != Client::Pod;
        let is_second = is_in && known.is_none();
        if is_second && !self.enters_here(at) && self.is_claimed(&flow.reverse(), false) {
            return Ok(Opened::Not(Verdict::NoFrontend));
        }
        let is_node = client == Client::Node;
        // What is forwarded was looked at where it came in.
        if is_node && at.place.origin.is_some() || !is_node && flow.destination.ip().is_loopback() {
            return Ok(Opened::Not(Verdict::NoFrontend));
        }
        if !starts_flow(parsed) {
            return Ok(Opened::Not(Verdict::Stray));
        }
        if is_overheard(at) {
            return Ok(Opened::Not(Verdict::Overheard));
        }
        let is_let_in = |sources: &ipnet::IpNet| sources.contains(&flow.source.ip());
        if !frontend.sources.as_ref().is_none_or(is_let_in) {
            return Ok(Opened::Not(Verdict::SourceRange));
        }
        let all = self.endpoints.usable(frontend.service);
        let usable: Vec<Life> = match (frontend.policy, client) {
            (Policy::Local, Client::Outside) => {
                let all = all.iter().copied();
                all.filter(|life| life.backend.local).collect()
            }
            _ => all.clone(),
        };
        if usable.is_empty() {
            return Ok(Opened::Not(match all.is_empty() {
                true => Verdict::Rejected,
                false => Verdict::NoLocalBackend,
            }));
        }
        if let Some(known) = known {
            self.connections.remove(known);
        }
        self.enter(at, seen, frontend, &usable)
    }

    /// Takes what the programs drew, if it is allowed.
    fn enter(
        &mut self,
        at: &Opening<'_>,
        seen: &Seen<'_>,
        frontend: &Frontend,
        usable: &[Life],
    ) -> Result<Opened, String> {
        let flow = at.parsed.flow;
        let client = (flow.source.ip(), frontend.service);
        let has_affinity = self.world.services[frontend.service].has_affinity;
        let kept = self.clients.get(&client).copied().flatten();
        let allowed = match kept.filter(|_| has_affinity) {
            Some(kept) if usable.contains(&kept) => vec![kept],
            _ => usable.to_vec(),
        };
        let plans = || {
            allowed
                .iter()
                .map(|one| (one, at.plan(frontend, &one.backend)))
        };
        let may_fail = plans().any(|(_, plan)| plan.is_err());
        let verdict = if may_fail { (seen.verdict)() } else { None };
        let fails = |verdict| plans().find(|(_, plan)| *plan == Err(verdict));
        if let Some(verdict) = verdict
            && let Some((backend, _)) = fails(verdict)
        {
            if has_affinity {
                let is_known = allowed.len() == 1;
                self.clients.insert(client, is_known.then_some(*backend));
            }
            return Ok(Opened::Not(verdict));
        }
        let Some(drawn) = (seen.translated)(&flow) else {
            let all: Vec<_> = plans().collect();
            return Err(format!(
                "{flow} is not in the table; expected one of {all:?}"
            ));
        };
        let found = plans().find_map(|(backend, plan)| {
            let plan = plan.ok()?;
            (plan.translated.destination == drawn.destination).then_some((*backend, plan))
        });
        let Some((backend, plan)) = found else {
            return Err(format!("{flow} became {drawn}; accepted: {allowed:?}"));
        };
        self.check_source(
            &plan.translated,
            &drawn,
            plan.translated.source.ip() != flow.source.ip(),
        )?;
        if has_affinity {
            self.clients.insert(client, Some(backend));
        }
        Ok(Opened::Entered(self.add(flow, drawn, plan, Some(backend))))
    }

    /// `is_ours`: the source becomes the node's.
    fn check_source(&mut self, wanted: &Flow, drawn: &Flow, is_ours: bool) -> Result<(), String> {
        if wanted.source.ip() != drawn.source.ip() {
            return Err(format!("{wanted} became {drawn}"));
        }
        let (frontends, endpoints) = (&self.world.frontends, &self.endpoints);
        let is_frontend = |flow: &Flow| {
            let is_one = frontends.contains_key(&(flow.source, flow.protocol));
            is_ours && (is_one || endpoints.has(flow.source, flow.protocol))
        };
        let known = self.connections.get(&wanted.reverse());
        let known = known.and_then(|(number, _)| self.connections.by_number(number));
        self.is_unsure |= known.is_some_and(|known| known.is_on_edge(self.now));
        let now = self.now;
        let mut is_free = |flow: &Flow| {
            !is_frontend(flow) && self.connections.make_free(&flow.reverse(), now, false)
        };
        let may_keep = is_free(wanted);
        if may_keep != (wanted == drawn) {
            return Err(format!(
                "{wanted} became {drawn}; its port is free: {may_keep}"
            ));
        }
        if !(may_keep || DRAWN.contains(&drawn.source.port()) && is_free(drawn)) {
            return Err(format!("{wanted} became {drawn}, a port not to be drawn"));
        }
        Ok(())
    }

    fn add(&mut self, flow: Flow, drawn: Flow, plan: Plan, backend: Option<Life>) -> u32 {
        self.connections.enter(Connection {
            asked: flow,
            translated: drawn,
            backend,
            edge: plan.edge,
            path: plan.path,
            reply_path: plan.reply_path,
            state: State::Opening,
            seen: self.now,
            replied: self.now,
            is_assured: false,
        })
    }

    /// What becomes of a packet that no frontend stands for.
    fn miss(
        &mut self,
        at: &Opening<'_>,
        seen: &Seen<'_>,
        known: Option<u32>,
    ) -> Result<Opened, String> {
        let flow = at.parsed.flow;
        if !starts_flow(at.parsed) {
            return Ok(Opened::Not(Verdict::NoFrontend));
        }
        if let Some(known) = known {
            self.connections.remove(known);
        }
        let may_have_been = flow.protocol != UDP && self.enters_here(at);
        if may_have_been && self.is_claimed(&flow.reverse(), true) {
            return self.enter_direct(at, seen);
        }
        Ok(Opened::Not(self.reject_service(at)))
    }

    /// What becomes of a packet to a backend itself: a client that may reach it
    /// through a frontend too has its connections told apart.
    fn meet(
        &mut self,
        at: &Opening<'_>,
        seen: &Seen<'_>,
        known: Option<u32>,
    ) -> Result<Opened, String> {
        if !starts_flow(at.parsed) {
            return Ok(Opened::Not(Verdict::NoFrontend));
        }
        if let Some(known) = known {
            self.connections.remove(known);
        }
        let is_outside = at.client() == Client::Outside;
        let flow = at.parsed.flow;
        if !self.enters_here(at) || is_outside && !self.is_claimed(&flow.reverse(), true) {
            return Ok(Opened::Not(Verdict::NoFrontend));
        }
        self.enter_direct(at, seen)
    }

    /// Whether replies of a living connection look like this, or with
    /// `take_closed` of one that did not close.
    fn is_claimed(&mut self, reply_key: &Flow, take_closed: bool) -> bool {
        let known = self.connections.get(reply_key);
        let is_reply = known.is_some_and(|(_, way)| way == Way::Reply);
        let connection = known.and_then(|(number, _)| self.connections.by_number(number));
        self.is_unsure |= connection.is_some_and(|known| known.is_on_edge(self.now));
        is_reply && !self.connections.make_free(reply_key, self.now, take_closed)
    }

    /// The client talks to a backend itself, from a port that is taken there.
    fn enter_direct(&mut self, at: &Opening<'_>, seen: &Seen<'_>) -> Result<Opened, String> {
        let flow = at.parsed.flow;
        let Some(drawn) = (seen.translated)(&flow) else {
            return Err(format!("{flow} is not in the table"));
        };
        self.check_source(&flow, &drawn, false)?;
        let edge = match at.place.hook {
            Hook::Xdp | Hook::TcIngress => Edge::Egress,
            Hook::TcEgress => Edge::Ingress,
        };
        let plan = Plan {
            translated: drawn,
            path: Path::Stack,
            edge,
            reply_path: Path::Stack,
        };
        Ok(Opened::Entered(self.add(flow, drawn, plan, None)))
    }

    fn reject_service(&self, at: &Opening<'_>) -> Verdict {
        let flow = at.parsed.flow;
        let was_seen = match at.place.hook {
            Hook::Xdp => false,
            Hook::TcIngress => at.place.interface == "lo",
            Hook::TcEgress => at.place.origin.is_some(),
        };
        let to = flow.destination.ip();
        let networks = &self.world.service_networks;
        if was_seen || !networks.iter().any(|network| network.contains(&to)) {
            return Verdict::NoFrontend;
        }
        if is_overheard(at) {
            return Verdict::Overheard;
        }
        match self.world.cluster_ips.contains(&to) {
            true => Verdict::Rejected,
            false => Verdict::NoService,
        }
    }

    /// Whether no other hook can have translated the packet before.
    pub(super) fn enters_here(&self, at: &Opening<'_>) -> bool {
        match at.place.hook {
            Hook::Xdp => owner(at.parsed.flow.source.ip()).is_none(),
            // What is forwarded from the interface's own address has it from
            // netfilter.
            Hook::TcEgress => {
                let owner = owner(at.parsed.flow.source.ip());
                at.place.origin.is_none() || owner == Some(at.place.interface)
            }
            Hook::TcIngress => match at.place.interface {
                "lo" => false,
                "up0" | "up1" => !self.has_xdp,
                _ => true,
            },
        }
    }
}

/// Whether a frame came in that is for another machine.
fn is_overheard(at: &Opening<'_>) -> bool {
    let mac = at.parsed.mac;
    let is_uplink = at.place.interface.starts_with("up");
    match at.place.hook {
        Hook::Xdp => mac != UP0_MAC,
        Hook::TcIngress => is_uplink && mac[0] & 1 == 0 && mac != UP0_MAC,
        Hook::TcEgress => false,
    }
}
