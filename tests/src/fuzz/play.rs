//! A sequence, sent through the programs and the model side by side.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use anyhow::{Result, ensure};
use lb_common::{Connection as Held, Hook, Verdict};

use super::{
    flow::Flow,
    model::{Change, Connection, Edge, Model, Seen, Way, parse},
    node::{Node, Outcome, all_of},
    place::PLACES,
    sequence::{Content, Made, Sequence, Step, Talk, What, Where},
    world::World,
};
use crate::packet::{
    Place, Returned,
    action::{TC_DROP, TC_PASS, XDP_DROP, XDP_PASS},
    at, fragments,
    frame::{Frame, NODE_MAC},
};

/// Answers after which limits of refusals are lifted anew: a client may have
/// 100 at once.
const REFUSALS: u32 = 90;

/// Where programs and model part.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// Index of the step.
    pub(crate) step: usize,
    pub(crate) place: Place,
    pub(crate) frame: Vec<u8>,
    pub(crate) found: Option<Outcome>,
    pub(crate) expected: Result<Outcome, String>,
}

pub(crate) struct Player<'a> {
    node: &'a mut Node,
    world: &'a World,
    refused: u32,
    verdicts: BTreeMap<(u32, u32), u64>,
}

/// What the next frames of a talk are made of.
#[derive(Clone, Default)]
struct Trace {
    /// What came out for the client's last packet.
    request: Option<Vec<u8>>,
    /// What came out last, where, and whether it was left to the stack.
    last: Option<(Place, Vec<u8>, bool)>,
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
            What::Request(_) | What::Reply(_) | What::Onward | What::Raw(_) => return Ok(false),
        }
        Ok(true)
    }

    fn forget_all(&mut self) -> Result<()> {
        for flow in self.node.flows()? {
            self.node.forget(&flow)?;
        }
        self.node.forget_all_clients()?;
        self.node.uncalled()?;
        Ok(())
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

/// The step's frame and where it goes, if it can be sent.
fn make(
    sequence: &Sequence,
    talk: &Talk,
    trace: &Trace,
    step: &Step,
    model: &Model<'_>,
) -> Option<(Place, Vec<u8>)> {
    let mut made = match &step.what {
        What::Request(content) => cut(&frame(talk, content, talk.client, talk.frontend), content),
        What::Reply(content) => {
            let (from, to) = answering(talk, trace);
            cut(&frame(talk, content, from, to), content)
        }
        What::Onward => {
            let (_, bytes, _) = trace.last.as_ref()?;
            made_of(bytes.clone())
        }
        What::Raw(bytes) => made_of(bytes.clone()),
        What::Change(..) | What::Wait(_) | What::Evict(_) => return None,
        What::Collect | What::Restart => return None,
    };
    let place = match step.place {
        Where::At(place) => place,
        Where::Entrance => talk.entrance,
        Where::Next => match &step.what {
            What::Onward => next(trace)?,
            _ => reply_place(sequence, talk, &made, model),
        },
    };
    for edit in &step.edits {
        made.edit(edit);
    }
    is_runnable(place, &made.bytes).then_some((place, made.bytes))
}

fn frame(talk: &Talk, content: &Content, source: SocketAddr, destination: SocketAddr) -> Frame {
    let mut frame = Frame::new(talk.transport(content.mark), source, destination);
    frame.macs[0] = content.mac.unwrap_or(NODE_MAC);
    frame.tags.clone_from(&talk.tags);
    frame.options = talk.options;
    frame.extensions.clone_from(&talk.extensions);
    frame.hops = content.hops;
    frame.payload = (0..content.payload).map(|index| index as u8).collect();
    frame
}

/// The frame, or the part of it that is to be sent.
fn cut(frame: &Frame, content: &Content) -> Made {
    let mut made = Made::from(frame);
    if let Some(piece) = content.part {
        let mut pieces = fragments(frame, piece.id, &[piece.size; 4]);
        let number = piece.number % pieces.len();
        made.bytes = pieces.swap_remove(number);
    }
    made
}

fn made_of(bytes: Vec<u8>) -> Made {
    Made {
        bytes,
        network: 14,
        transport: 34,
    }
}

/// Ends of the reply to what came out last.
fn answering(talk: &Talk, trace: &Trace) -> (SocketAddr, SocketAddr) {
    let request = trace.request.as_ref();
    let out = request.and_then(|bytes| parse(bytes).ok());
    out.map_or((talk.frontend, talk.client), |out| {
        (out.flow.destination, out.flow.source)
    })
}

/// Where the stack would send the frame that was left to it.
fn next(trace: &Trace) -> Option<Place> {
    let (place, _, is_left) = trace.last.as_ref()?;
    if !is_left {
        return None;
    }
    Some(match place.hook {
        Hook::Xdp => at(Hook::TcIngress, place.interface),
        Hook::TcIngress => Place {
            hook: Hook::TcEgress,
            interface: if place.interface == "pod0" {
                "up0"
            } else {
                "pod0"
            },
            origin: Some(place.interface),
        },
        Hook::TcEgress => return None,
    })
}

/// Where a reply meets the program that is to translate it.
fn reply_place(sequence: &Sequence, talk: &Talk, made: &Made, model: &Model<'_>) -> Place {
    let flow = parse(&made.bytes).ok().map(|parsed| parsed.flow);
    let known = flow.as_ref().and_then(|flow| model.connection(flow));
    let is_at_egress =
        known.is_some_and(|(known, way)| way == Way::Reply && known.edge == Edge::Egress);
    if is_at_egress {
        return at(Hook::TcEgress, talk.entrance.interface);
    }
    let from = flow.map(|flow| flow.source.ip());
    let interface = from.map_or("up0", home);
    match sequence.has_xdp && interface.starts_with("up") {
        true => at(Hook::Xdp, interface),
        false => at(Hook::TcIngress, interface),
    }
}

/// Interface behind which an address is.
fn home(address: std::net::IpAddr) -> &'static str {
    use crate::packet::wiring::{CLIENT1, POD, POD1, REMOTE1};
    match address {
        _ if POD.contains(address) => "pod0",
        _ if POD1.contains(address) => "pod1",
        _ if REMOTE1.contains(address) || CLIENT1.contains(address) => "up1",
        _ => "up0",
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

/// What BPF_PROG_TEST_RUN accepts: for TC, a whole IP header behind an IP
/// EtherType; else one byte behind Ethernet.
fn is_runnable(place: Place, frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([8, 0]) if place.hook != Hook::Xdp => 34,
        Some([0x86, 0xdd]) if place.hook != Hook::Xdp => 54,
        _ => 15,
    };
    frame.len() >= least
}

impl Difference {
    fn at_the_end(sequence: &Sequence, reason: String) -> Self {
        Self {
            step: sequence.steps.len().saturating_sub(1),
            place: PLACES[0],
            frame: Vec::new(),
            found: None,
            expected: Err(reason),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let Self { step, place, .. } = self;
        writeln!(
            f,
            "step {step} at {} {}",
            place.hook.name(),
            place.interface
        )?;
        match parse(&self.frame) {
            Ok(parsed) => writeln!(f, "  {}, mark {:#x}", parsed.flow, parsed.mark)?,
            Err(verdict) => writeln!(f, "  {verdict:?}")?,
        }
        writeln!(f, "  in       {}", hex(&self.frame))?;
        if let Some(found) = &self.found {
            writeln!(f, "  out      {}", hex(&found.bytes))?;
        }
        match &self.expected {
            Ok(expected) => writeln!(f, "  expected {}", hex(&expected.bytes))?,
            Err(reason) => writeln!(f, "  {reason}")?,
        }
        if let (Some(found), Ok(expected)) = (&self.found, &self.expected) {
            writeln!(
                f,
                "  expected {:?}, action {}; found {:?}, action {}",
                expected.verdict, expected.action, found.verdict, found.action
            )?;
        }
        Ok(())
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
