//! Packets in parts: how they find what their first part says.

use lb_common::{Hook, Verdict};

use super::{
    Model, Seen, Step,
    connections::Way,
    fragments::{self, Fragments, Room},
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
            Part::Later => self.recall(place, frame, &mut parsed, seen).map(|()| None),
        };
        let at = Opening {
            place,
            frame,
            parsed: &parsed,
            has_xdp: self.has_xdp,
        };
        match known {
            Err(verdict) => Ok(Err(verdict)),
            Ok(Some(outcome)) => Ok(Ok(outcome)),
            Ok(None) if parsed.part == Part::Later => Ok(self.process_later(&at)),
            Ok(None) => self.process(&at, seen),
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
        if !is_waiting {
            return Ok(None);
        }
        self.again = vec![frame.to_vec()];
        self.again.extend(self.fragments.release(&key));
        Ok(Some(Outcome {
            verdict: Verdict::Passing,
            action: TC_DROP,
            bytes: Vec::new(),
        }))
    }

    /// Gives a later part its ports; without them it waits, if it may.
    fn recall(
        &mut self,
        place: Place,
        frame: &[u8],
        parsed: &mut Parsed,
        seen: &Seen<'_>,
    ) -> Step<()> {
        let key = fragments::key(parsed);
        if let Some((ports, age)) = self.fragments.recall(&key, self.now) {
            self.is_unsure |= Fragments::is_on_edge(age);
            if !Fragments::is_old(age) {
                parsed.flow.source.set_port(ports[0]);
                parsed.flow.destination.set_port(ports[1]);
                return Ok(());
            }
        }
        if place.hook == Hook::Xdp {
            return Err(Verdict::Deferred);
        }
        let to = parsed.flow.destination.ip();
        let is_cluster_ip = self.world.cluster_ips.contains(&to);
        let is_awaited = match place.hook {
            Hook::TcEgress => is_pod(place.interface),
            Hook::Xdp | Hook::TcIngress => owner(to).is_some() || is_cluster_ip,
        };
        if !is_awaited {
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

    /// A part whose ports are those of the first one: it changes nothing in its
    /// connection.
    fn process_later(&mut self, at: &Opening<'_>) -> Step<Outcome> {
        let known = self.connections.get(&at.parsed.flow);
        let (number, way) = known.ok_or(Verdict::Fragment)?;
        let verdict = match way {
            Way::Forward if self.is_elsewhere(at, number) => return Err(Verdict::OtherHook),
            Way::Forward => Verdict::Forward,
            Way::Reply => self.reply(at, number)?,
        };
        let connection = self.connections.by_number(number);
        send(at, connection.ok_or(Verdict::Fragment)?, way, verdict)
    }
}
