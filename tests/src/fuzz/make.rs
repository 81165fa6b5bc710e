//! Frames, made of a step and what came out before it.

use std::net::{IpAddr, SocketAddr};

use lb_common::Hook;

use super::{
    model::{Edge, Model, Way, parse, quoted},
    sequence::{Content, Fault, Made, Sequence, Step, Talk, What, Where},
};
use crate::lab::{Family, Pair};
use crate::packet::{
    Icmp, Place, at, fragments,
    frame::{CLIENT_MAC, Frame, NODE_MAC},
    wiring::outer,
};

/// Somewhere on the way to the backends.
const ROUTER: Pair = outer(0, 2);

/// What the next frames of a talk are made of.
#[derive(Clone, Default)]
pub(crate) struct Trace {
    /// What came out for the client's last packet.
    pub(crate) request: Option<Vec<u8>>,
    /// What came out last, where, and whether it was left to the stack.
    pub(crate) last: Option<(Place, Vec<u8>, bool)>,
}

/// The step's frame and where it goes, if it can be sent.
pub(crate) fn make(
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
        What::Error(fault) => {
            let (_, bytes, _) = trace.last.as_ref()?;
            error(bytes, fault)?
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
            What::Error(_) => error_place(sequence, talk, &made, model),
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

/// The error that the packet's destination, or a router, tells its sender.
fn error(about: &[u8], fault: &Fault) -> Option<Made> {
    let parsed = parse(about).ok()?;
    let (from, to) = (parsed.flow.destination.ip(), parsed.flow.source.ip());
    let mut quote = about[parsed.network..].to_vec();
    quote.truncate(fault.quote);
    let error = Icmp {
        macs: [NODE_MAC, CLIENT_MAC],
        tags: Vec::new(),
        hops: fault.hops,
        source: match fault.is_by_router {
            true => ROUTER.get(Family::of(from)),
            false => from,
        },
        destination: to,
        kind: fault.kind,
        code: fault.code,
        // An MTU, where the error has one.
        rest: [0, 0, 5, 0],
        body: quote,
    };
    Some(Made {
        bytes: error.bytes(),
        network: 14,
        transport: if from.is_ipv4() { 34 } else { 54 },
    })
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
pub(crate) fn answering(talk: &Talk, trace: &Trace) -> (SocketAddr, SocketAddr) {
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
    from_outside(sequence, flow.map(|flow| flow.source.ip()))
}

fn from_outside(sequence: &Sequence, from: Option<IpAddr>) -> Place {
    let interface = from.map_or("up0", home);
    match sequence.has_xdp && interface.starts_with("up") {
        true => at(Hook::Xdp, interface),
        false => at(Hook::TcIngress, interface),
    }
}

/// Where an error comes by: where replies do, or where the client's packets do.
fn error_place(sequence: &Sequence, talk: &Talk, made: &Made, model: &Model<'_>) -> Place {
    let end = made.bytes.len();
    let quote = quoted(&made.bytes, made.transport + 8, end, talk.client.is_ipv4());
    let key = quote.ok().map(|quote| quote.flow.reverse());
    match key.as_ref().and_then(|key| model.connection(key)) {
        Some((_, Way::Forward)) => talk.entrance,
        Some((known, Way::Reply)) if known.edge == Edge::Egress => {
            at(Hook::TcEgress, talk.entrance.interface)
        }
        _ => from_outside(sequence, key.map(|key| key.source.ip())),
    }
}

/// Interface behind which an address is.
fn home(address: IpAddr) -> &'static str {
    use crate::packet::wiring::{CLIENT1, POD, POD1, REMOTE1};
    match address {
        _ if POD.contains(address) => "pod0",
        _ if POD1.contains(address) => "pod1",
        _ if REMOTE1.contains(address) || CLIENT1.contains(address) => "up1",
        _ => "up0",
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
