//! A sequence, sent through the programs and the model side by side.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use lb_common::{Connection as Held, Hook, Verdict};

use super::{
    difference::Difference,
    flow::Flow,
    make::{Trace, answering, make},
    model::{Change, Connection, Model, Seen, Way},
    node::{Node, Outcome},
    ports::all_of,
    sequence::{Sequence, Talk, What},
    world::World,
};
use crate::packet::{
    Place, Returned,
    action::{TC_DROP, TC_PASS, XDP_DROP, XDP_PASS},
};

/// Answers after which limits of refusals are lifted anew: a client may have
/// 100 at once.
const REFUSALS: u32 = 90;

pub(crate) struct Player<'a> {
    node: &'a mut Node,
    world: &'a World,
    refused: u32,
    verdicts: BTreeMap<(u32, u32), u64>,
}

impl<'a> Player<'a> {
    pub(crate) fn new(node: &'a mut Node, world: &'a World) -> Self {
        Self {
            node,
            world,
            refused: 0,
            verdicts: BTreeMap::new(),
        }
    }

    /// Packets by hook and verdict.
    pub(crate) fn verdicts(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let named = |(&(hook, verdict), &count): (&(u32, u32), &u64)| {
            let (hook, verdict) = (Hook::ALL[hook as usize], Verdict::ALL[verdict as usize]);
            ((hook.name(), verdict.name()), count)
        };
        self.verdicts.iter().map(named).collect()
    }

    /// Sends the packets to a node that knows no connection. Tells how many
    /// were sent, and the first difference.
    pub(crate) fn play(&mut self, sequence: &Sequence) -> Result<(u64, Option<Difference>)> {
        let mut model = Model::new(self.world, sequence.has_xdp, sequence.quota.into());
        self.node.set_quota(sequence.quota)?;
        self.node.say_xdp(sequence.has_xdp)?;
        let mut result = self.play_with(sequence, &mut model);
        if let Ok((_, difference @ None)) = &mut result
            && !model.is_unsure()
        {
            *difference = self.compare_tables(sequence, &model)?;
        } else {
            // What was not compared is not to be counted with what comes next.
            self.node.uncalled()?;
        }
        self.refused += model.refused();
        if self.refused > REFUSALS {
            self.node.forget_refusals()?;
            self.refused = 0;
        }
        for (flow, ..) in model.elements() {
            self.node.forget(flow)?;
        }
        for key in model.fragments().keys() {
            self.node.forget_fragment(key)?;
        }
        if model.fragments().has_held() {
            self.node.forget_held()?;
        }
        for (service, _) in model.held() {
            self.node.forget_holdings(service)?;
        }
        if result
            .as_ref()
            .is_ok_and(|(_, difference)| difference.is_some())
        {
            self.forget_all()?;
            self.node.forget_held()?;
        }
        for service in model.changed() {
            let all = all_of(self.world, service);
            self.node.change(self.world, service, &all)?;
        }
        for (client, service) in model.clients() {
            self.node.forget_client(client, service)?;
        }
        result
    }

    /// Sends a frame through both; what came out, or how they part.
    fn send(
        &mut self,
        place: Place,
        frame: Vec<u8>,
        model: &mut Model<'_>,
    ) -> Result<Result<Outcome, Difference>> {
        let returned = self.node.run(place, &frame)?;
        let node = &*self.node;
        let translated = |flow: &Flow| {
            let connection = node.connection(flow).ok().flatten();
            connection.map(|(connection, _)| Flow::from(&connection.translated))
        };
        let verdict = || node.verdict(place.hook).ok();
        let seen = Seen {
            verdict: &verdict,
            translated: &translated,
        };
        let expected = model.run(place, &frame, &seen);
        let mut found = self.outcome(place.hook, returned, expected.as_ref().ok())?;
        // Nobody sees what is left of it.
        if is_dropped(place, &found) {
            found.bytes.clear();
        }
        if expected.as_ref() == Ok(&found) {
            return Ok(Ok(found));
        }
        Ok(Err(Difference {
            step: 0,
            place,
            frame,
            found: Some(found),
            expected,
        }))
    }

    /// What came out, with the verdict that it was counted by.
    fn outcome(
        &mut self,
        hook: Hook,
        Returned { action, bytes }: Returned,
        expected: Option<&Outcome>,
    ) -> Result<Outcome> {
        let mut verdict = None;
        if let Some(expected) = expected
            && self.node.is_counted(hook, expected.verdict)?
        {
            verdict = Some(expected.verdict);
        }
        let verdict = verdict.map_or_else(|| self.node.verdict(hook), Ok)?;
        let what = (hook as u32, verdict as u32);
        *self.verdicts.entry(what).or_default() += 1;
        Ok(Outcome {
            verdict,
            action,
            bytes,
        })
    }

