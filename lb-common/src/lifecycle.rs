//! How connections live: states, what moves them, and how long each lasts.

use core::hint;

/// One machine for all protocols. The comments name TCP's states as
/// nf_conntrack calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum State {
    /// The client asked: SYN_SENT; UDP without a reply.
    Opening = 0,
    /// The backend answered, the client has not yet said so: SYN_RECV.
    Answered = 1,
    /// Reset before it was open.
    Refused = 2,
    /// ESTABLISHED; UDP with replies.
    Open = 3,
    /// The client has sent its last: FIN_WAIT.
    ClientClosed = 4,
    /// The backend has sent its last: FIN_WAIT.
    BackendClosed = 5,
    /// TIME_WAIT.
    Finished = 6,
    /// Reset after it was open: CLOSE.
    Aborted = 7,
    /// About to be removed: no packet finds it.
    Dying = 8,
}

impl State {
    /// How many states have a timeout.
    pub const LIVING: usize = 8;

    /// Any number but those of states is [`State::Dying`].
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Opening,
            1 => Self::Answered,
            2 => Self::Refused,
            3 => Self::Open,
            4 => Self::ClientClosed,
            5 => Self::BackendClosed,
            6 => Self::Finished,
            7 => Self::Aborted,
            _ => Self::Dying,
        }
    }

    /// Both sides were heard: to be kept whatever else comes.
    #[inline(always)]
    #[must_use]
    pub const fn is_assured(self) -> bool {
        self as u32 >= Self::Open as u32
    }

    /// Whether a client that asks again wants another connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Opening | Self::Answered | Self::Open)
    }
}

/// What a packet means for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Signal {
    /// TCP: SYN alone. SCTP: INIT.
    Open = 0,
    /// TCP: SYN and ACK. SCTP: INIT ACK.
    Accept = 1,
    /// SCTP: COOKIE ACK.
    Confirm = 2,
    /// TCP: FIN. SCTP: SHUTDOWN, SHUTDOWN ACK.
    Finish = 3,
    /// TCP: RST. SCTP: ABORT, SHUTDOWN COMPLETE.
    Abort = 4,
    Data = 5,
    /// TCP without ACK, SYN or RST: nobody takes it (RFC 9293, section
    /// 3.10.7.4), so it says nothing.
    Void = 6,
}

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// TCP flags (RFC 9293, section 3.1).
pub mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// SCTP chunk types (RFC 9260, section 3.2).
pub mod sctp {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

impl Signal {
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Open,
            1 => Self::Accept,
            2 => Self::Confirm,
            3 => Self::Finish,
            4 => Self::Abort,
            5 => Self::Data,
            _ => Self::Void,
        }
    }

    /// `mark`: the flags of a TCP header, the type of the first chunk of an
    /// SCTP packet.
    #[inline(always)]
    #[must_use]
    pub const fn of(protocol: u8, mark: u8) -> Self {
        match protocol {
            TCP => Self::of_tcp(mark),
            SCTP => Self::of_sctp(mark),
            _ => Self::Data,
        }
    }

    #[inline(always)]
    const fn of_tcp(flags: u8) -> Self {
        if flags & tcp::RST != 0 {
            return Self::Abort;
        }
        match flags & (tcp::SYN | tcp::ACK | tcp::FIN) {
            tcp::SYN => Self::Open,
            meant if meant & tcp::ACK == 0 => Self::Void,
            meant if meant & tcp::FIN != 0 => Self::Finish,
            meant if meant & tcp::SYN != 0 => Self::Accept,
            _ => Self::Data,
        }
    }

    #[inline(always)]
    const fn of_sctp(chunk: u8) -> Self {
        match chunk {
            sctp::INIT => Self::Open,
            sctp::INIT_ACK => Self::Accept,
            sctp::COOKIE_ACK => Self::Confirm,
            sctp::SHUTDOWN | sctp::SHUTDOWN_ACK => Self::Finish,
            sctp::ABORT | sctp::SHUTDOWN_COMPLETE => Self::Abort,
            _ => Self::Data,
        }
    }

    /// Whether a packet with this `mark` changes nothing in an open
    /// connection, as far as a glance can tell.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain(protocol: u8, mark: u8) -> bool {
        match protocol {
            TCP => mark & (tcp::SYN | tcp::FIN | tcp::RST | tcp::ACK) == tcp::ACK,
            SCTP => mark == sctp::DATA,
            _ => true,
        }
    }
}

/// The state after a packet, `reply` if it came from the backend.
///
/// Looked up: the verifier would follow each state by itself.
#[inline(always)]
#[must_use]
pub fn next(state: State, protocol: u8, signal: Signal, reply: bool) -> State {
    let row = row(protocol) * ROWS + signal as usize * 2 + reply as usize;
    // Hidden from the compiler, which knows that it is in bounds: the verifier
    // does not.
    let states = NEXT.get(hint::black_box(row)).copied().unwrap_or_default();
    State::from_number((states >> (state as u32 * BITS)) as u32 & MASK)
}

