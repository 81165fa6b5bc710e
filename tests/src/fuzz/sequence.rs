//! Packets in the order they are sent, as they are made, not as they are: a
//! reply is one to what came out, whatever that was.

use std::net::SocketAddr;

use super::{
    model::{Change, Way},
    world::{TCP, UDP},
};
use crate::packet::{
    Place,
    frame::{Frame, Transport},
};

#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// Whether XDP runs on the uplinks.
    pub(crate) has_xdp: bool,
    /// Assured connections that a service may have.
    pub(crate) quota: u32,
    pub(crate) talks: Vec<Talk>,
    pub(crate) steps: Vec<Step>,
}

/// A client and what it talks to.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    pub(crate) client: SocketAddr,
    pub(crate) frontend: SocketAddr,
    pub(crate) protocol: u8,
    /// Where the client's packets enter the node.
    pub(crate) entrance: Place,
    pub(crate) tags: Vec<[u16; 2]>,
    /// IPv4 options in bytes.
    pub(crate) options: usize,
    /// Type and length in bytes of each IPv6 extension header.
    pub(crate) extensions: Vec<(u8, usize)>,
    /// UDP or SCTP without a checksum.
    pub(crate) is_unsummed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Index of a [`Talk`].
    pub(crate) talk: usize,
    pub(crate) place: Where,
    pub(crate) what: What,
    pub(crate) edits: Vec<Edit>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Where {
    /// Where the client's packets enter.
    Entrance,
    /// Where the frame would come by next.
    Next,
    At(Place),
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// From the client to the frontend.
    Request(Content),
    /// To what came out for the client's last packet.
    Reply(Content),
    /// An ICMP error about what came out last, or what went in.
    Error(Fault),
    /// What came out last, once more.
    Onward,
    Raw(Vec<u8>),
    /// Seconds without a packet.
    Wait(u64),
    /// The kernel gives away the element of this direction.
    Evict(Way),
    /// The agent removes connections that are over.
    Collect,
    /// Another agent takes over.
    Restart,
    /// An endpoint of the talk's service, by a number that wraps around.
    Change(usize, Change),
}

#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// TCP's flags, or the type of SCTP's first chunk.
    pub(crate) mark: u8,
    pub(crate) hops: u8,
    /// Destination of the frame; the node's if there is none.
    pub(crate) mac: Option<[u8; 6]>,
    /// Length in bytes.
    pub(crate) payload: usize,
    pub(crate) part: Option<Piece>,
}

/// One of the fragments that a packet is cut into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) id: u32,
    /// Of all but the last one, in bytes.
    pub(crate) size: usize,
    /// Which one, by a number that wraps around.
    pub(crate) number: usize,
}

/// An ICMP error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) hops: u8,
    /// From a router, not from where the packet was sent to.
    pub(crate) is_by_router: bool,
    /// How much is quoted, in bytes.
    pub(crate) quote: usize,
}

/// What an offset counts from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Base {
    Frame,
    Network,
    Transport,
}

/// A change to a frame that is made. What lies outside is left out.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Flip {
        base: Base,
        bit: usize,
    },
    Set {
        base: Base,
        at: usize,
        to: Vec<u8>,
    },
    /// To so many bytes.
    Cut(usize),
    Pad(usize),
    /// Makes the IPv4 header's checksum right.
    Sum,
}

/// A frame, and where its headers begin.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) bytes: Vec<u8>,
    pub(crate) network: usize,
    pub(crate) transport: usize,
}

impl From<&Frame> for Made {
    fn from(frame: &Frame) -> Self {
        Self {
            bytes: frame.bytes(),
            network: frame.network(),
            transport: frame.transport_offset(),
        }
    }
}

impl Made {
    pub(crate) fn edit(&mut self, edit: &Edit) {
        let base = |base| match base {
            Base::Frame => 0,
            Base::Network => self.network,
            Base::Transport => self.transport,
        };
        match edit {
            Edit::Flip { base: from, bit } => {
                if let Some(byte) = self.bytes.get_mut(base(*from) + bit / 8) {
                    *byte ^= 0x80 >> (bit % 8);
                }
            }
            Edit::Set { base: from, at, to } => {
                let at = base(*from) + at;
                if let Some(old) = self.bytes.get_mut(at..at + to.len()) {
                    old.copy_from_slice(to);
                }
            }
            Edit::Cut(length) => self.bytes.truncate(*length),
            Edit::Pad(length) => self.bytes.resize(self.bytes.len() + length, 0x5a),
            Edit::Sum => self.sum(),
        }
    }

    fn sum(&mut self) {
        let Some(header) = self.bytes.get_mut(self.network..) else {
            return;
        };
        let length = header
            .first()
            .map_or(0, |first| usize::from(first & 0xf) * 4);
        if length < 20 || header.len() < length || header[0] >> 4 != 4 {
            return;
        }
        header[10..12].fill(0);
        let sum = crate::packet::frame::checksum(&header[..length]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

impl Talk {
    pub(crate) fn transport(&self, mark: u8) -> Transport {
        match self.protocol {
            TCP => Transport::Tcp(mark),
            UDP if self.is_unsummed => Transport::UdpUnsummed,
            UDP => Transport::Udp,
            _ if self.is_unsummed => Transport::SctpUnsummed(mark),
            _ => Transport::Sctp(mark),
        }
    }
}
