//! Packets in parts: how they find what their first part says.

use std::net::IpAddr;

use lb_common::{Hook, Verdict};

use super::{
    Model, Seen, Step,
    connections::Way,
    fragments::{self, Fragments, Key, Room},
    is_pod,
    parse::{Parsed, Part},
    plan::Opening,
    routes::owner,
    send::send,
};
use crate::{
    fuzz::node::Outcome,
    packet::{Place, action::TC_DROP},
};

impl Model<'_> {
    pub(super) fn run_parsed(
        &mut self,
        place: Place,
        frame: &[u8],
        mut parsed: Parsed,
        seen: &Seen<'_>,
    ) -> Result<Step<Outcome>, String> {
        let known = match parsed.part {
            Part::Whole => Ok(None),
            Part::First => self.remember(place, frame, &parsed),
            Part::Later => self.recall(place, frame, &mut parsed, seen),
        };
        let at = Opening {
            place,
            frame,
            parsed: &parsed,
            has_xdp: self.has_xdp,
        };
        if parsed.part == Part::Whole && parsed.is_message() {
            return Ok(self.relate(&at));
        }
        match known {
            Err(verdict) => Ok(Err(verdict)),
            Ok(Some(outcome)) => Ok(Ok(outcome)),
            Ok(None) if parsed.part == Part::Later => {
                let result = self.process_later(&at);
                Ok(self.tell(&at, result))
            }
            Ok(None) => {
                let result = self.process(&at, seen)?;
                Ok(self.tell(&at, result))
            }
        }
    }

    /// Notes the ports of a first part. If others wait for it, it and they are
    /// sent to the same place again.
    fn remember(&mut self, place: Place, frame: &[u8], parsed: &Parsed) -> Step<Option<Outcome>> {
        let key = fragments::key(parsed);
        let is_waiting = self.fragments.is_waiting(&key);
        if is_waiting && place.hook == Hook::Xdp {
            return Err(Verdict::Deferred);
        }
        self.fragments.remember(parsed, self.now);
        match (self.release(place, frame, &key), parsed.flaw) {
            (None, Some(flaw)) => Err(flaw),
            (outcome, _) => Ok(outcome),
        }
    }

    /// Sends parts that wait to the same place again, after this one.
    fn release(&mut self, place: Place, frame: &[u8], key: &Key) -> Option<Outcome> {
        if place.hook == Hook::Xdp || !self.fragments.is_waiting(key) {
            return None;
        }
        self.again = vec![frame.to_vec()];
        self.again.extend(self.fragments.release(key));
        Some(Outcome {
            verdict: Verdict::Passing,
            action: TC_DROP,
            bytes: Vec::new(),
        })
    }

    /// Whether nobody needs the part before the first one.
    fn is_awaited(&self, place: Place, to: IpAddr) -> bool {
        let is_owned = place.hook != Hook::TcEgress && owner(to).is_some();
        is_owned || is_pod(place.interface) || self.world.cluster_ips.contains(&to)
    }

    /// Gives a later part its ports; without them it waits, if it may.
    fn recall(
        &mut self,
        place: Place,
        frame: &[u8],
        parsed: &mut Parsed,
        seen: &Seen<'_>,
    ) -> Step<Option<Outcome>> {
        let key = fragments::key(parsed);
        if let Some((flow, age)) = self.fragments.recall(&key, self.now) {
            self.is_unsure |= Fragments::is_on_edge(age);
            if !Fragments::is_old(age) {
                parsed.flow = flow;
                return Ok(self.release(place, frame, &key));
            }
        }
        if place.hook == Hook::Xdp {
            return Err(Verdict::Deferred);
        }
        let to = parsed.flow.destination.ip();
        let is_cluster_ip = self.world.cluster_ips.contains(&to);
        if !self.is_awaited(place, to) {
            return Err(Verdict::Fragment);
        }
        let has_room = match self.fragments.room(&key, frame) {
            Room::Yes => true,
            Room::No => false,
            Room::Perhaps => (seen.verdict)() == Some(Verdict::Held),
        };
        if has_room {
            self.fragments.hold(key, frame);
            return Err(Verdict::Held);
        }
        Err(match is_cluster_ip {
            true => Verdict::FragmentLost,
            false => Verdict::Fragment,
        })
    }

    /// The first part may be on its way to open the connection: a later one
    /// waits once.
    fn without_connection(&self, at: &Opening<'_>) -> Verdict {
        let flow = &at.parsed.flow;
        let may_wait = flow.source.port() != 0 && at.place.hook == Hook::TcIngress;
        let to = flow.destination.ip();
        let is_ours = owner(to).is_some() || self.world.cluster_ips.contains(&to);
        match may_wait && is_ours {
            true => Verdict::Held,
            false => Verdict::Fragment,
        }
    }

    /// A part whose ports are those of the first one: it changes nothing in its
    /// connection.
    fn process_later(&mut self, at: &Opening<'_>) -> Step<Outcome> {
        let Some((number, way)) = self.connections.get(&at.parsed.flow) else {
            return Err(self.without_connection(at));
        };
        let verdict = match way {
            Way::Forward if self.is_elsewhere(at, number) => return Err(Verdict::OtherHook),
            Way::Forward => Verdict::Forward,
            Way::Reply => self.reply(at, number)?,
        };
        let connection = self.connections.by_number(number);
        send(at, connection.ok_or(Verdict::Fragment)?, way, verdict)
    }
}