/// Rows a protocol, one for each signal and side.
const ROWS: usize = 7 * 2;
/// What a state takes.
const BITS: u32 = 4;
const MASK: u32 = (1 << BITS) - 1;

/// What follows each state.
static NEXT: [u64; 3 * ROWS] = {
    let mut next = [0; 3 * ROWS];
    let mut index = 0;
    while index < next.len() {
        let protocol = [TCP, UDP, SCTP][index / ROWS];
        let signal = Signal::from_number((index % ROWS / 2) as u32);
        let mut state = 0;
        while state <= State::Dying as u32 {
            let after = after(State::from_number(state), protocol, signal, index % 2 != 0);
            next[index] |= (after as u64) << (state * BITS);
            state += 1;
        }
        index += 1;
    }
    next
};

const fn after(state: State, protocol: u8, signal: Signal, reply: bool) -> State {
    use State::{
        Aborted, Answered, BackendClosed, ClientClosed, Dying, Finished, Open, Opening, Refused,
    };
    match (state, signal) {
        (Dying, _) => Dying,
        (Opening | Answered | Refused, Signal::Abort) => Refused,
        (_, Signal::Abort) => Aborted,
        (Opening, Signal::Accept) if reply && protocol != UDP => Answered,
        (Opening, Signal::Data) if reply && protocol == UDP => Open,
        (Answered, Signal::Data) if !reply && protocol == TCP => Open,
        (Answered, Signal::Confirm) if reply && protocol == SCTP => Open,
        // Heard before what completes the handshake, or with it.
        (Answered | Open, Signal::Finish) if !reply => ClientClosed,
        (Answered | Open, Signal::Finish) => BackendClosed,
        (ClientClosed, Signal::Finish) if reply => Finished,
        (BackendClosed, Signal::Finish) if !reply => Finished,
        // The client goes on: the reset was forged.
        (Aborted, Signal::Data) if !reply => Open,
        (state, _) => state,
    }
}

/// State of a connection, and when it was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub state: State,
    /// The kernel's jiffies, the lower 32 bits.
    pub seen: u32,
}

impl Life {
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        (self.state as u64) << 32 | self.seen as u64
    }

    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            state: State::from_number((word >> 32) as u32),
            seen: word as u32,
        }
    }

    /// Jiffies since it was seen last; none if another CPU saw it later.
    #[inline(always)]
    #[must_use]
    pub const fn idle(self, now: u32) -> u32 {
        let idle = now.wrapping_sub(self.seen);
        if idle > u32::MAX / 2 { 0 } else { idle }
    }
}

/// Timeouts of all protocols and states, in whatever unit the holder says.
pub const TIMEOUTS: usize = 3 * State::LIVING;

/// Index into [`TIMEOUTS`] elements.
#[inline(always)]
#[must_use]
pub const fn timeout_index(protocol: u8, state: State) -> usize {
    let column = state as usize % State::LIVING;
    row(protocol) * State::LIVING + column
}

#[inline(always)]
const fn row(protocol: u8) -> usize {
    match protocol {
        TCP => 0,
        UDP => 1,
        _ => 2,
    }
}