    /// Does what is no packet; `false` if it is one.
    fn happens(
        &mut self,
        talk: &Talk,
        trace: &Trace,
        what: &What,
        model: &mut Model<'_>,
    ) -> Result<bool> {
        match what {
            What::Change(number, change) => self.change(talk, *number, *change, model)?,
            What::Wait(seconds) => {
                for (flow, ..) in model.elements() {
                    self.node.age(flow, *seconds)?;
                }
                for key in model.fragments().keys() {
                    self.node.age_fragment(key, *seconds)?;
                }
                if model.fragments().has_held() {
                    self.node.forget_held()?;
                }
                model.wait(*seconds);
            }
            What::Collect => {
                model.collect();
                self.node.collect()?;
            }
            What::Restart => {
                let endpoints = |service| model.endpoints(service);
                self.node.restart(self.world, endpoints)?;
                model.lose_held();
            }
            What::Evict(way) => {
                let asked = Flow {
                    source: talk.client,
                    destination: talk.frontend,
                    protocol: talk.protocol,
                };
                let (source, destination) = answering(talk, trace);
                let flow = match way {
                    Way::Forward => asked,
                    Way::Reply => Flow {
                        source,
                        destination,
                        ..asked
                    },
                };
                if model.evict(&flow) {
                    self.node.evict(&flow)?;
                }
            }
            What::Request(_) | What::Reply(_) | What::Error(_) | What::Onward | What::Raw(_) => {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn forget_all(&mut self) -> Result<()> {
        for flow in self.node.flows()? {
            self.node.forget(&flow)?;
        }
        self.node.forget_all_clients()
    }

    fn change(
        &mut self,
        talk: &Talk,
        number: usize,
        change: Change,
        model: &mut Model<'_>,
    ) -> Result<()> {
        let frontend = self.world.frontends.get(&(talk.frontend, talk.protocol));
        let Some(service) = frontend.map(|frontend| frontend.service) else {
            return Ok(());
        };
        let all = &self.world.services[service].backends;
        let Some(backend) = all.get(number % all.len().max(1)) else {
            return Ok(());
        };
        let endpoints = model.change(service, *backend, change);
        self.node.change(self.world, service, &endpoints)
    }

    /// Whether the node knows what the model knows.
    fn compare_tables(
        &mut self,
        sequence: &Sequence,
        model: &Model<'_>,
    ) -> Result<Option<Difference>> {
        let uncalled = self.node.uncalled()?;
        if !uncalled.is_empty() {
            let reason = format!("counted beside what was sent: {uncalled:?}");
            return Ok(Some(Difference::at_the_end(sequence, reason)));
        }
        for (flow, way, connection) in model.elements() {
            let held = self.node.connection(flow)?;
            if !held.is_some_and(|held| is_same(connection, way, held)) {
                let reason = format!("{flow} is {held:?} in the table, expected {connection:?}");
                return Ok(Some(Difference::at_the_end(sequence, reason)));
            }
        }
        for (service, count) in model.held() {
            let held = self.node.held(service)?;
            if held != count {
                let reason = format!("service {service:?} holds {held}, expected {count}");
                return Ok(Some(Difference::at_the_end(sequence, reason)));
            }
        }
        Ok(None)
    }

    /// Makes sure that nothing is left of what was played.
    pub(crate) fn ensure_clean(&self) -> Result<()> {
        let left = self.node.flows()?;
        ensure!(
            left.is_empty(),
            "nobody knows of these connections: {left:?}"
        );
        Ok(())
    }

    fn play_with(
        &mut self,
        sequence: &Sequence,
        model: &mut Model<'_>,
    ) -> Result<(u64, Option<Difference>)> {
        let mut traces = vec![Trace::default(); sequence.talks.len()];
        let mut sent = 0;
        for (index, step) in sequence.steps.iter().enumerate() {
            let talk = &sequence.talks[step.talk];
            let trace = &mut traces[step.talk];
            if self.happens(talk, trace, &step.what, model)? {
                continue;
            }
            let Some((place, frame)) = make(sequence, talk, trace, step, model) else {
                continue;
            };
            let is_request = matches!(step.what, What::Request(_));
            let mut frames = vec![frame];
            while let Some(frame) = frames.pop() {
                sent += 1;
                match self.send(place, frame, model)? {
                    Ok(found) => {
                        if is_request {
                            trace.request = Some(found.bytes.clone());
                        }
                        let is_left = is_left(place, &found);
                        trace.last = Some((place, found.bytes, is_left));
                    }
                    Err(_) if model.is_unsure() => break,
                    Err(difference) => {
                        let difference = Difference {
                            step: index,
                            ..difference
                        };
                        return Ok((sent, Some(difference)));
                    }
                }
                frames.extend(model.take_again().into_iter().rev());
            }
            if model.is_unsure() {
                break;
            }
        }
        Ok((sent, None))
    }
}

fn is_dropped(place: Place, found: &Outcome) -> bool {
    found.action
        == match place.hook {
            Hook::Xdp => XDP_DROP,
            Hook::TcIngress | Hook::TcEgress => TC_DROP,
        }
}

fn is_left(place: Place, found: &Outcome) -> bool {
    found.action
        == match place.hook {
            Hook::Xdp => XDP_PASS,
            Hook::TcIngress | Hook::TcEgress => TC_PASS,
        }
}

/// Whether the table holds what the model knows of.
fn is_same(known: &Connection, way: Way, (held, is_assured): (Held, bool)) -> bool {
    let is_reply = held.flags & Held::REPLY != 0;
    let state = lb_common::Life::unpack(held.life).state as u32;
    Flow::from(&held.translated) == known.becomes(way)
        && is_reply == (way == Way::Reply)
        && is_assured == known.is_assured
        && (is_reply || state == known.state as u32)
}
