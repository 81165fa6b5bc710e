//! Frames, made of a step and what came out before it.

use std::net::SocketAddr;

use lb_common::Hook;

use super::{
    model::{Edge, Model, Way, is_cut_part, parse},
    sequence::{Content, Made, Sequence, Step, Talk, What, Where},
};
use crate::packet::{
    Place, at, fragments,
    frame::{Frame, NODE_MAC},
};

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
    // Nothing is specified for it, and no stack takes it.
    let is_specified = !is_cut_part(&made.bytes);
    (is_specified && is_runnable(place, &made.bytes)).then_some((place, made.bytes))
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