/// In seconds: what nf_conntrack takes if not told otherwise.
pub const DEFAULT_TIMEOUTS: [u32; TIMEOUTS] = [
    120, 60, 10, 432_000, 120, 120, 120, 10, //
    30, 30, 10, 120, 120, 120, 120, 10, //
    3, 3, 10, 210, 3, 3, 3, 10,
];

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: bool = false;
    const BACKEND: bool = true;

    #[test]
    fn packets_move_a_connection_through_its_states() {
        use State::*;
        let check = |protocol, packets: &[(bool, u8)], expect: &[State]| {
            let mut state = Opening;
            let states: Vec<State> = packets
                .iter()
                .map(|&(reply, mark)| {
                    state = next(state, protocol, Signal::of(protocol, mark), reply);
                    state
                })
                .collect();
            assert_eq!(states, expect, "{protocol} {packets:x?}");
        };
        // An orderly life.
        check(
            TCP,
            &[
                (CLIENT, 0x02),
                (BACKEND, 0x12),
                (CLIENT, 0x10),
                (BACKEND, 0x18),
                (CLIENT, 0x11),
                (BACKEND, 0x10),
                (BACKEND, 0x11),
                (CLIENT, 0x10),
            ],
            &[
                Opening,
                Answered,
                Open,
                Open,
                ClientClosed,
                ClientClosed,
                Finished,
                Finished,
            ],
        );
        check(
            TCP,
            &[
                (BACKEND, 0x12),
                (CLIENT, 0x18),
                (BACKEND, 0x11),
                (CLIENT, 0x11),
            ],
            &[Answered, Open, BackendClosed, Finished],
        );
        // What no backend takes does not complete a handshake.
        check(
            TCP,
            &[
                (BACKEND, 0x12),
                (CLIENT, 0x00),
                (CLIENT, 0x01),
                (CLIENT, 0x10),
            ],
            &[Answered, Answered, Answered, Open],
        );
        // Refused, and nothing revives it.
        check(
            TCP,
            &[(BACKEND, 0x14), (CLIENT, 0x10), (BACKEND, 0x12)],
            &[Refused, Refused, Refused],
        );
        // A client alone, or one whose answer never came, is not assured.
        check(
            TCP,
            &[(CLIENT, 0x10), (CLIENT, 0x11), (BACKEND, 0x10)],
            &[Opening, Opening, Opening],
        );
        // A forged reset heals with the client's next packet, not the backend's.
        check(
            TCP,
            &[
                (BACKEND, 0x12),
                (CLIENT, 0x10),
                (BACKEND, 0x04),
                (BACKEND, 0x10),
                (CLIENT, 0x10),
            ],
            &[Answered, Open, Aborted, Aborted, Open],
        );
        check(UDP, &[(CLIENT, 0), (CLIENT, 0)], &[Opening, Opening]);
        check(UDP, &[(CLIENT, 0), (BACKEND, 0)], &[Opening, Open]);
        check(
            SCTP,
            &[
                (CLIENT, 1),
                (BACKEND, 2),
                (CLIENT, 10),
                (BACKEND, 11),
                (CLIENT, 0),
                (CLIENT, 7),
                (BACKEND, 8),
                (CLIENT, 14),
            ],
            &[
                Opening,
                Answered,
                Answered,
                Open,
                Open,
                ClientClosed,
                Finished,
                Aborted,
            ],
        );
        check(SCTP, &[(CLIENT, 1), (BACKEND, 6)], &[Opening, Refused]);
    }

    #[test]
    fn every_step_is_looked_up() {
        for number in 0..=State::Dying as u32 * 7 + 6 {
            let (state, signal) = (number / 7, number % 7);
            let (state, signal) = (State::from_number(state), Signal::from_number(signal));
            for protocol in [TCP, UDP, SCTP] {
                for reply in [CLIENT, BACKEND] {
                    let expect = after(state, protocol, signal, reply);
                    let found = next(state, protocol, signal, reply);
                    assert_eq!(found, expect, "{state:?} {protocol} {signal:?} {reply}");
                }
            }
        }
    }

    #[test]
    fn odd_flags_have_a_meaning() {
        for (flags, expect) in [
            (0x02, Signal::Open),
            (0xc2, Signal::Open),
            (0x12, Signal::Accept),
            (0x03, Signal::Void),
            (0x01, Signal::Void),
            (0x08, Signal::Void),
            (0x13, Signal::Finish),
            (0x06, Signal::Abort),
            (0x3f, Signal::Abort),
            (0x00, Signal::Void),
            (0x10, Signal::Data),
        ] {
            assert_eq!(Signal::of(TCP, flags), expect, "{flags:#x}");
        }
        for mark in 0..=u8::MAX {
            assert_eq!(
                Signal::is_plain(TCP, mark),
                Signal::of(TCP, mark) == Signal::Data,
                "{mark:#x}"
            );
            let plain = Signal::is_plain(SCTP, mark);
            assert!(!plain || Signal::of(SCTP, mark) == Signal::Data, "{mark}");
        }
    }

    #[test]
    fn life_packs_both_ways_and_clocks_wrap() {
        for number in 0..=9 {
            let life = Life {
                state: State::from_number(number),
                seen: 0xffff_fff0,
            };
            assert_eq!(Life::unpack(life.pack()), life);
            assert_eq!(life.idle(0x10), 0x20);
            assert_eq!(life.idle(0xffff_ffef), 0);
        }
    }

    #[test]
    fn every_state_has_its_timeout() {
        assert_eq!(DEFAULT_TIMEOUTS[timeout_index(TCP, State::Open)], 432_000);
        assert_eq!(DEFAULT_TIMEOUTS[timeout_index(UDP, State::Opening)], 30);
        assert_eq!(DEFAULT_TIMEOUTS[timeout_index(UDP, State::Open)], 120);
        assert_eq!(DEFAULT_TIMEOUTS[timeout_index(SCTP, State::Aborted)], 10);
        assert_eq!(timeout_index(SCTP, State::Aborted), TIMEOUTS - 1);
    }
}
