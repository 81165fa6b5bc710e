//! How connections live: the states, what moves them, how long each lasts.

use crate::fuzz::world::{TCP, UDP};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Opening,
    Answered,
    Refused,
    Open,
    ClientClosed,
    BackendClosed,
    Finished,
    Aborted,
}

/// What a packet means to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Open,
    Accept,
    Confirm,
    Finish,
    Abort,
    Data,
    /// What no end takes.
    Void,
}

impl State {
    /// Both ends were heard.
    pub(crate) fn is_assured(self) -> bool {
        self >= Self::Open
    }

    /// A client that asks again means another connection.
    pub(crate) fn is_over(self) -> bool {
        self == Self::Refused || self > Self::Open
    }

    /// After a packet, from the backend if it is a reply.
    pub(crate) fn after(self, protocol: u8, signal: Signal, is_reply: bool) -> Self {
        let has_handshake = protocol != UDP;
        match signal {
            Signal::Abort if self.is_assured() => Self::Aborted,
            Signal::Abort => Self::Refused,
            Signal::Accept if has_handshake && is_reply && self == Self::Opening => Self::Answered,
            Signal::Confirm if is_reply && self == Self::Answered => Self::Open,
            Signal::Finish => self.after_finish(is_reply),
            Signal::Data => self.after_data(protocol, is_reply),
            Signal::Void => self,
            _ => self,
        }
    }

    fn after_finish(self, is_reply: bool) -> Self {
        match (self, is_reply) {
            (Self::Answered | Self::Open, false) => Self::ClientClosed,
            (Self::Answered | Self::Open, true) => Self::BackendClosed,
            (Self::ClientClosed, true) | (Self::BackendClosed, false) => Self::Finished,
            (other, _) => other,
        }
    }

    fn after_data(self, protocol: u8, is_reply: bool) -> Self {
        match (self, is_reply) {
            (Self::Opening, true) if protocol == UDP => Self::Open,
            (Self::Answered, false) if protocol == TCP => Self::Open,
            // The client goes on: the reset was forged.
            (Self::Aborted, false) if protocol != UDP => Self::Open,
            (other, _) => other,
        }
    }

    /// Seconds that a connection may be idle.
    pub(crate) fn timeout(self, protocol: u8) -> u64 {
        let [opening, answered, refused, open, closing, aborted] = match protocol {
            TCP => [120, 60, 10, 432_000, 120, 10],
            UDP => [30, 30, 10, 120, 120, 10],
            _ => [3, 3, 10, 210, 3, 10],
        };
        match self {
            Self::Opening => opening,
            Self::Answered => answered,
            Self::Refused => refused,
            Self::Open => open,
            Self::ClientClosed | Self::BackendClosed | Self::Finished => closing,
            Self::Aborted => aborted,
        }
    }
}

impl Signal {
    /// `mark`: flags of TCP, type of SCTP's first chunk.
    pub(crate) fn of(protocol: u8, mark: u8) -> Self {
        const FIN: u8 = 0x01;
        const SYN: u8 = 0x02;
        const RST: u8 = 0x04;
        const ACK: u8 = 0x10;

        let has = |flag| mark & flag != 0;
        match protocol {
            TCP if has(RST) => Self::Abort,
            TCP if has(SYN) && !has(FIN) && !has(ACK) => Self::Open,
            TCP if !has(ACK) => Self::Void,
            TCP if has(FIN) => Self::Finish,
            TCP if has(SYN) => Self::Accept,
            TCP | UDP => Self::Data,
            _ => match mark {
                1 => Self::Open,
                2 => Self::Accept,
                11 => Self::Confirm,
                7 | 8 => Self::Finish,
                6 | 14 => Self::Abort,
                _ => Self::Data,
            },
        }
    }
}
