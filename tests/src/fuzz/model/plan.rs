//! How a new connection to a backend goes, and how its replies come back.

use std::net::SocketAddr;

use lb_common::{Hook, Verdict};

use super::{
    connections::{Edge, Path},
    parse::Parsed,
    routes::{Route, own, owner, route},
};
use crate::{
    fuzz::{
        flow::Flow,
        world::{Backend, Frontend},
    },
    packet::Place,
};

/// Who sends the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Pod,
    Outside,
    Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What the packet becomes, if the port of its source is free.
    pub(crate) translated: Flow,
    pub(crate) path: Path,
    pub(crate) edge: Edge,
    pub(crate) reply_path: Path,
}

/// The packet that opens a connection.
#[derive(Clone, Copy)]
pub(crate) struct Opening<'a> {
    pub(crate) place: Place,
    pub(crate) frame: &'a [u8],
    pub(crate) parsed: &'a Parsed,
    /// Whether XDP runs on the uplinks.
    pub(crate) has_xdp: bool,
}

impl Opening<'_> {
    pub(crate) fn client(&self) -> Client {
        match self.place.hook {
            Hook::Xdp => Client::Outside,
            Hook::TcEgress => Client::Node,
            Hook::TcIngress if self.place.interface.starts_with("pod") => Client::Pod,
            Hook::TcIngress => Client::Outside,
        }
    }

    pub(crate) fn plan(&self, frontend: &Frontend, backend: &Backend) -> Result<Plan, Verdict> {
        let source = self.parsed.flow.source;
        match self.client() {
            Client::Pod if backend.at.ip() == source.ip() => Ok(self.hairpin(backend)),
            Client::Pod if !frontend.masquerade => Ok(self.straight(backend)),
            Client::Outside if !frontend.masquerade && backend.local => Ok(self.straight(backend)),
            Client::Pod | Client::Outside => self.through(frontend, backend),
            Client::Node => self.of_node(backend),
        }
    }

    /// The stack does the rest, both ways.
    fn straight(&self, backend: &Backend) -> Plan {
        Plan {
            translated: Flow {
                destination: backend.at,
                ..self.parsed.flow
            },
            path: Path::Stack,
            edge: Edge::Egress,
            reply_path: Path::Stack,
        }
    }

    fn hairpin(&self, backend: &Backend) -> Plan {
        let mut plan = self.straight(backend);
        self.masquerade(&mut plan, self.place.interface);
        Plan {
            path: Path::Bounce,
            edge: Edge::Ingress,
            reply_path: Path::Bounce,
            ..plan
        }
    }

    fn through(&self, frontend: &Frontend, backend: &Backend) -> Result<Plan, Verdict> {
        let mut plan = self.straight(backend);
        let (interface, is_known) = match self.route(&plan.translated) {
            Route::NotForwarded if owner(backend.at.ip()).is_some() => return Ok(plan),
            Route::NotForwarded | Route::Prohibited => return Err(Verdict::NoRoute),
            Route::Out { interface, macs } => (interface, macs.is_some()),
        };
        if !frontend.masquerade && interface.starts_with("pod") {
            return Ok(plan);
        }
        if !self.can_send(interface, is_known) {
            return Err(Verdict::Deferred);
        }
        self.masquerade(&mut plan, interface);
        Ok(Plan {
            path: Path::Route,
            edge: Edge::Ingress,
            reply_path: Path::Route,
            ..plan
        })
    }

    fn of_node(&self, backend: &Backend) -> Result<Plan, Verdict> {
        let mut plan = self.straight(backend);
        if owner(backend.at.ip()).is_some() {
            if self.place.interface != "lo" {
                plan.path = Path::Local;
            }
            return Ok(plan);
        }
        let Route::Out { interface, .. } = self.route(&plan.translated) else {
            return Err(Verdict::NoRoute);
        };
        let Flow {
            source,
            destination,
            ..
        } = self.parsed.flow;
        if source.ip().is_loopback()
            || source.ip() == destination.ip()
            || owner(source.ip()).is_none()
            || self.leaves_elsewhere(interface)
        {
            self.masquerade(&mut plan, interface);
        }
        let is_own = source.ip().is_loopback() || owner(source.ip()).is_some();
        Ok(Plan {
            path: Path::Route,
            edge: Edge::Ingress,
            reply_path: if is_own { Path::Local } else { Path::Stack },
            ..plan
        })
    }

    /// By another interface than that of the frontend, which has an address of
    /// its own.
    fn leaves_elsewhere(&self, interface: &str) -> bool {
        let source = self.parsed.flow.source.ip();
        interface != self.place.interface
            && !interface.starts_with("pod")
            && own(interface, source) != source
    }

    fn masquerade(&self, plan: &mut Plan, interface: &str) {
        let Flow { source, .. } = self.parsed.flow;
        plan.translated.source = SocketAddr::new(own(interface, source.ip()), source.port());
    }

    pub(crate) fn route(&self, translated: &Flow) -> Route {
        let [source, destination] = [translated.source, translated.destination].map(|end| end.ip());
        route(source, destination)
    }

    /// XDP sends plain frames to known neighbours on uplinks that run it.
    pub(crate) fn can_send(&self, interface: &str, is_known: bool) -> bool {
        let is_plain = self.parsed.network == 14;
        let is_uplink = interface.starts_with("up");
        let runs_xdp = self.has_xdp || interface == self.place.interface;
        self.place.hook != Hook::Xdp || is_plain && is_known && is_uplink && runs_xdp
    }
}
